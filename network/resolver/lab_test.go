package resolver

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The network of the tests: a router, workloads with and without egress, and one
// address that the plan gives to nobody.
const (
	webAddr      = "10.20.1.2"
	dbAddr       = "10.20.1.3"
	outAddr      = "10.20.1.4" // egress "node"
	exitAddr     = "10.20.1.5" // egress "exit"
	strangerAddr = "10.20.1.99"
	upstreamAddr = "192.0.2.53"
)

var (
	here  = canon.Sum([]byte("slot of this node"))
	there = canon.Sum([]byte("slot of another node"))
)

func testPlan(t testing.TB) *plan.Plan {
	t.Helper()
	front := func(v4, v6 string) plan.Attachment {
		return plan.Attachment{Network: "front", IPv4: v4, IPv6: v6, Open: true, Egress: plan.EgressNone}
	}
	web, db, other := front(webAddr, "fd00:20:1:1::2"), front(dbAddr, "fd00:20:1:1::3"), front("10.20.2.2", "fd00:20:1:2::2")
	web.Aliases, other.Aliases, db.Aliases = []string{"pool"}, []string{"pool"}, []string{"postgres"}
	out, exit := front(outAddr, "fd00:20:1:1::4"), front(exitAddr, "fd00:20:1:1::5")
	out.Egress, exit.Egress = plan.EgressNode, plan.EgressExit
	back := plan.Attachment{Network: "back", IPv4: "10.30.1.2", IPv6: "fd00:30:1:1::2", Open: true, Egress: plan.EgressNone}
	p := &plan.Plan{V: plan.Version, Update: plan.DefaultUpdate(), Group: canon.Sum([]byte("group")), Name: "shop", Networks: []plan.Network{
		{Name: "back", IPv4: "10.30.0.0/16", IPv6: "fd00:30:1::/48", Nodes: []plan.NetworkNode{{Slot: here, IPv4: "10.30.1.0/24", IPv6: "fd00:30:1:1::/64"}}},
		{Name: "front", IPv4: "10.20.0.0/16", IPv6: "fd00:20:1::/48", Exit: there, Nodes: []plan.NetworkNode{
			{Slot: here, IPv4: "10.20.1.0/24", IPv6: "fd00:20:1:1::/64"}, {Slot: there, IPv4: "10.20.2.0/24", IPv6: "fd00:20:1:2::/64"},
		}},
	}}
	for _, w := range []struct {
		name string
		slot canon.Hash
		nets []plan.Attachment
	}{{"db", here, []plan.Attachment{db, back}}, {"exit", here, []plan.Attachment{exit}}, {"out", here, []plan.Attachment{out}},
		{"web", here, []plan.Attachment{web}}, {"web-2", there, []plan.Attachment{other}}} {
		c := plan.Container{V: plan.Version, Flist: canon.Sum([]byte("flist")), Args: []string{"/x"}, WorkDir: "/", Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), Networks: w.nets}
		config, err := canon.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		p.Workloads = append(p.Workloads, plan.Workload{Name: w.name, Kind: plan.KindContainer, Slot: w.slot, Config: config})
	}
	return p
}

// lab is a router namespace with a server, a namespace with the workloads'
// addresses behind a cable, and one with the rest of the world.
type lab struct {
	t                      testing.TB
	router, inside, beyond int
	server                 *Server
	world                  *world
	tcp                    map[string]*dns.Conn
}

func newLab(t testing.TB, change func(*Config)) *lab {
	t.Helper()
	l := &lab{t: t, tcp: map[string]*dns.Conn{}, router: namespaceFD(t), inside: namespaceFD(t), beyond: namespaceFD(t)}
	r, w := handle(t, l.router), handle(t, l.inside)
	must(t, r.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "br"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(l.inside)}))
	linkUp(t, r, "br")
	linkUp(t, w, "eth0")
	addrs(t, r, "br", "10.20.1.1/24", "fd00:20:1:1::1/64", "10.20.2.1/32", "10.30.1.1/24")
	addrs(t, w, "eth0", webAddr+"/24", dbAddr+"/24", outAddr+"/24", exitAddr+"/24", strangerAddr+"/24", "fd00:20:1:1::2/64", "fd00:20:1:1::4/64", "10.30.1.2/24")
	addrs(t, handle(t, l.beyond), "lo", upstreamAddr+"/32", "192.0.2.54/32")
	l.world = newWorld(t, l.beyond)
	cfg := Config{NetNS: l.router, Addrs: []netip.Addr{netip.MustParseAddr("10.20.1.1"), netip.MustParseAddr("fd00:20:1:1::1")},
		Zone: ZoneOf(testPlan(t), "front"), Upstream: Forward(l.beyond, func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(upstreamAddr + ":53")} })}
	cfg.idle = time.Minute
	if change != nil {
		change(&cfg)
	}
	l.server = l.serve(cfg)
	return l
}

func (l *lab) serve(cfg Config) *Server {
	l.t.Helper()
	s, err := Serve(context.Background(), cfg)
	must(l.t, err)
	l.t.Cleanup(func() { must(l.t, s.Close()) })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (network namespaces need root)", err)
	}
}

func namespaceFD(t testing.TB) int {
	t.Helper()
	type made struct {
		fd  int
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // for good: the thread ends in its new namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{0, err}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		done <- made{fd, err}
	}()
	m := <-done
	must(t, m.err)
	t.Cleanup(func() { must(t, unix.Close(m.fd)) })
	h := handle(t, m.fd)
	lo, err := h.LinkByName("lo")
	must(t, err)
	must(t, h.LinkSetUp(lo))
	return m.fd
}

func handle(t testing.TB, fd int) *netlink.Handle {
	t.Helper()
	h, err := netlink.NewHandleAt(vnetns.NsHandle(fd))
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

func linkUp(t testing.TB, h *netlink.Handle, name string) netlink.Link {
	t.Helper()
	dev, err := h.LinkByName(name)
	must(t, err)
	must(t, h.LinkSetUp(dev))
	return dev
}

func addrs(t testing.TB, h *netlink.Handle, link string, list ...string) {
	t.Helper()
	dev := linkUp(t, h, link)
	for _, text := range list {
		a, err := netlink.ParseAddr(text)
		must(t, err)
		a.Flags = unix.IFA_F_NODAD
		must(t, h.AddrAdd(dev, a))
	}
	// The kernel takes up an IPv6 address some moments later.
	for start := time.Now(); ; {
		missing := ""
		for _, text := range list {
			ip, _, err := net.ParseCIDR(text)
			must(t, err)
			if routes, err := h.RouteGet(ip); err != nil || len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		if time.Since(start) > 30*time.Second {
			t.Fatalf("the kernel does not take up %s", missing)
		}
		time.Sleep(time.Millisecond)
	}
}

// dialFrom connects from one of the workloads' addresses to a server.
func (l *lab) dialFrom(network, from, to string) (c net.Conn, err error) {
	src := netip.MustParseAddr(from)
	d := net.Dialer{Timeout: 10 * time.Second}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: src.AsSlice()}
	} else {
		d.LocalAddr = &net.TCPAddr{IP: src.AsSlice()}
	}
	err = netns.Do(l.inside, func() error {
		c, err = d.Dial(network+family(src), to)
		return err
	})
	return c, err
}

// gateway is the server's address for a client.
func gateway(from string) string {
	if netip.MustParseAddr(from).Is4() {
		return "10.20.1.1:53"
	}
	return "[fd00:20:1:1::1]:53"
}

// send sends a question from a workload and leaves the answer to be read.
func (l *lab) send(network, from string, q *dns.Msg) *dns.Conn {
	l.t.Helper()
	c, err := l.dialFrom(network, from, gateway(from))
	must(l.t, err)
	l.t.Cleanup(func() { _ = c.Close() })
	must(l.t, c.SetDeadline(time.Now().Add(20*time.Second)))
	conn := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	if q != nil {
		must(l.t, conn.WriteMsg(q))
	}
	return conn
}

func (l *lab) ask(network, from string, q *dns.Msg) *dns.Msg {
	l.t.Helper()
	c := l.tcp[from]
	switch {
	case network == "udp":
		c = l.send(network, from, q)
	case c == nil:
		c = l.send(network, from, q)
		l.tcp[from] = c
	default:
		must(l.t, c.WriteMsg(q))
	}
	m, err := c.ReadMsg()
	if err != nil {
		l.t.Fatalf("%s from %s: %v: %v", network, from, q.Question, err)
	}
	if m.Id != q.Id || !m.Response {
		l.t.Fatalf("the answer has id %d, want %d", m.Id, q.Id)
	}
	return m
}

// turnedAway asks by TCP on a new connection and tells whether the server closed
// it, at whatever moment.
func (l *lab) turnedAway(from string) bool {
	l.t.Helper()
	c, err := l.dialFrom("tcp", from, gateway(from))
	if err != nil {
		return closedByPeer(err)
	}
	defer func() { _ = c.Close() }()
	must(l.t, c.SetDeadline(time.Now().Add(20*time.Second)))
	conn := &dns.Conn{Conn: c}
	_ = conn.WriteMsg(question("web.front.internal", dns.TypeA))
	_, err = conn.ReadMsg()
	return closedByPeer(err)
}

func question(name string, qtype uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	return q
}

// quiet fails if anything has arrived at a socket.
func quiet(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.UDPConn).SyscallConn()
	must(t, err)
	must(t, raw.Read(func(fd uintptr) bool {
		buf := make([]byte, 512)
		n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EAGAIN) {
			t.Errorf("received %s, %v", hex.EncodeToString(buf[:max(n, 0)]), err)
		}
		return true
	}))
}

// world answers everything with what a test says, and remembers what it was
// asked.
type world struct {
	mu     sync.Mutex
	asked  []*dns.Msg
	answer func(network string, q *dns.Msg) []byte
}

func newWorld(t testing.TB, fd int) *world {
	w := &world{}
	var p net.PacketConn
	var l net.Listener
	must(t, netns.Do(fd, func() (err error) {
		if p, err = net.ListenPacket("udp4", upstreamAddr+":53"); err != nil {
			return err
		}
		l, err = net.Listen("tcp4", upstreamAddr+":53")
		return err
	}))
	var all sync.WaitGroup
	for _, s := range []*dns.Server{{PacketConn: p}, {Listener: l}} {
		s.Handler = dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
			w.mu.Lock()
			w.asked = append(w.asked, q)
			answer := w.answer
			w.mu.Unlock()
			if answer == nil {
				answer = plainAnswer
			}
			if b := answer(rw.RemoteAddr().Network(), q); b != nil {
				_, _ = rw.Write(b)
			}
		})
		all.Go(func() { _ = s.ActivateAndServe() })
	}
	t.Cleanup(func() { _ = p.Close(); _ = l.Close(); all.Wait() })
	return w
}

func (w *world) answers(f func(network string, q *dns.Msg) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

func (w *world) questions() []*dns.Msg {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*dns.Msg{}, w.asked...)
}

func plainAnswer(_ string, q *dns.Msg) []byte {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(203, 0, 113, 1)}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// addresses of the answers, in their order.
func answerAddrs(m *dns.Msg) (out []string) {
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		}
	}
	return out
}

func closedByPeer(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || err != nil && err.Error() == "EOF"
}

func addRoute(h *netlink.Handle, link int, dst string) error {
	_, n, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: link, Dst: n, Scope: netlink.SCOPE_LINK})
}
