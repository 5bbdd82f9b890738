package network

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	fw "github.com/zero-os/zos/linux/firewall"
)

// marker is in every forged packet.
const marker = "FORGED"

var (
	broadcast = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = netip.MustParseAddr("ff02::1")
	allMAC    = []byte{0x33, 0x33, 0, 0, 0, 1}
	anyone    = netip.IPv6Unspecified()
)

// spoofed is a lab in which evil, with a raw socket on its interface, lives beside
// near on one node, far is on another, and a neighbour tenant has the same
// addresses on both.
type spoofed struct {
	*testing.T
	evil, near, far, twin, router, router2 place
	wire                                   wire
	router4, router6                       netip.Addr
	mac, gw, nearMAC                       []byte
}

func newSpoofed(t *testing.T) *spoofed { return newSpoofedBy(t, false) }

// newSpoofedBy makes one in which evil is a container, or the guest of a machine.
func newSpoofedBy(t *testing.T, machine bool) *spoofed {
	w := newWorld(t, "a", "b")
	d := w.deploy("d", "front", "10.20.0.0/16", "a", "b").add("evil", "a", 2).add("near", "a", 3).add("far", "b", 2)
	d.members[0].machine = machine
	d.up()
	other := w.deploy("other", "front", "10.20.0.0/16", "a", "b").add("twin", "a", 3).up()
	s := &spoofed{T: t, evil: d.place("evil"), near: d.place("near"), far: d.place("far"), twin: other.place("twin")}
	if machine {
		s.wire = s.evil.guest("tap0")
	} else {
		s.wire = s.evil.tap("eth0")
	}
	r := d.routerPlace("a")
	s.router, s.router2 = r, d.routerPlace("b")
	s.router4, s.router6 = r.v4, r.v6
	s.mac, s.gw, s.nearMAC = workloadMAC(s.evil.v4), routerMAC(r.v4), workloadMAC(s.near.v4)
	return s
}

func (s *spoofed) udp(dst, srcMAC []byte, src, to netip.Addr) []byte {
	kind, packet := udp(src, to, 7000, marker)
	return frame(dst, srcMAC, kind, packet)
}

// forgeries are frames that evil may not send, by name.
func (s *spoofed) forgeries() map[string][]byte {
	evil4, evil6, near4, near6, far4, far6 := s.evil.v4, s.evil.v6, s.near.v4, s.near.v6, s.far.v4, s.far.v6
	ll := linkLocal(s.mac)
	optionSLLA := slices.Concat([]byte{1, 1}, s.mac)
	optionTLLA := slices.Concat([]byte{2, 1}, s.mac)
	addr := netip.MustParseAddr
	six := func(mac []byte, p []byte) []byte { return frame(mac, s.mac, typeIPv6, p) }
	v4packet := func(src, dst netip.Addr) []byte { return ip4(src, dst, unix.IPPROTO_UDP, 0, udpBytes(7000, marker)) }
	return map[string][]byte{
		"another MAC":                      s.udp(s.gw, s.nearMAC, evil4, far4),
		"another MAC, IPv6":                s.udp(s.gw, s.nearMAC, evil6, far6),
		"the router's MAC":                 s.udp(s.gw, s.gw, evil4, near4),
		"a neighbour's IPv4":               s.udp(s.gw, s.mac, near4, far4),
		"a neighbour's IPv4 to itself":     s.udp(s.gw, s.mac, near4, near4),
		"a neighbour's IPv6":               s.udp(s.gw, s.mac, near6, far6),
		"a neighbour's IPv6 and MAC":       s.udp(s.gw, s.nearMAC, near6, far6),
		"a neighbour's IPv4 and MAC":       s.udp(s.gw, s.nearMAC, near4, far4),
		"another node's IPv4":              s.udp(s.gw, s.mac, far4, near4),
		"another node's IPv6":              s.udp(s.gw, s.mac, far6, near6),
		"the router's IPv4":                s.udp(s.gw, s.mac, s.router4, near4),
		"the router's IPv6":                s.udp(s.gw, s.mac, s.router6, near6),
		"an unused IPv4":                   s.udp(s.gw, s.mac, addr("10.20.1.77"), near4),
		"an outside IPv4":                  s.udp(s.gw, s.mac, addr("192.0.2.1"), near4),
		"an outside IPv6":                  s.udp(s.gw, s.mac, addr("2001:db8::1"), near6),
		"loopback":                         s.udp(s.gw, s.mac, addr("127.0.0.1"), near4),
		"loopback, IPv6":                   s.udp(s.gw, s.mac, addr("::1"), near6),
		"no address":                       s.udp(s.gw, s.mac, addr("0.0.0.0"), near4),
		"no address, IPv6":                 s.udp(s.gw, s.mac, anyone, near6),
		"mapped IPv6":                      six(s.gw, ip6(netip.AddrFrom16(near4.As16()), near6, unix.IPPROTO_UDP, 64, udpBytes(7000, marker))),
		"past the router":                  s.udp(s.nearMAC, s.mac, evil4, near4),
		"past the router, IPv6":            s.udp(s.nearMAC, s.mac, evil6, near6),
		"broadcast frame":                  s.udp(broadcast, s.mac, evil4, near4),
		"broadcast":                        s.udp(broadcast, s.mac, evil4, addr("255.255.255.255")),
		"the subnet's broadcast":           s.udp(broadcast, s.mac, evil4, addr("10.20.1.255")),
		"the subnet's broadcast, routed":   s.udp(s.gw, s.mac, evil4, addr("10.20.1.255")),
		"broadcast by the router":          s.udp(s.gw, s.mac, evil4, addr("255.255.255.255")),
		"multicast":                        s.udp([]byte{1, 0, 0x5e, 0, 0, 1}, s.mac, evil4, addr("224.0.0.1")),
		"multicast by the router":          s.udp(s.gw, s.mac, evil4, addr("224.0.0.251")),
		"multicast, IPv6":                  s.udp(allMAC, s.mac, evil6, allNodes),
		"multicast by the router, IPv6":    s.udp(s.gw, s.mac, evil6, addr("ff05::2")),
		"link-local":                       s.udp(s.gw, s.mac, ll, near6),
		"link-local to link-local":         s.udp(s.gw, s.mac, ll, linkLocal(s.nearMAC)),
		"link-local past the router":       s.udp(s.nearMAC, s.mac, ll, linkLocal(s.nearMAC)),
		"IPv4 link-local":                  s.udp(s.gw, s.mac, addr("169.254.1.1"), near4),
		"VLAN":                             tagged(s.udp(s.gw, s.mac, evil4, near4), 0x8100, 1),
		"VLAN 0":                           tagged(s.udp(s.gw, s.mac, evil4, near4), 0x8100, 0),
		"VLAN, IPv6":                       tagged(s.udp(s.gw, s.mac, evil6, near6), 0x8100, 5),
		"VLAN, forged":                     tagged(s.udp(s.gw, s.nearMAC, near4, far4), 0x8100, 1),
		"provider VLAN":                    tagged(s.udp(s.gw, s.mac, evil4, near4), 0x88a8, 1),
		"two VLANs":                        tagged(tagged(s.udp(s.gw, s.mac, evil4, near4), 0x8100, 2), 0x88a8, 1),
		"a bridge's own address":           s.udp([]byte{0x01, 0x80, 0xc2, 0, 0, 0}, s.mac, evil4, near4),
		"a bridge's own address, LACP":     s.udp([]byte{0x01, 0x80, 0xc2, 0, 0, 2}, s.mac, evil4, near4),
		"a bridge's own address, forged":   s.udp([]byte{0x01, 0x80, 0xc2, 0, 0, 3}, s.mac, near4, far4),
		"another type":                     frame(s.nearMAC, s.mac, 0x88b5, []byte(marker)),
		"LLDP":                             frame([]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e}, s.mac, 0x88cc, []byte(marker)),
		"802.3":                            frame(broadcast, s.mac, 46, []byte(marker)),
		"ARP of the router":                frame(broadcast, s.mac, typeARP, append(arp(1, s.mac, s.router4, broadcast, near4), marker...)),
		"ARP of a neighbour":               frame(s.gw, s.mac, typeARP, append(arp(2, s.mac, near4, s.gw, s.router4), marker...)),
		"ARP to a neighbour":               frame(s.nearMAC, s.mac, typeARP, append(arp(2, s.mac, s.router4, s.nearMAC, near4), marker...)),
		"neighbour advertisement":          six(allMAC, icmp6(ll, allNodes, 255, 136, s.router6.AsSlice(), optionTLLA, []byte(marker))),
		"neighbour advertisement, near":    six(s.gw, icmp6(evil6, s.router6, 255, 136, near6.AsSlice(), optionTLLA, []byte(marker))),
		"neighbour solicitation, near":     six(s.gw, icmp6(near6, s.router6, 255, 135, s.router6.AsSlice(), optionSLLA, []byte(marker))),
		"router advertisement":             six(allMAC, icmp6(ll, allNodes, 255, 134, make([]byte, 8), optionSLLA, []byte(marker))),
		"router advertisement, routed":     six(s.gw, icmp6(evil6, near6, 255, 134, make([]byte, 8), optionSLLA, []byte(marker))),
		"router advertisement, by options": six(s.gw, ip6(evil6, near6, 0, 255, slices.Concat([]byte{58, 0, 1, 4, 0, 0, 0, 0}, []byte{134, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 8), []byte(marker)))),
		"redirect":                         six(s.gw, icmp6(evil6, near6, 255, 137, s.router6.AsSlice(), far6.AsSlice(), []byte(marker))),
		"IPv4 redirect":                    frame(s.gw, s.mac, typeIPv4, ip4(evil4, near4, unix.IPPROTO_ICMP, 0, icmp4(5, append(evil4.AsSlice(), v4packet(near4, far4)...)))),
		"IPv4 unreachable of nothing":      frame(s.gw, s.mac, typeIPv4, ip4(evil4, near4, unix.IPPROTO_ICMP, 0, icmp4(3, append(make([]byte, 4), v4packet(near4, far4)...)))),
		"source route":                     frame(s.gw, s.mac, typeIPv4, sourceRoute(evil4, near4, far4)),
		"a fragment of a neighbour":        frame(s.gw, s.mac, typeIPv4, ip4(near4, far4, unix.IPPROTO_UDP, 0x2000, udpBytes(7000, marker+marker+marker))),
		"a later fragment of a neighbour":  frame(s.gw, s.mac, typeIPv4, ip4(near4, far4, unix.IPPROTO_UDP, 100, []byte(marker+"xx"))),
		"a later fragment":                 frame(s.gw, s.mac, typeIPv4, ip4(evil4, far4, unix.IPPROTO_UDP, 100, []byte(marker+"xx"))),
		"a later fragment, IPv6":           six(s.gw, ip6(evil6, far6, 44, 64, slices.Concat([]byte{17, 0, 0, 8, 0, 0, 0, 1}, []byte(marker)))),
	}
}

// sendAll sends each of the forgeries and tells which arrived where.
func (s *spoofed) sendAll(t *testing.T) map[string][]string {
	t.Helper()
	frames := s.forgeries()
	evil4, evil6, near4, near6, far4, far6 := s.evil.v4, s.evil.v6, s.near.v4, s.near.v6, s.far.v4, s.far.v6
	seen := map[string]wire{"near": s.near.tap("eth0"), "far": s.far.tap("eth0")}
	arrived := map[string][]string{}
	names := []string{}
	for name := range frames {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		s.wire.send(t, frames[name])
		// What is sent properly, by the same hand, is the control and says when to
		// look.
		done := fmt.Sprintf("done %d.", i)
		for _, to := range []netip.Addr{near4, far4, near6, far6} {
			src := evil4
			if to.Is6() {
				src = evil6
			}
			kind, packet := udp(src, to, 7000, done)
			s.wire.send(t, frame(s.gw, s.mac, kind, packet))
		}
		for _, who := range []string{"near", "far"} {
			w := seen[who]
			for range 2 { // IPv4 and IPv6
				for _, f := range w.until(t, done) {
					if bytes.Contains(f, []byte(marker)) {
						arrived[name] = append(arrived[name], who)
					}
				}
			}
		}
	}
	return arrived
}

func TestNoForgedFrameArrives(t *testing.T) { noForgedFrameArrives(t, newSpoofed(t)) }

// TestNoForgedFrameOfAGuestArrives: a guest that owns its whole network card reaches
// no more than a container that may send raw frames.
func TestNoForgedFrameOfAGuestArrives(t *testing.T) { noForgedFrameArrives(t, newSpoofedBy(t, true)) }

func noForgedFrameArrives(t *testing.T, s *spoofed) {
	t.Helper()
	twin := s.twin.tap("eth0")
	before := s.tables(t)
	for name, where := range s.sendAll(t) {
		t.Errorf("%s arrived at %s", name, where)
	}
	s.hears(t, twin)
	if after := s.tables(t); after != before {
		t.Errorf("the router has learnt something:\n%s\nbefore:\n%s", after, before)
	}
}

// TestForgedFramesArriveWithoutFilters is the control: the forgeries are made
// well, and it is the filters that stop them.
func TestForgedFramesArriveWithoutFilters(t *testing.T) {
	s := newSpoofed(t)
	for _, r := range []place{s.router, s.router2} {
		must(t, fw.Namespace(r.ns.Fd()).Remove(fw.Table{Family: nftables.TableFamilyBridge, Name: fw.TableName}, fw.Table{Family: nftables.TableFamilyINet, Name: fw.TableName}))
	}
	arrived := s.sendAll(t)
	for _, name := range []string{
		"an unused IPv4", "a neighbour's IPv4", "a neighbour's IPv6", "another node's IPv6", "the router's IPv6", "link-local", "VLAN 0",
		"router advertisement, routed", "redirect", "IPv4 redirect", "a later fragment", "a fragment of a neighbour",
	} {
		if len(arrived[name]) == 0 {
			t.Errorf("%s did not arrive", name)
		}
	}
}

// hears checks that the twin, a workload of another tenant with near's address, has
// heard nothing.
func (s *spoofed) hears(t *testing.T, w wire) {
	t.Helper()
	// Its own router answers, which says when to look.
	echo := frame(routerMAC(s.router4), workloadMAC(s.twin.v4), typeIPv4, ip4(s.twin.v4, s.router4, unix.IPPROTO_ICMP, 0, icmp4(8, append([]byte{0, 1, 0, 1}, "twin's own"...))))
	w.send(t, echo)
	for _, f := range w.until(t, "twin's own") {
		if bytes.Contains(f, []byte(marker)) || bytes.Contains(f, []byte("done")) {
			t.Errorf("another tenant's frame arrived: %x", f)
		}
	}
}

// TestForgedPacketsFromAnotherNodeArriveNowhere plays a node of the network that
// has turned: it sends into the tunnel what it likes.
func TestForgedPacketsFromAnotherNodeArriveNowhere(t *testing.T) {
	s := newSpoofed(t)
	wg, near := s.router2.tap("wg0"), s.near.tap("eth0")
	in := s.router.udp(s.router4, 7000)
	addr := netip.MustParseAddr
	for name, c := range map[string][2]netip.Addr{
		"a workload of the node":             {s.evil.v4, s.near.v4},
		"itself":                             {s.near.v4, s.near.v4},
		"the node's router":                  {s.router4, s.near.v4},
		"an unused address of the node":      {addr("10.20.1.99"), s.near.v4},
		"an unused address of another":       {addr("10.20.2.99"), s.near.v4},
		"another router":                     {s.router2.v4, s.near.v4},
		"the outside":                        {addr("203.0.113.1"), s.near.v4},
		"loopback":                           {addr("127.0.0.1"), s.near.v4},
		"to the router":                      {s.far.v4, s.router4},
		"its router to the router":           {s.router2.v4, s.router4},
		"to a multicast group":               {s.far.v4, addr("224.0.0.1")},
		"to the broadcast":                   {s.far.v4, addr("10.20.1.255")},
		"to nobody of the network":           {s.far.v4, addr("10.20.7.7")},
		"to the outside":                     {s.far.v4, addr("203.0.113.1")},
		"a workload of the node, IPv6":       {s.evil.v6, s.near.v6},
		"the node's router, IPv6":            {s.router6, s.near.v6},
		"an unused address of another, IPv6": {s.far.v6.Next(), s.near.v6},
		"another router, IPv6":               {s.router2.v6, s.near.v6},
		"link-local":                         {addr("fe80::1"), s.near.v6},
		"the outside, IPv6":                  {addr("2001:db8::1"), s.near.v6},
		"to the router, IPv6":                {s.far.v6, s.router6},
	} {
		kind, packet := udp(c[0], c[1], 7000, marker)
		wg.send(t, frame([]byte{2, 0, 0, 0, 0, 2}, []byte{2, 0, 0, 0, 0, 1}, kind, packet))
		wg.send(t, frame([]byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, kind, packet)) // whichever of the ends this is
		done := "done " + name + "."
		kind, packet = udp(s.far.v4, s.near.v4, 7000, done)
		wg.send(t, frame([]byte{2, 0, 0, 0, 0, 2}, []byte{2, 0, 0, 0, 0, 1}, kind, packet))
		wg.send(t, frame([]byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, kind, packet))
		for _, f := range near.until(t, done) {
			if bytes.Contains(f, []byte(marker)) {
				t.Errorf("%s: arrived: %x", name, f)
			}
		}
	}
	if got := pending(in); len(got) > 0 {
		t.Errorf("arrived at the router: %q", got)
	}
}

// TestFragmentsDoNotSlipPastRules: a rule about ports sees the datagram, not its
// parts.
func TestFragmentsDoNotSlipPastRules(t *testing.T) {
	w := newWorld(t, "a")
	d := w.deploy("d", "front", "10.20.0.0/16", "a").add("evil", "a", 2).add("web", "a", 3, allow(rule("udp", 7000, 7000))).up()
	evil, web := d.place("evil"), d.place("web")
	out, in := evil.tap("eth0"), web.tap("eth0")
	gw, mac := routerMAC(d.routerPlace("a").v4), workloadMAC(evil.v4)
	send := func(port uint16, text string) {
		whole := udpBytes(port, strings.Repeat("x", 24)+text)
		// In units of eight bytes. Eight first: the ports and nothing else. Then the rest, last one first.
		first, second, rest := whole[:8], whole[8:24], whole[24:]
		for _, part := range []struct {
			flags uint16
			data  []byte
		}{{3, rest}, {0x2000 | 1, second}, {0x2000, first}} {
			p := ip4(evil.v4, web.v4, unix.IPPROTO_UDP, part.flags, part.data)
			binary.BigEndian.PutUint16(p[4:], port) // its own id
			p[10], p[11] = 0, 0
			binary.BigEndian.PutUint16(p[10:], sum16(p[:20]))
			out.send(t, frame(gw, mac, typeIPv4, p))
		}
		v6 := above(evil.v6, web.v6, unix.IPPROTO_UDP, 6, whole)
		for _, part := range []struct {
			flags uint16
			data  []byte
		}{{24, v6[24:]}, {1, v6[:24]}} {
			h := slices.Concat([]byte{unix.IPPROTO_UDP, 0}, binary.BigEndian.AppendUint16(nil, part.flags), []byte{0, 0, byte(port >> 8), byte(port)})
			out.send(t, frame(gw, mac, typeIPv6, ip6(evil.v6, web.v6, unix.IPPROTO_FRAGMENT, 64, append(h, part.data...))))
		}
	}
	send(7001, marker)
	send(7000, "control")
	for range 2 {
		for _, f := range in.until(t, "control") {
			if bytes.Contains(f, []byte(marker)) {
				t.Errorf("arrived at a closed port: %x", f)
			}
		}
	}
}

// tables are what a router knows of its neighbours.
func (s *spoofed) tables(t *testing.T) string {
	t.Helper()
	var out []string
	s.router.in(func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
			neighbours, err := netlink.NeighList(0, family)
			if err != nil {
				return err
			}
			for _, n := range neighbours {
				out = append(out, fmt.Sprint("neighbour ", family, n.LinkIndex, n.State, n.IP, n.HardwareAddr))
			}
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			for _, r := range routes {
				out = append(out, fmt.Sprint("route ", r.Table, r.Dst, r.Gw, r.LinkIndex, r.Type))
			}
		}
		return nil
	})
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// icmp4 makes an ICMP message of a type, code 0.
func icmp4(kind byte, rest []byte) []byte {
	b := append([]byte{kind, 0, 0, 0}, rest...)
	binary.BigEndian.PutUint16(b[2:], sum16(b))
	return b
}

// sourceRoute makes a packet to via, to be sent on to dst.
func sourceRoute(src, via, dst netip.Addr) []byte {
	p := ip4(src, via, unix.IPPROTO_UDP, 0, udpBytes(7000, marker))
	option := slices.Concat([]byte{131, 7, 4}, dst.AsSlice(), []byte{0})
	p = slices.Concat(p[:20], option, p[20:])
	p[0] = 0x47
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], sum16(p[:28]))
	return p
}
