package gateway

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/firewall"
)

// tableName is of the public namespace's table, of family inet.
const tableName = "zos_public"

// opening is a public port that takes connections.
type opening struct {
	addr netip.Addr
	udp  bool
	port uint16
}

func compareOpenings(a, b opening) int {
	return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.port, b.port), boolean(a.udp)-boolean(b.udp))
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (o opening) protocol() byte {
	if o.udp {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// authorityPort is the one port that the process may begin connections to: that of
// the authority which certifies what ends here; 0: there is none. Hosts are looked
// up by the daemon.
func authorityPort(p contract.Pool) uint16 {
	u, err := url.Parse(p.ACME)
	if err != nil || u.Host == "" {
		return 0
	}
	if u.Port() == "" {
		return 443
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// ICMP types, RFC 792; ICMPv6 types, RFC 4443 §3 and RFC 4861 §4.
const (
	destinationUnreachable = 3 // also: too big

	unreachable6          = 1
	packetTooBig          = 2
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)

// opens matches a TCP packet that begins a connection.
func opens() firewall.Match {
	const flags, synAck, syn = 13, 0x12, 0x02
	return firewall.Match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{synAck}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
	}
}

// tableOf is the whole filter of the public namespace: in come packets to
// openings; out go answers, and connections to one port, of the internet or of the
// segments: an authority's, 0 for none. Nothing is forwarded. Connections to openings are not tracked: a
// flood of them fills no table.
func tableOf(openings []opening, segments []netip.Prefix, authority uint16) firewall.Table {
	openings = slices.Clone(openings)
	slices.SortFunc(openings, compareOpenings)
	openings = slices.Compact(openings)
	nd := func(t byte) firewall.Rule {
		return firewall.When(firewall.Family(unix.NFPROTO_IPV6), firewall.Protocol(unix.IPPROTO_ICMPV6), firewall.ICMPType(t), firewall.HopLimit(255), firewall.Accept())
	}
	untracked := firewall.Match{&expr.Notrack{}}
	var untrackIn, untrackOut []firewall.Rule
	input := []firewall.Rule{
		firewall.When(firewall.In("lo"), firewall.Accept()),
		nd(neighborSolicitation), nd(neighborAdvertisement),
	}
	output := []firewall.Rule{
		firewall.When(firewall.Out("lo"), firewall.Accept()),
		nd(neighborSolicitation), nd(neighborAdvertisement),
		firewall.When(firewall.State(firewall.Established), firewall.Accept()),
		// Whoever has a published port may answer from it, and not begin there.
		firewall.When(firewall.Protocol(unix.IPPROTO_TCP), opens(), firewall.Jump("begin")),
	}
	for _, o := range openings {
		at := binary.BigEndian.AppendUint16(nil, o.port)
		in := []firewall.Match{firewall.Destination(single(o.addr)), firewall.Protocol(o.protocol()), firewall.Port(o.port, o.port)}
		out := []firewall.Match{firewall.Source(single(o.addr)), firewall.Protocol(o.protocol()), firewall.Transport(0, at)}
		untrackIn = append(untrackIn, firewall.When(append(slices.Clone(in), untracked)...))
		untrackOut = append(untrackOut, firewall.When(append(slices.Clone(out), untracked)...))
		input = append(input, firewall.When(append(in, firewall.Accept())...))
		if o.udp {
			output = append(output, firewall.When(append(out, firewall.Jump("answer"))...))
		} else {
			output = append(output, firewall.When(append(out, firewall.Accept())...))
		}
	}
	// Errors about connections that are not tracked belong to none. Without them a
	// client behind a narrower link gets nothing; the kernel believes those that
	// quote what one of its sockets has sent.
	input = append(input, firewall.When(firewall.Family(unix.NFPROTO_IPV4), firewall.Protocol(unix.IPPROTO_ICMP), firewall.ICMPType(destinationUnreachable), firewall.Accept()))
	for _, t := range []byte{unreachable6, packetTooBig} {
		input = append(input, firewall.When(firewall.Family(unix.NFPROTO_IPV6), firewall.Protocol(unix.IPPROTO_ICMPV6), firewall.ICMPType(t), firewall.Accept()))
	}
	input = append(input, firewall.When(firewall.State(firewall.Invalid), firewall.Drop()), firewall.When(firewall.State(firewall.Established), firewall.Accept()))
	output = append(output, firewall.When(firewall.Protocol(unix.IPPROTO_UDP), firewall.Port(53, 53), firewall.Jump("answer")))
	// The farm's own segments may lie in ranges that are otherwise closed.
	var near []firewall.Rule
	for _, s := range segments {
		near = append(near, firewall.When(firewall.Destination(s), firewall.Accept()))
	}
	answer := append(append(slices.Clone(near), firewall.BlockClosed()...), firewall.When(firewall.Accept()))
	var begin []firewall.Rule
	if authority != 0 {
		begin = append(begin, firewall.When(firewall.Protocol(unix.IPPROTO_TCP), firewall.Port(authority, authority), firewall.Jump("answer")))
	}
	begin = append(begin, firewall.When(firewall.Drop()))
	filter := func(name string, hook *nftables.ChainHook, policy nftables.ChainPolicy, rules []firewall.Rule) firewall.Chain {
		return firewall.Chain{Name: name, Hook: hook, Type: nftables.ChainTypeFilter, Priority: *nftables.ChainPriorityFilter, Policy: policy, Rules: rules}
	}
	raw := func(name string, hook *nftables.ChainHook, rules []firewall.Rule) firewall.Chain {
		return firewall.Chain{Name: name, Hook: hook, Type: nftables.ChainTypeFilter, Priority: *nftables.ChainPriorityRaw, Policy: nftables.ChainPolicyAccept, Rules: rules}
	}
	return firewall.Table{Family: nftables.TableFamilyINet, Name: tableName, Chains: []firewall.Chain{
		raw("untrack_in", nftables.ChainHookPrerouting, untrackIn),
		raw("untrack_out", nftables.ChainHookOutput, untrackOut),
		filter("input", nftables.ChainHookInput, nftables.ChainPolicyDrop, input),
		filter("forward", nftables.ChainHookForward, nftables.ChainPolicyDrop, nil),
		filter("output", nftables.ChainHookOutput, nftables.ChainPolicyDrop, output),
		{Name: "begin", Rules: begin},
		{Name: "answer", Rules: answer},
	}}
}
