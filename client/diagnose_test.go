package client

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

var (
	slot1, slot2 = canon.Sum([]byte("node-1")), canon.Sum([]byte("node-2"))
	key1, key2   = []byte(strings.Repeat("1", 32)), []byte(strings.Repeat("2", 32))
	key2Old      = []byte(strings.Repeat("0", 32))
)

// shop is a deployment as it should be: web and db in one network on two nodes,
// job beside web, lone in no network.
func shop(t *testing.T) Facts {
	t.Helper()
	attach := func(host int, open bool, allow ...plan.Rule) plan.Attachment {
		return plan.Attachment{Network: "front", IPv4: fmt.Sprintf("10.20.1.%d", host), IPv6: fmt.Sprintf("fd00::1:%d", host), Open: open, Allow: allow, Egress: plan.EgressNone}
	}
	p := &plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: canon.Sum([]byte("demo")), Name: "shop", Networks: []plan.Network{{Name: "front", IPv4: "10.20.0.0/16", IPv6: "fd00::/48",
		Nodes: []plan.NetworkNode{{Slot: slot1, IPv4: "10.20.1.0/24", IPv6: "fd00:0:0:1::/64"}, {Slot: slot2, IPv4: "10.20.2.0/24", IPv6: "fd00:0:0:2::/64"}}}}}
	rules := []plan.Rule{{Protocol: plan.ProtocolTCP, First: 5432, Last: 5433, Peers: []string{"web"}}, {Protocol: plan.ProtocolICMP}}
	f := Facts{Contract: "demo/shop", Standing: true, Plan: p, Workloads: map[string]Workload{}, Views: map[canon.Hash]View{}, Names: Names{slot1: "node-1", slot2: "node-2"}}
	for _, w := range []struct {
		name string
		slot canon.Hash
		nets []plan.Attachment
	}{{"db", slot2, []plan.Attachment{attach(3, false, rules...)}}, {"job", slot1, []plan.Attachment{attach(4, true)}}, {"lone", slot1, nil}, {"web", slot1, []plan.Attachment{attach(2, true)}}} {
		c := plan.Container{V: plan.Version, Flist: canon.Sum([]byte("x")), Args: []string{"/x"}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), Networks: w.nets}
		b, err := canon.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		p.Workloads = append(p.Workloads, plan.Workload{Name: w.name, Kind: plan.KindContainer, Slot: w.slot, Config: b})
		f.Workloads[w.name] = Workload{Name: w.name, State: contract.StateRunning}
	}
	for _, slot := range []canon.Hash{slot1, slot2} {
		name := plan.RouterName("front", slot)
		p.Workloads = append(p.Workloads, plan.Workload{Name: name, Kind: plan.KindNetwork, Slot: slot})
		f.Workloads[name] = Workload{Name: name, State: contract.StateRunning}
	}
	f.Views[slot1] = view(slot1, key1, slot2, key2)
	f.Views[slot2] = view(slot2, key2, slot1, key1)
	return f
}

func view(self canon.Hash, key []byte, peer canon.Hash, peerKey []byte) View {
	return View{Status: protocol.NetworkStatus{Slot: self, Networks: []protocol.Network{{
		Name: "front", Keys: []protocol.NetworkKey{{Device: "wg0", Engine: protocol.EngineKernel, Epoch: 7, PublicKey: key}},
		Firewall: protocol.Check{OK: true}, Resolver: protocol.Check{OK: true},
		Peers: []protocol.NetworkPeer{{Slot: peer, State: protocol.PeerUp, Path: "relay via r:443", Epoch: 7, PublicKey: peerKey, UsedEpoch: 7,
			Handshake: &protocol.Age{Seconds: 12}, PSK: &protocol.Age{Seconds: 90}}},
	}}}}
}

// at is a node's network in the facts, to be changed.
func at(f Facts, slot canon.Hash) *protocol.Network { return &f.Views[slot].Status.Networks[0] }

// public adds a gateway of db and a device to the shop, both on node-1.
func public(f *Facts) {
	at := func(n byte) plan.Attachment {
		return plan.Attachment{Network: "front", IPv4: fmt.Sprintf("10.20.1.%d", n), IPv6: fmt.Sprintf("fd00::1:%d", n), Aliases: []string{}, Allow: []plan.Rule{}, Egress: plan.EgressNone}
	}
	g, err := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.9"}, Networks: []plan.Attachment{at(20)}, Routes: []plan.Route{
		{Mode: plan.ModeTCP, Port: 5432, Network: "front", Backends: []string{"db"}, Target: 5432, Check: plan.CheckNone}}}.Encode()
	if err != nil {
		panic(err)
	}
	d, err := plan.Device{V: plan.Version, Key: bytes.Repeat([]byte{1}, 32), Account: canon.Hash{1}, Network: at(21)}.Encode()
	if err != nil {
		panic(err)
	}
	f.Plan.Workloads = append(f.Plan.Workloads, plan.Workload{Name: "www", Kind: plan.KindGateway, Slot: slot1, Config: g}, plan.Workload{Name: "laptop", Kind: plan.KindDevice, Slot: slot1, Config: d})
	for _, name := range []string{"www", "laptop"} {
		f.Workloads[name] = Workload{Name: name, State: contract.StateRunning}
	}
}

// drop takes workloads out of the plan.
func drop(f *Facts, names ...string) {
	f.Plan.Workloads = slices.DeleteFunc(f.Plan.Workloads, func(w plan.Workload) bool { return slices.Contains(names, w.Name) })
}

// aimed takes the device out, so that node-1 has the gateway alone, which leads
// nowhere that is left but to its own router.
func aimed(f *Facts, device string) {
	drop(f, device)
	at := slices.IndexFunc(f.Plan.Workloads, func(w plan.Workload) bool { return w.Name == "www" })
	g, err := plan.DecodeGateway(f.Plan.Workloads[at].Config)
	if err != nil {
		panic(err)
	}
	g.Routes = []plan.Route{{Mode: plan.ModeUDP, Port: 4500, Network: "front", Backends: []string{}, Entry: slot1, Target: plan.EntryPort, Check: plan.CheckNone}}
	if f.Plan.Workloads[at].Config, err = g.Encode(); err != nil {
		panic(err)
	}
}

func TestADiagnosisStopsAtTheFirstThingThatIsBroken(t *testing.T) {
	tcp := func(n uint16) Port { return Port{plan.ProtocolTCP, n} }
	for _, c := range []struct {
		what            string
		from, to, by    string
		port            Port
		change          func(f *Facts)
		step, says, fix string // of the broken step; step "" when all is well
	}{
		{what: "all is well", says: "web on node-1 and db on node-2 run"},
		{what: "a port that is allowed", port: tcp(5433), says: "allowed by 5432-5433/tcp from web"},
		{what: "no port named", says: "web reaches 5432-5433/tcp and icmp of db, and nothing else there; the rules are in force on node-1 and node-2"},
		{what: "nobody let in", change: func(f *Facts) {
			c, err := plan.DecodeContainer(f.Plan.Workloads[0].Config)
			if err != nil {
				t.Fatal(err)
			}
			c.Networks[0].Allow = nil
			if f.Plan.Workloads[0].Config, err = canon.Marshal(c); err != nil {
				t.Fatal(err)
			}
		}, step: StepFirewall, says: "does not let web reach any port of db (web reaches nothing of db)", fix: "PORT/tcp"},
		{what: "ping", from: "job", port: Port{Protocol: "icmp"}, says: "allowed by icmp"},
		{what: "back", from: "db", to: "web", port: tcp(80), says: "open to every workload"},
		{what: "on one node", from: "job", to: "web", says: "behind one router"},
		{what: "one node, the other silent", from: "job", to: "web", change: func(f *Facts) { delete(f.Views, slot2) }},

		{what: "cancelled", change: func(f *Facts) { f.Standing = false }, step: StepContract, says: "is cancelled", fix: "zos deploy"},
		{what: "no such workload", to: "bd", step: StepContract, says: `no workload "bd"`, fix: `did you mean "db"?`},
		{what: "a router is no workload of theirs", to: plan.RouterName("front", slot2), step: StepContract, says: "no workload"},
		{what: "itself", to: "web", step: StepContract, says: "one workload", fix: "name two"},
		{what: "no network", to: "lone", step: StepContract, says: "share no network (web: front; lone: none)", fix: "into one network"},
		{what: "another network", by: "fornt", step: StepContract, says: `not both in network "fornt"`, fix: `did you mean "front"?`},
		{what: "not started", change: receipt("db", contract.StatePending, ""), step: StepContract, says: "db has not been started on node-2", fix: "zos ps --wait"},
		{what: "can't start", change: receipt("db", contract.StatePending, "object-missing"), step: StepContract, says: "db on node-2 is pending: object-missing", fix: "zos logs demo/shop/db"},
		{what: "exited", change: receipt("web", contract.StateExited, ""), step: StepContract, says: "web on node-1 is exited with 0", fix: "zos logs demo/shop/web"},
		{what: "no router", change: receipt(plan.RouterName("front", slot2), contract.StateFailed, "firewall-failed"), step: StepContract, says: "the router of front on node-2 is failed: firewall-failed", fix: "zos node show node-2"},

		{what: "router not started", change: receipt(plan.RouterName("front", slot2), contract.StatePending, ""), step: StepContract, says: "the router of front has not been started on node-2 yet", fix: "zos ps --wait"},

		{what: "not asked", change: func(f *Facts) { delete(f.Views, slot2) }, step: StepKeys, says: "node-2 was not asked", fix: "--as"},
		{what: "silent", change: func(f *Facts) {
			f.Views[slot2] = View{Err: problem.New("node-silent", "no word").WithFix("check its power")}
		},
			step: StepKeys, says: "node-2 does not answer: no word", fix: "check its power"},
		{what: "no device", change: func(f *Facts) { at(*f, slot1).Keys = nil }, step: StepKeys, says: "node-1 has no device"},
		{what: "no network", change: func(f *Facts) { f.Views[slot1] = View{} }, step: StepKeys, says: "node-1 has no device"},
		{what: "no peer", change: func(f *Facts) { at(*f, slot2).Peers = nil }, step: StepKeys, says: "node-2 has no key of node-1", fix: "over the bus"},
		{what: "no binding", change: func(f *Facts) {
			p := &at(*f, slot1).Peers[0]
			p.State, p.Handshake, p.Epoch, p.PublicKey, p.Message = protocol.PeerUnknown, nil, 0, nil, "node-2 does not answer on the bus"
		}, step: StepKeys, says: "node-1 has no key of node-2 yet: node-2 does not answer on the bus"},
		{what: "an old key", change: func(f *Facts) { p := &at(*f, slot1).Peers[0]; p.Epoch, p.PublicKey = 6, key2Old }, step: StepKeys,
			says: "node-1 has a key of node-2 of epoch 6, and node-2 uses epoch 7"},
		{what: "one key, two epochs", change: func(f *Facts) { at(*f, slot1).Peers[0].Epoch = 8 }, step: StepKeys, says: "for epoch 8, and it is of epoch 7"},
		{what: "rotation under way", change: func(f *Facts) {
			n := at(*f, slot2)
			n.Keys = append([]protocol.NetworkKey{{Epoch: 6, PublicKey: key2Old}}, n.Keys...)
			p := &at(*f, slot1).Peers[0]
			p.Epoch, p.PublicKey = 6, key2Old
		}, says: "node-2 epoch 7"},
		{what: "no post-quantum key", change: func(f *Facts) {
			p := &at(*f, slot2).Peers[0]
			p.PSK, p.Handshake, p.State = nil, nil, protocol.PeerWaiting
		},
			step: StepKeys, says: "not agreed a post-quantum key"},
		{what: "a daemon that started again", change: func(f *Facts) { p := &at(*f, slot1).Peers[0]; p.PSK, p.Epoch, p.PublicKey = nil, 0, nil }, says: "of an earlier run"},
		{what: "half a daemon", change: func(f *Facts) { at(*f, slot1).Peers[0].PSK = nil }, says: "of an earlier run"},
		{what: "a void post-quantum key", change: func(f *Facts) { p := &at(*f, slot2).Peers[0]; p.PSK, p.Code, p.Message = nil, "psk-expired", "x" },
			step: StepKeys, says: "could not be renewed and is void: x"},
		{what: "an old post-quantum key", change: func(f *Facts) { at(*f, slot2).Peers[0].PSK.Seconds = 4000 }, step: StepKeys, says: "is 1h6m40s old"},

		{what: "no handshake", change: func(f *Facts) { p := &at(*f, slot1).Peers[0]; p.State, p.Handshake = protocol.PeerWaiting, nil },
			step: StepPath, says: "node-1 has had no handshake with node-2, path: relay via r:443", fix: "rendezvous"},
		{what: "silent peer", change: func(f *Facts) {
			p := &at(*f, slot2).Peers[0]
			p.State, p.Handshake.Seconds, p.Path, p.Code, p.Message = protocol.PeerSilent, 300, "", "x", "no answer"
		}, step: StepPath, says: "node-2 has had no handshake with node-1 for 5m0s, and no path to it: no relay on which both are: no answer"},
		{what: "a lying node", change: func(f *Facts) { at(*f, slot1).Peers[0].Handshake = nil }, says: "an unknown time"},

		{what: "a port that is not allowed", port: tcp(22), step: StepFirewall, says: "does not let web reach 22/tcp of db (web reaches 5432-5433/tcp and icmp of db, and nothing else there)",
			fix: "at workload db, network front: allow: [{ports: 22/tcp, from: [web]}]"},
		{what: "the protocol that is not allowed", port: Port{plan.ProtocolUDP, 5432}, step: StepFirewall, says: "5432/udp"},
		{what: "a peer that is not allowed", from: "job", port: tcp(5432), step: StepFirewall, says: "does not let job reach 5432/tcp of db (job reaches icmp of db, and nothing else there)"},
		{what: "rules not in force", change: func(f *Facts) { at(*f, slot2).Firewall = protocol.Check{Detail: "a rule is missing"} }, step: StepFirewall,
			says: "the rules on node-2 are not in force: a rule is missing"},

		{what: "a gateway, to what it publishes", from: "www", port: tcp(5432), change: public, says: "published by www"},
		{what: "a gateway, to another port", from: "www", port: tcp(5433), change: public, step: StepFirewall,
			says: "that is not 5433/tcp of db (www reaches 5432/tcp of db, and nothing else there)", fix: "to: db:PORT"},
		{what: "a gateway, to what it does not publish", from: "www", to: "web", port: tcp(80), change: public, step: StepFirewall, says: "www reaches nothing of web", fix: "to: web:PORT"},
		{what: "to a gateway", to: "www", change: public, step: StepFirewall, says: "nobody begins a connection to it", fix: "let www begin"},
		{what: "a gateway of a node of its own", from: "www", port: tcp(5432), change: func(f *Facts) { public(f); drop(f, "web", "job", "laptop") }, says: "published by www"},
		{what: "a gateway, from where it is not known", from: "www", to: "web", change: func(f *Facts) {
			public(f)
			drop(f, "job", "db")
			f.Plan.Workloads[slices.IndexFunc(f.Plan.Workloads, func(w plan.Workload) bool { return w.Name == "web" })].Slot = slot2
			aimed(f, "laptop")
		}, step: StepKeys, says: "do not know each other", fix: "to: web:PORT"},
		{what: "a device, as a member", from: "laptop", to: "web", port: tcp(80), change: public, says: "open to every workload"},
		{what: "a device, by a rule that does not name it", from: "laptop", port: tcp(5432), change: public, step: StepFirewall, says: "laptop reaches icmp of db"},
		{what: "to a device", to: "laptop", change: public, step: StepFirewall, says: "laptop is a device: nobody begins"},
		{what: "no resolver", change: func(f *Facts) { at(*f, slot1).Resolver = protocol.Check{} }, step: StepResolver, says: "on node-1 does not answer: no reason", fix: "10.20.1.3"},
		{what: "the other's resolver", change: func(f *Facts) { at(*f, slot2).Resolver = protocol.Check{} }, says: "db.front.internal is 10.20.1.3, fd00::1:3"},
	} {
		f := shop(t)
		if c.change != nil {
			c.change(&f)
		}
		from, to := orElse(c.from, "web"), orElse(c.to, "db")
		d := Diagnose(f, from, to, c.by, c.port)
		last := d.Steps[len(d.Steps)-1]
		all := ""
		for _, s := range d.Steps {
			all += s.Detail + "\n"
			if s.OK != (s.Fix == "") {
				t.Errorf("%s: step %s is ok: %v, with fix %q", c.what, s.Name, s.OK, s.Fix)
			}
		}
		if c.step == "" {
			if !d.OK || len(d.Steps) != 5 || !strings.Contains(all, c.says) {
				t.Errorf("%s: not well: %+v", c.what, d)
			}
			continue
		}
		if d.OK || last.OK || last.Name != c.step || !strings.Contains(last.Detail, c.says) || !strings.Contains(last.Fix, c.fix) {
			t.Errorf("%s: %+v\nwant step %s, %q, fix %q", c.what, last, c.step, c.says, c.fix)
		}
	}
}

func TestASilentNodeIsToldOnce(t *testing.T) {
	waited := fmt.Errorf("wait for an answer (0 refused): %w", context.DeadlineExceeded)
	says := "node " + slot1.Short() + " does not answer: "
	for _, c := range []struct {
		err  error
		want string
	}{
		{problem.New("node-silent", "%s%w", says, waited), ""},
		{problem.New("node-silent", "%s%w (last refused answer: %v)", says, waited, "forged"),
			": wait for an answer (0 refused): context deadline exceeded (last refused answer: forged)"},
		{problem.New("node-silent", "%sno power", says), ": no power"},
		{problem.New("bus-unreachable", "no bus: %w", context.DeadlineExceeded), ": no bus: context deadline exceeded"},
	} {
		if got := silence(slot1, c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

func TestAWorkloadIsFoundByItsNameOrAlias(t *testing.T) {
	f := shop(t)
	for i, aliases := range [][]string{{"all", "postgres"}, {"all", "web"}} { // db, job
		w := &f.Plan.Workloads[i]
		c, err := plan.DecodeContainer(w.Config)
		if err != nil {
			t.Fatal(err)
		}
		c.Networks[0].Aliases = aliases
		if w.Config, err = canon.Marshal(c); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, network, want, fix string }{
		{name: "db", want: "db"},
		{name: "lone", want: "lone"},
		{name: "postgres", want: "db"},
		{name: "postgres", network: "front", want: "db"},
		{name: "postgres", network: "back", fix: "known: db, job, lone, web"},
		{name: "web", want: "web"}, // a name comes before an alias
		{name: "all", fix: "name one of: db, job"},
		{name: "bd", fix: `did you mean "db"?`},
		{name: plan.RouterName("front", slot1), fix: "known: db, job, lone, web"},
	} {
		got, err := endOf(f.Plan, f.Contract, c.network, c.name)
		if got != c.want || problem.Fix(err) != c.fix || (err != nil) != (c.fix != "") || err != nil && problem.Code(err) != "workload-unknown" {
			t.Errorf("%+v: %q, %v, fix %q", c, got, err, problem.Fix(err))
		}
	}
}

func receipt(name, state, reason string) func(*Facts) {
	return func(f *Facts) { f.Workloads[name] = Workload{Name: name, State: state, Reason: reason} }
}

func TestPortsAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]string{"80": "80/tcp", "53/udp": "53/udp", "5432/tcp": "5432/tcp", "icmp": "icmp", "65535": "65535/tcp",
		"": "", "0": "", "65536": "", "-1": "", "80/": "", "80/sctp": "", "/tcp": "", "80-90/tcp": "", "http": "", "icmp/tcp": "", "80%eth0": "", "1]:2": ""} {
		p, err := ParsePort(text)
		if (err != nil) != (want == "") || err == nil && p.String() != want {
			t.Errorf("%q is read as %s, %v, want %q", text, p, err, want)
		}
	}
}

func TestStateOfANetwork(t *testing.T) {
	for _, c := range []struct {
		what, state, says string
		change            func(*Facts)
	}{
		{what: "all is well", state: NetworkReady, change: func(*Facts) {}},
		{what: "nobody asked", state: NetworkUnknown, change: func(f *Facts) { f.Views = nil }},
		{what: "nobody answers", state: NetworkUnknown, says: "node-1 does not answer: node-silent", change: func(f *Facts) {
			f.Views[slot1], f.Views[slot2] = View{Err: problem.New("node-silent", "x")}, View{Err: fmt.Errorf("y")}
		}},
		{what: "one does not answer", state: NetworkDegraded, says: "node-2 does not answer: y", change: func(f *Facts) { f.Views[slot2] = View{Err: fmt.Errorf("y")} }},
		{what: "none has it", state: NetworkPending, says: "node-1 has not made it yet", change: func(f *Facts) { f.Views[slot1], f.Views[slot2] = View{}, View{} }},
		{what: "one has it", state: NetworkDegraded, says: "node-2 has not made it yet", change: func(f *Facts) { f.Views[slot2] = View{} }},
		{what: "firewall", state: NetworkDegraded, says: "node-1: firewall: not in force", change: func(f *Facts) { at(*f, slot1).Firewall.OK = false }},
		{what: "resolver", state: NetworkDegraded, says: "node-2: resolver: x", change: func(f *Facts) { at(*f, slot2).Resolver = protocol.Check{Detail: "x"} }},
		{what: "a pair", state: NetworkDegraded, says: "node-1 and node-2: no handshake yet", change: func(f *Facts) {
			at(*f, slot1).Peers[0].State, at(*f, slot2).Peers[0].State = protocol.PeerWaiting, protocol.PeerWaiting
		}},
		{what: "half a pair", state: NetworkDegraded, says: "node-2 and node-1: no handshake any more", change: func(f *Facts) { at(*f, slot2).Peers[0].State = protocol.PeerSilent }},
		{what: "the other half", state: NetworkDegraded, says: "node-1 and node-2: keys are not exchanged yet", change: func(f *Facts) { at(*f, slot1).Peers = nil }},
		{what: "a reason", state: NetworkDegraded, says: "node-1 and node-2: because", change: func(f *Facts) {
			p := &at(*f, slot1).Peers[0]
			p.State, p.Message = protocol.PeerUnknown, "because"
		}},
	} {
		f := shop(t)
		c.change(&f)
		state, problems := NetworkState(f.Plan, f.Plan.Networks[0], f.Views, f.Names)
		all := strings.Join(problems, "\n")
		// Of a pair that is apart on both sides, the one told first is the one whose
		// slot comes first.
		swapped := strings.Replace(c.says, "node-1 and node-2", "node-2 and node-1", 1)
		if state != c.state || !strings.Contains(all, c.says) && !(c.what == "a pair" && strings.Contains(all, swapped)) {
			t.Errorf("%s: %s %q, want %s %q", c.what, state, all, c.state, c.says)
		}
		if (c.says == "") != (len(problems) == 0) || len(problems) > 2 {
			t.Errorf("%s: problems %q", c.what, problems)
		}
	}
}

func TestANetworkIsFoundByItsName(t *testing.T) {
	f := shop(t)
	for name, want := range map[string]string{"front": "", "": "", "fornt": `did you mean "front"?`, "zzzzzz": "known: front"} {
		n, err := FindNetwork(f.Plan, name)
		if want == "" && (err != nil || n.Name != "front") || want != "" && (problem.Code(err) != "network-unknown" || problem.Fix(err) != want) {
			t.Errorf("%q: %v, fix %q", name, err, problem.Fix(err))
		}
	}
	two := plan.Plan{Name: "x", Networks: []plan.Network{{Name: "a"}, {Name: "b"}}}
	if _, err := FindNetwork(&two, ""); problem.Fix(err) != "name one of: a, b" {
		t.Errorf("%v, %q", err, problem.Fix(err))
	}
	if _, err := FindNetwork(&plan.Plan{Name: "x"}, ""); problem.Code(err) != "network-unknown" {
		t.Errorf("%v", err)
	}
}
