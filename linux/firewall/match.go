package firewall

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Match is a condition of a rule, or what the rule does.
type Match = []expr.Any

// When makes a rule: the conditions in order, then what to do. A rule that meets
// not all of its conditions does nothing.
func When(parts ...Match) Rule {
	var all Rule
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// Accept ends the chain's hook and lets the packet go on.
func Accept() Match { return Match{&expr.Verdict{Kind: expr.VerdictAccept}} }

// Drop ends everything.
func Drop() Match { return Match{&expr.Verdict{Kind: expr.VerdictDrop}} }

// Jump goes through another chain and comes back.
func Jump(chain string) Match { return Match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }

// Equals compares what load put into register 1.
func Equals(load expr.Any, value []byte) Match {
	return Match{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

// Differs is the opposite of Equals.
func Differs(load expr.Any, value []byte) Match {
	return Match{load, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: value}}
}

// In is the interface by which the packet came.
func In(name string) Match {
	return Equals(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, ifname(name))
}

// Out is the interface by which the packet goes.
func Out(name string) Match {
	return Equals(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, ifname(name))
}

// InLike is In for every interface whose name begins so.
func InLike(prefix string) Match {
	return Equals(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, []byte(prefix))
}

// OutLike is Out for every interface whose name begins so.
func OutLike(prefix string) Match {
	return Equals(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, []byte(prefix))
}

// ifname is a name as the kernel compares it: with all of its zero bytes.
func ifname(name string) []byte {
	var b [unix.IFNAMSIZ]byte
	copy(b[:], name)
	return b[:]
}

// States of connections, for State.
const (
	Invalid     = expr.CtStateBitINVALID
	Established = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED // answers, and errors about them
)

// State is that of the packet's connection.
func State(bits uint32) Match {
	return Match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// Family is unix.NFPROTO_IPV4 or unix.NFPROTO_IPV6, in a table of family inet.
func Family(f byte) Match {
	return Equals(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, []byte{f})
}

// Protocol is the one above IP, behind extension headers.
func Protocol(p byte) Match {
	return Equals(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, []byte{p})
}

// Transport compares bytes of the header above IP. Protocol must stand before it.
func Transport(offset uint32, value []byte) Match {
	return Equals(payload(expr.PayloadBaseTransportHeader, offset, len(value)), value)
}

// Network compares bytes of the IP header. Family, or the type of the frame, must
// stand before it.
func Network(offset uint32, value []byte) Match {
	return Equals(payload(expr.PayloadBaseNetworkHeader, offset, len(value)), value)
}

// Frame compares bytes of the Ethernet header. A VLAN tag is a part of it, also
// when the kernel has taken it off.
func Frame(offset uint32, value []byte) Match {
	return Equals(payload(expr.PayloadBaseLLHeader, offset, len(value)), value)
}

func payload(base expr.PayloadBase, offset uint32, n int) *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(n)}
}

// ICMPType is the first byte of ICMP or ICMPv6.
func ICMPType(t byte) Match { return Transport(0, []byte{t}) }

// ICMPTypeNot is every other one.
func ICMPTypeNot(t byte) Match {
	return Differs(payload(expr.PayloadBaseTransportHeader, 0, 1), []byte{t})
}

// Port compares the destination port of TCP or UDP with a range, both included.
func Port(first, last uint16) Match {
	if first == last {
		return Transport(2, binary.BigEndian.AppendUint16(nil, first))
	}
	return Match{
		payload(expr.PayloadBaseTransportHeader, 2, 2),
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binary.BigEndian.AppendUint16(nil, first), ToData: binary.BigEndian.AppendUint16(nil, last)},
	}
}

// HopLimit compares byte 7 of the IPv6 header.
func HopLimit(n byte) Match { return Network(7, []byte{n}) }

// Source is a prefix of the source address. It also checks the family.
func Source(p netip.Prefix) Match { return address(p, 12, 8, expr.CmpOpEq) }

// Destination is a prefix of the destination address. It also checks the family.
func Destination(p netip.Prefix) Match { return address(p, 16, 24, expr.CmpOpEq) }

// SourceNot is every other address of the prefix's family.
func SourceNot(p netip.Prefix) Match { return address(p, 12, 8, expr.CmpOpNeq) }

// DestinationNot is every other address of the prefix's family.
func DestinationNot(p netip.Prefix) Match { return address(p, 16, 24, expr.CmpOpNeq) }

func address(p netip.Prefix, at4, at6 uint32, op expr.CmpOp) Match {
	at, family := at4, byte(unix.NFPROTO_IPV4)
	if p.Addr().Is6() {
		at, family = at6, unix.NFPROTO_IPV6
	}
	m := append(Family(family), payload(expr.PayloadBaseNetworkHeader, at, p.Addr().BitLen()/8))
	return append(m, masked(p, op)...)
}

// masked compares the address in register 1.
func masked(p netip.Prefix, op expr.CmpOp) Match {
	addr := p.Masked().Addr().AsSlice()
	if p.IsSingleIP() {
		return Match{&expr.Cmp{Op: op, Register: 1, Data: addr}}
	}
	mask := make([]byte, len(addr))
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return Match{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(addr)), Mask: mask, Xor: make([]byte, len(addr))},
		&expr.Cmp{Op: op, Register: 1, Data: addr},
	}
}

// SourceIn looks the source address up in a set of IPv4 (six false) or IPv6
// addresses. It also checks the family.
func SourceIn(set string, six bool) Match { return addressIn(set, six, 12, 8, false) }

// DestinationIn looks the destination address up.
func DestinationIn(set string, six bool) Match { return addressIn(set, six, 16, 24, false) }

// JumpByDestination looks the destination up in a map and jumps to its chain.
func JumpByDestination(set string, six bool) Match { return addressIn(set, six, 16, 24, true) }

func addressIn(set string, six bool, at4, at6 uint32, jump bool) Match {
	at, n, family := at4, 4, byte(unix.NFPROTO_IPV4)
	if six {
		at, n, family = at6, 16, unix.NFPROTO_IPV6
	}
	return append(Family(family),
		payload(expr.PayloadBaseNetworkHeader, at, n),
		&expr.Lookup{SourceRegister: 1, SetName: set, IsDestRegSet: jump})
}

// Marked is a packet with this mark.
func Marked(mark uint32) Match {
	return Equals(&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, binaryutil.NativeEndian.PutUint32(mark))
}

// Mark gives the packet a mark, which routing rules may look at.
func Mark(mark uint32) Match {
	return Match{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// Masquerade gives a connection the address of the interface that it leaves by.
func Masquerade() Match { return Match{&expr.Masq{}} }

// SourceNAT gives a connection another source address of its family.
func SourceNAT(to netip.Addr) Match {
	family := uint32(unix.NFPROTO_IPV4)
	if to.Is6() {
		family = unix.NFPROTO_IPV6
	}
	return Match{
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: family, RegAddrMin: 1, RegAddrMax: 1},
	}
}

// MoreThan is a packet of a new connection when there are that many already that
// passed this rule.
func MoreThan(connections uint32) Match { return Match{&expr.Connlimit{Count: connections, Flags: 1}} }

// Segment lowers the largest segment that a TCP handshake announces.
func Segment(most uint16) Match {
	const flags, synRst, syn, optionMSS = 13, 0x06, 0x02, 2
	return Match{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		payload(expr.PayloadBaseTransportHeader, flags, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{synRst}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, most)},
		&expr.Exthdr{SourceRegister: 1, Type: optionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	}
}

// Key of a set: parts, each padded to four bytes, as the kernel concatenates them.
func Key(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
		b = append(b, make([]byte, -len(p)&3)...)
	}
	return b
}

// Types of the keys of PortIn: interface, MAC and address.
func PortType(six bool) nftables.SetDatatype {
	ip := nftables.TypeIPAddr
	if six {
		ip = nftables.TypeIP6Addr
	}
	t, err := nftables.ConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, ip)
	if err != nil {
		panic(err) // three types are fewer than too many
	}
	return t
}

// PortKey is a key of such a set.
func PortKey(name string, mac []byte, ip netip.Addr) []byte {
	return Key(ifname(name), mac, ip.AsSlice())
}

// Where a frame or packet tells an address of its own, for PortIn.
type Field struct {
	Base   expr.PayloadBase
	Offset uint32
}

// Fields of frames and packets.
var (
	FrameSource = Field{expr.PayloadBaseLLHeader, 6}
	IPv4Source  = Field{expr.PayloadBaseNetworkHeader, 12}
	IPv6Source  = Field{expr.PayloadBaseNetworkHeader, 8}
	ARPSenderHW = Field{expr.PayloadBaseNetworkHeader, 8}
	ARPSenderIP = Field{expr.PayloadBaseNetworkHeader, 14}
	NDTarget    = Field{expr.PayloadBaseTransportHeader, 8}
)

// PortIn looks up the interface, a MAC and an address in a set of PortType.
func PortIn(set string, mac, ip Field, six bool) Match {
	// Registers of 4 bytes are numbered from 8; 1 is the first four of them, 2 the
	// next: 16 bytes of name, 8 of MAC, then the address.
	n := uint32(4)
	if six {
		n = 16
	}
	return Match{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Payload{DestRegister: 2, Base: mac.Base, Offset: mac.Offset, Len: 6},
		&expr.Payload{DestRegister: 14, Base: ip.Base, Offset: ip.Offset, Len: n},
		&expr.Lookup{SourceRegister: 1, SetName: set},
	}
}

// FlowType is the type of the keys of FlowIn.
func FlowType(six bool) nftables.SetDatatype {
	ip := nftables.TypeIPAddr
	if six {
		ip = nftables.TypeIP6Addr
	}
	t, err := nftables.ConcatSetType(ip, ip, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		panic(err) // four types are fewer than too many
	}
	return t
}

// FlowKey is a key of such a set: who, to whom, and to which port of which protocol.
func FlowKey(from, to netip.Addr, protocol byte, port uint16) []byte {
	return Key(from.AsSlice(), to.AsSlice(), []byte{protocol}, binary.BigEndian.AppendUint16(nil, port))
}

// FlowIn looks up source, destination, protocol and destination port in a set of
// FlowType. It also checks the family. Only TCP and UDP have such ports.
func FlowIn(set string, six bool) Match {
	// As in PortIn: of registers of 4 bytes, those that begin one of 16 are told by
	// that one's number.
	src, dst, n, family := uint32(12), uint32(16), 4, byte(unix.NFPROTO_IPV4)
	to, protocol, port := uint32(9), uint32(10), uint32(11)
	if six {
		src, dst, n, family = 8, 24, 16, unix.NFPROTO_IPV6
		to, protocol, port = 2, 3, 17
	}
	load := func(register uint32, base expr.PayloadBase, at uint32, n int) expr.Any {
		p := payload(base, at, n)
		p.DestRegister = register
		return p
	}
	return append(Family(family),
		load(1, expr.PayloadBaseNetworkHeader, src, n),
		load(to, expr.PayloadBaseNetworkHeader, dst, n),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
		load(port, expr.PayloadBaseTransportHeader, 2, 2),
		&expr.Lookup{SourceRegister: 1, SetName: set})
}
