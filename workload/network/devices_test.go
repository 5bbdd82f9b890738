package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	netplan "github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// alice owns the devices of these tests.
var alice = canon.Sum([]byte("alice"))

// privateKey is that of a device, the same in every test.
func privateKey(name string) wireguard.Key {
	k := wireguard.Key(canon.Sum([]byte("device " + name)))
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// join makes somebody's device a member of the first network, through a node.
func (d *deployment) join(name, node string, last int) *deployment {
	d.add(name, node, last, shut)
	public := privateKey(name).Public()
	d.members[len(d.members)-1].device = plan.Device{V: plan.Version, Key: public[:], Account: alice}
	return d
}

// without takes members out of the deployment.
func (d *deployment) without(name string) *deployment {
	d.members = slices.DeleteFunc(slices.Clone(d.members), func(m member) bool { return m.name == name })
	return d
}

// laptop is somebody's machine, somewhere on the internet.
type laptop struct {
	place
	dev   wireguard.Device
	entry wireguard.Key
}

// laptop starts a device's WireGuard, and a gateway's forwarding of its packets to
// the entry's router. change changes what it believes of the entry.
func (d *deployment) laptop(name, gateway, entry string, change ...func(*wireguard.Peer)) *laptop {
	t := d.w.t
	t.Helper()
	ns := namespace(t)
	l := &laptop{place: place{t: d.w.t, name: name, ns: ns}}
	for _, m := range d.members {
		if m.name == name {
			l.v4, l.v6 = netip.MustParseAddr(m.at[0].IPv4), netip.MustParseAddr(m.at[0].IPv6)
		}
	}
	secrets, id := NewSecrets(d.w.nodes[entry].slot), netplan.ID(d.contract, d.networks[0].Name)
	public := privateKey(name).Public()
	peer := wireguard.Peer{PublicKey: secrets.Entry(id).Public(), PresharedKey: secrets.Device(id, public[:], alice), AllowedIPs: []netip.Prefix{
		netip.MustParsePrefix(d.networks[0].IPv4), netip.MustParsePrefix(d.networks[0].IPv6)}}
	for _, c := range change {
		c(&peer)
	}
	l.entry = peer.PublicKey
	host, err := wireguard.OpenHost(int(ns.Fd()), nil)
	must(t, err)
	t.Cleanup(func() { host.Close() })
	l.dev, err = host.New(context.Background(), wireguard.Config{Name: "wg-zos", PrivateKey: privateKey(name), NetNS: int(ns.Fd()), Engine: wireguard.Userspace})
	must(t, err)
	t.Cleanup(func() { l.dev.Close() })
	must(t, l.dev.SetPeer(peer))
	l.takes(l.v4, l.v6)
	for _, p := range peer.AllowedIPs {
		l.in(func() error {
			link, err := find("wg-zos")
			if err != nil {
				return err
			}
			return route(netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p)})
		})
	}
	must(t, l.dev.SetPath(l.entry, d.forward(l.place, d.place(gateway), netip.AddrPortFrom(d.routerPlace(entry).v4, plan.EntryPort))))
	return l
}

// takes gives the laptop's interface addresses.
func (l *laptop) takes(a ...netip.Addr) {
	l.t.Helper()
	l.in(func() error {
		link, err := find("wg-zos")
		if err != nil {
			return err
		}
		var all []netip.Prefix
		for _, a := range a {
			all = append(all, single(a))
		}
		return addresses(link, all...)
	})
}

// forward passes datagrams on blindly, as a gateway does: from a port near the
// laptop, out of the gateway's place in the network.
func (d *deployment) forward(near, gateway place, to netip.AddrPort) netip.AddrPort {
	d.w.t.Helper()
	front := near.udp(netip.MustParseAddr("127.0.0.1"), 0)
	var back *net.UDPConn
	gateway.in(func() (err error) {
		back, err = dialUDP(to)
		return err
	})
	done := make(chan struct{}, 2)
	client := make(chan netip.AddrPort, 1)
	go func() {
		defer func() { done <- struct{}{} }()
		b := make([]byte, 1<<16)
		told := false
		for {
			n, from, err := front.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if !told {
				client <- from
				told = true
			}
			_, _ = back.Write(b[:n]) // refused while the entry is away
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		b := make([]byte, 1<<16)
		var to netip.AddrPort
		for {
			n, err := back.Read(b)
			if err != nil && isClosed(err) {
				return
			}
			if err != nil {
				continue
			}
			if !to.IsValid() {
				to = <-client
			}
			_, _ = front.WriteToUDPAddrPort(b[:n], to)
		}
	}()
	d.w.t.Cleanup(func() {
		front.Close()
		back.Close()
		<-done
		<-done
	})
	return front.LocalAddr().(*net.UDPAddr).AddrPort()
}

func isClosed(err error) bool { return strings.Contains(err.Error(), "use of closed") }

// entered is a network in which laptops enter by b, through a gateway on g.
func entered(t *testing.T) *deployment {
	w := newWorld(t, "g", "b", "c")
	return w.deploy("d", "front", "10.20.0.0/16", "g", "b", "c").
		gateway("www", "g", 2, toTCP(443, "web", 8443), toEntry(4500, w.nodes["b"].slot)).
		add("web", "b", 2).add("db", "b", 3, allow(rule("tcp", 5432, 5432, "laptop"), rule("udp", 5432, 5432, "laptop"))).add("other", "c", 2).
		add("far", "c", 3, allow(rule("udp", 7000, 7000, "laptop"))).
		join("laptop", "b", 9).join("phone", "b", 10).up()
}

// ask sends a datagram to a place and has it answered, over the laptop's tunnel.
func (l *laptop) asks(t *testing.T, to place, at netip.AddrPort, text string) {
	t.Helper()
	in := to.udp(at.Addr(), int(at.Port()))
	defer in.Close()
	var out *net.UDPConn
	l.in(func() (err error) {
		out, err = dialUDP(at)
		return err
	})
	defer out.Close()
	_, err := out.Write([]byte(text))
	must(t, err)
	must(t, in.SetReadDeadline(deadline()))
	b := make([]byte, 1<<14)
	n, from, err := in.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != text {
		t.Fatalf("%s at %s: read %d bytes, %v", to.name, at, n, err)
	}
	if from.Addr() != l.v4 && from.Addr() != l.v6 {
		t.Errorf("%s at %s: it came from %s", to.name, at, from)
	}
	_, err = in.WriteToUDPAddrPort(b[:n], from)
	must(t, err)
	must(t, out.SetReadDeadline(deadline()))
	if n, err := out.Read(b); err != nil || string(b[:n]) != text {
		t.Fatalf("%s at %s: the answer is %d bytes, %v", to.name, at, n, err)
	}
}

// TestADeviceReachesWhatAMemberDoes: workloads on its entry's node and on others, by
// the rules that hold for it, with datagrams larger than any packet; and the names.
func TestADeviceReachesWhatAMemberDoes(t *testing.T) {
	d := entered(t)
	l := d.laptop("laptop", "www", "b")
	web, db, other, far, b := d.place("web"), d.place("db"), d.place("other"), d.place("far"), d.routerPlace("b")
	for _, c := range []struct {
		place
		port uint16
	}{{web, 1}, {other, 65535}, {db, 5432}, {far, 7000}} {
		for _, at := range both(c.place) {
			for _, text := range []string{"hello", strings.Repeat("x", 1200), strings.Repeat("y", 4000)} {
				l.asks(t, c.place, netip.AddrPortFrom(at, c.port), text)
			}
		}
	}
	// What the rules do not name stays closed to it.
	heard := map[string]*ears{"db": db.ears(), "far": far.ears(), "router": b.ears()}
	for _, p := range []place{db, far, b, d.routerPlace("c")} {
		for _, at := range both(p) {
			for _, port := range []uint16{5431, 5433, 7001, beacon, 51820} {
				l.send(netip.Addr{}, netip.AddrPortFrom(at, port), scanned)
			}
		}
	}
	l.asks(t, web, netip.AddrPortFrom(web.v4, 1), "the end")
	l.asks(t, far, netip.AddrPortFrom(far.v6, 7000), "the end")
	for name, e := range heard {
		e.listen("")
		if got := e.heard(); got != "" {
			t.Errorf("%s was reached by\n%s", name, got)
		}
	}
	for _, server := range both(b) {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, proto, _ string) (c net.Conn, err error) {
			l.in(func() error {
				c, err = (&net.Dialer{}).DialContext(ctx, proto, netip.AddrPortFrom(server, dnsPort).String())
				return nil
			})
			return c, err
		}}
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		addrs, err := r.LookupNetIP(ctx, "ip4", "other.front.internal.")
		cancel()
		if err != nil || len(addrs) != 1 || addrs[0].Unmap() != other.v4 {
			t.Errorf("asked %s: %v, %v", server, addrs, err)
		}
	}
}

// TestADevicesSegmentsTravelWhole: of a TCP connection over the tunnel nothing is
// sent in fragments, though its packets are encrypted within the network's own.
func TestADevicesSegmentsTravelWhole(t *testing.T) {
	d := entered(t)
	l := d.laptop("laptop", "www", "b")
	gateway := d.place("www")
	for _, p := range []place{d.place("web"), d.place("other")} {
		for _, at := range both(p) {
			wire := gateway.tap("eth0")
			client, server := talkTCP(t, l.place, p, netip.AddrPortFrom(at, 8443))
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				const size = 256 << 10
				sent := make(chan error, 1)
				go func() {
					_, err := way[0].Write(bytes.Repeat([]byte("0123456789abcdef"), size/16))
					sent <- err
				}()
				must(t, way[1].SetReadDeadline(deadline()))
				n, err := io.CopyN(io.Discard, way[1], size)
				if err != nil {
					t.Fatalf("%s: %d bytes, %v", at, n, err)
				}
				must(t, <-sent)
			}
			gateway.send(netip.Addr{}, netip.AddrPortFrom(d.place("web").v4, 9), "unseen")
			frames, cut := wire.drain(), 0
			for _, f := range frames {
				if len(f) > 34 && binary.BigEndian.Uint16(f[12:]) == typeIPv4 && binary.BigEndian.Uint16(f[20:])&0x3fff != 0 {
					cut++
				}
			}
			if cut > 0 || len(frames) < 100 {
				t.Errorf("%s: %d of %d packets at the gateway are fragments", at, cut, len(frames))
			}
		}
	}
}

// TestNobodyBeginsAConnectionToADevice: not a workload on its entry's node, not one
// elsewhere, not a gateway, not another device.
func TestNobodyBeginsAConnectionToADevice(t *testing.T) {
	d := entered(t)
	l, phone := d.laptop("laptop", "www", "b"), d.laptop("phone", "www", "b")
	heard := l.ears()
	web := d.place("web")
	l.asks(t, web, netip.AddrPortFrom(web.v4, 1), "there is a session")
	phone.asks(t, web, netip.AddrPortFrom(web.v4, 1), "there is a session")
	for _, p := range []place{web, d.place("other"), d.place("www"), phone.place, d.routerPlace("c")} {
		for _, at := range both(l.place) {
			p.send(netip.Addr{}, netip.AddrPortFrom(at, 9000), scanned)
		}
	}
	for _, p := range []place{web, d.place("other")} {
		for _, at := range both(p) {
			l.asks(t, p, netip.AddrPortFrom(at, 9001), "the end")
		}
	}
	phone.asks(t, web, netip.AddrPortFrom(web.v4, 1), "the end")
	heard.listen("")
	if got := heard.heard(); got != "" {
		t.Errorf("the device was reached by\n%s", got)
	}
}

// TestADeviceCannotTakeAnothersAddress: what it sends under another device's, a
// workload's or the router's address is nobody's.
func TestADeviceCannotTakeAnothersAddress(t *testing.T) {
	d := entered(t)
	l := d.laptop("laptop", "www", "b")
	web, other, b := d.place("web"), d.place("other"), d.routerPlace("b")
	var phone member
	for _, m := range d.members {
		if m.name == "phone" {
			phone = m
		}
	}
	phone4, phone6 := netip.MustParseAddr(phone.at[0].IPv4), netip.MustParseAddr(phone.at[0].IPv6)
	heard := []*ears{web.ears(), other.ears(), b.ears()}
	forged := [][2]netip.Addr{{phone4, phone6}, {web.v4, web.v6}, {b.v4, b.v6}, {netip.MustParseAddr("10.20.2.99"), netip.MustParseAddr("fd00::1")}, {other.v4, other.v6}}
	own4, own6 := l.v4, l.v6
	for _, f := range forged {
		l.takes(own4, own6, f[0], f[1])
		for _, to := range []place{web, other, b} {
			if f[0] != to.v4 {
				l.send(f[0], netip.AddrPortFrom(to.v4, 53), scanned)
				l.send(f[1], netip.AddrPortFrom(to.v6, 53), scanned)
			}
		}
		l.takes(own4, own6)
	}
	// Nor does anyone else have a device's: not whoever holds another node.
	for _, from := range []place{d.routerPlace("c"), d.routerPlace("g")} {
		s := from.scanner()
		for _, to := range []place{web, b} {
			s.scan(own4, to.v4, []uint16{4000}, sparse())
			s.scan(own6, to.v6, []uint16{4000}, sparse())
		}
	}
	for _, p := range []place{web, other} {
		for _, at := range both(p) {
			l.asks(t, p, netip.AddrPortFrom(at, 53), "the end")
		}
	}
	for _, e := range heard {
		e.listen("")
		if got := e.heard(); got != "" {
			t.Errorf("%s was reached by\n%s", e.name, got)
		}
	}
}

// TestARevokedDeviceIsCut: with the update that takes it out of the plan its
// connections end, and it shakes hands no more. Others do not notice.
func TestARevokedDeviceIsCut(t *testing.T) {
	d := entered(t)
	l, phone := d.laptop("laptop", "www", "b"), d.laptop("phone", "www", "b")
	web, other := d.place("web"), d.place("other")
	gone, goneAt := talkTCP(t, l.place, web, netip.AddrPortFrom(web.v4, 8443))
	far, farAt := talkTCP(t, l.place, other, netip.AddrPortFrom(other.v6, 8443))
	stays, staysAt := talkTCP(t, phone.place, web, netip.AddrPortFrom(web.v4, 8444))
	say(t, gone, goneAt, "before")
	say(t, far, farAt, "before")
	say(t, stays, staysAt, "before")
	for i := range d.members {
		for j := range d.members[i].at {
			d.members[i].at[j].Allow = slices.DeleteFunc(d.members[i].at[j].Allow, func(r plan.Rule) bool { return slices.Contains(r.Peers, "laptop") })
		}
	}
	d.without("laptop").update()
	for _, c := range []net.Conn{gone, goneAt, far, farAt} {
		_, err := c.Write([]byte("after"))
		must(t, err)
	}
	say(t, stays, staysAt, "after")
	say(t, staysAt, stays, "after")
	for _, c := range []net.Conn{gone, goneAt, far, farAt} {
		must(t, c.SetReadDeadline(soon()))
		b := make([]byte, 16)
		if n, err := c.Read(b); err == nil {
			t.Errorf("%s has read %q", c.LocalAddr(), b[:n])
		}
	}
	e := d.w.nodes["b"].kind.entryOf(d.router("b"))
	stats, err := e.Stats()
	must(t, err)
	if len(stats) != 1 || stats[0].PublicKey != privateKey("phone").Public() {
		t.Errorf("these may enter: %v", stats)
	}
	d.routerPlace("b").in(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		for _, r := range routes {
			if r.Dst != nil && (r.Dst.IP.Equal(l.v4.AsSlice()) || r.Dst.IP.Equal(l.v6.AsSlice())) {
				t.Errorf("there is a route to it: %v", r)
			}
		}
		return err
	})
	all, err := d.w.nodes["b"].kind.Devices().Observe(context.Background())
	must(t, err)
	if _, there := all[workload.ID{Contract: d.contract, Name: "laptop"}]; there || len(all) != 1 {
		t.Errorf("devices: %v", all)
	}
}

// TestWithoutItsPresharedKeyADeviceStaysOut: its private key alone is not enough.
func TestWithoutItsPresharedKeyADeviceStaysOut(t *testing.T) {
	d := entered(t)
	l := d.laptop("laptop", "www", "b", func(p *wireguard.Peer) { p.PresharedKey[0]++ })
	phone := d.laptop("phone", "www", "b")
	web := d.place("web")
	heard := web.ears()
	l.send(netip.Addr{}, netip.AddrPortFrom(web.v4, 9), scanned)
	phone.asks(t, web, netip.AddrPortFrom(web.v4, 1), "the end")
	stats, err := d.w.nodes["b"].kind.entryOf(d.router("b")).Stats()
	must(t, err)
	for _, s := range stats {
		if had := !s.LastHandshake.IsZero(); had != (s.PublicKey == privateKey("phone").Public()) {
			t.Errorf("%s: there was a handshake: %t", s.PublicKey, had)
		}
	}
	heard.listen("")
	if got := heard.heard(); got != "" {
		t.Errorf("web was reached by\n%s", got)
	}
}

// TestTheWayInComesBack: what is missing of it is seen, and mended; it is the same
// for those who know its key; also after a restart of the daemon.
func TestTheWayInComesBack(t *testing.T) {
	d := entered(t)
	l, m, web := d.laptop("laptop", "www", "b"), d.w.nodes["b"], d.place("web")
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	router := func() workload.Status {
		t.Helper()
		all, err := m.kind.Observe(ctx)
		must(t, err)
		return all[d.router("b")]
	}
	l.asks(t, web, netip.AddrPortFrom(web.v4, 1), "before")
	if s := router(); s.State != contract.StateRunning {
		t.Fatalf("%+v", s)
	}
	key := m.kind.entryOf(d.router("b")).PublicKey()
	for what, harm := range map[string]func(){
		"its interface is gone": func() {
			d.routerPlace("b").in(func() error { return remove(entryName) })
		},
		"somebody else may enter": func() {
			stranger := wireguard.NewPrivateKey().Public()
			must(t, m.kind.entryOf(d.router("b")).SetPeers([]wireguard.Peer{{PublicKey: stranger, AllowedIPs: []netip.Prefix{single(l.v4)}}}))
		},
		"nobody may enter": func() { must(t, m.kind.entryOf(d.router("b")).SetPeers(nil)) },
		"the daemon starts again": func() {
			must(t, m.kind.Close())
			m.open(t, d.w)
		},
	} {
		harm()
		if s := router(); s.State != contract.StatePending {
			t.Errorf("%s: %+v", what, s)
		}
		p := d.plan()
		must(t, m.kind.Ensure(ctx, d.desired(p, d.router("b").Name)))
		if s := router(); s.State != contract.StateRunning {
			t.Errorf("%s, mended: %+v", what, s)
		}
		if now := m.kind.entryOf(d.router("b")).PublicKey(); now != key {
			t.Errorf("%s: its key is %s, was %s", what, now, key)
		}
		// The laptop finds out by itself, when its packets are not answered; a new one
		// need not wait for that.
		l.dev.Close()
		l = d.laptop("laptop", "www", "b")
		l.asks(t, web, netip.AddrPortFrom(web.v4, 1), what)
	}
	// Without gateway and devices there is no way in.
	d.without("laptop").without("phone").without("www")
	for i := range d.members {
		for j := range d.members[i].at {
			d.members[i].at[j].Allow = []plan.Rule{}
		}
	}
	d.update()
	d.routerPlace("b").in(func() error {
		link, err := find(entryName)
		if link != nil {
			t.Error("the way in is still there")
		}
		return err
	})
}

func TestADeviceIsRunningWhenItsRouterLetsItIn(t *testing.T) {
	d := entered(t)
	m, p := d.w.nodes["b"], d.plan()
	ctx := context.Background()
	desired := d.desired(p, "laptop")
	must(t, m.kind.Devices().Ensure(ctx, desired))
	all, err := m.kind.Devices().Observe(ctx)
	must(t, err)
	if s := all[desired.ID]; s.State != contract.StateRunning || s.Version != d.version || len(all) != 2 {
		t.Errorf("%+v", all)
	}
	newer := desired
	newer.Version++
	if err := m.kind.Devices().Ensure(ctx, newer); problem.Code(err) != ReasonPending {
		t.Errorf("of a newer version: %v", err)
	}
	if err := d.w.nodes["c"].kind.Devices().Ensure(ctx, desired); problem.Code(err) != CodeInvalid {
		t.Errorf("at another node: %v", err)
	}
	torn := desired
	torn.Plan.Config = []byte("x")
	if err := m.kind.Devices().Ensure(ctx, torn); problem.Code(err) != CodeInvalid {
		t.Errorf("a torn one: %v", err)
	}
}

// TestKeysOfDevicesAndEntriesAreApart: none is another's, and all are the same on
// every start.
func TestKeysOfDevicesAndEntriesAreApart(t *testing.T) {
	seen := map[wireguard.Key]string{}
	note := func(what string, k wireguard.Key) {
		if other, taken := seen[k]; taken {
			t.Errorf("%s has the key of %s", what, other)
		}
		seen[k] = what
	}
	keys := [][]byte{bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)}
	for node := range byte(2) {
		s := NewSecrets([32]byte{node + 1})
		for network := range byte(2) {
			id := canon.Hash{network}
			what := fmt.Sprintf("node %d network %d", node, network)
			note(what, s.Entry(id))
			for i, key := range keys {
				for account := range byte(2) {
					note(fmt.Sprintf("%s device %d of %d", what, i, account), s.Device(id, key, canon.Hash{account}))
				}
			}
		}
	}
	if got := NewSecrets([32]byte{1}).Entry(canon.Hash{2}).Public().String(); got != "3EpYnhqn/tSydLZO/8zBpW4JMc+hdyiP03rz5sSD8GI=" {
		t.Errorf("the key of an entry that people know has changed to %s", got)
	}
}

// drain returns what has come already.
func (w wire) drain() [][]byte {
	var out [][]byte
	b := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(w.fd, b, unix.MSG_DONTWAIT)
		if err != nil {
			return out
		}
		out = append(out, slices.Clone(b[:n]))
	}
}
