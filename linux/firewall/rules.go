package firewall

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the name of the table, of family inet.
const TableName = "zos"

// ICMPv6 types, RFC 4861 §4 and RFC 2710 §3.
const (
	mldQuery              = 130
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)

// chain is a base chain and its rules.
type chain struct {
	name   string
	hook   *nftables.ChainHook
	policy nftables.ChainPolicy
	rules  [][]expr.Any
}

// ruleset is the whole table. ICMPv6 errors that belong to a connection come as
// "related"; echo requests are not answered.
func ruleset() []chain {
	linkLocal := netip.MustParsePrefix("fe80::/10")
	return []chain{
		{"input", nftables.ChainHookInput, nftables.ChainPolicyDrop, [][]expr.Any{
			rule(interfaceIs("lo")),
			rule(conntrack(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)),
			// A DHCP server answers to a broadcast, which no connection explains.
			rule(family(unix.NFPROTO_IPV4), protocol(unix.IPPROTO_UDP), ports(67, 68)),
			// Neighbour discovery never crosses a router: hop limit 255.
			rule(family(unix.NFPROTO_IPV6), protocol(unix.IPPROTO_ICMPV6), icmpType(neighborSolicitation), hopLimit(255)),
			rule(family(unix.NFPROTO_IPV6), protocol(unix.IPPROTO_ICMPV6), icmpType(neighborAdvertisement), hopLimit(255)),
			rule(family(unix.NFPROTO_IPV6), protocol(unix.IPPROTO_ICMPV6), icmpType(routerAdvertisement), hopLimit(255), from(linkLocal)),
			// Switches that snoop multicast keep a member only if it answers their
			// query, and neighbour discovery is multicast.
			rule(family(unix.NFPROTO_IPV6), protocol(unix.IPPROTO_ICMPV6), icmpType(mldQuery), hopLimit(1), from(linkLocal)),
		}},
		{"forward", nftables.ChainHookForward, nftables.ChainPolicyDrop, nil},
		{"output", nftables.ChainHookOutput, nftables.ChainPolicyAccept, nil},
	}
}

// rule accepts what meets all conditions.
func rule(conditions ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, c := range conditions {
		all = append(all, c...)
	}
	return append(all, &expr.Verdict{Kind: expr.VerdictAccept})
}

func equals(load expr.Any, value []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func interfaceIs(name string) []expr.Any {
	var b [unix.IFNAMSIZ]byte
	copy(b[:], name)
	return equals(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, b[:])
}

func conntrack(states uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(states), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func family(f byte) []expr.Any {
	return equals(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, []byte{f})
}

func protocol(p byte) []expr.Any {
	return equals(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, []byte{p})
}

// ports compares source and destination port of UDP.
func ports(source, destination uint16) []expr.Any {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 4}
	return equals(load, append(binaryutil.BigEndian.PutUint16(source), binaryutil.BigEndian.PutUint16(destination)...))
}

func icmpType(t byte) []expr.Any {
	return equals(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, []byte{t})
}

// hopLimit compares byte 7 of the IPv6 header.
func hopLimit(n byte) []expr.Any {
	return equals(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1}, []byte{n})
}

// from compares the source address of IPv6, bytes 8 to 23 of the header.
func from(p netip.Prefix) []expr.Any {
	mask := make([]byte, 16)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	addr := p.Masked().Addr().As16()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 16, Mask: mask, Xor: make([]byte, 16)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr[:]},
	}
}
