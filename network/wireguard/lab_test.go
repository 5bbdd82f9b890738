package wireguard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen; it never decides how
// long something that happens takes.
const patience = 60 * time.Second

// site is one simulated node: a host namespace on the underlay and one router
// namespace of a tenant.
type site struct {
	name         string
	hostNS       int
	routerNS     int
	host         *Host
	addr4, addr6 netip.Addr // of the host, on the underlay
	in4, in6     netip.Addr // of the router, inside the tenant network
	key          Key
	dev          Device
	target       atomic.Pointer[Device] // dev, for the relay's goroutines
	sent         atomic.Int64           // packets that this site's device gave to the relay
	mute         atomic.Bool            // the initiations among them are lost
	unsaid       atomic.Int64           // those that were
	probes       chan gotProbe
}

type gotProbe struct {
	from netip.AddrPort
	body string
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newNS(t testing.TB) int {
	t.Helper()
	fd, err := makeNS()
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// makeNS makes a network namespace with its loopback up. It lives as long as
// its descriptor.
func makeNS() (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{-1, fmt.Errorf("make a network namespace (run as root): %w", err)}
			return
		}
		fd, err := openNetNS(0)
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		return -1, r.err
	}
	return r.fd, within(r.fd, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

// newSites makes two sites whose hosts share a veth link named "under".
func newSites(t testing.TB) (a, b *site) {
	t.Helper()
	a, b = newSite(t, "a", 1), newSite(t, "b", 2)
	must(t, join(a.hostNS, b.hostNS))
	a.address(t)
	b.address(t)
	for _, s := range []*site{a, b} {
		// Until then the kernel drops what is sent, and nobody sends it again.
		eventually(t, "the underlay is up", func() (up bool) {
			must(t, within(s.hostNS, func() error {
				l, err := netlink.LinkByName("under")
				up = err == nil && l.Attrs().OperState == netlink.OperUp
				return err
			}))
			return up
		})
	}
	return a, b
}

func newSite(t testing.TB, name string, n byte) *site {
	t.Helper()
	s := &site{
		name: name, hostNS: newNS(t), routerNS: newNS(t), key: NewPrivateKey(),
		addr4: netip.AddrFrom4([4]byte{192, 0, 2, n}), addr6: netip.AddrFrom16([16]byte{0xfd, 0xaa, 15: n}),
		in4: netip.AddrFrom4([4]byte{10, 20, n, 1}), in6: netip.AddrFrom16([16]byte{0xfd, 0xbb, 7: n, 15: 1}),
		probes: make(chan gotProbe, 100),
	}
	h, err := OpenHost(s.hostNS, nil)
	must(t, err)
	s.host = h
	t.Cleanup(func() { must(t, h.Close()) })
	return s
}

// join puts a veth pair named "under" between two namespaces.
func join(a, b int) error {
	return within(a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "under"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "under", PeerNamespace: netlink.NsFd(b)})
	})
}

func (s *site) address(t testing.TB) {
	t.Helper()
	must(t, within(s.hostNS, func() error {
		return setAddresses("under", netip.PrefixFrom(s.addr4, 24), netip.PrefixFrom(s.addr6, 64))
	}))
}

func setAddresses(link string, ips ...netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	for _, ip := range ips {
		n := &net.IPNet{IP: ip.Addr().AsSlice(), Mask: net.CIDRMask(ip.Bits(), ip.Addr().BitLen())}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD}); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// start makes the site's device with an address inside the tenant network.
func (s *site) start(t testing.TB, c Config, other *site) {
	t.Helper()
	d, err := s.host.New(context.Background(), s.config(c, other))
	must(t, err)
	s.use(d)
	t.Cleanup(func() { must(t, d.Close()) })
	s.route(t)
}

// use makes d the site's device.
func (s *site) use(d Device) {
	s.dev = d
	s.target.Store(&d)
}

// config completes c: what the device gives to the relay reaches the other
// site's device at once.
func (s *site) config(c Config, other *site) Config {
	c.Name, c.PrivateKey, c.NetNS = "wg-test", s.key, s.routerNS
	from, to := s.key.Public(), other.key.Public()
	c.ToRelay = func(peer Key, packet []byte) {
		if s.mute.Load() && IsInitiation(packet) {
			s.unsaid.Add(1)
			return
		}
		s.sent.Add(1)
		if d := other.target.Load(); d != nil && peer == to {
			(*d).FromRelay(from, packet)
		}
	}
	c.OnProbe = func(from netip.AddrPort, b []byte) {
		select {
		case s.probes <- gotProbe{from, string(b)}:
		default:
		}
	}
	return c
}

func (s *site) route(t testing.TB) {
	t.Helper()
	must(t, within(s.routerNS, func() error {
		return setAddresses("wg-test", netip.PrefixFrom(s.in4, 16), netip.PrefixFrom(s.in6, 48))
	}))
}

// peer is what other is to this site's device.
func (s *site) peerOf(other *site) Peer {
	return Peer{PublicKey: other.key.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(other.in4, 24).Masked(), netip.PrefixFrom(other.in6, 64).Masked()}}
}

// newLink makes two sites with devices that know each other, relayed.
func newLink(t testing.TB, ea, eb Engine) (a, b *site) {
	t.Helper()
	a, b = newSites(t)
	b.start(t, Config{Engine: eb}, a)
	a.start(t, Config{Engine: ea}, b)
	must(t, a.dev.SetPeer(a.peerOf(b)))
	must(t, b.dev.SetPeer(b.peerOf(a)))
	return a, b
}

// direct points both devices at each other's address.
func direct(t testing.TB, a, b *site, v6 bool) {
	t.Helper()
	pick := func(s *site) netip.AddrPort {
		if v6 {
			return netip.AddrPortFrom(s.addr6, s.dev.Port())
		}
		return netip.AddrPortFrom(s.addr4, s.dev.Port())
	}
	must(t, a.dev.SetPath(b.key.Public(), pick(b)))
	must(t, b.dev.SetPath(a.key.Public(), pick(a)))
}

func relay(t testing.TB, a, b *site) {
	t.Helper()
	must(t, a.dev.SetPath(b.key.Public(), netip.AddrPort{}))
	must(t, b.dev.SetPath(a.key.Public(), netip.AddrPort{}))
}

func (s *site) stats(t testing.TB) PeerStats {
	t.Helper()
	all, err := s.dev.Stats()
	must(t, err)
	if len(all) != 1 {
		t.Fatalf("%d peers", len(all))
	}
	return all[0]
}

// listen opens a TCP listener in a namespace that echoes everything.
func echo(t testing.TB, ns int, at netip.Addr) netip.AddrPort {
	t.Helper()
	var l net.Listener
	must(t, within(ns, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
		return err
	}))
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { <-over; c.Close() }) // its other end may be gone for good
			wg.Go(func() { io.Copy(c, c); c.Close() })
		}
	})
	t.Cleanup(func() { close(over); l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func dial(t testing.TB, ns int, to netip.AddrPort) net.Conn {
	t.Helper()
	var c net.Conn
	must(t, within(ns, func() (err error) {
		// One address and no keepalive: nothing of the dialer's needs another thread.
		c, err = net.DialTimeout("tcp", to.String(), patience)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

// say sends a line over c and wants it back.
func say(t testing.TB, c net.Conn, line string) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != line {
		t.Fatalf("sent %d bytes, %.20q, back came %d, %.20q: %v", len(line), line, n, got, err)
	}
}

// talk sends line over a new connection from a's to b's router namespace.
func talk(t testing.TB, a, b *site, v6 bool, line string) {
	t.Helper()
	at := b.in4
	if v6 {
		at = b.in6
	}
	c := dial(t, a.routerNS, echo(t, b.routerNS, at))
	say(t, c, line)
	c.Close()
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// capture keeps everything that passes a host's underlay link.
type capture struct {
	mu   sync.Mutex
	all  bytes.Buffer
	seen [][]byte // packets, with their Ethernet header
}

func newCapture(t testing.TB, s *site) *capture {
	t.Helper()
	c := &capture{}
	var fd int
	must(t, within(s.hostNS, func() error {
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network order
		var err error
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all); err != nil {
			return err
		}
		link, err := netlink.LinkByName("under")
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	}))
	f := os.NewFile(uintptr(fd), "capture")
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<17)
		for {
			n, err := f.Read(buf)
			if err != nil {
				return
			}
			c.mu.Lock()
			c.all.Write(buf[:n])
			c.seen = append(c.seen, bytes.Clone(buf[:n]))
			c.mu.Unlock()
		}
	})
	t.Cleanup(func() { f.Close(); wg.Wait() })
	return c
}

func (c *capture) has(marker string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.all.Bytes(), []byte(marker))
}

// udpFrom counts IPv4 UDP packets from one address and port.
func (c *capture) udpFrom(from netip.AddrPort) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.seen {
		if len(p) > 14+28 && p[12] == 8 && p[13] == 0 && p[14+9] == unix.IPPROTO_UDP &&
			netip.AddrFrom4([4]byte(p[14+12:])) == from.Addr() && binary.BigEndian.Uint16(p[14+20:]) == from.Port() {
			n++
		}
	}
	return n
}

// plainUDP sends body over the underlay in the clear.
func plainUDP(t testing.TB, from *site, to netip.AddrPort, body string) netip.AddrPort {
	t.Helper()
	var local netip.AddrPort
	must(t, within(from.hostNS, func() error {
		c, err := net.Dial("udp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		local = c.LocalAddr().(*net.UDPAddr).AddrPort()
		_, err = io.WriteString(c, body)
		return err
	}))
	return local
}

func linksIn(t testing.TB, ns int) string {
	t.Helper()
	var names []string
	must(t, within(ns, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
		return err
	}))
	return strings.Join(names, " ")
}

// udpSockets lists the UDP sockets of a namespace as the kernel does.
func udpSockets(t testing.TB, ns int) (out []string) {
	t.Helper()
	must(t, within(ns, func() error {
		for _, f := range []string{"udp", "udp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + f)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			for i, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
				if i > 0 {
					out = append(out, f+" "+strings.TrimSpace(l))
				}
			}
		}
		return nil
	}))
	return out
}

// load is what a measurement sends.
type load struct {
	streams int
	bytes   int64 // together
}

// stream sends TCP from a to b.
func stream(t testing.TB, a, b *site, l load) {
	t.Helper()
	var listener net.Listener
	must(t, within(b.routerNS, func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(b.in4, 0).String())
		return err
	}))
	defer listener.Close()
	each := l.bytes / int64(l.streams)
	done := make(chan error, 2*l.streams)
	for range l.streams {
		c := dial(t, a.routerNS, listener.Addr().(*net.TCPAddr).AddrPort())
		server, err := listener.Accept()
		must(t, err)
		go func() {
			defer server.Close()
			buf := make([]byte, 256<<10)
			for left := each; left > 0; {
				n, err := server.Read(buf)
				if err != nil {
					done <- err
					return
				}
				left -= int64(n)
			}
			done <- nil
		}()
		go func() {
			buf := make([]byte, 256<<10)
			for left := each; left > 0; {
				n, err := c.Write(buf[:min(left, int64(len(buf)))])
				if err != nil {
					done <- err
					return
				}
				left -= int64(n)
			}
			done <- nil
		}()
	}
	for range 2 * l.streams {
		must(t, <-done)
	}
}
