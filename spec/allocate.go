package spec

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"sort"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

// allocation is the networks of a plan with all their addresses.
type allocation struct {
	networks    []plan.Network
	routers     []plan.Workload
	attachments [][]plan.Attachment // of each workload
	devices     []plan.Attachment   // of each device
}

// allocate gives each network its range, each of its nodes a /24 of that, and
// each workload an address. What stands keeps what it has; what is new gets the
// lowest that is free, and what the standing version has is given again last:
// for a while some nodes still believe the old version. What can't be had is a
// mistake.
func allocate(d *Deployment, facts Facts, placed *placement, old standing, devices []device) allocation {
	out := allocation{networks: []plan.Network{}, routers: []plan.Workload{}, attachments: make([][]plan.Attachment, len(d.Workloads)),
		devices: make([]plan.Attachment, len(devices))}
	for i, w := range d.Workloads {
		out.attachments[i] = make([]plan.Attachment, len(w.Networks))
	}
	names := map[string]int{} // of the workloads
	for i, w := range d.Workloads {
		names[w.Name] = i
	}
	for _, dev := range devices {
		names[dev.Name] = -1
	}
	whole := subnets(d, old)
	for i, n := range d.Networks {
		if !whole[i].IsValid() {
			continue
		}
		net := plan.Network{Name: n.Name, IPv4: whole[i].String(), IPv6: plan.ULA(facts.Group, d.Name, n.Name).String()}
		if at := placed.exits[i]; at >= 0 {
			net.Exit = facts.Nodes[at].Slot
		}
		slots := make([]canon.Hash, 0, len(placed.routers[i]))
		for at := range placed.routers[i] {
			slots = append(slots, facts.Nodes[at].Slot)
		}
		slices.SortFunc(slots, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
		if room := 1 << (plan.NodeBits - whole[i].Bits()); len(slots) > room {
			wider := plan.NodeBits
			for 1<<(plan.NodeBits-wider) < len(slots) {
				wider--
			}
			d.source.add(d.source.placeOf(fmt.Sprintf("/networks/%d/subnet", i)),
				fmt.Sprintf("subnet %s is too small: it has room for %d %s, and the network's workloads and exit are on %d", whole[i], room, plural(room, "node"), len(slots)),
				fmt.Sprintf("make it a /%d or wider, or put more of its workloads on the same node", wider))
			continue
		}
		nodes := nodePrefixes(whole[i], slots, old.networks[n.Name])
		for _, slot := range slots {
			net.Nodes = append(net.Nodes, plan.NetworkNode{Slot: slot, IPv4: nodes[slot].String(), IPv6: ulaNode(net.IPv6, nodes[slot]).String()})
			out.router(d, i, slot, names)
		}
		out.addresses(d, facts, placed, old, devices, net, nodes)
		out.networks = append(out.networks, net)
	}
	sort.Slice(out.networks, func(i, j int) bool { return out.networks[i].Name < out.networks[j].Name })
	return out
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// subnets decides the ranges of all networks: as written; else as they stand;
// else the first /16 of the private ranges that is free.
func subnets(d *Deployment, old standing) []netip.Prefix {
	s := d.source
	out := make([]netip.Prefix, len(d.Networks))
	overlapping := func(p netip.Prefix) int {
		return slices.IndexFunc(out, func(o netip.Prefix) bool { return o.IsValid() && o.Overlaps(p) })
	}
	for i, n := range d.Networks {
		out[i] = n.Subnet
	}
	order := byName(d.Networks, func(n Network) string { return n.Name })
	for _, i := range order {
		n := d.Networks[i]
		p, err := netip.ParsePrefix(old.networks[n.Name].IPv4)
		if out[i].IsValid() || err != nil {
			continue
		}
		// Standing ranges don't overlap each other, so the other one is written:
		// better asked about than every address changed.
		if j := overlapping(p); j >= 0 {
			s.add(s.placeOf(fmt.Sprintf("/networks/%d/subnet", j)), fmt.Sprintf("%s overlaps %s, which the network %q has now", out[j], p, n.Name),
				fmt.Sprintf("choose another range; or, to give %s other addresses, write its subnet too", n.Name))
		}
		out[i] = p
	}
	for _, i := range order {
		n := d.Networks[i]
		for _, private := range plan.PrivateIPv4() {
			for a := private.Addr(); !out[i].IsValid() && private.Contains(a); a = nextPrefix(a, 16) {
				if p := netip.PrefixFrom(a, 16); overlapping(p) < 0 {
					out[i] = p
				}
			}
		}
		if !out[i].IsValid() {
			s.add(s.placeOf(fmt.Sprintf("/networks/%d", i)), fmt.Sprintf("no private range is left for the network %q", n.Name),
				"make the subnets of the others narrower")
		}
	}
	return out
}

// nextPrefix is the address one prefix of so many bits further. The private
// ranges end long before the last one.
func nextPrefix(a netip.Addr, bits int) netip.Addr {
	b := a.As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += 1 << (32 - bits)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// nodePrefixes gives each slot its /24.
func nodePrefixes(whole netip.Prefix, slots []canon.Hash, old plan.Network) map[canon.Hash]netip.Prefix {
	out := make(map[canon.Hash]netip.Prefix, len(slots))
	taken, before := map[netip.Prefix]bool{}, map[netip.Prefix]bool{}
	for _, n := range old.Nodes {
		p, err := netip.ParsePrefix(n.IPv4)
		if err != nil || !plan.Contains(whole, p) {
			continue
		}
		before[p] = true
		if slices.Contains(slots, n.Slot) {
			out[n.Slot], taken[p] = p, true
		}
	}
	for _, reuse := range []bool{false, true} {
		p := netip.PrefixFrom(whole.Addr(), plan.NodeBits)
		for _, slot := range slots {
			if out[slot].IsValid() {
				continue
			}
			for plan.Contains(whole, p) && (taken[p] || before[p] && !reuse) {
				p = netip.PrefixFrom(nextPrefix(p.Addr(), plan.NodeBits), plan.NodeBits)
			}
			if plan.Contains(whole, p) {
				out[slot], taken[p] = p, true
			}
		}
	}
	return out
}

// ulaNode is the /64 beside a node's /24: the second and third number of the
// IPv4 prefix, which are unique in a network, after the network's /48.
func ulaNode(ula string, node netip.Prefix) netip.Prefix {
	a := netip.MustParsePrefix(ula).Addr().As16()
	v4 := node.Addr().As4()
	a[6], a[7] = v4[1], v4[2]
	return netip.PrefixFrom(netip.AddrFrom16(a), plan.NodeULABits)
}

// router adds the workload that is a network's router on a slot.
func (out *allocation) router(d *Deployment, network int, slot canon.Hash, names map[string]int) {
	n := d.Networks[network]
	name := plan.RouterName(n.Name, slot)
	if i, taken := names[name]; taken && i < 0 {
		d.source.add(d.source.placeOf(fmt.Sprintf("/networks/%d", network)), fmt.Sprintf("%q is the name of a person's device, and of the router of network %q on that node", name, n.Name), "revoke the device; it can join again under another name")
		return
	} else if taken {
		d.source.add(d.source.placeOf(fmt.Sprintf("/workloads/%d/name", d.Workloads[i].entry)), fmt.Sprintf("%q is the name of the router of network %q on that node", name, n.Name), "choose another name")
		return
	}
	if slices.ContainsFunc(out.routers, func(w plan.Workload) bool { return w.Name == name }) {
		d.source.add(d.source.placeOf(fmt.Sprintf("/networks/%d", network)), fmt.Sprintf("two nodes of the network %q have ids that begin with %s", n.Name, slot.String()[:8]),
			"place its workloads on other nodes")
		return
	}
	// It is valid: the schema has checked the name.
	config, err := plan.NetworkConfig{V: plan.Version, Network: n.Name}.Encode()
	if err != nil {
		d.source.add(d.source.placeOf(fmt.Sprintf("/networks/%d/name", network)), err.Error(), "choose another name")
		return
	}
	out.routers = append(out.routers, plan.Workload{Name: name, Kind: plan.KindNetwork, Slot: slot, Resources: plan.RouterResources(), Config: config})
}

// addresses gives each member of a network its address: workloads and devices.
func (out *allocation) addresses(d *Deployment, facts Facts, placed *placement, old standing, devices []device, net plan.Network, nodes map[canon.Hash]netip.Prefix) {
	taken, before := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	had := map[string]netip.Addr{}
	for name, list := range old.attached {
		for _, a := range list {
			if addr, err := netip.ParseAddr(a.IPv4); err == nil && a.Network == net.Name {
				had[name], before[addr] = addr, true
			}
		}
	}
	type member struct {
		name, pointer string
		slot          canon.Hash
		wants         Attachment
		gets          *plan.Attachment
	}
	var members []member
	for wi, w := range d.Workloads {
		for ai, a := range w.Networks {
			if a.Network == net.Name {
				members = append(members, member{w.Name, fmt.Sprintf("/workloads/%d/networks/%d", d.Workloads[wi].entry, ai), facts.Nodes[placed.at[wi]].Slot, a, &out.attachments[wi][ai]})
			}
		}
	}
	for i, dev := range devices {
		if a := dev.Network; a.Network == net.Name {
			wants := Attachment{Network: a.Network, Egress: plan.EgressNone, Bandwidth: a.Bandwidth}
			members = append(members, member{dev.Name, "/networks", dev.Slot, wants, &out.devices[i]})
		}
	}
	// By name, so that their order in the file plays no part.
	sort.Slice(members, func(i, j int) bool { return members[i].name < members[j].name })
	given := make([]netip.Addr, len(members))
	for i, m := range members {
		if addr, ok := had[m.name]; ok && nodes[m.slot].Contains(addr) {
			given[i], taken[addr] = addr, true
		}
	}
	for i, m := range members {
		addr, ok := given[i], given[i].IsValid()
		if !ok {
			addr, ok = freeAddr(nodes[m.slot], taken, before)
			taken[addr] = true
		}
		if !ok {
			d.source.add(d.source.placeOf(m.pointer), fmt.Sprintf("no address is left in %s for %s, which is the network %q on its node", nodes[m.slot], m.name, net.Name), "place it on another node")
			continue
		}
		*m.gets = attachment(m.wants, addr, ulaNode(net.IPv6, nodes[m.slot]))
	}
}

// freeAddr is the lowest free address of a node's /24: not the network's own,
// the router's, or the broadcast one. It is invalid when all are taken.
func freeAddr(node netip.Prefix, taken, before map[netip.Addr]bool) (netip.Addr, bool) {
	for _, reuse := range []bool{false, true} {
		b := node.Addr().As4()
		for b[3] = 2; b[3] < 255; b[3]++ {
			if a := netip.AddrFrom4(b); !taken[a] && (reuse || !before[a]) {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// attachment writes out what the spec says of a workload in a network.
func attachment(a Attachment, addr netip.Addr, node6 netip.Prefix) plan.Attachment {
	six := node6.Addr().As16()
	six[15] = addr.As4()[3]
	out := plan.Attachment{
		Network: a.Network, IPv4: addr.String(), IPv6: netip.AddrFrom16(six).String(),
		Aliases: slices.Sorted(slices.Values(a.Aliases)), Open: a.Open, Egress: a.Egress, Bandwidth: a.Bandwidth,
	}
	for _, r := range a.Allow {
		out.Allow = append(out.Allow, plan.Rule{Protocol: r.Protocol, First: r.First, Last: r.Last, Peers: r.From})
	}
	return out
}
