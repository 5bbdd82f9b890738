package network

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	fw "github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/spec/plan"
)

// gateway puts a gateway into the first network.
func (d *deployment) gateway(name, node string, last int, routes ...plan.Route) *deployment {
	d.add(name, node, last, shut)
	m := &d.members[len(d.members)-1]
	for _, r := range routes {
		r.Network = d.networks[0].Name
		if r.Backends == nil {
			r.Backends = []string{}
		}
		m.routes = append(m.routes, r)
	}
	return d
}

func shut(a *plan.Attachment) { a.Open = false }

func toTCP(port uint16, backend string, target uint16) plan.Route {
	return plan.Route{Mode: plan.ModeTCP, Port: port, Backends: []string{backend}, Target: target, Check: plan.CheckNone}
}

func toUDP(port uint16, backend string, target uint16) plan.Route {
	return plan.Route{Mode: plan.ModeUDP, Port: port, Backends: []string{backend}, Target: target, Check: plan.CheckNone}
}

func toEntry(port uint16, slot canon.Hash) plan.Route {
	return plan.Route{Mode: plan.ModeUDP, Port: port, Entry: slot, Target: plan.EntryPort, Check: plan.CheckNone}
}

// published is a network with a gateway on a node of its own, g. It publishes two
// ports of web on b, by which devices also enter; other is on c, of which the gateway
// publishes nothing. b is the exit, so that its resolver answers other routers.
func published(t *testing.T) *deployment {
	w := newWorld(t, "g", "b", "c")
	return w.deploy("d", "front", "10.20.0.0/16", "g", "b", "c").exit("b").
		gateway("www", "g", 2, toTCP(443, "web", 8443), toUDP(5353, "web", 7000), toEntry(4500, w.nodes["b"].slot)).
		add("web", "b", 2).add("db", "b", 3, allow(rule("tcp", 5432, 5432, "web"), rule("icmp", 0, 0))).
		add("other", "c", 2).up()
}

// TestRootOnTheGatewaysNodeFindsPublishedPortsOnly: whoever holds the gateway's node
// can send whatever WireGuard lets out of it: any packet from any address of its
// part of the network, to anyone. What arrives is what the gateway publishes.
func TestRootOnTheGatewaysNodeFindsPublishedPortsOnly(t *testing.T) {
	d := published(t)
	gateway, web, db, other := d.place("www"), d.place("web"), d.place("db"), d.place("other")
	g, b, c := d.routerPlace("g"), d.routerPlace("b"), d.routerPlace("c")
	attacker := g.scanner()
	if len(attacker.wires) != 1 {
		t.Errorf("the gateway's node knows %d others, want b alone", len(attacker.wires))
	}
	heard := map[string]*ears{}
	for name, p := range map[string]place{"web": web, "db": db, "other": other, "router b": b, "router c": c} {
		heard[name] = p.ears()
	}
	free := func(a netip.Addr, last byte) netip.Addr {
		s := a.AsSlice()
		s[len(s)-1] = last
		out, _ := netip.AddrFromSlice(s)
		return out
	}
	for _, way := range []struct{ own, router, web, db, other, b, c netip.Addr }{
		{gateway.v4, g.v4, web.v4, db.v4, other.v4, b.v4, c.v4}, {gateway.v6, g.v6, web.v6, db.v6, other.v6, b.v6, c.v6},
	} {
		// The whole of what is nearest, then of everyone what could be open.
		attacker.scan(way.own, way.web, []uint16{4000}, all())
		for _, src := range []netip.Addr{way.own, way.router, free(way.own, 77), free(way.own, 254), free(way.own, 0), way.other, way.c, netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")} {
			if src.Is4() != way.own.Is4() {
				continue
			}
			for _, dst := range []netip.Addr{way.web, way.db, way.b, way.other, way.c, free(way.web, 99), free(way.web, 255)} {
				if src == way.other || src == way.c {
					continue // WireGuard ties these to c's key
				}
				attacker.scan(src, dst, []uint16{4000, 53, 51820}, sparse())
			}
		}
		attacker.send(probe(way.own, way.web, unix.IPPROTO_UDP, 4000, 7000, "the end"))
		heard["web"].until("the end")
	}
	for _, e := range heard {
		e.listen("")
	}
	from := func(lines ...string) string {
		var out []string
		for _, l := range lines {
			out = append(out, l+" from "+gateway.v4.String(), l+" from "+gateway.v6.String())
		}
		return strings.Join(out, "\n")
	}
	for name, want := range map[string]string{
		"web": from("tcp 8443", "udp 7000"), "db": "", "other": "", "router b": from("udp 51820"), "router c": "",
	} {
		if got := heard[name].heard(); got != want {
			t.Errorf("%s was reached by\n%s\nwant\n%s", name, got, want)
		}
	}
}

// TestAnOrdinaryNodeFindsMore is the control: the same scan from a node that carries
// a workload finds what is open to it, the resolver of the exit, and echo.
func TestAnOrdinaryNodeFindsMore(t *testing.T) {
	d := published(t)
	web, other, b, c := d.place("web"), d.place("other"), d.routerPlace("b"), d.routerPlace("c")
	scanner, atWeb, atRouter := c.scanner(), web.ears(), b.ears()
	for _, way := range [][4]netip.Addr{{other.v4, web.v4, c.v4, b.v4}, {other.v6, web.v6, c.v6, b.v6}} {
		scanner.scan(way[0], way[1], []uint16{4000}, sparse())
		scanner.scan(way[2], way[3], []uint16{4000}, sparse())
		scanner.send(probe(way[0], way[1], unix.IPPROTO_UDP, 4000, 7000, "the end"))
		atWeb.until("the end")
	}
	atRouter.listen("")
	for _, at := range []netip.Addr{other.v4, other.v6} {
		for _, port := range sparse() {
			for _, proto := range []string{"tcp", "udp"} {
				if s := fmt.Sprintf("%s %d from %s", proto, port, at); !atWeb.got[s] {
					t.Errorf("web was not reached by %s", s)
				}
			}
		}
	}
	for _, s := range []string{"icmp type 8 from " + other.v4.String(), "icmp type 128 from " + other.v6.String()} {
		if !atWeb.got[s] {
			t.Errorf("web was not reached by %s", s)
		}
	}
	for _, s := range []string{"udp 53 from " + c.v4.String(), "tcp 53 from " + c.v6.String()} {
		if !atRouter.got[s] {
			t.Errorf("the exit's resolver was not reached by %s", s)
		}
	}
}

// TestErrorsFromTheGatewaysNodeAreNotBelieved: whoever holds it could tell others'
// connections that their packets are too large, or that nobody is there.
func TestErrorsFromTheGatewaysNodeAreNotBelieved(t *testing.T) {
	d := published(t)
	web, other, g, c := d.place("web"), d.place("other"), d.routerPlace("g"), d.routerPlace("c")
	gateway := d.place("www")
	in := other.udp(other.v4, 4711)
	out := web.udp(web.v4, 4000)
	_, err := out.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(other.v4, 4711))
	must(t, err)
	texts(t, in, "hello")
	_, about := probe(web.v4, other.v4, unix.IPPROTO_UDP, 4000, 4711, scanned)
	at := web.ears()
	for _, by := range []struct {
		place
		src  netip.Addr
		want bool
	}{{g, gateway.v4, false}, {g, g.v4, false}, {c, c.v4, true}} {
		at.got = map[string]bool{}
		tooBig := append([]byte{3, 4, 0, 0, 0, 0, 2, 0}, about...)
		tooBig[2], tooBig[3] = 0, 0
		sum := sum16(tooBig)
		tooBig[2], tooBig[3] = byte(sum>>8), byte(sum)
		by.scanner().send(typeIPv4, ip4(by.src, web.v4, unix.IPPROTO_ICMP, 0, tooBig))
		if by.name == c.name {
			c.scanner().send(probe(other.v4, web.v4, unix.IPPROTO_UDP, 4000, 7000, "the end"))
		} else {
			g.scanner().send(probe(gateway.v4, web.v4, unix.IPPROTO_UDP, 4000, 7000, "the end"))
		}
		at.until("the end")
		if _, heard := at.got["icmp type 3 from "+by.src.String()]; heard != by.want {
			t.Errorf("an error from %s (%s): heard %t, want %t", by.src, by.name, heard, by.want)
		}
	}
}

func deadline() time.Time { return time.Now().Add(patient) }

// soon is for what must not come, after something that came later.
func soon() time.Time { return time.Now().Add(10 * time.Millisecond) }

// talkTCP connects one place with another.
func talkTCP(t *testing.T, from, to place, at netip.AddrPort) (client, server net.Conn) {
	t.Helper()
	var l net.Listener
	to.in(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	})
	defer l.Close()
	from.in(func() (err error) {
		client, err = net.DialTimeout("tcp", at.String(), patient)
		return err
	})
	t.Cleanup(func() { client.Close() })
	server, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

// say sends a text from one end of a connection, and reads it at the other.
func say(t *testing.T, from, to net.Conn, text string) {
	t.Helper()
	must(t, from.SetWriteDeadline(deadline()))
	_, err := from.Write([]byte(text))
	must(t, err)
	must(t, to.SetReadDeadline(deadline()))
	b := make([]byte, len(text))
	if _, err := io.ReadFull(to, b); err != nil || string(b) != text {
		t.Fatalf("read %q, %v, want %q", b, err, text)
	}
}

// update makes every router and gateway of a newer version of the deployment.
func (d *deployment) update() *deployment {
	d.version++
	return d.up()
}

// TestAGatewayServesWhatItPublishes: from its own namespace, through its router and
// the backend's, and back; also in packets that travel in fragments.
func TestAGatewayServesWhatItPublishes(t *testing.T) {
	d := published(t)
	gateway, web := d.place("www"), d.place("web")
	for _, at := range both(web) {
		conn, served := talkTCP(t, gateway, web, netip.AddrPortFrom(at, 8443))
		say(t, conn, served, "hello")
		say(t, served, conn, "welcome")
		in := web.udp(at, 7000)
		large := strings.Repeat("x", 3000)
		gateway.send(netip.Addr{}, netip.AddrPortFrom(at, 7000), large)
		must(t, in.SetReadDeadline(deadline()))
		b := make([]byte, 4096)
		n, from, err := in.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != large {
			t.Fatalf("read %d bytes, %v", n, err)
		}
		if from.Addr() != gateway.v4 && from.Addr() != gateway.v6 {
			t.Errorf("it came from %s", from)
		}
	}
}

// TestNobodyBeginsAConnectionToAGateway: neither the backend, from the very port
// that is published, nor others, nor on the gateway's own node.
func TestNobodyBeginsAConnectionToAGateway(t *testing.T) {
	w := newWorld(t, "g", "b")
	d := w.deploy("d", "front", "10.20.0.0/16", "g", "b").
		gateway("www", "g", 2, toUDP(5353, "web", 7000), toUDP(5354, "near", 7000)).
		add("near", "g", 3).add("web", "b", 2).add("other", "b", 3).up()
	gateway, heard := d.place("www"), d.place("www").ears()
	for _, name := range []string{"near", "web", "other"} {
		p := d.place(name)
		for _, at := range both(gateway) {
			own := p.v4
			if at.Is6() {
				own = p.v6
			}
			for _, from := range []uint16{4000, 7000} {
				c := p.udp(own, int(from))
				_, err := c.WriteToUDPAddrPort([]byte(scanned), netip.AddrPortFrom(at, 9000))
				must(t, err)
				c.Close()
			}
		}
	}
	for _, name := range []string{"near", "web"} {
		p := d.place(name)
		for _, at := range both(p) {
			in := p.udp(at, 7000)
			own := gateway.v4
			if at.Is6() {
				own = gateway.v6
			}
			out := gateway.udp(own, 9000)
			_, err := out.WriteToUDPAddrPort([]byte("question"), netip.AddrPortFrom(at, 7000))
			must(t, err)
			texts(t, in, "question")
			_, err = in.WriteToUDPAddrPort([]byte("answer"), netip.AddrPortFrom(own, 9000))
			must(t, err)
			texts(t, out, "answer")
			out.Close()
			in.Close()
		}
	}
	heard.listen("")
	if got := heard.heard(); got != "" {
		t.Errorf("the gateway was reached by\n%s", got)
	}
}

// TestAGatewayAmongOthersReachesWhatItPublishes: on a node that carries workloads
// too, its router tells the gateway from them: it asks no resolver, meets no
// neighbour, and no port that is not named.
func TestAGatewayAmongOthersReachesWhatItPublishes(t *testing.T) {
	w := newWorld(t, "g")
	d := w.deploy("d", "front", "10.20.0.0/16", "g").
		gateway("www", "g", 2, toTCP(443, "web", 8443), toUDP(5353, "web", 7000)).
		add("web", "g", 3).add("near", "g", 4).up()
	gateway, near, router := d.place("www"), d.place("near"), d.routerPlace("g")
	heard := map[string]*ears{"web": d.place("web").ears(), "near": near.ears(), "router": router.ears()}
	scan := func(from place) {
		out := from.tap("eth0")
		s := func(dst netip.Addr) {
			src := from.v4
			if dst.Is6() {
				src = from.v6
			}
			for _, port := range sparse() {
				for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
					kind, p := probe(src, dst, proto, 4000, port, scanned)
					out.send(t, frame(routerMAC(router.v4), workloadMAC(from.v4), kind, p))
				}
			}
			icmp, echo := byte(unix.IPPROTO_ICMP), uint16(echo4)
			if dst.Is6() {
				icmp, echo = unix.IPPROTO_ICMPV6, echo6
			}
			kind, p := probe(src, dst, icmp, 4000, echo, scanned)
			out.send(t, frame(routerMAC(router.v4), workloadMAC(from.v4), kind, p))
		}
		for _, p := range []place{d.place("web"), near, router} {
			for _, dst := range both(p) {
				s(dst)
			}
		}
		kind, p := probe(from.v4, d.place("web").v4, unix.IPPROTO_UDP, 4001, 7000, "the end of "+from.name)
		out.send(t, frame(routerMAC(router.v4), workloadMAC(from.v4), kind, p))
		heard["web"].until("the end of " + from.name)
		for _, e := range heard {
			e.listen("")
		}
	}
	scan(gateway)
	var want []string
	for _, l := range []string{"tcp 8443", "udp 7000"} {
		want = append(want, l+" from "+gateway.v4.String(), l+" from "+gateway.v6.String())
	}
	if got := heard["web"].heard(); got != strings.Join(want, "\n") {
		t.Errorf("web was reached by\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	for _, name := range []string{"near", "router"} {
		if got := heard[name].heard(); got != "" {
			t.Errorf("%s was reached by\n%s", name, got)
		}
	}
	// The control: another workload finds its neighbour and the resolver.
	scan(d.place("near"))
	for _, s := range []string{"udp 53 from ", "tcp 53 from "} {
		if !heard["router"].got[s+near.v4.String()] || !heard["router"].got[s+near.v6.String()] {
			t.Errorf("the router was not reached by %s", s)
		}
	}
	if len(heard["web"].got) < 2*len(sparse()) {
		t.Errorf("web was reached by\n%s", heard["web"].heard())
	}
}

// TestAnUpdateNarrowsAGatewaysReach: what is published no more is closed, also to
// connections that stand; the others live on.
func TestAnUpdateNarrowsAGatewaysReach(t *testing.T) {
	w := newWorld(t, "g", "b")
	d := w.deploy("d", "front", "10.20.0.0/16", "g", "b").
		gateway("www", "g", 2, toTCP(443, "web", 8443), toTCP(444, "web", 8444)).add("web", "b", 2).up()
	gateway, web := d.place("www"), d.place("web")
	for _, at := range both(web) {
		goes, goesAt := talkTCP(t, gateway, web, netip.AddrPortFrom(at, 8443))
		stays, staysAt := talkTCP(t, gateway, web, netip.AddrPortFrom(at, 8444))
		say(t, goes, goesAt, "before")
		say(t, stays, staysAt, "before")
		all := d.members[0].routes
		for i, r := range all {
			if r.Target == 8444 {
				d.members[0].routes = all[i : i+1]
			}
		}
		d.update()
		_, err := goes.Write([]byte("after"))
		must(t, err)
		_, err = goesAt.Write([]byte("after"))
		must(t, err)
		say(t, stays, staysAt, "after")
		say(t, staysAt, stays, "after")
		for _, c := range []net.Conn{goes, goesAt} {
			must(t, c.SetReadDeadline(soon()))
		}
		b := make([]byte, 16)
		if n, err := goesAt.Read(b); err == nil {
			t.Errorf("the backend has read %q", b[:n])
		}
		if n, err := goes.Read(b); err == nil {
			t.Errorf("the gateway has read %q", b[:n])
		}
		d.members[0].routes = all
		d.update()
	}
}

// TestTheLargestGatewayFitsIntoAFilter: as many targets as one gateway can have.
func TestTheLargestGatewayFitsIntoAFilter(t *testing.T) {
	d := published(t)
	r, err := d.w.nodes["b"].kind.readRecord(d.router("b"))
	must(t, err)
	v := r.View
	v.Gates[0].Targets = nil
	v4, v6 := v.Node4.Addr(), v.Node6.Addr()
	for range plan.MaxBackends {
		v4, v6 = v4.Next(), v6.Next()
		for port := range uint16(plan.MaxRoutes) {
			v.Gates[0].Targets = append(v.Gates[0].Targets, Target{IPv4: v4, IPv6: v6, Protocol: plan.ProtocolTCP, Port: 1000 + port})
		}
	}
	ns := fw.Namespace(d.routerPlace("b").ns.Fd())
	began := time.Now()
	must(t, ns.Apply(Tables(v)...))
	applied := time.Since(began)
	must(t, ns.Verify(Tables(v)...))
	t.Logf("%d targets: put in force in %v, verified in %v", len(v.Gates[0].Targets), applied, time.Since(began)-applied)
	must(t, ns.Apply(Tables(r.View)...))
}
