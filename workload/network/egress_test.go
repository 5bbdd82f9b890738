package network

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
)

// internet is what a node's cable leads to: a site with a router behind which the
// world is. It knows no way back to tenants.
func internet(t *testing.T, m *machine) place {
	t.Helper()
	p := place{t: t, name: "internet", ns: namespace(t)}
	must(t, netns.Do(int(m.host.Fd()), func() error {
		if err := netns.Set(quiet()...); err != nil {
			return err
		}
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "site", PeerNamespace: netlink.NsFd(int(p.ns.Fd()))})
		if err != nil {
			return err
		}
		l, err := find("up0")
		if err != nil {
			return err
		}
		if err := up(l, 1500); err != nil {
			return err
		}
		return addresses(l, netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8:1::2/64"))
	}))
	p.in(func() error {
		if err := netns.Set(quiet()...); err != nil {
			return err
		}
		lo, err := find("lo")
		if err != nil {
			return err
		}
		for _, a := range append([]string{"203.0.113.9/32", "2001:db8:9::9/128"}, forbidden...) {
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(netip.MustParseAddr(strings.Split(a, "/")[0]), netip.MustParseAddr(strings.Split(a, "/")[0]).BitLen())), Flags: unix.IFA_F_NODAD}); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
		l, err := find("site")
		if err != nil {
			return err
		}
		if err := up(l, 1500); err != nil {
			return err
		}
		return addresses(l, netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8:1::1/64"))
	})
	must(t, netns.Do(int(m.host.Fd()), func() error {
		for _, gw := range []string{"192.0.2.1", "2001:db8:1::1"} {
			a := netip.MustParseAddr(gw)
			all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if a.Is6() {
				all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			if err := route(netlink.Route{Dst: ipNet(all), Gw: a.AsSlice()}); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		return ready(ctx, "up0")
	}))
	p.in(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		return ready(ctx, "site")
	})
	return p
}

// forbidden are addresses that egress must not reach, though this site has them.
var forbidden = []string{
	"10.99.0.1", "172.20.0.1", "192.168.7.7", "100.100.100.200", "169.254.169.254", "168.63.129.16", "198.19.0.9", "192.0.0.192",
	"fd00:ec2::254", "fc00::1", "fec0::1", "64:ff9b::a00:1", "2002:a63:1::1", "2001::1",
}

// lan are the site's own subnets, which only the node knows.
var lan = []string{"192.0.2.1", "192.0.2.7", "192.0.2.2", "2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::77"}

// leave sends to each forbidden address, then to the world, and returns what came
// to the site before that.
func leave(t *testing.T, from place, site place) []string {
	t.Helper()
	w := site.tap("site")
	for _, a := range append(append([]string{}, forbidden...), lan...) {
		from.send(netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr(a), 7000), marker+" "+a)
	}
	for _, a := range []string{"224.0.0.251", "ff0e::1"} {
		from.send(netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr(a), 7000), marker+" "+a)
	}
	var bad []string
	for _, world := range []string{"203.0.113.9", "2001:db8:9::9"} {
		from.send(netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr(world), 7000), "hello "+world)
		for _, f := range w.until(t, "hello "+world) {
			if i := bytes.Index(f, []byte(marker)); i >= 0 {
				bad = append(bad, string(f[i:]))
			}
		}
	}
	return bad
}

// answered tells whether a question to the world is answered.
func answered(t *testing.T, from, site place, world string) bool {
	t.Helper()
	at := netip.AddrPortFrom(netip.MustParseAddr(world), 7100)
	server := site.udp(at.Addr(), int(at.Port()))
	defer server.Close()
	got := make(chan string, 1)
	go func() {
		b := make([]byte, 100)
		n, peer, err := server.ReadFromUDPAddrPort(b)
		if err != nil {
			got <- err.Error()
			return
		}
		_, _ = server.WriteToUDPAddrPort(b[:n], peer)
		got <- peer.Addr().Unmap().String()
	}()
	ok := false
	from.in(func() error {
		c, err := dialUDP(at)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("question")); err != nil {
			return err
		}
		ok = texts(t, c, "question") == nil
		return nil
	})
	if peer := <-got; peer != "192.0.2.2" && peer != "2001:db8:1::2" {
		t.Errorf("the world sees %s, want the node's address", peer)
	}
	return ok
}

func TestNobodyLeavesByDefault(t *testing.T) {
	w := newWorld(t, "a")
	internet(t, w.nodes["a"])
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("one", "a", 2).add("two", "a", 3).up()
	must(t, netns.Do(int(w.nodes["a"].host.Fd()), func() error {
		all, err := links()
		if len(all) != 2 {
			t.Errorf("the host has interfaces %v, want lo and up0", all)
		}
		return err
	}))
	d.routerPlace("a").in(func() error {
		all, err := links()
		for _, l := range all {
			if n := l.Attrs().Name; n != "lo" && n != "br0" && n != "p2" && n != "p3" {
				t.Errorf("the router has %s", n)
			}
		}
		return err
	})
	one := d.place("one")
	one.in(func() error {
		if _, err := dialUDP(netip.MustParseAddrPort("203.0.113.9:53")); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("a workload without egress has a way out: %v", err)
		}
		return nil
	})
}

func TestEgressOfTheNodeReachesTheWorldOnly(t *testing.T) {
	w := newWorld(t, "a")
	site := internet(t, w.nodes["a"])
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("out", "a", 2, egress(plan.EgressNode)).add("home", "a", 3).up()
	out := d.place("out")
	node := place{t: t, name: "node", ns: w.nodes["a"].host}
	in := node.udp(netip.MustParseAddr("192.0.2.2"), 7000)
	if bad := leave(t, out, site); len(bad) > 0 {
		t.Errorf("reached at the site: %q", bad)
	}
	for _, world := range []string{"203.0.113.9", "2001:db8:9::9"} {
		if !answered(t, out, site, world) {
			t.Errorf("no answer from %s", world)
		}
	}
	if got := pending(in); len(got) > 0 {
		t.Errorf("reached the node itself: %q", got)
	}
	// The host's end of the link is the host.
	link4, _ := linkAddrs(1, false)
	on := node.udp(link4.Next(), 7000)
	out.send(netip.Addr{}, netip.AddrPortFrom(link4.Next(), 7000), marker)
	out.send(netip.Addr{}, netip.AddrPortFrom(link4, 7000), marker)
	if !answered(t, out, site, "203.0.113.9") || len(pending(on)) > 0 {
		t.Error("reached the host's end of its link")
	}
	// A neighbour without egress, which makes itself a route, gets no further.
	home := d.place("home")
	home.in(func() error {
		l, err := find("eth0")
		if err != nil {
			return err
		}
		return route(netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: d.routerPlace("a").v4.AsSlice()})
	})
	tap := site.tap("site")
	home.send(netip.Addr{}, netip.MustParseAddrPort("203.0.113.9:7000"), marker)
	out.send(netip.Addr{}, netip.MustParseAddrPort("203.0.113.9:7000"), "control")
	for _, f := range tap.until(t, "control") {
		if bytes.Contains(f, []byte(marker)) {
			t.Error("a workload without egress left")
		}
	}
	// And the site doesn't come in.
	site.in(func() error {
		l, err := find("site")
		if err != nil {
			return err
		}
		return route(netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("10.20.0.0/16")), Gw: []byte{192, 0, 2, 2}})
	})
	inside := out.tap("eth0")
	site.send(netip.Addr{}, netip.AddrPortFrom(out.v4, 7000), marker)
	home.send(netip.Addr{}, netip.AddrPortFrom(out.v4, 7000), "control")
	for _, f := range inside.until(t, "control") {
		if bytes.Contains(f, []byte(marker)) {
			t.Error("the site came in")
		}
	}
}

func TestEgressOfTwoTenantsDoesNotMeet(t *testing.T) {
	w := newWorld(t, "a")
	site := internet(t, w.nodes["a"])
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("out", "a", 2, egress(plan.EgressNode)).up()
	other := w.deploy("other", "front", "10.20.0.0/16", "a").add("out", "a", 2, egress(plan.EgressNode)).up()
	for _, d := range []*deployment{d, other} {
		if !answered(t, d.place("out"), site, "203.0.113.9") {
			t.Error("no answer")
		}
	}
	// By the addresses of their links, on the host.
	one, two := d.place("out"), other.place("out")
	tap := two.tap("eth0")
	first, _ := linkAddrs(1, false)
	second, _ := linkAddrs(2, false)
	for _, a := range []netip.Addr{first, first.Next(), second, second.Next(), two.v4} {
		one.send(netip.Addr{}, netip.AddrPortFrom(a, 7000), marker)
	}
	if !answered(t, two, site, "203.0.113.9") {
		t.Error("no answer")
	}
	for _, f := range tap.until(t, "question") {
		if bytes.Contains(f, []byte(marker)) {
			t.Error("a tenant reached another by its link")
		}
	}
}

func TestEgressByTheExit(t *testing.T) {
	w := newWorld(t, "a", "b")
	near, far := internet(t, w.nodes["a"]), internet(t, w.nodes["b"])
	d := w.deploy("d", "front", "10.20.0.0/16", "a", "b").exit("b").
		add("out", "a", 2, egress(plan.EgressExit)).add("home", "a", 3).add("there", "b", 2).add("direct", "b", 3, egress(plan.EgressExit)).up()
	tap := near.tap("site")
	if bad := leave(t, d.place("out"), far); len(bad) > 0 {
		t.Errorf("reached at the exit's site: %q", bad)
	}
	for _, who := range []string{"out", "direct"} {
		for _, world := range []string{"203.0.113.9", "2001:db8:9::9"} {
			if !answered(t, d.place(who), far, world) {
				t.Errorf("%s: no answer from %s", who, world)
			}
		}
	}
	must(t, netns.Do(int(w.nodes["a"].host.Fd()), func() error {
		if l, err := find(linkName(1)); err != nil || l != nil {
			t.Errorf("the node that is no exit has a link to its host: %v, %v", l, err)
		}
		c, err := dialUDP(netip.MustParseAddrPort("203.0.113.9:7000"))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("control"))
		return err
	}))
	for _, f := range tap.until(t, "control") {
		if bytes.Contains(f, []byte("hello")) || bytes.Contains(f, []byte("question")) || bytes.Contains(f, []byte(marker)) {
			t.Errorf("left by the wrong node: %x", f)
		}
	}
	// The exit's node lets nobody out whom the plan does not: not a workload of
	// another node, though that node sends it.
	out := far.tap("site")
	wg := d.routerPlace("a").tap("wg0")
	for _, mac := range []byte{1, 2} {
		kind, packet := udp(d.place("home").v4, netip.MustParseAddr("203.0.113.9"), 7000, marker)
		wg.send(t, frame([]byte{2, 0, 0, 0, 0, mac}, []byte{2, 0, 0, 0, 0, 3 - mac}, kind, packet))
	}
	d.place("out").send(netip.Addr{}, netip.MustParseAddrPort("203.0.113.9:7000"), "control")
	for _, f := range out.until(t, "control") {
		if bytes.Contains(f, []byte(marker)) {
			t.Error("a workload without egress left by the exit")
		}
	}
}
