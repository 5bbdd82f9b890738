package agent_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/agent"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/sign"
)

// lab is agents with real devices, routes and probes in a laboratory. Messenger
// and relay are functions; the one server observes addresses.
type lab struct {
	*netlab.Lab
	t        *testing.T
	internet *netlab.Segment
	server   netip.AddrPort

	mu    sync.Mutex
	nodes map[canon.Hash]*labNode
	watch map[[16]byte]*labNode

	relayed atomic.Int64
}

type labNode struct {
	lab     *lab
	number  int
	slot    canon.Hash
	host    *netlab.Host
	router  *netlab.Host
	engine  wireguard.Engine
	periods agent.Periods
	devices *wireguard.Host
	addrs   *agent.KernelHost
	agent   *agent.Agent
	handler func(context.Context, canon.Hash, []byte) ([]byte, error)
	cancel  func()
	done    chan error
}

var (
	labGrid = canon.Sum([]byte("lab"))
	labNet  = canon.Sum([]byte("net"))
)

const observeMagic = "observe:"

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{Lab: netlab.New(t), t: t, nodes: map[canon.Hash]*labNode{}, watch: map[[16]byte]*labNode{}}
	l.internet = l.Segment("internet", "198.51.100.0/24")
	server := l.Host("server", l.internet)
	conn := server.ListenPacket("udp4", ":443")
	l.server = netip.AddrPortFrom(server.Addr4(), 443)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if n != len(observeMagic)+16 || string(b[:len(observeMagic)]) != observeMagic {
				continue
			}
			token := [16]byte(b[len(observeMagic):n])
			l.mu.Lock()
			var a *agent.Agent
			if node := l.watch[token]; node != nil {
				a = node.agent
			}
			l.mu.Unlock()
			if a != nil {
				a.Observed(token, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return l
}

// node makes a node on a host, with a router namespace that has the address
// 10.20.<number>.1.
func (l *lab) node(number int, host *netlab.Host, periods agent.Periods) *labNode {
	l.t.Helper()
	return l.nodeWith(wireguard.Userspace, number, host, periods)
}

func (l *lab) nodeWith(engine wireguard.Engine, number int, host *netlab.Host, periods agent.Periods) *labNode {
	l.t.Helper()
	n := &labNode{
		lab: l, number: number, slot: canon.Hash{byte(number)}, host: host, router: l.Host(fmt.Sprintf("router-%d", number)),
		engine: engine, periods: periods,
	}
	l.must(n.router.Try(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: n.addr().AsSlice(), Mask: net.CIDRMask(32, 32)}})
	}))
	l.must(host.Try(func() error { return firewall.Host{}.Apply() }))
	n.start()
	l.t.Cleanup(func() {
		l.must(n.agent.Remove(context.Background(), labNet))
		n.stop()
	})
	return n
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// start is what a daemon does, stop is its end.
func (n *labNode) start() {
	l := n.lab
	l.t.Helper()
	var err error
	n.devices, err = wireguard.OpenHost(n.host.Fd(), nil)
	l.must(err)
	n.addrs, err = agent.OpenHost(n.host.Fd())
	l.must(err)
	a, err := agent.New(agent.Config{
		Grid: labGrid, Slot: n.slot, Epoch: 1, Signer: sign.FromSeed([32]byte{byte(n.number)}), Messenger: n, Relay: n,
		Bound: func(_ context.Context, slot canon.Hash) (agent.Identity, error) {
			return agent.Identity{Epoch: 1, Key: sign.FromSeed([32]byte{slot[0]}).Public()}, nil
		},
		ObserveProbe: func(token [16]byte) []byte { return append([]byte(observeMagic), token[:]...) },
		Devices:      n.devices, Engine: n.engine, Host: n.addrs, Periods: n.periods,
	})
	l.must(err)
	l.mu.Lock()
	n.agent = a
	l.nodes[n.slot] = n
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan error, 1)
	go func() { n.done <- a.Run(ctx) }()
}

func (n *labNode) stop() {
	n.lab.mu.Lock()
	delete(n.lab.nodes, n.slot)
	n.lab.mu.Unlock()
	n.cancel()
	if err := errors.Join(<-n.done, n.addrs.Close(), n.devices.Close()); err != nil {
		n.lab.t.Errorf("node %d: %v", n.number, err)
	}
}

func (n *labNode) addr() netip.Addr { return netip.AddrFrom4([4]byte{10, 20, byte(n.number), 1}) }

// ensure makes the network on all nodes.
func (l *lab) ensure(nodes ...*labNode) {
	l.t.Helper()
	for _, n := range nodes {
		if err := n.agent.Ensure(context.Background(), l.topology(n, nodes...), n.router.Fd()); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) topology(self *labNode, nodes ...*labNode) network.Topology {
	t := network.Topology{ID: labNet, Name: "lab", Self: self.slot}
	for _, o := range nodes {
		p := netip.PrefixFrom(o.addr(), 24).Masked()
		six := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, 2, 3, 4, 5, 0, byte(o.number)}), 64)
		t.Nodes = append(t.Nodes, network.Node{Slot: o.slot, Prefixes: []netip.Prefix{p, six}})
	}
	return t
}

func (n *labNode) Handle(_ string, h func(context.Context, canon.Hash, []byte) ([]byte, error)) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.handler = h
}

func (n *labNode) Call(ctx context.Context, slot canon.Hash, _ string, body []byte) ([]byte, error) {
	n.lab.mu.Lock()
	o := n.lab.nodes[slot]
	var handler func(context.Context, canon.Hash, []byte) ([]byte, error)
	if o != nil {
		handler = o.handler
	}
	n.lab.mu.Unlock()
	if handler == nil {
		return nil, errors.New("nobody is there")
	}
	return handler(ctx, n.slot, body)
}

func (n *labNode) Send(to canon.Hash, packet []byte) error {
	n.lab.mu.Lock()
	var a *agent.Agent
	if o := n.lab.nodes[to]; o != nil {
		a = o.agent
	}
	n.lab.mu.Unlock()
	if a == nil {
		return errors.New("nobody is there")
	}
	n.lab.relayed.Add(1)
	a.Relayed(n.slot, packet)
	return nil
}

func (n *labNode) Servers() []netip.AddrPort { return []netip.AddrPort{n.lab.server} }
func (n *labNode) Poke()                     {}
func (n *labNode) Watch(token [16]byte) error {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.lab.watch[token] = n
	return nil
}
func (n *labNode) Unwatch(token [16]byte) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	delete(n.lab.watch, token)
}

func (n *labNode) peer(o *labNode) agent.PeerStatus {
	s, _ := n.agent.Status(labNet)
	for _, p := range s.Peers {
		if p.Slot == o.slot {
			return p
		}
	}
	return agent.PeerStatus{}
}

// routes tells whether the router knows a way to the other's addresses.
func (n *labNode) routes(o *labNode) bool {
	return netns.Do(n.router.Fd(), func() error {
		_, err := netlink.RouteGet(o.addr().AsSlice())
		return err
	}) == nil
}

// until waits for ok; the deadline is far beyond what it takes anywhere.
func (l *lab) until(what string, ok func() bool) time.Duration {
	l.t.Helper()
	begin := time.Now()
	deadline := time.NewTimer(90 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, n := range l.nodes {
				s, _ := n.agent.Status(labNet)
				l.t.Logf("node %d: %+v", n.number, s)
			}
			l.t.Fatalf("%s: not within 90 s", what)
		}
	}
	return time.Since(begin)
}

func on(path string, a, b *labNode) func() bool {
	return func() bool { return a.peer(b).Path == path && b.peer(a).Path == path }
}

// stream sends numbered datagrams from one router namespace to another, which
// sends each back, and tells which did not return.
type stream struct {
	conn   net.Conn
	echo   *net.UDPConn
	stop   chan struct{}
	sender sync.WaitGroup
	work   sync.WaitGroup
	sent   atomic.Uint32
	back   sync.Map
	number atomic.Uint32 // of answers
}

func (l *lab) stream(a, b *labNode, every time.Duration) *stream {
	l.t.Helper()
	s := &stream{stop: make(chan struct{})}
	s.echo = b.router.ListenPacket("udp4", netip.AddrPortFrom(b.addr(), 7).String())
	var err error
	if s.conn, err = a.router.Dial(context.Background(), "udp4", netip.AddrPortFrom(b.addr(), 7).String()); err != nil {
		l.t.Fatal(err)
	}
	s.work.Go(func() {
		buf := make([]byte, 2000)
		for {
			n, from, err := s.echo.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = s.echo.WriteToUDPAddrPort(buf[:n], from)
		}
	})
	s.work.Go(func() {
		buf := make([]byte, 2000)
		for {
			n, err := s.conn.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n >= 4 {
				if _, again := s.back.LoadOrStore(binary.BigEndian.Uint32(buf), true); !again {
					s.number.Add(1)
				}
			}
		}
	})
	s.sender.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				b := binary.BigEndian.AppendUint32(make([]byte, 0, 500), s.sent.Load())
				if _, err := s.conn.Write(b[:500]); err == nil {
					s.sent.Add(1)
				}
			}
		}
	})
	return s
}

// end stops the stream and returns the datagrams that did not return.
func (s *stream) end() (lost []uint32) {
	close(s.stop)
	// The datagram that is being sent now counts as well.
	s.sender.Wait()
	// What is on its way arrives, or never does.
	settle := time.NewTimer(5 * time.Second)
	defer settle.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
wait:
	for s.number.Load() < s.sent.Load() {
		select {
		case <-settle.C:
			break wait
		case <-tick.C:
		}
	}
	s.conn.Close()
	s.echo.Close()
	s.work.Wait()
	for i := range s.sent.Load() {
		if _, ok := s.back.Load(i); !ok {
			lost = append(lost, i)
		}
	}
	return lost
}

// arrives tells that datagrams come back now.
func (s *stream) arrives(l *lab) {
	l.t.Helper()
	before := s.number.Load()
	l.until("datagrams", func() bool { return s.number.Load() >= before+20 })
}

func TestPathsThroughRouters(t *testing.T) {
	for _, c := range []struct {
		a, b netlab.NAT
		path string
	}{
		{netlab.PortRestricted, netlab.PortRestricted, agent.PathDirect},
		{netlab.FullCone, netlab.AddressRestricted, agent.PathDirect},
		{netlab.Firewall, netlab.Firewall, agent.PathDirect},
		{netlab.Symmetric, netlab.Symmetric, agent.PathRelay},
	} {
		t.Run(string(c.a)+" and "+string(c.b), func(t *testing.T) {
			l := newLab(t)
			a := l.node(1, l.Site("left", netlab.SiteConfig{WAN: l.internet, NAT: c.a, LAN: []string{"192.168.1.0/24"}}).Host("a"), agent.Periods{})
			b := l.node(2, l.Site("right", netlab.SiteConfig{WAN: l.internet, NAT: c.b, LAN: []string{"192.168.2.0/24"}}).Host("b"), agent.Periods{})
			l.ensure(a, b)
			s := l.stream(a, b, 20*time.Millisecond)
			s.arrives(l)
			if c.path == agent.PathDirect {
				t.Logf("direct after %v", l.until("direct", on(agent.PathDirect, a, b)))
				s.arrives(l)
				// Once direct, the relay carries nothing of the stream.
				before, sent := l.relayed.Load(), s.sent.Load()
				l.until("a second of datagrams", func() bool { return s.sent.Load() >= sent+50 })
				if n := l.relayed.Load() - before; n > 20 {
					t.Errorf("%d packets went through the relay", n)
				}
			} else {
				// As long as a burst of probes takes, and its repetition.
				sent := s.sent.Load()
				l.until("seconds of datagrams", func() bool { return s.sent.Load() >= sent+250 })
				if !on(agent.PathRelay, a, b)() {
					t.Errorf("paths %+v and %+v", a.peer(b), b.peer(a))
				}
			}
			s.end()
		})
	}
}

func TestNeighboursTalkOverTheirLAN(t *testing.T) {
	l := newLab(t)
	site := l.Site("home", netlab.SiteConfig{WAN: l.internet, NAT: netlab.Symmetric, LAN: []string{"192.168.1.0/24"}})
	a, b := l.node(1, site.Host("a"), agent.Periods{}), l.node(2, site.Host("b"), agent.Periods{})
	l.ensure(a, b)
	l.until("a path on the LAN", func() bool {
		return a.peer(b).Address.Addr() == b.host.Addr4() && b.peer(a).Address.Addr() == a.host.Addr4()
	})
}

// A way that swallows large packets without a word is not taken for a path.
func TestPathThatSwallowsLargePacketsIsNotTaken(t *testing.T) {
	l := newLab(t)
	a, b := l.node(1, l.Host("a", l.internet), agent.Periods{}), l.node(2, l.Host("b", l.internet), agent.Periods{})
	a.host.NIC(0).Shape(netlab.Shape{MTU: 1330}, netlab.Shape{})
	l.ensure(a, b)
	s := l.stream(a, b, 20*time.Millisecond)
	s.arrives(l)
	sent := s.sent.Load()
	l.until("seconds of datagrams", func() bool { return s.sent.Load() >= sent+250 })
	if !on(agent.PathRelay, a, b)() {
		t.Errorf("paths %+v and %+v", a.peer(b), b.peer(a))
	}
	a.host.NIC(0).Shape(netlab.Shape{MTU: 1400}, netlab.Shape{})
	l.until("direct", on(agent.PathDirect, a, b))
	s.arrives(l)
	s.end()
}

// The direct path is cut and comes back: the stream goes on, by the relay and
// then directly again.
func TestCutPathFallsBackAndReturns(t *testing.T) {
	l := newLab(t)
	left := l.Site("left", netlab.SiteConfig{WAN: l.internet, NAT: netlab.PortRestricted, LAN: []string{"192.168.1.0/24"}})
	right := l.Site("right", netlab.SiteConfig{WAN: l.internet, NAT: netlab.PortRestricted, LAN: []string{"192.168.2.0/24"}})
	a, b := l.node(1, left.Host("a"), agent.Periods{}), l.node(2, right.Host("b"), agent.Periods{})
	l.ensure(a, b)
	s := l.stream(a, b, 20*time.Millisecond)
	l.until("direct", on(agent.PathDirect, a, b))
	left.Router.Nft("table inet cut { chain c { type filter hook forward priority -10; meta l4proto udp drop; }; }")
	t.Logf("on the relay %v after the cut", l.until("relay", on(agent.PathRelay, a, b)))
	s.arrives(l)
	if !on(agent.PathRelay, a, b)() {
		t.Errorf("off the relay while there is no other way: %+v and %+v", a.peer(b), b.peer(a))
	}
	left.Router.Run("nft", "delete", "table", "inet", "cut")
	t.Logf("direct %v after the repair", l.until("direct again", on(agent.PathDirect, a, b)))
	s.arrives(l)
	s.end()
}

func TestRoamingNodeKeepsItsConnections(t *testing.T) {
	l := newLab(t)
	home := l.Site("home", netlab.SiteConfig{WAN: l.internet, NAT: netlab.PortRestricted, LAN: []string{"192.168.1.0/24"}})
	cafe := l.Site("cafe", netlab.SiteConfig{WAN: l.internet, NAT: netlab.PortRestricted, LAN: []string{"192.168.9.0/24"}})
	a := l.node(1, home.Host("a"), agent.Periods{})
	b := l.node(2, l.Host("b", l.internet), agent.Periods{})
	l.ensure(a, b)
	s := l.stream(a, b, 10*time.Millisecond)
	l.until("direct", on(agent.PathDirect, a, b))
	before := b.peer(a).Address
	number := s.number.Load()
	a.host.NIC(0).Move(cafe.LAN)
	l.until("datagrams after the move", func() bool { return s.number.Load() > number+50 })
	l.until("direct from the new place", func() bool {
		return on(agent.PathDirect, a, b)() && b.peer(a).Address.Addr() == cafe.Outer(true) && before.Addr() != cafe.Outer(true)
	})
	s.arrives(l)
	lost := s.end()
	t.Logf("%d of %d datagrams lost by moving", len(lost), s.sent.Load())
}

// Keys change four times under a stream that loses nothing.
func TestRotationLosesNothing(t *testing.T) {
	rotate(t, wireguard.Userspace, 4, agent.Periods{
		Rotate: 4 * time.Second, Overlap: 3 * time.Second, Linger: 500 * time.Millisecond, Renew: time.Second, MaxPSKAge: 5 * time.Second,
	})
}

func rotate(t *testing.T, engine wireguard.Engine, changes int, p agent.Periods) {
	l := newLab(t)
	a, b := l.nodeWith(engine, 1, l.Host("a", l.internet), p), l.nodeWith(engine, 2, l.Host("b", l.internet), p)
	l.ensure(a, b)
	l.until("handshake", func() bool { return !a.peer(b).Handshake.IsZero() && !b.peer(a).Handshake.IsZero() })
	l.until("direct", on(agent.PathDirect, a, b))
	s := l.stream(a, b, 5*time.Millisecond)
	s.arrives(l)
	keys := map[wireguard.Key]bool{}
	two := false
	l.until("changes of keys", func() bool {
		st, _ := a.agent.Status(labNet)
		for _, d := range st.Devices {
			keys[d.PublicKey] = true
		}
		two = two || len(st.Devices) == 2
		return len(keys) > changes
	})
	s.arrives(l)
	l.until("old keys gone", func() bool { st, _ := a.agent.Status(labNet); return len(st.Devices) == 1 })
	if lost := s.end(); len(lost) > 0 {
		t.Errorf("%d of %d datagrams were lost: %v", len(lost), s.sent.Load(), lost[:min(len(lost), 20)])
	}
	if !two {
		t.Error("the devices of two epochs never stood side by side")
	}
}

func TestDeletedDeviceIsMadeAgain(t *testing.T) { deleted(t, wireguard.Userspace) }

func deleted(t *testing.T, engine wireguard.Engine) {
	l := newLab(t)
	a, b := l.nodeWith(engine, 1, l.Host("a", l.internet), agent.Periods{}), l.nodeWith(engine, 2, l.Host("b", l.internet), agent.Periods{})
	l.ensure(a, b)
	shaken := func() bool { return !a.peer(b).Handshake.IsZero() && !b.peer(a).Handshake.IsZero() }
	l.until("handshake", shaken)
	for _, n := range []*labNode{a, b} {
		before, _ := n.agent.Status(labNet)
		d := before.Devices[0]
		l.must(netns.Do(n.router.Fd(), func() error {
			link, err := netlink.LinkByName(d.Name)
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		}))
		l.until("another device", func() bool {
			now, _ := n.agent.Status(labNet)
			return len(now.Devices) == 1 && now.Devices[0].PublicKey != d.PublicKey
		})
		l.until("handshake with the new device", shaken)
		l.until("a route by it", func() bool {
			return a.routes(b) && b.routes(a)
		})
		s := l.stream(a, b, 10*time.Millisecond)
		s.arrives(l)
		s.end()
	}
}

func TestRemovedNetworkLeavesNothing(t *testing.T) {
	l := newLab(t)
	a, b := l.node(1, l.Host("a", l.internet), agent.Periods{}), l.node(2, l.Host("b", l.internet), agent.Periods{})
	l.ensure(a, b)
	l.until("handshake", func() bool { return !a.peer(b).Handshake.IsZero() })
	if out := a.router.Run("ip", "route", "show", "10.20.2.0/24"); out == "" {
		t.Error("no route to the peer")
	}
	if err := a.agent.Remove(t.Context(), labNet); err != nil {
		t.Fatal(err)
	}
	out := a.router.Run("ip", "-o", "link")
	for _, name := range agent.DeviceNames() {
		if strings.Contains(out, name) {
			t.Errorf("%s is left: %s", name, out)
		}
	}
	if out := a.router.Run("ip", "route", "show", "table", "all", "proto", fmt.Sprint(agent.RouteProtocol)); out != "" {
		t.Errorf("routes are left: %s", out)
	}
	l.ensure(a, b)
	l.until("handshake again", func() bool { return !a.peer(b).Handshake.IsZero() && !b.peer(a).Handshake.IsZero() })
}

// What leaves through the exit has a table of its own, and nowhere to go when
// the exit's device is gone.
func TestExitRouteIsClosedWhenItsDeviceIsGone(t *testing.T) {
	l := newLab(t)
	a, b := l.node(1, l.Host("a", l.internet), agent.Periods{}), l.node(2, l.Host("b", l.internet), agent.Periods{})
	// Interfaces of these names that nobody adopts are deleted.
	l.must(a.router.Try(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wg0"}, PeerName: "wg1"})
	}))
	ensure := func(exit canon.Hash) {
		topo := l.topology(a, a, b)
		topo.Exit = exit
		l.must(a.agent.Ensure(context.Background(), topo, a.router.Fd()))
	}
	table := func() string {
		return a.router.Run("ip", "route", "show", "table", fmt.Sprint(agent.ExitTable)) +
			a.router.Run("ip", "-6", "route", "show", "table", fmt.Sprint(agent.ExitTable))
	}
	ensure(b.slot)
	st, _ := a.agent.Status(labNet)
	name := st.Devices[0].Name
	if got := table(); strings.Count(got, "default dev "+name) != 2 || strings.Count(got, "unreachable default") != 2 {
		t.Errorf("routes of the exit: %s", got)
	}
	if links := a.router.Run("ip", "-o", "link"); strings.Count(links, ": wg") != 1 {
		t.Errorf("links: %s", links)
	}
	a.router.Run("ip", "link", "del", name)
	if got := table(); strings.Contains(got, name) || strings.Count(got, "unreachable default") != 2 {
		t.Errorf("routes of the exit without its device: %s", got)
	}
	ensure(b.slot)
	if got := table(); strings.Count(got, "default dev wg") != 2 {
		t.Errorf("routes of the exit when its device is made again: %s", got)
	}
	ensure(canon.Hash{})
	if got := strings.TrimSpace(table()); got != "" {
		t.Errorf("routes without an exit: %s", got)
	}
}
