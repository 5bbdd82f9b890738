package nettest

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
)

// station is what somebody on a link needs to know to send frames by hand.
type station struct {
	mac, gateway net.HardwareAddr
	v4, v6       netip.Addr
}

func ether(dst, src net.HardwareAddr, kind uint16, body []byte) []byte {
	f := append(append([]byte{}, dst...), src...)
	return append(binary.BigEndian.AppendUint16(f, kind), body...)
}

// sum is the Internet checksum.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for len(b) > 1 {
			s += uint32(binary.BigEndian.Uint16(b))
			b = b[2:]
		}
		if len(b) == 1 {
			s += uint32(b[0]) << 8
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// ip4 is an IPv4 packet; frag holds flags and offset, options are padded to
// words by the caller.
func ip4(src, dst netip.Addr, proto byte, frag uint16, options, body []byte) []byte {
	h := make([]byte, 20, 20+len(options)+len(body))
	h = append(h, options...)
	h[0] = 0x40 | byte(len(h)/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(body)))
	binary.BigEndian.PutUint16(h[4:], 0x7777)
	binary.BigEndian.PutUint16(h[6:], frag)
	h[8], h[9] = 64, proto
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return append(h, body...)
}

func ip6(src, dst netip.Addr, next byte, body []byte) []byte {
	h := make([]byte, 40, 40+len(body))
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	h[6], h[7] = next, 255
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, body...)
}

// over6 fills in the checksum of a UDP or ICMPv6 message at offset at.
func over6(src, dst netip.Addr, proto byte, b []byte, at int) []byte {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	pseudo = append(pseudo, 0, 0, 0, proto)
	b = append([]byte{}, b...)
	binary.BigEndian.PutUint16(b[at:], 0)
	binary.BigEndian.PutUint16(b[at:], sum(pseudo, b))
	return b
}

func udp(payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 777)
	b = binary.BigEndian.AppendUint16(b, attackPort)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...) // no checksum: allowed over IPv4
}

func udp6(src, dst netip.Addr, payload []byte) []byte { return over6(src, dst, 17, udp(payload), 6) }

const attackPort = 7777

// Ethernet types.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
)

func arp(op uint16, mac net.HardwareAddr, src netip.Addr, toMAC net.HardwareAddr, dst netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, mac...), src.AsSlice()...)
	return append(append(b, toMAC...), dst.AsSlice()...)
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// attack is everything that the station can send to get a marker to where it
// does not belong: others are the addresses of its victims, macs those of every
// interface in the world.
func attack(s station, others []netip.Addr, macs []net.HardwareAddr, marker []byte) map[string][][]byte {
	out := map[string][][]byte{}
	add := func(what string, f []byte) { out[what] = append(out[what], f) }
	up4 := func(what string, p []byte) { add(what, ether(s.gateway, s.mac, typeIPv4, p)) }
	up6 := func(what string, p []byte) { add(what, ether(s.gateway, s.mac, typeIPv6, p)) }
	// m is the marker with the name of the trick.
	m := func(what string) []byte { return append(append([]byte{}, marker...), "["+what+"]"...) }
	addr := netip.MustParseAddr
	r4, r6 := s.v4.As4(), s.v6.As16()
	r4[3], r6[15] = 1, 1
	router4, router6 := netip.AddrFrom4(r4), netip.AddrFrom16(r6)
	// Many have the same addresses: one's own is no lie.
	var lies []net.HardwareAddr
	for _, mac := range macs {
		if !bytes.Equal(mac, s.mac) && !bytes.Equal(mac, s.gateway) {
			lies = append(lies, mac)
		}
	}
	lies = append(lies, net.HardwareAddr{2, 0, 0, 0, 0, 0x66}, broadcast)
	outside := []netip.Addr{addr("198.18.0.11"), addr("203.0.113.9"), addr("127.0.0.1"), addr("0.0.0.0"), addr("255.255.255.255"), addr("169.254.169.254"), addr("100.64.0.1"), addr("100.64.0.2")}
	outside6 := []netip.Addr{addr("2001:db8::b"), addr("::1"), addr("::"), addr("64:ff9b::c612:b")}

	for _, a := range others {
		if a.Is4() {
			up4("plain", ip4(s.v4, a, 17, 0, nil, udp(m("plain"))))
			for _, spoofed := range append(others, outside...) {
				if spoofed.Is4() {
					up4("spoofed source", ip4(spoofed, a, 17, 0, nil, udp(m("spoofed source"))))
				}
			}
			for _, mac := range lies {
				add("spoofed MAC", ether(s.gateway, mac, typeIPv4, ip4(s.v4, a, 17, 0, nil, udp(m("spoofed MAC")))))
				add("other's MAC", ether(mac, s.mac, typeIPv4, ip4(s.v4, a, 17, 0, nil, udp(m("other's MAC")))))
			}
			add("broadcast frame", ether(broadcast, s.mac, typeIPv4, ip4(s.v4, a, 17, 0, nil, udp(m("broadcast frame")))))
			// Fragments: in order, without a first, overlapping, tiny, the last first.
			whole := udp(append(make([]byte, 64), m("fragments")...))
			up4("fragments", ip4(s.v4, a, 17, 0x2000, nil, whole[:32]))
			up4("fragments", ip4(s.v4, a, 17, 32/8, nil, whole[32:]))
			up4("fragments", ip4(s.v4, a, 17, 0x2000|100, nil, append(append([]byte{}, m("fragments")...), make([]byte, 8-len(m("fragments"))%8)...)))
			up4("fragments", ip4(s.v4, a, 17, 0x2000|1, nil, append(append([]byte{}, m("fragments")...), make([]byte, 8-len(m("fragments"))%8)...)))
			up4("fragments", ip4(s.v4, a, 17, 0x2000, nil, whole[:8]))
			// Routes that the sender chooses, packets in packets.
			lsrr := append([]byte{131, 7, 4}, a.AsSlice()...)
			up4("source route", ip4(s.v4, router4, 17, 0, append(lsrr, 0), udp(m("source route"))))
			up4("tunnels", ip4(s.v4, a, 4, 0, nil, ip4(a, s.v4, 17, 0, nil, udp(m("tunnels")))))
			up4("tunnels", ip4(s.v4, a, 47, 0, nil, append([]byte{0, 0, 8, 0}, ip4(a, s.v4, 17, 0, nil, udp(m("tunnels")))...)))
			up4("other protocols", ip4(s.v4, a, 132, 0, nil, m("other protocols")))
			up4("other protocols", ip4(s.v4, a, 1, 0, nil, append([]byte{5, 1, 0, 0}, append(a.AsSlice(), m("other protocols")...)...))) // an ICMP redirect
			for _, op := range []uint16{1, 2} {
				for _, mac := range append(macs, s.mac) {
					add("ARP", ether(broadcast, mac, typeARP, append(arp(op, mac, a, broadcast, s.v4), m("ARP")...)))
				}
				add("ARP", ether(s.gateway, s.mac, typeARP, append(arp(op, s.mac, a, s.gateway, a), m("ARP")...)))
			}
			for _, tag := range [][]byte{{0, 0}, {0, 1}, {0x0f, 0xff}} {
				inner := append(append([]byte{}, tag...), 8, 0)
				inner = append(inner, ip4(s.v4, a, 17, 0, nil, udp(m("VLAN")))...)
				add("VLAN", ether(s.gateway, s.mac, 0x8100, inner))
				add("VLAN", ether(broadcast, s.mac, 0x8100, inner))
				add("VLAN", ether(s.gateway, s.mac, 0x88a8, append(append(append([]byte{}, tag...), 0x81, 0), inner...)))
			}
			continue
		}
		up6("plain", ip6(s.v6, a, 17, udp6(s.v6, a, m("plain"))))
		for _, spoofed := range append(others, outside6...) {
			if spoofed.Is6() {
				up6("spoofed source", ip6(spoofed, a, 17, udp6(spoofed, a, m("spoofed source"))))
			}
		}
		for _, mac := range lies {
			add("spoofed MAC", ether(s.gateway, mac, typeIPv6, ip6(s.v6, a, 17, udp6(s.v6, a, m("spoofed MAC")))))
			add("other's MAC", ether(mac, s.mac, typeIPv6, ip6(s.v6, a, 17, udp6(s.v6, a, m("other's MAC")))))
		}
		whole := udp6(s.v6, a, append(make([]byte, 64), m("fragments")...))
		fragment := func(offset uint16, b []byte) []byte {
			h := []byte{17, 0}
			h = binary.BigEndian.AppendUint16(h, offset)
			return append(append(h, 0, 0, 0, 9), b...)
		}
		up6("fragments", ip6(s.v6, a, 44, fragment(1, whole[:32])))
		up6("fragments", ip6(s.v6, a, 44, fragment(32, whole[32:])))
		up6("fragments", ip6(s.v6, a, 44, fragment(0, whole)))
		up6("other protocols", ip6(s.v6, a, 4, ip4(s.v4, s.v4, 17, 0, nil, udp(m("other protocols")))))
		up6("source route", ip6(s.v6, router6, 43, append(append([]byte{17, 2, 0, 1, 0, 0, 0, 0}, a.AsSlice()...), udp6(s.v6, a, m("source route"))...)))
		for _, kind := range []byte{133, 134, 135, 136, 137} {
			for _, mac := range append(macs, s.mac) {
				b := append([]byte{kind, 0, 0, 0, 0x20, 0, 0, 0}, a.AsSlice()...)
				b = append(append(b, 2, 1), mac...)
				b = append(b, m("ND")...)
				dst := addr("ff02::1")
				for _, src := range []netip.Addr{a, s.v6, addr("fe80::1")} {
					add("ND", ether(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, typeIPv6, ip6(src, dst, 58, over6(src, dst, 58, b, 2))))
				}
			}
		}
	}
	for _, a := range outside {
		up4("outside", ip4(s.v4, a, 17, 0, nil, udp(m("outside"))))
		up4("outside", ip4(a, s.v4, 17, 0, nil, udp(m("outside"))))
	}
	for _, a := range outside6 {
		up6("outside", ip6(s.v6, a, 17, udp6(s.v6, a, m("outside"))))
		up6("outside", ip6(a, s.v6, 17, udp6(a, s.v6, m("outside"))))
	}
	for _, group := range []string{"224.0.0.1", "224.0.0.251", "239.1.2.3"} {
		a := addr(group)
		as := a.As4()
		mac := net.HardwareAddr{1, 0, 0x5e, as[1] & 0x7f, as[2], as[3]}
		add("multicast", ether(mac, s.mac, typeIPv4, ip4(s.v4, a, 17, 0, nil, udp(m("multicast")))))
		up4("multicast", ip4(s.v4, a, 17, 0, nil, udp(m("multicast"))))
	}
	for _, group := range []string{"ff02::1", "ff02::2", "ff02::fb", "ff05::1", "ff0e::1"} {
		a := addr(group)
		as := a.As16()
		for _, src := range []netip.Addr{s.v6, addr("fe80::1"), addr("fe80::2")} {
			add("multicast", ether(net.HardwareAddr{0x33, 0x33, as[12], as[13], as[14], as[15]}, s.mac, typeIPv6, ip6(src, a, 17, udp6(src, a, m("multicast")))))
			up6("multicast", ip6(src, a, 17, udp6(src, a, m("multicast"))))
		}
	}
	for _, mac := range append(macs, s.gateway) {
		for _, src := range []netip.Addr{linkLocal(s.mac), linkLocal(mac), addr("fe80::1"), s.v6} {
			for _, dst := range []netip.Addr{linkLocal(mac), addr("fe80::1")} {
				add("link-local", ether(mac, s.mac, typeIPv6, ip6(src, dst, 17, udp6(src, dst, m("link-local")))))
				up6("link-local", ip6(src, dst, 17, udp6(src, dst, m("link-local"))))
			}
		}
	}
	for _, kind := range []uint16{0x88b5, 0x88cc, 0x8847, 0x8864, 0x0004, 0x88e5} {
		add("other frames", ether(broadcast, s.mac, kind, m("other frames")))
		add("other frames", ether(s.gateway, s.mac, kind, m("other frames")))
		add("other frames", ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0x0e}, s.mac, kind, m("other frames")))
	}
	return out
}

// linkLocal is the address that a kernel makes of a hardware address.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}
