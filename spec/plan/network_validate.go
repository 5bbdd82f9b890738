package plan

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/zero-os/zos/canon"
)

// Sizes of the ranges that a plan deals in, in bits of their prefixes.
const (
	MinNetworkBits = 8  // the widest IPv4 range of a network: 65536 nodes
	MaxNetworkBits = 24 // the narrowest: one node
	NodeBits       = 24 // IPv4 of one node: 253 workloads
	ULABits        = 48 // IPv6 of a network
	NodeULABits    = 64 // IPv6 of one node
)

// PrivateIPv4 are the ranges that a network may lie in: those of RFC 1918, and
// the shared space of RFC 6598. An address outside them belongs to someone.
func PrivateIPv4() []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), 8),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16}), 12),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16),
	}
}

// RouterAddr is the address of the router in a node's prefix: the first one.
func RouterAddr(node netip.Prefix) netip.Addr { return node.Addr().Next() }

// Contains tells whether all of inner lies in outer.
func Contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// parsePrefix reads a prefix in its one canonical text.
func parsePrefix(text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	return p, err == nil && p == p.Masked() && p.String() == text && !p.Addr().Is4In6()
}

// parseAddr reads an address in its one canonical text.
func parseAddr(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	return a, err == nil && a.String() == text && a.Zone() == "" && !a.Is4In6()
}

// ranges are a network's, or a node's, two prefixes.
type ranges struct{ ipv4, ipv6 netip.Prefix }

func parseRanges(ipv4, ipv6 string) (r ranges, err error) {
	var ok bool
	if r.ipv4, ok = parsePrefix(ipv4); !ok || !r.ipv4.Addr().Is4() {
		return r, invalid("%.80q is no IPv4 range in canonical form", ipv4)
	}
	if r.ipv6, ok = parsePrefix(ipv6); !ok || !r.ipv6.Addr().Is6() {
		return r, invalid("%.80q is no IPv6 range in canonical form", ipv6)
	}
	return r, nil
}

// netCheck is what checking a plan's networks looks up and gathers.
type netCheck struct {
	networks map[string]*netView
	names    map[string]bool // of all workloads
	runs     map[string]bool // those that a gateway can publish
	gateways []gatewayOf
	public   map[public]string   // gateway by what it publishes
	hosts    map[string]string   // a gateway that publishes hosts, by address
	keys     map[[32]byte]string // device by key
}

// netView is one network while it is checked.
type netView struct {
	hasExit  bool
	nodes    map[canon.Hash]ranges
	routers  int
	taken    map[netip.Addr]string // workload by address
	attached map[string]Attachment // by workload
}

// newNetCheck checks the networks themselves: limits, canonical text, ranges
// inside each other and apart from each other.
func (p Plan) newNetCheck() (*netCheck, error) {
	if len(p.Networks) > MaxNetworks {
		return nil, invalid("plan %s has %d networks, at most %d are allowed", p.Name, len(p.Networks), MaxNetworks)
	}
	c := &netCheck{networks: make(map[string]*netView, len(p.Networks)), names: make(map[string]bool, len(p.Workloads)),
		runs: map[string]bool{}, keys: map[[32]byte]string{}, public: map[public]string{}, hosts: map[string]string{}}
	all := make([]ranges, 0, len(p.Networks))
	for i, n := range p.Networks {
		if !ValidNetworkName(n.Name) {
			return nil, invalid("network name %.80q: want [a-z0-9-], 1 to %d characters", n.Name, MaxNetworkName)
		}
		if i > 0 && p.Networks[i-1].Name >= n.Name {
			return nil, invalid("plan %s: networks are not sorted by name, or %.80q occurs twice", p.Name, n.Name)
		}
		r, err := n.ranges()
		if err != nil {
			return nil, err
		}
		for j, other := range all {
			if r.ipv4.Overlaps(other.ipv4) || r.ipv6.Overlaps(other.ipv6) {
				return nil, invalid("networks %s and %s overlap", p.Networks[j].Name, n.Name)
			}
		}
		all = append(all, r)
		if c.networks[n.Name], err = n.view(r); err != nil {
			return nil, err
		}
	}
	for _, w := range p.Workloads {
		c.names[w.Name] = true
		c.runs[w.Name] = Runs(w.Kind)
	}
	return c, nil
}

// ranges reads and checks the whole network's two ranges.
func (n Network) ranges() (ranges, error) {
	r, err := parseRanges(n.IPv4, n.IPv6)
	switch {
	case err != nil:
		return r, invalid("network %s: %w", n.Name, err)
	case r.ipv4.Bits() < MinNetworkBits || r.ipv4.Bits() > MaxNetworkBits:
		return r, invalid("network %s: %s is no /%d to /%d", n.Name, r.ipv4, MinNetworkBits, MaxNetworkBits)
	case !slices.ContainsFunc(PrivateIPv4(), func(p netip.Prefix) bool { return Contains(p, r.ipv4) }):
		return r, invalid("network %s: %s is no private range", n.Name, r.ipv4)
	case r.ipv6.Bits() != ULABits || r.ipv6.Addr().As16()[0] != 0xfd:
		return r, invalid("network %s: %s is no /%d of fd00::/8", n.Name, r.ipv6, ULABits)
	}
	return r, nil
}

// view checks a network's nodes.
func (n Network) view(whole ranges) (*netView, error) {
	if len(n.Nodes) == 0 || len(n.Nodes) > MaxNodes {
		return nil, invalid("network %s has %d nodes, want 1 to %d", n.Name, len(n.Nodes), MaxNodes)
	}
	v := &netView{nodes: make(map[canon.Hash]ranges, len(n.Nodes)), taken: map[netip.Addr]string{}, attached: map[string]Attachment{}}
	seen := make(map[netip.Prefix]bool, 2*len(n.Nodes))
	for i, node := range n.Nodes {
		if node.Slot.IsZero() {
			return nil, invalid("network %s has a node without a slot", n.Name)
		}
		if i > 0 && bytes.Compare(n.Nodes[i-1].Slot[:], node.Slot[:]) >= 0 {
			return nil, invalid("network %s: nodes are not sorted by slot, or %s occurs twice", n.Name, node.Slot.Short())
		}
		r, err := parseRanges(node.IPv4, node.IPv6)
		switch {
		case err != nil:
			return nil, invalid("network %s: node %s: %w", n.Name, node.Slot.Short(), err)
		case r.ipv4.Bits() != NodeBits || !Contains(whole.ipv4, r.ipv4):
			return nil, invalid("network %s: node %s: %s is no /%d of %s", n.Name, node.Slot.Short(), r.ipv4, NodeBits, whole.ipv4)
		case r.ipv6.Bits() != NodeULABits || !Contains(whole.ipv6, r.ipv6):
			return nil, invalid("network %s: node %s: %s is no /%d of %s", n.Name, node.Slot.Short(), r.ipv6, NodeULABits, whole.ipv6)
		case seen[r.ipv4] || seen[r.ipv6]:
			return nil, invalid("network %s: node %s has another node's range", n.Name, node.Slot.Short())
		}
		seen[r.ipv4], seen[r.ipv6] = true, true
		v.nodes[node.Slot] = r
	}
	if !n.Exit.IsZero() {
		if _, v.hasExit = v.nodes[n.Exit]; !v.hasExit {
			return nil, invalid("network %s: its exit %s is not one of its nodes", n.Name, n.Exit.Short())
		}
	}
	return v, nil
}

// router takes a workload of kind "network" into account.
func (c *netCheck) router(w Workload, config NetworkConfig) error {
	v, ok := c.networks[config.Network]
	if !ok {
		return invalid("workload %s: the plan has no network %s", w.Name, config.Network)
	}
	if _, ok := v.nodes[w.Slot]; !ok {
		return invalid("workload %s: slot %s is not part of network %s", w.Name, w.Slot.Short(), config.Network)
	}
	// Names are unique, so this is also the only router there.
	if want := RouterName(config.Network, w.Slot); w.Name != want {
		return invalid("workload %s: the router of network %s on slot %s is named %s", w.Name, config.Network, w.Slot.Short(), want)
	}
	v.routers++
	return nil
}

// attach checks a container's attachments against the networks that they name.
func (c *netCheck) attach(w Workload, attachments []Attachment) error {
	for _, a := range attachments {
		v, ok := c.networks[a.Network]
		if !ok {
			return invalid("workload %s: the plan has no network %s", w.Name, a.Network)
		}
		node, ok := v.nodes[w.Slot]
		if !ok {
			return invalid("workload %s: slot %s is not part of network %s", w.Name, w.Slot.Short(), a.Network)
		}
		if a.Egress == EgressExit && !v.hasExit {
			return invalid("workload %s: network %s has no exit", w.Name, a.Network)
		}
		for _, one := range []struct {
			text string
			in   netip.Prefix
		}{{a.IPv4, node.ipv4}, {a.IPv6, node.ipv6}} {
			addr, _ := netip.ParseAddr(one.text) // Attachment.Validate has read it
			if !one.in.Contains(addr) || addr == one.in.Addr() || addr == RouterAddr(one.in) || addr.Is4() && addr.As4()[3] == 255 {
				return invalid("workload %s: %s is no address for a workload in %s", w.Name, one.text, one.in)
			}
			if other, taken := v.taken[addr]; taken {
				return invalid("workload %s: %s is workload %s's", w.Name, addr, other)
			}
			v.taken[addr] = w.Name
		}
		for _, alias := range a.Aliases {
			if c.names[alias] {
				return invalid("workload %s: alias %s is the name of a workload", w.Name, alias)
			}
		}
		v.attached[w.Name] = a
	}
	return nil
}

// finish checks what only all workloads together tell.
func (c *netCheck) finish(p Plan) error {
	for _, n := range p.Networks { // and not the map, so that the error is always the same one
		v := c.networks[n.Name]
		if v.routers != len(v.nodes) {
			return invalid("network %s has %d nodes and %d routers", n.Name, len(v.nodes), v.routers)
		}
		for _, w := range p.Workloads {
			for _, r := range v.attached[w.Name].Allow {
				for _, peer := range r.Peers {
					if _, ok := v.attached[peer]; !ok {
						return invalid("workload %s lets %s in, which is not in network %s", w.Name, peer, n.Name)
					}
					if slices.ContainsFunc(c.gateways, func(g gatewayOf) bool { return g.name == peer }) {
						return invalid("workload %s lets the gateway %s in: what a gateway reaches is what it publishes", w.Name, peer)
					}
				}
			}
		}
	}
	return c.finishGateways()
}

// validateAttachments checks what can be known without the plan's networks.
func validateAttachments(list []Attachment) error {
	if len(list) > MaxAttachments {
		return invalid("container is in %d networks, at most %d are allowed", len(list), MaxAttachments)
	}
	out := 0
	for i, a := range list {
		if err := a.Validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(list[:i], func(b Attachment) bool { return a.Network == b.Network }) {
			return invalid("container is in network %s twice", a.Network)
		}
		if a.Egress != EgressNone {
			out++
		}
	}
	if out > 1 {
		return invalid("container has an egress in %d networks, one at most is allowed", out)
	}
	return nil
}

// Validate checks one attachment by itself; Plan.Validate checks it against the
// network that it names.
func (a Attachment) Validate() error {
	if !ValidNetworkName(a.Network) {
		return invalid("network name %.80q: want [a-z0-9-], 1 to %d characters", a.Network, MaxNetworkName)
	}
	if addr, ok := parseAddr(a.IPv4); !ok || !addr.Is4() {
		return invalid("network %s: %.80q is no IPv4 address in canonical form", a.Network, a.IPv4)
	}
	if addr, ok := parseAddr(a.IPv6); !ok || !addr.Is6() {
		return invalid("network %s: %.80q is no IPv6 address in canonical form", a.Network, a.IPv6)
	}
	switch {
	case len(a.Aliases) > MaxAliases:
		return invalid("network %s: %d aliases, at most %d are allowed", a.Network, len(a.Aliases), MaxAliases)
	case len(a.Allow) > MaxRules:
		return invalid("network %s: %d rules, at most %d are allowed", a.Network, len(a.Allow), MaxRules)
	case a.Open && len(a.Allow) > 0:
		return invalid("network %s: an open workload has no rules", a.Network)
	case a.Egress != EgressNone && a.Egress != EgressNode && a.Egress != EgressExit:
		return invalid("network %s: egress is %.80q, want none, node or exit", a.Network, a.Egress)
	case a.Bandwidth != 0 && (a.Bandwidth < MinBandwidth || a.Bandwidth > MaxBandwidth):
		return invalid("network %s: bandwidth is %d bit/s, want 0 or %d to %d", a.Network, a.Bandwidth, MinBandwidth, uint64(MaxBandwidth))
	}
	if bad, ok := sortedNames(a.Aliases); !ok {
		return invalid("network %s: alias %.80q is no name, or out of order", a.Network, bad)
	}
	for _, r := range a.Allow {
		if err := r.Validate(); err != nil {
			return invalid("network %s: %w", a.Network, err)
		}
	}
	return nil
}

// Validate checks one rule; that its peers exist is checked by Plan.Validate.
func (r Rule) Validate() error {
	switch r.Protocol {
	case ProtocolTCP, ProtocolUDP:
		if r.First == 0 || r.First > r.Last {
			return invalid("rule: ports %d to %d of %s are no range", r.First, r.Last, r.Protocol)
		}
	case ProtocolICMP:
		if r.First != 0 || r.Last != 0 {
			return invalid("rule: icmp has no ports")
		}
	default:
		return invalid("rule: protocol %.80q is not known", r.Protocol)
	}
	if len(r.Peers) > MaxPeers {
		return invalid("rule: %d peers, at most %d are allowed", len(r.Peers), MaxPeers)
	}
	if bad, ok := sortedNames(r.Peers); !ok {
		return invalid("rule: peer %.80q is no name, or out of order", bad)
	}
	return nil
}

// sortedNames tells whether list holds names, sorted, each once; if not, which
// one is wrong.
func sortedNames(list []string) (bad string, ok bool) {
	for i, s := range list {
		if !ValidName(s) || i > 0 && list[i-1] >= s {
			return s, false
		}
	}
	return "", true
}
