package device

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab is a laptop and a node with a link between them: namespaces of their own.
// The node's WireGuard is wireguard-go, as on a node whose kernel has none.
type lab struct {
	t            *testing.T
	laptop, node *os.File
	config       Config
	entry        wireguard.Device
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, laptop: newNS(t), node: newNS(t)}
	must(t, netns.Do(int(l.laptop.Fd()), func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "under"
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "under", PeerNamespace: netlink.NsFd(l.node.Fd())})
	}))
	l.address(l.laptop, "under", "192.0.2.1/24")
	l.address(l.node, "under", "192.0.2.2/24")
	host, err := wireguard.OpenHost(int(l.node.Fd()), nil)
	must(t, err)
	t.Cleanup(func() { must(t, host.Close()) })
	key := wireguard.NewPrivateKey()
	l.entry, err = host.New(t.Context(), wireguard.Config{Name: "entry", PrivateKey: key, NetNS: int(l.node.Fd()), Engine: wireguard.Userspace})
	must(t, err)
	t.Cleanup(func() { must(t, l.entry.Close()) })
	l.address(l.node, "entry", "10.20.2.1/16", "fd3a:91c7:5e02:1402::1/48")
	l.config = example()
	l.config.PrivateKey, l.config.Entry, l.config.Preshared = wireguard.NewPrivateKey(), key.Public(), wireguard.NewPrivateKey()
	l.config.Endpoints = []netip.AddrPort{l.endpoint()}
	must(t, l.entry.SetPeer(wireguard.Peer{PublicKey: l.config.PrivateKey.Public(), PresharedKey: l.config.Preshared,
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(l.config.Addresses[0], 32), netip.PrefixFrom(l.config.Addresses[1], 128)}}))
	l.serve()
	return l
}

func newNS(t *testing.T) *os.File {
	t.Helper()
	ns, err := netns.New()
	must(t, err)
	t.Cleanup(func() { must(t, ns.Close()) })
	must(t, netns.Do(int(ns.Fd()), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	return ns
}

func (l *lab) address(ns *os.File, link string, addresses ...string) {
	l.t.Helper()
	must(l.t, netns.Do(int(ns.Fd()), func() error {
		i, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		for _, text := range addresses {
			a, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			a.Flags = 2 // IFA_F_NODAD
			if err := netlink.AddrAdd(i, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(i)
	}))
}

func (l *lab) endpoint() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), l.entry.Port())
}

// serve answers on the node, inside the network: it sends back what it gets.
func (l *lab) serve() {
	var listener net.Listener
	must(l.t, netns.Do(int(l.node.Fd()), func() (err error) {
		listener, err = net.Listen("tcp", ":5432")
		return err
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			// The other end's last word may be lost with the tunnel.
			end := context.AfterFunc(ctx, func() { c.Close() })
			all.Go(func() { _, _ = io.Copy(c, c); end(); c.Close() })
		}
	})
	l.t.Cleanup(func() { cancel(); listener.Close(); all.Wait() })
}

// resolver answers on the node as the network's does: at once. What it says plays
// no part. What it returns is closed after the first answer.
func (l *lab) resolver() <-chan struct{} {
	asked := make(chan struct{})
	first := sync.OnceFunc(func() { close(asked) })
	var c *net.UDPConn
	must(l.t, netns.Do(int(l.node.Fd()), func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 53})
		return err
	}))
	var all sync.WaitGroup
	all.Go(func() {
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
			first()
		}
	})
	l.t.Cleanup(func() { c.Close(); all.Wait() })
	return asked
}

// dial connects from the laptop through the network.
func (l *lab) dial(addr string) net.Conn {
	l.t.Helper()
	var c net.Conn
	must(l.t, netns.Do(int(l.laptop.Fd()), func() (err error) {
		c, err = net.DialTimeout("tcp", addr, patience)
		return err
	}))
	l.t.Cleanup(func() { c.Close() })
	return c
}

func echo(t *testing.T, c net.Conn, word string) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, err := c.Write([]byte(word))
	must(t, err)
	b := make([]byte, len(word))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != word {
		t.Fatalf("%q comes back as %q: %v", word, b, err)
	}
}

// up brings the laptop in, and what Run tells.
func (l *lab) up() (link *Link, events <-chan Event, stop func()) {
	l.t.Helper()
	link, err := Up(l.t.Context(), l.config, Options{Name: "zos-front", NetNS: int(l.laptop.Fd())})
	must(l.t, err)
	ctx, cancel := context.WithCancel(l.t.Context())
	told, ended := make(chan Event, 1000), make(chan error, 1)
	go func() { ended <- link.Run(ctx, func(e Event) { told <- e }) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				l.t.Error(err)
			}
			must(l.t, link.Close())
			must(l.t, link.Close()) // and once more does nothing
		})
	}
	l.t.Cleanup(stop)
	return link, told, stop
}

func await(t *testing.T, events <-chan Event, want Event) {
	t.Helper()
	timeout := time.After(patience)
	var seen []Event
	for {
		select {
		case e := <-events:
			if e == want {
				return
			}
			seen = append(seen, e)
		case <-timeout:
			t.Fatalf("no %+v, only %+v", want, seen)
		}
	}
}

// state is what the laptop's namespace holds.
func (l *lab) state() string {
	l.t.Helper()
	var out []byte
	must(l.t, netns.Do(int(l.laptop.Fd()), func() (err error) {
		out, err = exec.Command("sh", "-c", "ip -o link show | sed 's/ state.*//'; ip -o addr show; ip route show table all; ip -6 route show table all").CombinedOutput()
		return err
	}))
	// Lifetimes pass, and link-local addresses come when the kernel is ready.
	var keep []string
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "fe80") && !strings.Contains(line, "ff00") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

func TestAMachineIsInTheNetworkAtOnceAndLeavesNothing(t *testing.T) {
	l := newLab(t)
	before := l.state()
	begin := time.Now()
	link, events, stop := l.up()
	await(t, events, Event{true, l.endpoint()})
	echo(t, l.dial("10.20.2.1:5432"), "hello")
	t.Logf("first packet after %s, engine %s", time.Since(begin).Round(time.Millisecond), link.Engine())
	echo(t, l.dial("[fd3a:91c7:5e02:1402::1]:5432"), "hello by IPv6")
	if got := l.state(); !strings.Contains(got, "10.20.0.0/16 dev zos-front") || !strings.Contains(got, "fd3a:91c7:5e02::/48 dev zos-front") {
		t.Errorf("no routes:\n%s", got)
	}
	if link.NamesBy != "" {
		t.Errorf("the resolver of another namespace was told: %s", link.NamesBy)
	}
	if _, err := Up(t.Context(), l.config, Options{Name: "zos-front", NetNS: int(l.laptop.Fd())}); problem.Code(err) != "already-exists" {
		t.Errorf("a second one of the name: %v", err)
	}
	echo(t, l.dial("10.20.2.1:5432"), "the first one is still there")
	stop()
	if after := l.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestADeadGatewayIsPassedOver(t *testing.T) {
	l := newLab(t)
	dead := netip.MustParseAddrPort("192.0.2.2:9")
	l.config.Endpoints = []netip.AddrPort{dead, l.endpoint()}
	_, events, _ := l.up()
	await(t, events, Event{true, l.endpoint()})
	echo(t, l.dial("10.20.2.1:5432"), "hello")
}

// gateway forwards as a gateway's udp route does, from a port of its own.
func (l *lab) gateway() (at netip.AddrPort, end func()) {
	l.t.Helper()
	var in, out *net.UDPConn
	must(l.t, netns.Do(int(l.node.Fd()), func() (err error) {
		if in, err = net.ListenUDP("udp4", nil); err == nil {
			out, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(l.endpoint()))
		}
		return err
	}))
	var mu sync.Mutex
	var client netip.AddrPort
	var all sync.WaitGroup
	all.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := in.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			mu.Lock()
			client = from
			mu.Unlock()
			_, _ = out.Write(b[:n])
		}
	})
	all.Go(func() {
		b := make([]byte, 2048)
		for {
			n, err := out.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			to := client
			mu.Unlock()
			_, _ = in.WriteToUDPAddrPort(b[:n], to)
		}
	})
	end = sync.OnceFunc(func() { in.Close(); out.Close(); all.Wait() })
	l.t.Cleanup(end)
	return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), uint16(in.LocalAddr().(*net.UDPAddr).Port)), end
}

func TestWhenAGatewayFailsConnectionsGoOnThroughAnother(t *testing.T) {
	l := newLab(t)
	first, end := l.gateway()
	second, _ := l.gateway()
	asked := l.resolver()
	l.config.Endpoints = []netip.AddrPort{first, second}
	_, events, _ := l.up()
	await(t, events, Event{true, first})
	c := l.dial("10.20.2.1:5432")
	echo(t, c, "before")
	<-asked // after the first answer of the resolver, silence is known sooner
	echo(t, c, "behind that answer")
	end()
	gone := time.Now()
	await(t, events, Event{true, second})
	t.Logf("through another gateway %s after the first one's end", time.Since(gone).Round(time.Millisecond))
	echo(t, c, "after")
}

func TestAMachineThatMovesStaysConnected(t *testing.T) {
	l := newLab(t)
	_, events, _ := l.up()
	await(t, events, Event{true, l.endpoint()})
	c := l.dial("10.20.2.1:5432")
	echo(t, c, "at home")
	l.address(l.laptop, "under", "192.0.2.77/24")
	must(t, netns.Do(int(l.laptop.Fd()), func() error { return exec.Command("ip", "address", "delete", "192.0.2.1/24", "dev", "under").Run() }))
	l.address(l.laptop, "under", "192.0.2.77/24")
	echo(t, c, "away")
}

func TestAnotherNetworkWithTheRangeIsNamed(t *testing.T) {
	l := newLab(t)
	ip := func(args ...string) {
		must(t, netns.Do(int(l.laptop.Fd()), func() error { return exec.Command("ip", args...).Run() }))
	}
	ip("route", "add", "10.20.3.0/24", "dev", "under")
	link, err := Up(t.Context(), l.config, Options{Name: "zos-front", NetNS: int(l.laptop.Fd())})
	must(t, err)
	if len(link.Warnings) != 1 || !strings.Contains(link.Warnings[0], "10.20.3.0/24") {
		t.Errorf("warnings: %q", link.Warnings)
	}
	must(t, link.Close())
	ip("route", "add", "10.20.0.0/16", "dev", "under")
	before := l.state()
	if link, err := Up(t.Context(), l.config, Options{Name: "zos-front", NetNS: int(l.laptop.Fd())}); problem.Code(err) != "address-unavailable" {
		t.Errorf("%+v, %v", link, err)
	}
	if after := l.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// wgQuick runs the stock program on the laptop, with wireguard-go where the
// kernel has no WireGuard, and with a resolvconf that notes what it is told.
func (l *lab) wgQuick(dir string, args ...string) string {
	l.t.Helper()
	var out []byte
	err := netns.Do(int(l.laptop.Fd()), func() (err error) {
		cmd := exec.Command("wg-quick", args...)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "WG_QUICK_USERSPACE_IMPLEMENTATION="+filepath.Join(dir, "wireguard-go"))
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		l.t.Fatalf("wg-quick %s: %v (make deps installs it)\n%s", args, err, out)
	}
	return string(out)
}

func TestStockWgQuickTakesTheFile(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "wireguard-go"), "golang.zx2c4.com/wireguard")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build wireguard-go: %v\n%s", err, out)
	}
	must(t, os.WriteFile(filepath.Join(dir, "resolvconf"), []byte("#!/bin/sh\n[ \"$1\" = -a ] && cat > "+dir+"/resolv\nexit 0\n"), 0o755))
	key := filepath.Join(dir, "laptop.key")
	must(t, os.WriteFile(key, []byte(l.config.PrivateKey.String()+"\n"), 0o600))
	before := l.state()
	for i, o := range []QuickOptions{{}, {DNS: true}, {KeyFile: key}} {
		text, err := l.config.Quick(o)
		must(t, err)
		// wg-quick's sockets lie in one directory for all namespaces.
		file := filepath.Join(dir, fmt.Sprintf("zt%d-%d.conf", i, os.Getpid()))
		must(t, os.WriteFile(file, text, 0o600))
		begin := time.Now()
		down := sync.OnceFunc(func() { l.wgQuick(dir, "down", file) })
		out := l.wgQuick(dir, "up", file)
		t.Cleanup(down)
		echo(t, l.dial("10.20.2.1:5432"), "hello")
		t.Logf("first packet %s after wg-quick began", time.Since(begin).Round(time.Millisecond))
		echo(t, l.dial("[fd3a:91c7:5e02:1402::1]:5432"), "hello by IPv6")
		if told, err := os.ReadFile(filepath.Join(dir, "resolv")); o.DNS != (err == nil) || o.DNS && string(told) != "nameserver 10.20.2.1\nsearch front.internal\n" {
			t.Errorf("%+v: the machine's resolver was told %q, %v\n%s", o, told, err, out)
		}
		_ = os.Remove(filepath.Join(dir, "resolv"))
		down()
		if after := l.state(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	}
}
