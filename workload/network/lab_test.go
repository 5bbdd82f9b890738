package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/netns"
	netplan "github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/agent"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// patient bounds every wait; nothing takes that long.
const patient = 20 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is some nodes in namespaces of this machine, joined by an agent that
// encrypts nothing: filters are what is tested.
type world struct {
	t     *testing.T
	agent *fakeAgent
	nodes map[string]*machine
}

// machine is a node: a host namespace, and the kind in it.
type machine struct {
	name string
	slot canon.Hash
	host *os.File
	kind *Kind
	run  string
}

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root, e.g. sudo make test")
	}
	w := &world{t: t, agent: &fakeAgent{routers: map[canon.Hash]map[canon.Hash]int{}}, nodes: map[string]*machine{}}
	for _, name := range names {
		m := &machine{name: name, slot: canon.Sum([]byte("slot " + name)), host: namespace(t), run: filepath.Join(t.TempDir(), name)}
		must(t, firewall.Host{NetNS: int(m.host.Fd())}.Apply())
		m.open(t, w)
		w.nodes[name] = m
		t.Cleanup(func() { m.wipe(t) })
	}
	return w
}

// open starts the kind, as a node daemon does.
func (m *machine) open(t testing.TB, w *world) {
	t.Helper()
	var err error
	m.kind, err = New(Config{
		Slot: m.slot, Agent: w.agent, Run: m.run, Host: int(m.host.Fd()), Secrets: NewSecrets(m.slot),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	must(t, err)
}

// wipe takes away what a test left.
func (m *machine) wipe(t testing.TB) {
	ctx := context.Background()
	for _, of := range []Attacher{m.kind.containers(), m.kind.Gateways(), m.kind.Machines()} {
		attached, err := of.List()
		if err != nil {
			t.Error(err)
		}
		for _, id := range attached {
			if err := of.Detach(ctx, id); err != nil {
				t.Error(err)
			}
		}
	}
	all, err := m.kind.Observe(ctx)
	if err != nil {
		t.Error(err)
	}
	for id := range all {
		if err := m.kind.Remove(ctx, id); err != nil {
			t.Error(err)
		}
	}
	if err := m.kind.Close(); err != nil {
		t.Error(err)
	}
}

// namespace makes one that ends with the test.
func namespace(t testing.TB) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	ns, _, err := netns.Pin(path)
	must(t, err)
	t.Cleanup(func() {
		if err := errors.Join(ns.Close(), netns.Unpin(path)); err != nil {
			t.Error(err)
		}
	})
	must(t, netns.Do(int(ns.Fd()), func() error {
		lo, err := find("lo")
		if err != nil {
			return err
		}
		return up(lo, 65536)
	}))
	return ns
}

// fakeAgent joins the routers of a network's nodes that know each other by veths
// that are named like WireGuard interfaces.
type fakeAgent struct {
	mu      sync.Mutex
	routers map[canon.Hash]map[canon.Hash]int // network → slot → namespace
	removed []canon.Hash
	err     error
}

func (a *fakeAgent) Ensure(_ context.Context, t netplan.Topology, ns int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	if a.routers[t.ID] == nil {
		a.routers[t.ID] = map[canon.Hash]int{}
	}
	if _, known := a.routers[t.ID][t.Self]; known {
		return nil
	}
	own, err := unix.FcntlInt(uintptr(ns), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	a.routers[t.ID][t.Self] = own
	for _, other := range t.Nodes {
		fd, there := a.routers[t.ID][other.Slot]
		if other.Slot == t.Self || !there {
			continue
		}
		if err := join(t, own, fd, other); err != nil {
			return err
		}
	}
	return nil
}

func (a *fakeAgent) Remove(_ context.Context, id canon.Hash) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.removed = append(a.removed, id)
	for _, fd := range a.routers[id] {
		// The other ends go with them.
		for i := range 8 {
			_ = netns.Do(fd, func() error { return remove(fmt.Sprintf("wg%d", i)) })
		}
		_ = unix.Close(fd)
	}
	delete(a.routers, id)
	return nil
}

// join makes the veth between two routers, and the routes that an agent makes.
func join(t netplan.Topology, own, other int, peer netplan.Node) error {
	var self netplan.Node
	for _, n := range t.Nodes {
		if n.Slot == t.Self {
			self = n
		}
	}
	names := map[int]string{}
	for _, ns := range []int{own, other} {
		err := netns.Do(ns, func() error {
			for i := 0; ; i++ {
				names[ns] = fmt.Sprintf("wg%d", i)
				if l, err := find(names[ns]); err != nil || l == nil {
					return err
				}
			}
		})
		if err != nil {
			return err
		}
	}
	err := netns.Do(own, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: names[own]}, PeerName: names[other], PeerNamespace: netlink.NsFd(other)})
	})
	if err != nil {
		return err
	}
	side := func(ns int, mine, theirs byte, to netplan.Node) error {
		return netns.Do(ns, func() error {
			l, err := find(names[ns])
			if err != nil {
				return err
			}
			if err := netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, mine}); err != nil {
				return err
			}
			if err := up(l, 1280); err != nil {
				return err
			}
			for _, p := range to.Prefixes {
				gw := plan.RouterAddr(p)
				if err := neighbour(l, gw, []byte{2, 0, 0, 0, 0, theirs}); err != nil {
					return err
				}
				r := netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Gw: gw.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
				if err := route(r); err != nil {
					return err
				}
				if to.Slot == t.Exit {
					r.Table = agent.ExitTable
					r.Dst = ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
					if gw.Is6() {
						r.Dst = ipNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
					}
					if err := route(r); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := errors.Join(side(own, 1, 2, peer), side(other, 2, 1, self)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	for _, ns := range []int{own, other} {
		if err := netns.Do(ns, func() error { return ready(ctx, names[ns]) }); err != nil {
			return err
		}
	}
	return nil
}

// deployment is a plan under construction.
type deployment struct {
	contract canon.Hash
	version  uint64
	networks []plan.Network
	members  []member
	w        *world
}

type member struct {
	name, node string
	at         []plan.Attachment
	routes     []plan.Route // of a gateway
	device     plan.Device  // with a key: it is one
	machine    bool         // a virtual machine is attached
}

func (m member) kind() string {
	switch {
	case len(m.routes) > 0:
		return plan.KindGateway
	case len(m.device.Key) > 0:
		return plan.KindDevice
	}
	return plan.KindContainer
}

// config is the member's configuration and resources.
func (m member) config() ([]byte, plan.Resources, error) {
	switch m.kind() {
	case plan.KindGateway:
		plan.SortRoutes(m.routes)
		b, err := plan.Gateway{V: plan.Version, Addresses: []string{"198.51.100.10"}, Networks: m.at, Routes: m.routes}.Encode()
		return b, plan.GatewayResources(), err
	case plan.KindDevice:
		m.device.Network = m.at[0]
		b, err := m.device.Encode()
		return b, plan.DeviceResources(), err
	}
	b, err := plan.Container{
		V: plan.Version, Flist: canon.Sum([]byte("flist")), Size: 1, Args: []string{"/bin/x"}, Env: []string{}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true, Networks: m.at,
	}.Encode()
	return b, plan.Resources{CPU: 100, Memory: 64 << 20, Disk: 64 << 20, PIDs: 16}, err
}

// attacher is what attaches the member on a machine.
func (m member) attacher(k *Kind) Attacher {
	if m.kind() == plan.KindGateway {
		return k.Gateways()
	}
	return k.containers()
}

// deploy begins a deployment with one network of these nodes.
func (w *world) deploy(name, network, ipv4 string, nodes ...string) *deployment {
	d := &deployment{contract: canon.Sum([]byte("contract " + name)), version: 1, w: w}
	return d.network(network, ipv4, nodes...)
}

func (d *deployment) network(network, ipv4 string, nodes ...string) *deployment {
	whole := netip.MustParsePrefix(ipv4)
	ula := plan.ULA(canon.Sum([]byte("group")), "d", network)
	n := plan.Network{Name: network, IPv4: ipv4, IPv6: ula.String()}
	slots := map[canon.Hash]bool{}
	for i, name := range nodes {
		slots[d.w.nodes[name].slot] = true
		a4, a6 := whole.Addr().As4(), ula.Addr().As16()
		a4[2], a6[7] = a4[2]+byte(i+1), byte(i+1)
		n.Nodes = append(n.Nodes, plan.NetworkNode{
			Slot: d.w.nodes[name].slot, IPv4: netip.PrefixFrom(netip.AddrFrom4(a4), 24).String(), IPv6: netip.PrefixFrom(netip.AddrFrom16(a6), 64).String(),
		})
	}
	slices.SortFunc(n.Nodes, func(a, b plan.NetworkNode) int { return strings.Compare(a.Slot.String(), b.Slot.String()) })
	d.networks = append(d.networks, n)
	return d
}

// exit makes a node the exit of the first network.
func (d *deployment) exit(node string) *deployment {
	d.networks[0].Exit = d.w.nodes[node].slot
	return d
}

// add puts a workload into the first network, open unless changed.
func (d *deployment) add(name, node string, last int, change ...func(*plan.Attachment)) *deployment {
	return d.also(name, node, 0, last, change...)
}

// also puts a workload into one more network.
func (d *deployment) also(name, node string, network, last int, change ...func(*plan.Attachment)) *deployment {
	n := d.networks[network]
	a := plan.Attachment{Network: n.Name, Open: true, Egress: plan.EgressNone, Aliases: []string{}, Allow: []plan.Rule{}}
	for _, at := range n.Nodes {
		if at.Slot == d.w.nodes[node].slot {
			p4, p6 := netip.MustParsePrefix(at.IPv4).Addr().As4(), netip.MustParsePrefix(at.IPv6).Addr().As16()
			p4[3], p6[15] = byte(last), byte(last)
			a.IPv4, a.IPv6 = netip.AddrFrom4(p4).String(), netip.AddrFrom16(p6).String()
		}
	}
	for _, c := range change {
		c(&a)
	}
	for i := range d.members {
		if d.members[i].name == name {
			d.members[i].at = append(d.members[i].at, a)
			return d
		}
	}
	d.members = append(d.members, member{name: name, node: node, at: []plan.Attachment{a}})
	return d
}

func egress(e string) func(*plan.Attachment) { return func(a *plan.Attachment) { a.Egress = e } }

func allow(rules ...plan.Rule) func(*plan.Attachment) {
	return func(a *plan.Attachment) { a.Open, a.Allow = false, rules }
}

func rule(protocol string, first, last uint16, peers ...string) plan.Rule {
	return plan.Rule{Protocol: protocol, First: first, Last: last, Peers: append([]string{}, peers...)}
}

// plan makes the whole plan, and checks it as a node's other parts would.
func (d *deployment) plan() *plan.Plan {
	d.w.t.Helper()
	p := &plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: canon.Sum([]byte("group")), Name: "d", Networks: slices.Clone(d.networks)}
	slices.SortFunc(p.Networks, func(a, b plan.Network) int { return strings.Compare(a.Name, b.Name) })
	for _, n := range p.Networks {
		config, err := plan.NetworkConfig{V: plan.Version, Network: n.Name}.Encode()
		must(d.w.t, err)
		for _, at := range n.Nodes {
			p.Workloads = append(p.Workloads, plan.Workload{Name: plan.RouterName(n.Name, at.Slot), Kind: plan.KindNetwork, Slot: at.Slot, Resources: plan.RouterResources(), Config: config})
		}
	}
	for _, m := range d.members {
		config, resources, err := m.config()
		must(d.w.t, err)
		p.Workloads = append(p.Workloads, plan.Workload{Name: m.name, Kind: m.kind(), Slot: d.w.nodes[m.node].slot, Config: config, Resources: resources})
	}
	slices.SortFunc(p.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	must(d.w.t, p.Validate())
	return p
}

func (d *deployment) desired(p *plan.Plan, name string) workload.Desired {
	for _, w := range p.Workloads {
		if w.Name == name {
			return workload.Desired{ID: workload.ID{Contract: d.contract, Name: name}, Version: d.version, Plan: w, Deployment: p}
		}
	}
	d.w.t.Fatalf("no workload %s", name)
	return workload.Desired{}
}

// router is the id of a network's router on a node.
func (d *deployment) router(node string, network ...int) workload.ID {
	n := 0
	if len(network) > 0 {
		n = network[0]
	}
	return workload.ID{Contract: d.contract, Name: plan.RouterName(d.networks[n].Name, d.w.nodes[node].slot)}
}

// up ensures every router, then attaches every workload.
func (d *deployment) up() *deployment {
	d.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	p := d.plan()
	for _, n := range p.Networks {
		for _, m := range d.w.nodes {
			for _, at := range n.Nodes {
				if at.Slot == m.slot {
					must(d.w.t, m.kind.Ensure(ctx, d.desired(p, plan.RouterName(n.Name, m.slot))))
				}
			}
		}
	}
	for _, m := range d.members {
		if m.kind() == plan.KindDevice {
			must(d.w.t, d.w.nodes[m.node].kind.Devices().Ensure(ctx, d.desired(p, m.name)))
			continue
		}
		if m.machine {
			_, err := m.attacher(d.w.nodes[m.node].kind).AttachMachine(ctx, d.desired(p, m.name), m.at)
			must(d.w.t, err)
			continue
		}
		_, err := m.attacher(d.w.nodes[m.node].kind).Attach(ctx, d.desired(p, m.name), m.at)
		must(d.w.t, err)
	}
	return d
}

// place is a workload as a test uses it: its namespace and its addresses.
type place struct {
	t      *testing.T
	name   string
	ns     *os.File
	v4, v6 netip.Addr
}

func (d *deployment) place(name string) place {
	d.w.t.Helper()
	for _, m := range d.members {
		if m.name != name {
			continue
		}
		ns, err := netns.Open(d.w.nodes[m.node].kind.path(m.attacher(d.w.nodes[m.node].kind).prefix, workload.ID{Contract: d.contract, Name: name}, ""))
		must(d.w.t, err)
		d.w.t.Cleanup(func() { ns.Close() })
		return place{d.w.t, name, ns, netip.MustParseAddr(m.at[0].IPv4), netip.MustParseAddr(m.at[0].IPv6)}
	}
	d.w.t.Fatalf("no member %s", name)
	return place{}
}

func (d *deployment) routerPlace(node string) place {
	d.w.t.Helper()
	m := d.w.nodes[node]
	ns, err := netns.Open(m.kind.path(routerPrefix, d.router(node), ""))
	must(d.w.t, err)
	d.w.t.Cleanup(func() { ns.Close() })
	r, err := m.kind.readRecord(d.router(node))
	must(d.w.t, err)
	return place{d.w.t, "router " + node, ns, r.View.Router4, r.View.Router6}
}

func (p place) in(f func() error) { p.t.Helper(); must(p.t, netns.Do(int(p.ns.Fd()), f)) }

// udp listens at an address of the place.
func (p place) udp(a netip.Addr, port int) *net.UDPConn {
	p.t.Helper()
	var c *net.UDPConn
	p.in(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, uint16(port))))
		return err
	})
	p.t.Cleanup(func() { c.Close() })
	return c
}

// send sends a datagram; a refusal by routing is no error.
func (p place) send(from netip.Addr, to netip.AddrPort, text string) {
	p.t.Helper()
	p.in(func() error {
		var local *net.UDPAddr
		if from.IsValid() {
			local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			return nil
		}
		if err != nil {
			return err
		}
		defer c.Close()
		_, _ = c.Write([]byte(text))
		return nil
	})
}

// texts reads datagrams until one says last, and returns those before it.
func texts(t testing.TB, c *net.UDPConn, last string) []string {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(patient)))
	var got []string
	b := make([]byte, 2048)
	for {
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("waiting for %q at %s after %q: %v", last, c.LocalAddr(), got, err)
		}
		if s := string(b[:n]); s == last {
			return got
		} else {
			got = append(got, s)
		}
	}
}

// pending returns what has come already.
func pending(c *net.UDPConn) []string {
	var got []string
	b := make([]byte, 2048)
	for {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, err := c.Read(b)
		if err != nil {
			return got
		}
		got = append(got, string(b[:n]))
	}
}

// reaches tells whether a datagram from p arrives at a port of q. A second one to
// a port that is open, the beacon, says when the first would have.
func (p place) reaches(q place, to netip.Addr, port, beacon int) bool {
	p.t.Helper()
	c, b := q.udp(to, port), q.udp(to, beacon)
	defer c.Close()
	defer b.Close()
	text := fmt.Sprintf("%s to %s %d", p.name, q.name, port)
	p.send(netip.Addr{}, netip.AddrPortFrom(to, uint16(port)), text)
	p.send(netip.Addr{}, netip.AddrPortFrom(to, uint16(beacon)), "beacon")
	texts(p.t, b, "beacon")
	return slices.Contains(pending(c), text)
}

// dialUDP connects a socket of the calling thread's namespace.
func dialUDP(to netip.AddrPort) (*net.UDPConn, error) {
	return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
}
