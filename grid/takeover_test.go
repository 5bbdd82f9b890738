package grid

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/agent"
	"github.com/zero-os/zos/network/exchange"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// Who takes the gateway's machine has its disk, so its keys, and all that the ledger
// says. With that he is node-3, by rules of his own: he claims every node of the
// network as a peer, has no filter, sends from any address of his node, and calls
// whatever there is to call.

// backNetwork is the shop's network.
const backNetwork = "back"

// stolenKeys is what a node's disk holds of its identity (node/identity).
type stolenKeys struct {
	V       uint64     `cbor:"v"`
	Binding canon.Hash `cbor:"b"`
	Signing [32]byte   `cbor:"s"`
	Sealing [32]byte   `cbor:"e"`
}

// steal reads the keys of a node off the disk of its machine, which has no power.
func (w *world) steal(i int) stolenKeys {
	w.Helper()
	dir := w.TempDir()
	disk, file := filepath.Join(dir, "disk"), filepath.Join(dir, "key")
	for _, args := range [][]string{
		{"cp", "--sparse=always", w.g.machines[i-1].config.Disks[0].Path, disk},
		{"e2fsck", "-y", "-E", "journal_only", disk}, // what was not in its place when the power went
		{"debugfs", "-R", "dump /keys/node.key " + file, disk},
	} {
		cmd := exec.CommandContext(w.Context(), args[0], args[1:]...)
		out, err := cmd.CombinedOutput()
		if repaired := args[0] == "e2fsck" && cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 1; err != nil && !repaired {
			w.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	var k stolenKeys
	if err := canon.UnmarshalLimit(b, 128, &k); err != nil {
		w.Fatalf("read the stolen keys: %v", err)
	}
	return k
}

// target is the shop's network as the ledger tells it, to anybody.
type target struct {
	topology        network.Topology
	self            []netip.Prefix // of the gateway's node
	gate            [2]netip.Addr  // the gateway's own addresses
	web, db         [2]netip.Addr
	routers         map[canon.Hash][2]netip.Addr
	nodes           map[canon.Hash][]netip.Prefix
	names           map[netip.Addr]string
	one, two, three canon.Hash // slots
}

func (w *world) target(id canon.Hash) target {
	w.Helper()
	k, err := w.c.Contract(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	slots := w.g.founding.slotIDs
	t := target{
		one: slots[0], two: slots[1], three: slots[2], topology: network.Topology{ID: network.ID(id, backNetwork), Name: backNetwork, Self: slots[2]},
		routers: map[canon.Hash][2]netip.Addr{}, nodes: map[canon.Hash][]netip.Prefix{}, names: map[netip.Addr]string{},
	}
	for _, n := range k.Plan.Networks {
		t.topology.Ranges = []netip.Prefix{netip.MustParsePrefix(n.IPv4), netip.MustParsePrefix(n.IPv6)}
		for _, node := range n.Nodes {
			of := []netip.Prefix{netip.MustParsePrefix(node.IPv4), netip.MustParsePrefix(node.IPv6)}
			t.topology.Nodes = append(t.topology.Nodes, network.Node{Slot: node.Slot, Prefixes: of})
			t.nodes[node.Slot] = of
			t.routers[node.Slot] = [2]netip.Addr{plan.RouterAddr(of[0]), plan.RouterAddr(of[1])}
			for _, a := range t.routers[node.Slot] {
				t.names[a] = fmt.Sprintf("router-%d", 1+slices.Index(slots, node.Slot))
			}
		}
	}
	t.self = t.nodes[t.three]
	for _, p := range k.Plan.Workloads {
		if at := map[string]*[2]netip.Addr{"web": &t.web, "db": &t.db, "www": &t.gate}[p.Name]; at != nil {
			a := client.AttachmentsOf(p)[0]
			*at = [2]netip.Addr{netip.MustParseAddr(a.IPv4), netip.MustParseAddr(a.IPv6)}
			t.names[at[0]], t.names[at[1]] = p.Name, p.Name
		}
	}
	if len(t.topology.Nodes) != 3 || !t.web[0].IsValid() || !t.db[0].IsValid() || !t.gate[0].IsValid() {
		w.Fatalf("the network is not over three nodes: %+v", t)
	}
	return t
}

// smallest is the size of a packet in a tunnel with nothing in it but headers, bytes.
const smallest = 80

// likely are ports on which something might listen.
var likely = []uint16{21, 22, 23, 25, 53, 80, 111, 443, 2222, 2375, 3306, 4222, 5432, 6379, 8080, 8443, 9090, 11211, 26657, 27017, 30000, plan.EntryPort}

// few are those of them at which something is, and one at which nothing is.
var few = []uint16{53, 2222, 6379, 8080, 8443, plan.EntryPort}

// probes are what a scan sends, from the address of whom it plays.
func (t target) probes(from [2]netip.Addr) (out []probe) {
	add := func(src, dst netip.Addr, protocol int, ports ...uint16) {
		for _, p := range ports {
			out = append(out, probe{src, dst, protocol, p})
		}
	}
	places := [][2]netip.Addr{t.web, t.db, t.routers[t.one], t.routers[t.two]}
	for f := range 2 {
		for _, place := range places {
			for _, protocol := range []int{tcp, udp} {
				add(from[f], place[f], protocol, likely...)
			}
			// Nothing of IP is left out: what is not spoken here is answered with an
			// error where it arrives.
			for protocol := range 256 {
				if protocol != tcp && protocol != udp {
					add(from[f], place[f], protocol, 0)
				}
			}
		}
		for port := range uint16(10_000) {
			add(from[f], t.web[f], tcp, port+1)
		}
		for port := range uint16(1024) {
			add(from[f], t.web[f], udp, port+1)
			add(from[f], t.db[f], tcp, port+1)
		}
		// Every other address.
		for _, slot := range []canon.Hash{t.one, t.two} {
			a := t.nodes[slot][f].Addr()
			for range 256 {
				add(from[f], a, echo, 0)
				add(from[f], a, tcp, 2222, 6379, 8443)
				add(from[f], a, udp, 53)
				a = a.Next()
			}
		}
	}
	return out
}

// spoofed are what only the gateway's node can send: from every address of its own
// part of the network.
func (t target) spoofed() (out []probe) {
	for f := range 2 {
		src := t.self[f].Addr()
		for range 256 {
			if src != t.gate[f] {
				for _, place := range [][2]netip.Addr{t.web, t.db, t.routers[t.one], t.routers[t.two]} {
					for _, port := range few {
						out = append(out, probe{src, place[f], tcp, port}, probe{src, place[f], udp, port})
					}
					out = append(out, probe{src, place[f], echo, 0})
				}
			}
			src = src.Next()
		}
	}
	return out
}

// memberFindsMore is the control: by the same scan a member of the network finds the
// database and its machine, and who is not open to members still is not found.
func memberFindsMore(w *world, laptop *netlab.Host, link string, id canon.Hash) {
	w.Helper()
	t := w.target(id)
	s := newScanner(w.T, laptop, link)
	canary := [2]netip.AddrPort{netip.AddrPortFrom(t.db[0], 6379), netip.AddrPortFrom(t.db[1], 6379)}
	from := s.addresses(link)
	var probes []probe
	for f := range 2 {
		for _, place := range [][2]netip.Addr{t.web, t.db} {
			for _, port := range likely {
				probes = append(probes, probe{from[f], place[f], tcp, port}, probe{from[f], place[f], udp, port})
			}
			probes = append(probes, probe{from[f], place[f], echo, 0})
		}
	}
	found := s.scan(from, canary, probes, t.names)
	w.Logf("the laptop finds %d things: %v", len(found), found)
	for _, six := range []string{"4", "6"} {
		for _, want := range []string{"tcp db:6379 open", "tcp db:2222 closed", "udp db:53 closed", "icmp echo of db"} {
			if !slices.Contains(found, "IPv"+six+" "+want) {
				w.Errorf("a member does not find %q by IPv%s: the scan sees too little", want, six)
			}
		}
	}
	for _, f := range found {
		if strings.Contains(f, " web") {
			w.Errorf("a member finds %q, which is for the gateway alone", f)
		}
	}
}

// takeover is what he does, while the machine is off.
func takeover(w *world, l *laboratory, id canon.Hash, text string) {
	t := w.target(id)
	keys := w.steal(3)
	own, err := w.c.Bound(w.Context(), t.three)
	if err != nil {
		w.Fatal(err)
	}
	if !sign.FromSeed(keys.Signing).Public().Equal(own.SigningKey) {
		w.Fatal("what is on the disk is not the node's key")
	}
	identity := &netnode.Identity{
		Grid: w.c.Grid(), Slot: t.three, Epoch: own.Epoch, Signing: keys.Signing, Sealing: keys.Sealing, Bindings: map[canon.Hash]bus.Binding{t.three: own},
	}
	for _, slot := range []canon.Hash{t.one, t.two} {
		if identity.Bindings[slot], err = w.c.Bound(w.Context(), slot); err != nil {
			w.Fatal(err)
		}
	}
	taker := netnode.StartNode(w.T, l.sites[2].Host("taker"), netnode.Config{
		Servers: w.g.o.guests(w.g.services.urls.Rendezvous), Identity: identity, NoFirewall: true,
	})
	router := taker.Router(t.topology)
	for _, a := range t.gate {
		router.Run("ip", "address", "add", netip.PrefixFrom(a, a.BitLen()).String(), "dev", "lo")
	}
	taker.Ensure(t.topology)
	w.meets(taker, t, t.one)
	s := newScanner(w.T, router, "wg")
	canary := [2]netip.AddrPort{netip.AddrPortFrom(t.web[0], 8443), netip.AddrPortFrom(t.web[1], 8443)}
	published := []string{"IPv4 tcp web:8080 open", "IPv4 tcp web:8443 open", "IPv6 tcp web:8080 open", "IPv6 tcp web:8443 open"}
	only := func(what string, probes []probe, tunnels ...netip.Prefix) {
		w.Helper()
		sent, arrived := w.passed(taker, t, id)
		began := time.Now()
		found := s.scan(t.gate, canary, probes, t.names)
		took := time.Since(began).Round(time.Millisecond)
		sentNow, arrivedNow := w.passed(taker, t, id)
		sent, arrived = sentNow-sent, arrivedNow-arrived
		w.Logf("%s: %d packets in %v, %d of %d bytes arrived, found %v", what, len(probes), took, arrived, sent, found)
		// What comes to no tunnel ends with him.
		var carried uint64
		for _, p := range probes {
			if slices.ContainsFunc(tunnels, func(of netip.Prefix) bool { return of.Contains(p.dst) }) {
				carried++
			}
		}
		if sent < smallest*carried || arrived*100 < sent*99 {
			w.Errorf("%s: %d bytes were sent for %d packets, and %d bytes arrived: that proves nothing", what, sent, carried, arrived)
		}
		if !slices.Equal(found, published) {
			w.Errorf("%s: found %q, want what is published alone: %q", what, found, published)
		}
	}
	second := []probe{{t.gate[0], t.web[0], tcp, 8080}, {t.gate[1], t.web[1], tcp, 8080}} // the other port that is published
	all, spoofed := t.probes(t.gate), append(t.spoofed(), second...)
	page, both := t.nodes[t.one], append(slices.Clone(t.nodes[t.one]), t.nodes[t.two]...)
	only("as the gateway", all, page...)
	only("from every address of the gateway's node", spoofed, page...)

	netnode.Until(w.T, "he has asked the database's node for keys in vain", func() bool { return peerOf(taker, t, t.two).Code != "" })
	w.stranger(taker, t, t.two)

	// What he can't send to the database's node he sends through the page's. Only that
	// goes otherwise than before, here and below.
	others := func(probes []probe) []probe {
		return append(slices.DeleteFunc(slices.Clone(probes), func(p probe) bool {
			return !t.nodes[t.two][0].Contains(p.dst) && !t.nodes[t.two][1].Contains(p.dst)
		}), second...)
	}
	through := t.topology
	through.Nodes = []network.Node{{Slot: t.one, Prefixes: both}, {Slot: t.three, Prefixes: t.self}}
	slices.SortFunc(through.Nodes, func(a, b network.Node) int { return bytes.Compare(a.Slot[:], b.Slot[:]) })
	taker.Ensure(through)
	w.meets(taker, t, t.one)
	only("as the gateway, all of it to the page's node", others(all), both...)
	only("from every address of the gateway's node, all of it to the page's node", others(spoofed), both...)
	taker.Ensure(t.topology)
	w.meets(taker, t, t.one)

	w.refusesCalls(taker, t, id)

	w.stranger(taker, t, t.two)

	// People's devices enter by the database's node from now on, so he has its keys:
	// what he can send arrives at its router, and is answered no more than before.
	if got := w.deploy(enteredBy(text, "node-2")); got != id {
		w.Fatalf("the update is another contract")
	}
	w.meets(taker, t, t.two)
	// No canary is on that node: what arrives there is asked of the node itself.
	sent, arrived := w.passed(taker, t, id)
	s.pace = func() {
		ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
		defer cancel()
		sentBefore, arrivedBefore := sent, arrived
		_ = client.Poll(ctx, func(context.Context) (bool, error) { // what is lost for good is judged at the end
			sent, arrived = w.passed(taker, t, id)
			return arrived-arrivedBefore+smallest >= sent-sentBefore, nil
		})
	}
	only("as the gateway, when devices enter at the database's node", others(all), both...)
	only("from every address of the gateway's node, when devices enter at the database's node", others(spoofed), both...)
	if p := peerOf(taker, t, t.two); p.Sent == 0 || p.Handshake.IsZero() {
		w.Errorf("nothing was sent to the database's node: %+v", p)
	}
	w.refusesCalls(taker, t, id)
	if err := taker.Stop(); err != nil {
		w.Error(err)
	}
}

// passed are the bytes that he has sent to other nodes, and those that they have
// received of him: of packets whose source is his node's.
func (w *world) passed(taker *netnode.Node, t target, id canon.Hash) (sent, arrived uint64) {
	w.Helper()
	for _, slot := range []canon.Hash{t.one, t.two} {
		sent += peerOf(taker, t, slot).Sent
		status, err := w.c.NetworkStatus(w.Context(), slot, id, w.keys["red"])
		if err != nil {
			w.Fatal(err)
		}
		for _, n := range status.Networks {
			for _, p := range n.Peers {
				if p.Slot == t.three {
					arrived += p.Received
				}
			}
		}
	}
	return sent, arrived
}

func peerOf(n *netnode.Node, t target, slot canon.Hash) agent.PeerStatus {
	for _, s := range n.Status(t.topology.ID).Networks {
		for _, p := range s.Peers {
			if p.Slot == slot {
				return p
			}
		}
	}
	return agent.PeerStatus{}
}

// meets waits until he has keys with the node in a slot.
func (w *world) meets(n *netnode.Node, t target, slot canon.Hash) {
	w.Helper()
	netnode.Until(w.T, "the node and he have shaken hands", func() bool { return !peerOf(n, t, slot).Handshake.IsZero() })
}

// stranger makes sure that the node in a slot has told him nothing.
func (w *world) stranger(n *netnode.Node, t target, slot canon.Hash) {
	w.Helper()
	if p := peerOf(n, t, slot); p.Slot != slot || !p.Handshake.IsZero() || p.NewestEpoch != 0 || p.KeyEpoch != 0 || p.Received != 0 || p.Path != "" {
		w.Errorf("a node that carries nothing for him exchanged keys with him: %+v", p)
	}
}

// storeMessage is a well-formed question of one gateway to another (workload/gateway).
type storeMessage struct {
	Contract canon.Hash `cbor:"contract"`
	Op       string     `cbor:"op"`
	Key      string     `cbor:"key"`
	After    string     `cbor:"after"`
	More     bool       `cbor:"more"`
	Granted  bool       `cbor:"granted"`
	Items    []struct{} `cbor:"items"`
}

// refusesCalls makes every call that there is to every other node: those who know him
// answer what gateways and networks need, to whom it is due, and nothing else; the
// others do not answer at all. As a person he is nobody.
func (w *world) refusesCalls(taker *netnode.Node, t target, id canon.Hash) {
	w.Helper()
	known := map[canon.Hash]bool{}
	for _, slot := range []canon.Hash{t.one, t.two} {
		known[slot] = !peerOf(taker, t, slot).Handshake.IsZero()
	}
	question, err := canon.Marshal(storeMessage{Contract: id, Op: "get", Items: []struct{}{}})
	if err != nil {
		w.Fatal(err)
	}
	foreign, err := exchange.Request{
		Ask: exchange.AskBegin, Network: network.ID(id, "other"), KeyEpoch: 1, Sequence: uint64(time.Now().UnixMicro()),
	}.Encode()
	if err != nil {
		w.Fatal(err)
	}
	people := []string{bus.MethodStatus, bus.MethodLogs, bus.MethodNode, bus.MethodResources, bus.MethodNetwork, bus.MethodGateway, bus.MethodDevice, bus.MethodRenew}
	bodies := map[string][]byte{methodGatewayStore: question, agent.MethodExchange: foreign, "": nil, "x": nil}
	codes := map[string]string{methodGatewayStore: "not-permitted", agent.MethodExchange: "network-unknown", "": "request-invalid"}
	for _, m := range people {
		bodies[m] = nil
	}
	var calls []netnode.Call
	var wants []string
	for method, body := range bodies {
		for slot, answers := range known {
			want := codes[method]
			switch {
			case method == "": // his own side's word
			case !answers:
				want = "node-silent"
			case want == "":
				want = "unknown-method"
			}
			within := time.Minute
			if want == "node-silent" {
				within = silence
			}
			wants = append(wants, want)
			calls = append(calls, netnode.Call{Slot: slot, Method: method, Body: body, Within: within})
		}
	}
	for i, o := range taker.Call(calls...) {
		if o.Error == "" || o.Code != wants[i] {
			w.Errorf("he calls %q of node %s and is told %q (%s) %q, want %s", calls[i].Method, calls[i].Slot.Short(), o.Answer, o.Code, o.Error, wants[i])
		}
	}
	calls = nil
	for _, method := range people {
		within := time.Minute
		if method == bus.MethodRenew {
			within = silence
		}
		for slot := range known {
			for _, about := range []canon.Hash{id, {}} {
				calls = append(calls, netnode.Call{Slot: slot, Method: method, AsPerson: true, Contract: about, Within: within})
			}
		}
	}
	for i, o := range taker.Call(calls...) {
		refused := []string{"not-permitted", "request-invalid"}
		if calls[i].Method == bus.MethodRenew {
			refused = []string{"node-silent"} // of a stream that there is not, nobody says anything
		}
		if o.Error == "" || !slices.Contains(refused, o.Code) {
			w.Errorf("as a person he asks %s of node %s and is told %q (%s) %q", calls[i].Method, calls[i].Slot.Short(), o.Answer, o.Code, o.Error)
		}
	}
}

// silence is how long he waits for an answer that nobody owes him.
const silence = 5 * time.Second

// methodGatewayStore is package node's.
const methodGatewayStore = "gateway.store"
