package firewall

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// TableName is the name of the host's table, of family inet.
const TableName = "zos"

// EgressPrefix begins the names of the host's interfaces to tenant networks.
const EgressPrefix = "zeg"

// EgressIPv4 and EgressIPv6 are the addresses of the links behind EgressPrefix.
// No tenant network can have them, and no site should: benchmarking (RFC 2544),
// and the half of fc00::/7 that nobody may use.
func EgressIPv4() netip.Prefix { return netip.MustParsePrefix("198.18.0.0/15") }

// EgressIPv6 is EgressIPv4's counterpart.
func EgressIPv6() netip.Prefix { return netip.MustParsePrefix("fc7a:6f73::/32") }

// Closed are the addresses that egress never reaches, the same on every node:
// private, local, shared, and those at which clouds tell secrets to their machines.
// Of IPv6 only what is public is open at all, without the ranges in which an IPv4
// address may hide.
func Closed() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
		"168.63.129.16/32", // Azure's own services
		"2001::/32",        // Teredo
		"2002::/16",        // 6to4
	} {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// public is what of IPv6 is assigned for the internet.
func public() netip.Prefix { return netip.MustParsePrefix("2000::/3") }

// ICMPv6 types, RFC 4861 §4 and RFC 2710 §3.
const (
	mldQuery              = 130
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
)

// BlockClosed drops what goes where egress may not.
func BlockClosed() []Rule {
	rules := []Rule{When(DestinationNot(public()), Drop())}
	for _, p := range Closed() {
		rules = append(rules, When(Destination(p), Drop()))
	}
	return rules
}

// hostTable is the whole table of a node's own namespace. ICMPv6 errors that
// belong to a connection come as "related"; echo requests are not answered.
func hostTable() Table {
	linkLocal := netip.MustParsePrefix("fe80::/10")
	icmp6 := func(more ...Match) Rule {
		return When(append([]Match{Family(unix.NFPROTO_IPV6), Protocol(unix.IPPROTO_ICMPV6)}, append(more, Accept())...)...)
	}
	dhcp := append(binaryutil.BigEndian.PutUint16(67), binaryutil.BigEndian.PutUint16(68)...)
	egress := append(BlockClosed(),
		When(SourceNot(EgressIPv4()), Drop()),
		When(SourceNot(EgressIPv6()), Drop()),
		When(OutLike(EgressPrefix), Drop()),
		When(Out("lo"), Drop()),
		When(Accept()),
	)
	return Table{Family: nftables.TableFamilyINet, Name: TableName, Chains: []Chain{
		{Name: "input", Hook: nftables.ChainHookInput, Type: nftables.ChainTypeFilter, Priority: *nftables.ChainPriorityFilter, Policy: nftables.ChainPolicyDrop, Rules: []Rule{
			// Tenants have nothing to say to the node, not even as an answer.
			When(InLike(EgressPrefix), Drop()),
			When(In("lo"), Accept()),
			When(State(Established), Accept()),
			// A DHCP server answers to a broadcast, which no connection explains.
			When(Family(unix.NFPROTO_IPV4), Protocol(unix.IPPROTO_UDP), Transport(0, dhcp), Accept()),
			// Neighbour discovery never crosses a router: hop limit 255.
			icmp6(ICMPType(neighborSolicitation), HopLimit(255)),
			icmp6(ICMPType(neighborAdvertisement), HopLimit(255)),
			icmp6(ICMPType(routerAdvertisement), HopLimit(255), Source(linkLocal)[2:]),
			// Switches that snoop multicast keep a member only if it answers their
			// query, and neighbour discovery is multicast.
			icmp6(ICMPType(mldQuery), HopLimit(1), Source(linkLocal)[2:]),
		}},
		{Name: "forward", Hook: nftables.ChainHookForward, Type: nftables.ChainTypeFilter, Priority: *nftables.ChainPriorityFilter, Policy: nftables.ChainPolicyDrop, Rules: []Rule{
			When(State(Invalid), Drop()),
			When(InLike(EgressPrefix), Jump("egress")),
			When(OutLike(EgressPrefix), State(Established), Accept()),
		}},
		{Name: "egress", Rules: egress},
		{Name: "output", Hook: nftables.ChainHookOutput, Type: nftables.ChainTypeFilter, Priority: *nftables.ChainPriorityFilter, Policy: nftables.ChainPolicyAccept},
		{Name: "masquerade", Hook: nftables.ChainHookPostrouting, Type: nftables.ChainTypeNAT, Priority: *nftables.ChainPriorityNATSource, Policy: nftables.ChainPolicyAccept, Rules: []Rule{
			When(InLike(EgressPrefix), Masquerade()),
		}},
	}}
}
