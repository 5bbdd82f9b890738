package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// promises are what both engines keep. They run in userspace on the host and
// with both, and mixed, in a guest with the node's kernel.
var promises = []struct {
	name string
	test func(t *testing.T, a, b Engine)
}{
	{"traffic flows only encrypted", testEncrypted},
	{"the router namespace knows nothing of the underlay", testNamespaces},
	{"closing leaves nothing", testClose},
	{"a change of path loses no connection", testPathChange},
	{"probes arrive and are told apart", testProbes},
	{"junk is ignored and not answered", testJunk},
	{"sessions outlive changes of a peer", testSetPeer},
	{"both ends need the same preshared key", testPresharedKey},
	{"who asked in vain answers, and what waited passes", testAskedInVain},
	{"allowed addresses are enforced", testAllowedIPs},
	{"a lost host address is not clung to", testRoaming},
	{"a vanished router namespace closes the device", testVanish},
	{"what cannot be meant is refused", testRefused},
	{"a leftover interface is replaced", testLeftover},
}

func runPromises(t *testing.T, a, b Engine) {
	for _, p := range promises {
		t.Run(p.name, func(t *testing.T) { p.test(t, a, b) })
	}
}

func testEncrypted(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	marker := rand.Text()
	seen := newCapture(t, b)

	talk(t, a, b, false, marker+"-relayed4")
	talk(t, a, b, true, marker+"-relayed6")
	if a.sent.Load() == 0 || b.sent.Load() == 0 {
		t.Error("nothing went through the relay")
	}
	if n := seen.udpFrom(netip.AddrPortFrom(a.addr4, a.dev.Port())); n > 0 {
		t.Errorf("%d packets on the underlay though relayed", n)
	}

	for _, v6 := range []bool{false, true} {
		settle(t, a, b, func() { direct(t, a, b, v6) }, func() { talk(t, a, b, false, "settle") }, map[bool]string{false: "IPv4", true: "IPv6"}[v6])
		relayed := a.sent.Load()
		talk(t, a, b, false, marker+"-direct4")
		talk(t, a, b, true, marker+"-direct6")
		talk(t, b, a, false, marker+"-back")
		if a.sent.Load() != relayed {
			t.Error("packets went through the relay though direct")
		}
		s := a.stats(t)
		if s.Relayed || s.Endpoint.Addr().Is6() != v6 || s.LastHandshake.IsZero() || s.RxBytes == 0 || s.TxBytes == 0 {
			t.Errorf("stats %+v", s)
		}
	}
	if n := seen.udpFrom(netip.AddrPortFrom(a.addr4, a.dev.Port())); n == 0 {
		t.Error("no packet on the underlay though direct")
	}
	if seen.has(marker) {
		t.Error("plaintext on the underlay")
	}
	plainUDP(t, a, netip.AddrPortFrom(b.addr4, 9), marker) // the control
	eventually(t, "the capture sees a marker in the clear", func() bool { return seen.has(marker) })
}

func testNamespaces(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	direct(t, a, b, false)
	talk(t, a, b, false, "hello")
	if got := linksIn(t, a.routerNS); got != "lo wg-test" {
		t.Errorf("links in the router namespace: %s", got)
	}
	if got := linksIn(t, a.hostNS); got != "lo under" {
		t.Errorf("links in the host namespace: %s", got)
	}
	if got := udpSockets(t, a.routerNS); len(got) > 0 {
		t.Errorf("UDP sockets in the router namespace: %q", got)
	}
	must(t, within(a.routerNS, func() error {
		for _, to := range []netip.Addr{b.addr4, b.addr6} {
			if r, err := netlink.RouteGet(to.AsSlice()); err == nil {
				t.Errorf("the router namespace has a route to %s: %v", to, r)
			}
		}
		return nil
	}))
	port := fmt.Sprintf(":%04X ", a.dev.Port())
	var here int
	for _, s := range udpSockets(t, a.hostNS) {
		if strings.Contains(s, port) {
			here++
		}
	}
	if here < 2 {
		t.Errorf("the device's port%sis open %d times in the host namespace, want IPv4 and IPv6: %q", port, here, udpSockets(t, a.hostNS))
	}
}

func testClose(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	talk(t, a, b, false, "hello")
	must(t, a.dev.Close())
	must(t, a.dev.Close())
	if got := linksIn(t, a.routerNS) + " " + linksIn(t, a.hostNS); got != "lo lo under" {
		t.Errorf("links left: %s", got)
	}
	if got := udpSockets(t, a.hostNS); len(got) > 0 {
		t.Errorf("sockets left: %q", got)
	}
	peer := b.key.Public()
	for name, err := range map[string]error{
		"SetPeer":    a.dev.SetPeer(a.peerOf(b)),
		"SetPath":    a.dev.SetPath(peer, netip.AddrPort{}),
		"RemovePeer": a.dev.RemovePeer(peer),
		"FromRelay":  a.dev.FromRelay(peer, []byte("x")),
		"SendProbe":  a.dev.SendProbe(netip.AddrPortFrom(b.addr4, 9), []byte(ProbeMagic)),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if _, err := a.dev.Stats(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Stats after Close: %v", err)
	}
}

// settle moves two devices to a path, under traffic, until they stay: packets
// of the old path that are still under way may move a device back.
func settle(t *testing.T, a, b *site, move, traffic func(), path string) {
	t.Helper()
	is := func(s PeerStats) bool {
		switch path {
		case "relay":
			return s.Relayed
		case "IPv4":
			return s.Endpoint.Addr().Is4()
		}
		return s.Endpoint.Addr().Is6()
	}
	eventually(t, "the path holds: "+path, func() bool {
		move()
		traffic()
		before := a.sent.Load()
		traffic()
		return (a.sent.Load() > before) == (path == "relay") && is(a.stats(t)) && is(b.stats(t))
	})
}

// testPathChange keeps one connection busy while the path changes under it.
func testPathChange(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	c := dial(t, a.routerNS, echo(t, b.routerNS, b.in4))
	block := make([]byte, 16<<10)
	rand.Read(block)
	first := time.Time{}
	for i := range 12 {
		move := func() { direct(t, a, b, i%3 == 2) }
		if i%3 == 0 {
			move = func() { relay(t, a, b) }
		}
		settle(t, a, b, move, func() { say(t, c, string(block)) }, []string{"relay", "IPv4", "IPv6"}[i%3])
		if s := a.stats(t); first.IsZero() {
			first = s.LastHandshake
		} else if !s.LastHandshake.Equal(first) && s.LastHandshake.Sub(first) < 100*time.Second {
			t.Errorf("change %d: a new handshake, %v after the first", i, s.LastHandshake.Sub(first))
		}
	}
	// A path that leads nowhere loses packets, but not the connection.
	nowhere := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.99"), 9)
	must(t, a.dev.SetPath(b.key.Public(), nowhere))
	must(t, c.SetDeadline(time.Now().Add(patience)))
	if _, err := c.Write(block[:1000]); err != nil {
		t.Fatal(err)
	}
	relay(t, a, b)
	got := make([]byte, 1000)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Errorf("after a dead path: %v", err)
	}
}

func testProbes(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	direct(t, a, b, false)
	talk(t, a, b, false, "there is traffic beside the probes")
	long := ProbeMagic + strings.Repeat("x", MaxProbe-len(ProbeMagic))
	for _, pair := range [][2]*site{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		for _, addr := range [][2]netip.Addr{{from.addr4, to.addr4}, {from.addr6, to.addr6}} {
			for _, body := range []string{ProbeMagic, ProbeMagic + "odd", ProbeMagic + "even", long} {
				must(t, from.dev.SendProbe(netip.AddrPortFrom(addr[1], to.dev.Port()), []byte(body)))
				want := gotProbe{netip.AddrPortFrom(addr[0], from.dev.Port()), body}
				select {
				case got := <-to.probes:
					if got != want {
						t.Errorf("probe from %v %.20q, want %v %.20q", got.from, got.body, want.from, want.body)
					}
				case <-time.After(patience):
					t.Fatalf("probe %.20q to %v never came", body, addr[1])
				}
			}
		}
	}
	// An ordinary socket gets a probe as an ordinary packet: checksums are right.
	var plain net.PacketConn
	must(t, within(b.hostNS, func() (err error) {
		plain, err = net.ListenPacket("udp", netip.AddrPortFrom(b.addr4, 0).String())
		return err
	}))
	defer plain.Close()
	must(t, plain.SetDeadline(time.Now().Add(patience)))
	must(t, a.dev.SendProbe(plain.LocalAddr().(*net.UDPAddr).AddrPort(), []byte("zobserve-anything")))
	buf := make([]byte, 100)
	n, from, err := plain.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "zobserve-anything" || from.(*net.UDPAddr).AddrPort().Port() != a.dev.Port() {
		t.Errorf("the server got %q from %v, %v", buf[:n], from, err)
	}
	// A probe to an address with no route is an error, not a hang or a panic.
	if err := a.dev.SendProbe(netip.MustParseAddrPort("203.0.113.1:9"), []byte(ProbeMagic)); err == nil {
		t.Error("a probe without a route was sent")
	}
	talk(t, a, b, false, "and traffic goes on")
}

func testJunk(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	direct(t, a, b, false)
	talk(t, a, b, false, "hello")
	seen := newCapture(t, b)
	at := netip.AddrPortFrom(a.addr4, a.dev.Port())
	var junk []string
	for kind := range 6 {
		for _, size := range []int{0, 1, 3, 4, 7, 8, 15, 16, 31, 32, 64, 92, 148, 1000, 1472, 9000} {
			b := make([]byte, size)
			rand.Read(b)
			if size >= 4 {
				b[0], b[1], b[2], b[3] = byte(kind), 0, 0, 0
			}
			junk = append(junk, string(b))
		}
	}
	// Probes that are too short or too long, or nearly probes.
	junk = append(junk, ProbeMagic[:7], ProbeMagic[:7]+"x", ProbeMagic+strings.Repeat("x", MaxProbe))
	to := map[uint16]bool{}
	for _, j := range junk {
		to[plainUDP(t, b, at, j).Port()] = true
		must(t, a.dev.FromRelay(b.key.Public(), []byte(j)[:min(len(j), MaxPacket)]))
	}
	talk(t, a, b, false, "unimpressed")
	talk(t, b, a, false, "both ways")
	select {
	case p := <-a.probes:
		t.Errorf("junk was taken for a probe: %d bytes", len(p.body))
	default:
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, p := range seen.seen {
		if len(p) > 14+24 && p[12] == 8 && p[13] == 0 && p[14+9] == unix.IPPROTO_UDP && netip.AddrFrom4([4]byte(p[14+12:])) == a.addr4 {
			if port := uint16(p[14+22])<<8 | uint16(p[14+23]); to[port] {
				t.Errorf("junk was answered with %d bytes", len(p))
			}
		}
	}
}

func testSetPeer(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	direct(t, a, b, false)
	c := dial(t, a.routerNS, echo(t, b.routerNS, b.in4))
	say(t, c, "hello")
	before := a.stats(t)
	p := a.peerOf(b)
	p.Keepalive = 25 * time.Second
	rand.Read(p.PresharedKey[:])
	p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix("10.99.0.0/16"))
	for range 3 {
		must(t, a.dev.SetPeer(p))
		say(t, c, "still here")
	}
	after := a.stats(t)
	if !after.LastHandshake.Equal(before.LastHandshake) || after.Endpoint != before.Endpoint || after.RxBytes < before.RxBytes {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if got := fmt.Sprint(after.AllowedIPs); got != "[10.20.2.0/24 10.99.0.0/16 fdbb:0:0:2::/64]" {
		t.Errorf("allowed %s", got)
	}
	p.AllowedIPs = nil
	must(t, a.dev.SetPeer(p))
	if after = a.stats(t); len(after.AllowedIPs) > 0 {
		t.Errorf("allowed %v", after.AllowedIPs)
	}
	// An address belongs to one peer: the last that was given it.
	third := Peer{PublicKey: NewPrivateKey().Public(), AllowedIPs: a.peerOf(b).AllowedIPs}
	must(t, a.dev.SetPeer(a.peerOf(b)))
	must(t, a.dev.SetPeer(third))
	must(t, a.dev.SetPeer(a.peerOf(b)))
	say(t, c, "and back")
	must(t, a.dev.RemovePeer(third.PublicKey))
	must(t, a.dev.RemovePeer(third.PublicKey))
	must(t, a.dev.RemovePeer(b.key.Public()))
	if s, err := a.dev.Stats(); err != nil || len(s) > 0 {
		t.Errorf("peers left: %v, %v", s, err)
	}
	for name, err := range map[string]error{
		"SetPath": a.dev.SetPath(b.key.Public(), netip.AddrPort{}), "FromRelay": a.dev.FromRelay(b.key.Public(), []byte("x")),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of a removed peer: %v", name, err)
		}
	}
}

func testPresharedKey(t *testing.T, ea, eb Engine) {
	a, b := newSites(t)
	b.start(t, Config{Engine: eb}, a)
	a.start(t, Config{Engine: ea}, b)
	pa, pb := a.peerOf(b), b.peerOf(a)
	rand.Read(pa.PresharedKey[:])
	must(t, a.dev.SetPeer(pa))
	must(t, b.dev.SetPeer(pb))
	// b's answer to a's first handshake must be there and not be taken.
	must(t, within(a.routerNS, func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(b.in4, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = io.WriteString(c, "x")
		return err
	}))
	eventually(t, "b answers", func() bool { return b.sent.Load() > 0 })
	if s := a.stats(t); !s.LastHandshake.IsZero() {
		t.Errorf("a handshake without the preshared key: %+v", s)
	}
	pb.PresharedKey = pa.PresharedKey
	must(t, b.dev.SetPeer(pb))
	talk(t, a, b, false, "now")
}

// testAskedInVain loses what b asks: as long as that lasts b answers a, and when
// it ends without a's help, b asks again. What waited for a session passes then.
// The agent counts on both, so that of two nodes that just agreed on keys one
// begins alone.
func testAskedInVain(t *testing.T, ea, eb Engine) {
	t.Run("the other begins", func(t *testing.T) { askInVain(t, ea, eb, true) })
	t.Run("it asks again", func(t *testing.T) { askInVain(t, ea, eb, false) })
}

func askInVain(t *testing.T, ea, eb Engine, begins bool) {
	a, b := newSites(t)
	b.mute.Store(true)
	b.start(t, Config{Engine: eb}, a)
	a.start(t, Config{Engine: ea}, b)
	var sink, source net.PacketConn
	must(t, within(a.routerNS, func() (err error) {
		sink, err = net.ListenPacket("udp", netip.AddrPortFrom(a.in4, 0).String())
		return err
	}))
	defer sink.Close()
	must(t, within(b.routerNS, func() (err error) {
		source, err = net.ListenPacket("udp", netip.AddrPortFrom(b.in4, 0).String())
		return err
	}))
	defer source.Close()
	must(t, b.dev.SetPeer(b.peerOf(a)))
	// One packet alone might be lost: a new interface drops some.
	eventually(t, "b asks", func() bool {
		_, err := source.WriteTo([]byte("waiting"), sink.LocalAddr())
		must(t, err)
		return b.unsaid.Load() > 0
	})
	if n := b.sent.Load(); n > 0 {
		t.Errorf("b sent %d packets before it was asked", n)
	}
	p := a.peerOf(b)
	if begins {
		p.Keepalive = 25 * time.Second
	}
	must(t, a.dev.SetPeer(p))
	if !begins {
		b.mute.Store(false)
	}
	must(t, sink.SetDeadline(time.Now().Add(patience)))
	buf := make([]byte, 100)
	n, _, err := sink.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "waiting" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func testAllowedIPs(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	talk(t, a, b, false, "hello")
	// An address of a's that b was told nothing of: b drops what comes from it.
	spoofed := netip.MustParseAddr("10.20.77.1")
	must(t, within(a.routerNS, func() error { return setAddresses("wg-test", netip.PrefixFrom(spoofed, 32)) }))
	var sink net.PacketConn
	must(t, within(b.routerNS, func() (err error) {
		sink, err = net.ListenPacket("udp", netip.AddrPortFrom(b.in4, 0).String())
		return err
	}))
	defer sink.Close()
	for _, from := range []netip.Addr{spoofed, a.in4} {
		must(t, within(a.routerNS, func() error {
			d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
			c, err := d.Dial("udp", sink.LocalAddr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = io.WriteString(c, from.String())
			return err
		}))
	}
	// Packets keep their order, so the second shows that the first is lost.
	must(t, sink.SetDeadline(time.Now().Add(patience)))
	buf := make([]byte, 100)
	n, _, err := sink.ReadFrom(buf)
	if err != nil || string(buf[:n]) != a.in4.String() {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

// testRoaming takes a's address away in the middle of a connection.
func testRoaming(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	direct(t, a, b, false)
	c := dial(t, a.routerNS, echo(t, b.routerNS, b.in4))
	say(t, c, "hello")
	moved := netip.MustParseAddr("192.0.2.77")
	must(t, within(a.hostNS, func() error {
		if err := setAddresses("under", netip.PrefixFrom(moved, 24)); err != nil {
			return err
		}
		l, err := netlink.LinkByName("under")
		if err != nil {
			return err
		}
		gone := &net.IPNet{IP: a.addr4.AsSlice(), Mask: net.CIDRMask(24, 32)}
		if err := netlink.AddrDel(l, &netlink.Addr{IPNet: gone}); err != nil {
			return err
		}
		// Its secondary addresses go with a primary one.
		err = setAddresses("under", netip.PrefixFrom(moved, 24))
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	}))
	say(t, c, "from elsewhere")
	if s := b.stats(t); s.Endpoint.Addr() != moved {
		t.Errorf("b sends to %v", s.Endpoint)
	}
}

func testVanish(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	talk(t, a, b, false, "hello")
	must(t, within(a.routerNS, func() error {
		l, err := netlink.LinkByName("wg-test")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	eventually(t, "the device says that it is closed", func() bool {
		_, err := a.dev.Stats()
		return errors.Is(err, net.ErrClosed)
	})
	must(t, a.dev.Close())
	if got := udpSockets(t, a.hostNS); len(got) > 0 {
		t.Errorf("sockets left: %q", got)
	}
}

func testRefused(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	good := func(change func(*Peer)) Peer { p := a.peerOf(b); change(&p); return p }
	for name, p := range map[string]Peer{
		"no key":          good(func(p *Peer) { p.PublicKey = Key{} }),
		"own key":         good(func(p *Peer) { p.PublicKey = a.key.Public() }),
		"half a second":   good(func(p *Peer) { p.Keepalive = time.Second / 2 }),
		"negative":        good(func(p *Peer) { p.Keepalive = -time.Second }),
		"too long":        good(func(p *Peer) { p.Keepalive = 65536 * time.Second }),
		"no prefix":       good(func(p *Peer) { p.AllowedIPs = []netip.Prefix{{}} }),
		"mapped prefixes": good(func(p *Peer) { p.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/120")} }),
	} {
		if err := a.dev.SetPeer(p); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, to := range []string{"0.0.0.0:1", "[::]:1", "192.0.2.1:0", "224.0.0.1:5", "[ff02::1]:5", "[fe80::1]:5", "[fe80::1%under]:5"} {
		if err := a.dev.SetPath(b.key.Public(), netip.MustParseAddrPort(to)); err == nil {
			t.Errorf("path %s taken", to)
		}
		if err := a.dev.SendProbe(netip.MustParseAddrPort(to), []byte(ProbeMagic)); err == nil {
			t.Errorf("probe to %s sent", to)
		}
	}
	at := netip.AddrPortFrom(b.addr4, 9)
	for _, p := range []string{"", "\x01\x00\x00\x00", "\x04", strings.Repeat("x", MaxProbe+1)} {
		if err := a.dev.SendProbe(at, []byte(p)); err == nil {
			t.Errorf("probe %.10q sent", p)
		}
	}
	if err := a.dev.FromRelay(b.key.Public(), make([]byte, MaxPacket+1)); err == nil {
		t.Error("too long a packet from the relay was taken")
	}
	for name, change := range map[string]func(*Config){
		"no name":        func(c *Config) { c.Name = "" },
		"long name":      func(c *Config) { c.Name = strings.Repeat("x", 16) },
		"bad name":       func(c *Config) { c.Name = "a/b" },
		"pattern":        func(c *Config) { c.Name = "wg%d" },
		"no key":         func(c *Config) { c.PrivateKey = Key{} },
		"no namespace":   func(c *Config) { c.NetNS = 0 },
		"bad descriptor": func(c *Config) { c.NetNS = 1 << 20 },
		"small MTU":      func(c *Config) { c.MTU = 100 },
		"large MTU":      func(c *Config) { c.MTU = MaxMTU + 1 },
		"engine":         func(c *Config) { c.Engine = 7 },
		"relay only":     func(c *Config) { c.Engine, c.RelayOnly = Kernel, true },
	} {
		c := a.config(Config{Engine: ea}, b)
		c.Name = "wg-other"
		change(&c)
		if d, err := a.host.New(context.Background(), c); err == nil {
			t.Errorf("%s: made", name)
			d.Close()
		}
	}
	if got := linksIn(t, a.routerNS); got != "lo wg-test" {
		t.Errorf("links %s", got)
	}
}

func testLeftover(t *testing.T, ea, eb Engine) {
	a, b := newLink(t, ea, eb)
	talk(t, a, b, false, "hello")
	old := a.dev
	a.start(t, Config{Engine: ea}, b)
	must(t, a.dev.SetPeer(a.peerOf(b)))
	// b's session is of no use to the new device: b must shake hands again, as
	// it does when the one to begin is a.
	talk(t, a, b, false, "again")
	eventually(t, "the old device is closed", func() bool {
		_, err := old.Stats()
		return errors.Is(err, net.ErrClosed) || ea == Kernel
	})
}

// TestPacketsLargerThanThePathAreSentInFragments: several of one size too, which
// the kernel is otherwise given as one for it to cut.
func TestPacketsLargerThanThePathAreSentInFragments(t *testing.T) {
	a, b := newSites(t)
	for _, s := range []*site{a, b} {
		must(t, within(s.hostNS, func() error {
			link, err := netlink.LinkByName("under")
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(link, 1280)
		}))
	}
	for _, v6 := range []bool{false, true} {
		to, network := b.addr4, "udp4"
		if v6 {
			to, network = b.addr6, "udp6"
		}
		var in net.PacketConn
		must(t, within(b.hostNS, func() (err error) {
			in, err = net.ListenPacket(network, netip.AddrPortFrom(to, 4711).String())
			return err
		}))
		defer in.Close()
		var out *udpPort
		must(t, within(a.hostNS, func() (err error) {
			out, err = openUDP(0)
			return err
		}))
		defer out.close()
		packets := [][]byte{bytes.Repeat([]byte{1}, 1360), bytes.Repeat([]byte{2}, 1360), bytes.Repeat([]byte{3}, 1000)}
		for range 2 {
			must(t, out.send(packets, &directEndpoint{to: netip.AddrPortFrom(to, 4711)}))
			for _, want := range packets {
				must(t, in.SetReadDeadline(time.Now().Add(20*time.Second)))
				got := make([]byte, 2048)
				n, _, err := in.ReadFrom(got)
				if err != nil || !bytes.Equal(got[:n], want) {
					t.Fatalf("%s: %d bytes of %d, %v, want %d of %d", network, n, got[0], err, len(want), want[0])
				}
			}
		}
	}
}
