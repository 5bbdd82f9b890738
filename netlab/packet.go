package netlab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Packet is a frame on a segment and what its headers say.
type Packet struct {
	Segment string    // name of the segment
	From    string    // name of the card that sent it
	Time    time.Time // when the segment got it
	Frame   []byte    // from the destination address on; not to be changed
	IPLen   int       // length of the IP packet, 0 for other frames
	Flow    Flow
}

// Flow is what frames have in common that belong to one conversation.
type Flow struct {
	// Proto is "tcp", "udp", "icmp", "icmpv6", "arp", "vlan", "ip/N" for other
	// IP protocols, "0xNNNN" for other frames, or "short" for broken ones.
	Proto    string
	Src, Dst netip.AddrPort // ports are 0 where there are none: in ICMP, and in fragments but the first
	// Type is the type of an ICMP message or the operation of an ARP one.
	Type int
}

func (f Flow) String() string {
	s := f.Proto
	if f.Type != 0 || f.Proto == "icmp" {
		s = fmt.Sprintf("%s(%d)", f.Proto, f.Type)
	}
	if f.Src.IsValid() || f.Dst.IsValid() {
		s += " " + end(f.Src) + " > " + end(f.Dst)
	}
	return s
}

func end(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// Ethernet types and sizes.
const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	etherVLAN   = 0x8100
	etherIPv6   = 0x86dd
)

// Dissect reads the headers of a frame, and how long its IP packet is.
func Dissect(frame []byte) (f Flow, ipLen int) {
	if len(frame) < etherHeader {
		return Flow{Proto: "short"}, 0
	}
	kind, b := binary.BigEndian.Uint16(frame[12:]), frame[etherHeader:]
	switch kind {
	case etherARP:
		if len(b) < 28 {
			return Flow{Proto: "short"}, 0
		}
		return Flow{
			Proto: "arp", Type: int(binary.BigEndian.Uint16(b[6:])),
			Src: netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[14:18])), 0),
			Dst: netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[24:28])), 0),
		}, 0
	case etherVLAN, 0x88a8:
		return Flow{Proto: "vlan"}, 0
	case etherIPv4:
		if len(b) < 20 {
			return Flow{Proto: "short"}, 0
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		header := int(b[0]&15) * 4
		if header < 20 || n < header || n > len(b) {
			return Flow{Proto: "short"}, len(b)
		}
		first := binary.BigEndian.Uint16(b[6:])&0x1fff == 0
		return transport(b[9], first, netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[header:n]), n
	case etherIPv6:
		if len(b) < 40 {
			return Flow{Proto: "short"}, 0
		}
		n := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if n > len(b) {
			return Flow{Proto: "short"}, len(b)
		}
		next, first, rest := b[6], true, b[40:n]
		// Extension headers: hop-by-hop, routing, fragment, destination.
		for len(rest) >= 8 && (next == 0 || next == 43 || next == 44 || next == 60) {
			size := 8 + int(rest[1])*8
			if next == 44 {
				size = 8
				first = binary.BigEndian.Uint16(rest[2:])&0xfff8 == 0
			}
			next = rest[0]
			rest = rest[min(size, len(rest)):]
			if !first {
				break
			}
		}
		return transport(next, first, netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), rest), n
	}
	return Flow{Proto: fmt.Sprintf("0x%04x", kind)}, 0
}

func transport(proto byte, first bool, src, dst netip.Addr, b []byte) Flow {
	f := Flow{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0)}
	switch proto {
	case 6, 17:
		f.Proto = map[byte]string{6: "tcp", 17: "udp"}[proto]
		if first && len(b) >= 4 {
			f.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
			f.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
		}
	case 1, 58:
		f.Proto = map[byte]string{1: "icmp", 58: "icmpv6"}[proto]
		if first && len(b) >= 1 {
			f.Type = int(b[0])
		}
	default:
		f.Proto = fmt.Sprintf("ip/%d", proto)
	}
	return f
}
