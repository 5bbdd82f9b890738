package portscan

import (
	"encoding/binary"
	"net/netip"

	"github.com/zero-os/zos/qemu/segment"
)

// Numbers from the protocols' own documents.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10

	arpRequest = 1
	arpReply   = 2

	icmpUnreachable  = 3
	icmp6Unreachable = 1
	icmp6EchoRequest = 128
	icmp6EchoReply   = 129
	icmp6Solicit     = 135
	icmp6Advertise   = 136
)

var broadcastMAC = segment.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// packet is what the scanner wants to know of a frame.
type packet struct {
	from, to segment.MAC // Ethernet addresses
	ether    uint16
	arpOp    uint16
	src, dst netip.Addr // of ARP: sender and target
	proto    byte
	srcPort  uint16 // TCP and UDP
	dstPort  uint16
	flags    byte // TCP
	seq, ack uint32
	icmpType byte
	icmpCode byte
	target   netip.Addr // of a neighbour solicitation or advertisement
	payload  []byte     // behind the transport header
}

// parse reads a frame; ok is false for what is cut short or of no interest.
// Checksums are not looked at: what answers at all counts as an answer.
func parse(f []byte) (p packet, ok bool) {
	if len(f) < 14 {
		return p, false
	}
	p.to, p.from = segment.MAC(f[0:6]), segment.MAC(f[6:12])
	p.ether = binary.BigEndian.Uint16(f[12:])
	b := f[14:]
	switch p.ether {
	case etherARP:
		if len(b) < 28 {
			return p, false
		}
		p.arpOp = binary.BigEndian.Uint16(b[6:])
		p.src, p.dst = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
		return p, true
	case etherIPv4:
		if len(b) < 20 || b[0]>>4 != 4 {
			return p, false
		}
		header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if header < 20 || total < header || total > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return p, false
		}
		p.src, p.dst, p.proto = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
		return p, p.transport(b[header:total])
	case etherIPv6:
		if len(b) < 40 || b[0]>>4 != 6 {
			return p, false
		}
		total := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if total > len(b) {
			return p, false
		}
		p.src, p.dst, p.proto = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6]
		return p, p.transport(b[40:total])
	}
	return p, false
}

func (p *packet) transport(b []byte) bool {
	switch p.proto {
	case protoTCP:
		if len(b) < 20 {
			return false
		}
		p.srcPort, p.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		p.seq, p.ack, p.flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), b[13]
	case protoUDP:
		if len(b) < 8 {
			return false
		}
		p.srcPort, p.dstPort, p.payload = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), b[8:]
	case protoICMP, protoICMPv6:
		if len(b) < 8 {
			return false
		}
		p.icmpType, p.icmpCode, p.payload = b[0], b[1], b[8:]
		if p.proto == protoICMPv6 && (p.icmpType == icmp6Solicit || p.icmpType == icmp6Advertise) {
			if len(b) < 24 {
				return false
			}
			p.target = netip.AddrFrom16([16]byte(b[8:24]))
		}
	default:
		return false
	}
	return true
}

func ethernet(to, from segment.MAC, ether uint16, payload []byte) []byte {
	f := make([]byte, 0, max(60, 14+len(payload)))
	f = append(append(f, to[:]...), from[:]...)
	f = binary.BigEndian.AppendUint16(f, ether)
	f = append(f, payload...)
	for len(f) < 60 { // the least that Ethernet carries
		f = append(f, 0)
	}
	return f
}

func arp(op uint16, to segment.MAC, from segment.MAC, src netip.Addr, target segment.MAC, dst netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, from[:]...)
	b = append(b, src.AsSlice()...)
	b = append(b, target[:]...)
	b = append(b, dst.AsSlice()...)
	return ethernet(to, from, etherARP, b)
}

// ip wraps a transport segment whose checksum field, at offset sum, is zero.
func ip(to, from segment.MAC, src, dst netip.Addr, proto byte, seg []byte, sum int) []byte {
	binary.BigEndian.PutUint16(seg[sum:], transportSum(src, dst, proto, seg))
	if src.Is4() {
		h := []byte{0x45, 0}
		h = binary.BigEndian.AppendUint16(h, uint16(20+len(seg)))
		h = append(h, 0, 0, 0x40, 0, 64, proto, 0, 0)
		h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
		binary.BigEndian.PutUint16(h[10:], ^fold(sum16(0, h)))
		return ethernet(to, from, etherIPv4, append(h, seg...))
	}
	h := []byte{0x60, 0, 0, 0}
	h = binary.BigEndian.AppendUint16(h, uint16(len(seg)))
	h = append(h, proto, 255) // neighbour discovery asks for hop limit 255
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	return ethernet(to, from, etherIPv6, append(h, seg...))
}

func tcp(srcPort, dstPort uint16, seq, ack uint32, flags byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, srcPort)
	b = binary.BigEndian.AppendUint16(b, dstPort)
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	return append(b, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
}

func udp(srcPort, dstPort uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, srcPort)
	b = binary.BigEndian.AppendUint16(b, dstPort)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// neighbour is a neighbour solicitation or advertisement for target; the
// option tells the sender's Ethernet address.
func neighbour(icmpType byte, target netip.Addr, own segment.MAC) []byte {
	flags, option := byte(0), byte(1) // source link-layer address
	if icmpType == icmp6Advertise {
		flags, option = 0x60, 2 // solicited, override; target link-layer address
	}
	b := []byte{icmpType, 0, 0, 0, flags, 0, 0, 0}
	b = append(b, target.AsSlice()...)
	return append(append(b, option, 1), own[:]...)
}

// linkLocal is the address that Linux gives an interface with this MAC.
func linkLocal(m segment.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// Offsets of the checksums.
const (
	sumTCP  = 16
	sumUDP  = 6
	sumICMP = 2
)

func transportSum(src, dst netip.Addr, proto byte, seg []byte) uint16 {
	s := sum16(0, src.AsSlice())
	s = sum16(s, dst.AsSlice())
	s += uint32(proto) + uint32(len(seg))
	c := ^fold(sum16(s, seg))
	if c == 0 && proto == protoUDP {
		return 0xffff // zero means "no checksum"
	}
	return c
}

func sum16(s uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
