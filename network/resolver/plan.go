package resolver

import (
	"net/netip"

	"github.com/zero-os/zos/spec/plan"
)

// ZoneOf makes the zone of a network of a plan. A network that the plan does not
// have has a zone that answers nobody.
func ZoneOf(p *plan.Plan, network string) Zone {
	n, ok := networkOf(p, network)
	if !ok {
		return Zone{}
	}
	var prefixes []netip.Prefix
	for _, text := range []string{n.IPv4, n.IPv6} {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, prefix.Masked())
		}
	}
	var gateways []netip.Addr
	for _, node := range n.Nodes {
		gateways = append(gateways, Gateways(node)...)
	}
	var members []member
	for _, w := range p.Workloads {
		for _, a := range attachments(w) {
			if a.Network == network {
				members = append(members, member{name: w.Name, aliases: a.Aliases, addrs: addresses(a), egress: a.Egress, mute: w.Kind == plan.KindGateway})
			}
		}
	}
	return newZone(network, prefixes, gateways, members)
}

func networkOf(p *plan.Plan, name string) (plan.Network, bool) {
	if p == nil {
		return plan.Network{}, false
	}
	for _, n := range p.Networks {
		if n.Name == name {
			return n, true
		}
	}
	return plan.Network{}, false
}

// attachments are the places of a workload in networks.
func attachments(w plan.Workload) []plan.Attachment {
	list, err := plan.AttachmentsOf(w)
	if err != nil {
		return nil // a validated plan has none such
	}
	return list
}

func addresses(a plan.Attachment) []netip.Addr {
	var out []netip.Addr
	for _, text := range []string{a.IPv4, a.IPv6} {
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

// Gateways are the first addresses of a node's prefixes, its router's, IPv4
// first: where the resolver listens.
func Gateways(n plan.NetworkNode) []netip.Addr {
	var out []netip.Addr
	for _, text := range []string{n.IPv4, n.IPv6} {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			out = append(out, prefix.Masked().Addr().Next())
		}
	}
	return out
}
