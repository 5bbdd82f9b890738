package network

import (
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	fw "github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/network/agent"
	"github.com/zero-os/zos/spec/plan"
)

// Interfaces in a router.
const (
	bridgeName = "br0"
	egressName = "eg0"
	wgPrefix   = "wg" // of the agent's WireGuard devices; nothing else there begins so
	entryName  = "in0"
)

// Marks of packets that leave the network, and the table for those that do here.
const (
	markHere    = 1
	markExit    = 2
	egressTable = agent.ExitTable + 1
)

// maxConnections is how many connections one network may have to the outside at a
// time: the host keeps a record of each, for all networks in one table.
const maxConnections = 16384

// dnsPort is where the resolver listens.
const dnsPort = 53

// Tables are the filters of a router.
func Tables(v View) []fw.Table { return []fw.Table{bridgeTable(v), inetTable(v)} }

const (
	typeIPv4, typeIPv6, typeARP = 0x0800, 0x86dd, 0x0806
	echo4, echo6                = 8, 128
	routerSolicitation          = 133
	redirect                    = 137
	neighborSolicitation        = 135
	neighborAdvertisement       = 136
)

// bridgeTable binds every port to its own addresses, and to the router. A frame
// for which nothing here speaks ends here: other types, VLAN tags, broadcast,
// multicast, frames for other ports, router advertisements. So does what comes
// from an interface that is no port of the plan.
func bridgeTable(v View) fw.Table {
	ports4 := fw.Set{Name: "ports4", Key: fw.PortType(false)}
	ports6 := fw.Set{Name: "ports6", Key: fw.PortType(true)}
	locals6 := fw.Set{Name: "locals6", Key: fw.PortType(true)}
	for _, p := range v.Ports {
		mac := workloadMAC(p.IPv4)
		ports4.Elements = append(ports4.Elements, fw.Element{Key: fw.PortKey(p.Name(), mac, p.IPv4)})
		ports6.Elements = append(ports6.Elements, fw.Element{Key: fw.PortKey(p.Name(), mac, p.IPv6)})
		locals6.Elements = append(locals6.Elements, fw.Element{Key: fw.PortKey(p.Name(), mac, linkLocal(mac))})
	}
	router := routerMAC(v.Router4)
	toRouter := fw.Frame(0, router)
	frame := func(t uint16) fw.Match { return fw.Frame(12, []byte{byte(t >> 8), byte(t)}) }
	six := func(more ...fw.Match) fw.Rule { return fw.When(append([]fw.Match{frame(typeIPv6)}, more...)...) }
	// Neighbour discovery: ICMPv6 right behind the IPv6 header, from no further
	// than this link.
	nd := func(kind byte, more ...fw.Match) fw.Rule {
		return six(append([]fw.Match{fw.Network(6, []byte{unix.IPPROTO_ICMPV6}), fw.HopLimit(255), fw.Protocol(unix.IPPROTO_ICMPV6), fw.ICMPType(kind)}, more...)...)
	}
	r6 := v.Router6.As16()
	solicited := []byte{0x33, 0x33, 0xff, r6[13], r6[14], r6[15]}
	asks := fw.Transport(8, r6[:])
	arp := func(op byte) fw.Rule {
		r4 := v.Router4.As4()
		// Ethernet and IPv4, an operation, and a sender that is this port's in both
		// of the places that tell it; about the router.
		return fw.When(frame(typeARP), fw.Network(0, []byte{0, 1, 8, 0, 6, 4, 0, op}),
			fw.PortIn("ports4", fw.FrameSource, fw.ARPSenderIP, false), fw.PortIn("ports4", fw.ARPSenderHW, fw.ARPSenderIP, false),
			fw.Network(24, r4[:]), fw.Accept())
	}
	bridgeFilter := nftables.ChainPriority(-200) // "filter" of this family
	base := func(name string, hook *nftables.ChainHook, policy nftables.ChainPolicy, rules ...fw.Rule) fw.Chain {
		return fw.Chain{Name: name, Hook: hook, Type: nftables.ChainTypeFilter, Priority: bridgeFilter, Policy: policy, Rules: rules}
	}
	var routerOnly []fw.Rule
	for kind := byte(routerSolicitation); kind <= redirect; kind++ {
		routerOnly = append(routerOnly, six(fw.Protocol(unix.IPPROTO_ICMPV6), fw.ICMPType(kind), fw.Drop()))
	}
	from := func(field fw.Field, then string) []fw.Rule {
		return []fw.Rule{
			fw.When(fw.PortIn("ports6", fw.FrameSource, field, true), acceptOr(then)),
			fw.When(fw.PortIn("locals6", fw.FrameSource, field, true), acceptOr(then)),
		}
	}
	rules := []fw.Rule{
		arp(1), arp(2),
		fw.When(toRouter, frame(typeIPv4), fw.PortIn("ports4", fw.FrameSource, fw.IPv4Source, false), fw.Accept()),
		nd(neighborSolicitation, toRouter, asks, fw.Jump("solicitation")),
		nd(neighborSolicitation, fw.Frame(0, solicited), asks, fw.Jump("solicitation")),
		nd(neighborAdvertisement, toRouter, fw.Jump("advertisement")),
	}
	rules = append(rules, routerOnly...)
	rules = append(rules, six(toRouter, fw.PortIn("ports6", fw.FrameSource, fw.IPv6Source, true), fw.Accept()))
	return fw.Table{
		Family: nftables.TableFamilyBridge, Name: fw.TableName,
		Sets: []fw.Set{ports4, ports6, locals6},
		Chains: []fw.Chain{
			base("prerouting", nftables.ChainHookPrerouting, nftables.ChainPolicyDrop, rules...),
			{Name: "solicitation", Rules: from(fw.IPv6Source, "")},
			{Name: "advertisement", Rules: from(fw.IPv6Source, "target")},
			{Name: "target", Rules: from(fw.NDTarget, "")},
			// Frames for the bridge itself as a bridge never pass prerouting.
			base("input", nftables.ChainHookInput, nftables.ChainPolicyAccept, fw.When(fw.Frame(0, []byte{0x01, 0x80, 0xc2, 0, 0}), fw.Drop())),
			base("forward", nftables.ChainHookForward, nftables.ChainPolicyDrop),
		},
	}
}

// acceptOr accepts, or goes on in a chain.
func acceptOr(chain string) fw.Match {
	if chain == "" {
		return fw.Accept()
	}
	return fw.Jump(chain)
}

// family is what differs between IPv4 and IPv6 in a router's rules.
type family struct {
	six            bool
	n              string // suffix of sets
	network, node  netip.Prefix
	router         netip.Prefix
	proto          byte
	icmp, echo     byte
	headers        int // of IP and TCP, bytes
	link, linkHost netip.Addr
}

func families(v View) []family {
	link4, host4 := linkAddrs(v.Site.Link, false)
	link6, host6 := linkAddrs(v.Site.Link, true)
	return []family{
		{false, "4", v.IPv4, v.Node4, single(v.Router4), unix.NFPROTO_IPV4, unix.IPPROTO_ICMP, echo4, 40, link4, host4},
		{true, "6", v.IPv6, v.Node6, single(v.Router6), unix.NFPROTO_IPV6, unix.IPPROTO_ICMPV6, echo6, 60, link6, host6},
	}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// inetTable routes and filters what is IP. Fragments are put together before it
// (connection tracking), so rules about ports see whole packets.
func inetTable(v View) fw.Table {
	t := fw.Table{Family: nftables.TableFamilyINet, Name: fw.TableName}
	var from, peer, edge, entry, gates, input, forward, mss, snat []fw.Rule
	closed := fw.BlockClosed()
	for _, p := range v.Site.Closed {
		closed = append(closed, fw.When(fw.Destination(p), fw.Drop()))
	}
	forward = append(forward,
		fw.When(fw.State(fw.Invalid), fw.Drop()),
		fw.When(fw.State(fw.Established), fw.Accept()),
	)
	input = append(input, fw.When(fw.In("lo"), fw.Accept()), fw.When(fw.InLike(wgPrefix), fw.State(fw.Established), fw.Accept()))
	for _, kind := range []byte{neighborSolicitation, neighborAdvertisement} {
		nd := fw.When(fw.Family(unix.NFPROTO_IPV6), fw.Protocol(unix.IPPROTO_ICMPV6), fw.ICMPType(kind), fw.HopLimit(255), fw.Accept())
		from = append(from, nd)
		input = append(input, fw.When(fw.In(bridgeName), nd))
	}
	for _, f := range families(v) {
		t.Sets = append(t.Sets, sets(v, f)...)
		// A gateway reaches what its routes name, and neither the router nor anyone
		// else: whatever follows is not asked.
		for _, chain := range []*[]fw.Rule{&input, &forward} {
			*chain = append(*chain, fw.When(fw.SourceIn("gates"+f.n, f.six), fw.Jump("gates")))
		}
		gates = append(gates, fw.When(fw.FlowIn("flows"+f.n, f.six), fw.Accept()))
		// Nobody begins a connection to a gateway or to somebody's device.
		forward = append(forward, fw.When(fw.DestinationIn("guarded"+f.n, f.six), fw.Drop()))
		outside := fw.DestinationNot(f.network)
		from = append(from,
			fw.When(fw.SourceIn("here"+f.n, f.six), outside, fw.Mark(markHere), fw.Accept()),
			fw.When(fw.SourceIn("exit"+f.n, f.six), outside, fw.Mark(markExit), fw.Accept()),
			fw.When(fw.SourceIn("local"+f.n, f.six), fw.Accept()),
		)
		// Nobody elsewhere has an address of this node.
		peer = append(peer, fw.When(fw.Source(f.node), fw.Drop()))
		for _, p := range v.Edges {
			if p.Addr().Is6() == f.six {
				peer = append(peer, fw.When(fw.Source(p), fw.Jump("from-edge")))
			}
		}
		// From where nothing but gateways is, only they speak: not the router, and no
		// errors either, since whoever holds that node could tell them about others'
		// connections.
		edge = append(edge,
			fw.When(fw.Family(f.proto), fw.Protocol(f.icmp), fw.Drop()),
			fw.When(fw.SourceIn("gates"+f.n, f.six), fw.Destination(f.node), fw.Accept()),
		)
		peer = append(peer,
			fw.When(fw.SourceIn("guests"+f.n, f.six), outside, fw.Mark(markHere), fw.Accept()),
			fw.When(fw.Source(f.network), fw.Destination(f.node), fw.Accept()),
			// What comes back from the outside by way of the exit.
			fw.When(fw.SourceNot(f.network), fw.DestinationIn("exit"+f.n, f.six), fw.State(fw.Established), fw.Accept()),
		)
		toRouter := fw.Destination(f.router)
		if v.Entry {
			// WireGuard has bound the address to the device's key.
			entry = append(entry, fw.When(fw.SourceIn("devices"+f.n, f.six), fw.Destination(f.network), fw.Accept()))
			for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
				input = append(input, fw.When(fw.In(entryName), fw.SourceIn("devices"+f.n, f.six), toRouter, fw.Protocol(proto), fw.Port(dnsPort, dnsPort), fw.Accept()))
			}
			input = append(input, fw.When(fw.In(entryName), fw.SourceIn("devices"+f.n, f.six), toRouter, fw.Protocol(f.icmp), fw.ICMPType(f.echo), fw.Accept()))
			// Encrypted once more, a segment is to pass the network whole.
			for _, way := range []fw.Match{fw.In(entryName), fw.Out(entryName)} {
				mss = append(mss, fw.When(way, fw.Family(f.proto), fw.Segment(uint16(v.MTU-entryOverhead-f.headers))))
			}
		}
		for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			input = append(input, fw.When(fw.In(bridgeName), toRouter, fw.Protocol(proto), fw.Port(dnsPort, dnsPort), fw.Accept()))
			if v.IsExit {
				// The resolvers of the other nodes ask the exit's for the outside.
				input = append(input, fw.When(fw.InLike(wgPrefix), fw.SourceIn("routers"+f.n, f.six), toRouter, fw.Protocol(proto), fw.Port(dnsPort, dnsPort), fw.Accept()))
			}
		}
		// Answers to the health checks that the node makes of machines.
		input = append(input, fw.When(fw.In(bridgeName), toRouter, fw.Protocol(unix.IPPROTO_TCP), fw.State(fw.Established), fw.Accept()))
		input = append(input, fw.When(fw.In(bridgeName), toRouter, fw.Protocol(f.icmp), fw.ICMPType(f.echo), fw.Accept()))
		forward = append(forward,
			// Errors belong to a connection and have passed. Anything else of ICMP is
			// an echo, or somebody who plays router.
			fw.When(fw.Family(f.proto), fw.Protocol(f.icmp), fw.ICMPTypeNot(f.echo), fw.Drop()),
			fw.When(fw.Out(bridgeName), fw.In(bridgeName), fw.SourceIn("local"+f.n, f.six), fw.JumpByDestination("to"+f.n, f.six)),
			fw.When(fw.Out(bridgeName), fw.InLike(wgPrefix), fw.SourceIn("remote"+f.n, f.six), fw.JumpByDestination("to"+f.n, f.six)),
			fw.When(fw.In(bridgeName), fw.OutLike(wgPrefix), fw.DestinationIn("remote"+f.n, f.six), fw.Accept()),
		)
		if v.Entry {
			forward = append(forward,
				fw.When(fw.Out(bridgeName), fw.In(entryName), fw.SourceIn("devices"+f.n, f.six), fw.JumpByDestination("to"+f.n, f.six)),
				fw.When(fw.In(entryName), fw.OutLike(wgPrefix), fw.SourceIn("devices"+f.n, f.six), fw.DestinationIn("remote"+f.n, f.six), fw.Accept()),
			)
		}
		closed = append(closed, fw.When(fw.Destination(f.network), fw.Drop()))
		mss = append(mss, fw.When(fw.Family(f.proto), fw.Segment(uint16(v.MTU-f.headers))))
		if v.Site.Link != 0 {
			snat = append(snat, fw.When(fw.Out(egressName), fw.Family(f.proto), fw.SourceNAT(f.link)))
		}
	}
	gates, edge = append(gates, fw.When(fw.Drop())), append(edge, fw.When(fw.Drop()))
	forward = append(forward,
		fw.When(fw.In(bridgeName), fw.OutLike(wgPrefix), fw.Marked(markExit), fw.Accept()),
		fw.When(fw.Out(egressName), fw.Marked(markHere), fw.Jump("egress")),
	)
	closed = append(closed, fw.When(fw.MoreThan(maxConnections), fw.Drop()), fw.When(fw.Accept()))
	drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, policy nftables.ChainPolicy, rules []fw.Rule) fw.Chain {
		return fw.Chain{Name: name, Hook: hook, Type: kind, Priority: *priority, Policy: policy, Rules: rules}
	}
	t.Chains = []fw.Chain{
		// After connection tracking, before routing: where it came from and what its
		// source is must fit.
		base("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, drop, []fw.Rule{
			fw.When(fw.In("lo"), fw.Accept()),
			fw.When(fw.In(bridgeName), fw.Jump("from-workload")),
			fw.When(fw.InLike(wgPrefix), fw.Jump("from-node")),
			fw.When(fw.In(egressName), fw.State(fw.Established), fw.Accept()),
			fw.When(fw.In(entryName), fw.Jump("from-device")),
		}),
		{Name: "from-workload", Rules: from},
		{Name: "from-node", Rules: peer},
		{Name: "from-edge", Rules: edge},
		{Name: "from-device", Rules: entry},
		{Name: "gates", Rules: gates},
		base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, drop, input),
		base("mss", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityMangle, accept, mss),
		base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, drop, forward),
		{Name: "egress", Rules: closed},
		base("source", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, accept, snat),
	}
	for _, p := range v.Ports {
		if rules := portRules(p); len(rules) > 0 {
			t.Chains = append(t.Chains, fw.Chain{Name: portChain(p), Rules: rules})
		}
	}
	return t
}

// entryOverhead is what WireGuard adds to a packet at most, in bytes: 40 of IPv6, 8 of
// UDP, 32 of its own.
const entryOverhead = 80

// protocol is the target's as IP numbers it.
func (t Target) protocol() byte {
	if t.Protocol == plan.ProtocolUDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// portChain is where the rules of a workload stand.
func portChain(p Port) string { return "to-" + p.Workload }

// portRules are what may begin a connection to a workload.
func portRules(p Port) []fw.Rule {
	if p.Open {
		return []fw.Rule{fw.When(fw.Accept())}
	}
	var rules []fw.Rule
	for _, a := range p.Allow {
		var what []fw.Match
		switch a.Protocol {
		case plan.ProtocolTCP:
			what = []fw.Match{fw.Protocol(unix.IPPROTO_TCP), fw.Port(a.First, a.Last)}
		case plan.ProtocolUDP:
			what = []fw.Match{fw.Protocol(unix.IPPROTO_UDP), fw.Port(a.First, a.Last)}
		case plan.ProtocolICMP: // of which only echo comes here
			what = nil
		default:
			continue
		}
		var sources []fw.Match
		if a.All {
			sources = []fw.Match{nil}
		}
		for _, peer := range a.Peers {
			sources = append(sources, fw.Source(single(peer)))
		}
		for _, source := range sources {
			if a.Protocol != plan.ProtocolICMP {
				rules = append(rules, fw.When(append(append([]fw.Match{source}, what...), fw.Accept())...))
				continue
			}
			for _, icmp := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
				rules = append(rules, fw.When(source, fw.Protocol(icmp), fw.Accept()))
			}
		}
	}
	return rules
}

// sets are the addresses of one family by what they may.
func sets(v View, f family) []fw.Set {
	pick := func(v4, v6 netip.Addr) []byte {
		if f.six {
			return v6.AsSlice()
		}
		return v4.AsSlice()
	}
	key := nftables.TypeIPAddr
	if f.six {
		key = nftables.TypeIP6Addr
	}
	set := func(name string) fw.Set { return fw.Set{Name: name + f.n, Key: key} }
	local, here, exit, to := set("local"), set("here"), set("exit"), set("to")
	to.Verdicts = true
	for _, p := range v.Ports {
		e := fw.Element{Key: pick(p.IPv4, p.IPv6)}
		local.Elements = append(local.Elements, e)
		switch {
		case v.leavesHere(p):
			here.Elements = append(here.Elements, e)
		case p.Egress == plan.EgressExit:
			exit.Elements = append(exit.Elements, e)
		}
		if len(portRules(p)) > 0 {
			to.Elements = append(to.Elements, fw.Element{Key: e.Key, Chain: portChain(p)})
		}
	}
	remote, guests, routers := set("remote"), set("guests"), set("routers")
	for _, r := range v.Remotes {
		e := fw.Element{Key: pick(r.IPv4, r.IPv6)}
		remote.Elements = append(remote.Elements, e)
		if v.IsExit && r.Egress == plan.EgressExit {
			guests.Elements = append(guests.Elements, e)
		}
	}
	for _, r := range v.Routers {
		if r.Is6() == f.six {
			routers.Elements = append(routers.Elements, fw.Element{Key: r.AsSlice()})
		}
	}
	gates, flows, guarded, devices := set("gates"), fw.Set{Name: "flows" + f.n, Key: fw.FlowType(f.six)}, set("guarded"), set("devices")
	for _, g := range v.Gates {
		e := fw.Element{Key: pick(g.IPv4, g.IPv6)}
		gates.Elements, guarded.Elements = append(gates.Elements, e), append(guarded.Elements, e)
		for _, t := range g.Targets {
			from, to := g.IPv4, t.IPv4
			if f.six {
				from, to = g.IPv6, t.IPv6
			}
			flows.Elements = append(flows.Elements, fw.Element{Key: fw.FlowKey(from, to, t.protocol(), t.Port)})
		}
	}
	for _, d := range v.Devices {
		e := fw.Element{Key: pick(d.IPv4, d.IPv6)}
		devices.Elements, guarded.Elements = append(devices.Elements, e), append(guarded.Elements, e)
	}
	for _, r := range v.Remotes {
		if r.Device {
			guarded.Elements = append(guarded.Elements, fw.Element{Key: pick(r.IPv4, r.IPv6)})
		}
	}
	return []fw.Set{local, here, exit, to, remote, guests, routers, gates, flows, guarded, devices}
}
