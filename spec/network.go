package spec

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/zero-os/zos/spec/plan"
)

// networks reads what the schema accepted of the deployment's networks, and
// checks them against each other.
func (s *source) networks(root map[string]any) []Network {
	list, _ := root["networks"].([]any)
	out := make([]Network, 0, len(list))
	for i, item := range list {
		m := item.(map[string]any)
		pointer := fmt.Sprintf("/networks/%d", i)
		n := Network{Name: text(m["name"]), Exit: text(m["exit"])}
		if j := slices.IndexFunc(out, func(o Network) bool { return o.Name == n.Name }); j >= 0 {
			s.add(s.placeOf(pointer+"/name"),
				fmt.Sprintf("the name %q is taken by the network in line %d", n.Name, s.placeOf(fmt.Sprintf("/networks/%d/name", j)).line),
				"give each network a name of its own")
		}
		if v, ok := m["subnet"]; ok {
			n.Subnet = s.subnet(text(v), pointer+"/subnet")
		}
		for j, o := range out {
			if n.Subnet.IsValid() && o.Subnet.IsValid() && n.Subnet.Overlaps(o.Subnet) {
				s.add(s.placeOf(pointer+"/subnet"),
					fmt.Sprintf("%s overlaps %s of the network %q in line %d", n.Subnet, o.Subnet, o.Name, s.placeOf(fmt.Sprintf("/networks/%d/name", j)).line),
					"choose another range, or leave subnet out: a free one is picked")
			}
		}
		out = append(out, n)
	}
	return out
}

// subnet reads a network's range. What can't be one gives the zero prefix.
func (s *source) subnet(got, pointer string) netip.Prefix {
	const write = "write a private range and its length, like 10.20.0.0/16"
	where := s.placeOf(pointer)
	p, err := netip.ParsePrefix(got)
	switch {
	case err != nil:
		fix := write
		if a, err := netip.ParseAddr(got); err == nil && a.Is4() {
			guess, _ := a.Prefix(16)
			fix = fmt.Sprintf("did you mean %q?", guess)
		}
		s.add(where, fmt.Sprintf("subnet %q is no range of addresses", got), fix)
	case !p.Addr().Is4():
		s.add(where, fmt.Sprintf("subnet %s is not IPv4", p), "write an IPv4 range; IPv6 is always there beside it")
	case !slices.ContainsFunc(plan.PrivateIPv4(), func(o netip.Prefix) bool { return plan.Contains(o, p.Masked()) }):
		private := make([]string, 0, 4)
		for _, o := range plan.PrivateIPv4() {
			private = append(private, o.String())
		}
		s.add(where, fmt.Sprintf("subnet %s is no private range: its addresses belong to someone", p), "use a part of "+strings.Join(private, ", "))
	case p.Bits() > plan.MaxNetworkBits:
		guess, _ := p.Addr().Prefix(plan.MaxNetworkBits)
		s.add(where, fmt.Sprintf("subnet %s is too small: each node takes a /%d of it", p, plan.NodeBits),
			fmt.Sprintf("did you mean %q, which has room for one node, or a wider one like 10.20.0.0/16 for 256?", guess))
	case p != p.Masked():
		s.add(where, fmt.Sprintf("subnet %s is an address within %s", p, p.Masked()), fmt.Sprintf("did you mean %q?", p.Masked()))
	default:
		return p
	}
	return netip.Prefix{}
}

// attachments reads the networks of one workload; what they say of other
// workloads is checked by rules.
func (s *source) attachments(m map[string]any, pointer string, networks []Network) []Attachment {
	list, _ := m["networks"].([]any)
	out := make([]Attachment, 0, len(list))
	egress := -1
	for i, item := range list {
		at := fmt.Sprintf("%s/networks/%d", pointer, i)
		name, short := item.(string)
		m, _ := item.(map[string]any)
		where := at
		if !short {
			name, where = text(m["name"]), at+"/name"
		}
		a := Attachment{Network: name, Egress: plan.EgressNone, Open: true}
		known := slices.IndexFunc(networks, func(n Network) bool { return n.Name == name })
		if known < 0 {
			s.add(s.placeOf(where), fmt.Sprintf("no network %q is in this deployment", name), suggestNetwork(name, networks))
		}
		if slices.ContainsFunc(out, func(o Attachment) bool { return o.Network == name }) {
			s.add(s.placeOf(where), fmt.Sprintf("the network %q stands twice", name), "remove one of the two")
		}
		aliases, _ := m["aliases"].([]any)
		for _, v := range aliases {
			a.Aliases = append(a.Aliases, text(v))
		}
		if allow, ok := m["allow"].([]any); ok {
			a.Open = false
			for j, v := range allow {
				a.Allow = append(a.Allow, s.rule(v.(map[string]any), fmt.Sprintf("%s/allow/%d", at, j)))
			}
		}
		if v, ok := m["egress"]; ok {
			a.Egress = text(v)
		}
		switch {
		case a.Egress == plan.EgressNone:
		case egress >= 0:
			s.add(s.placeOf(at+"/egress"), fmt.Sprintf("this workload has an egress already, by the network %q", out[egress].Network), "keep one of the two")
		default:
			egress = i
		}
		if a.Egress == plan.EgressExit && known >= 0 && networks[known].Exit == "" {
			s.add(s.placeOf(at+"/egress"), fmt.Sprintf("the network %q has no exit", name),
				fmt.Sprintf("add a line exit: NODE to the network in line %d, or write egress: node", s.placeOf(fmt.Sprintf("/networks/%d/name", known)).line))
		}
		if v, ok := m["bandwidth"]; ok {
			a.Bandwidth = bandwidth(text(v))
			if a.Bandwidth < plan.MinBandwidth || a.Bandwidth > plan.MaxBandwidth {
				s.add(s.placeOf(at+"/bandwidth"), fmt.Sprintf("bandwidth %s is out of range", text(v)),
					fmt.Sprintf("write %dkbit to %dGbit", plan.MinBandwidth/1000, uint64(plan.MaxBandwidth)/1_000_000_000))
			}
		}
		out = append(out, a)
	}
	return out
}

func suggestNetwork(name string, networks []Network) string {
	names := make([]string, len(networks))
	for i, n := range networks {
		names[i] = n.Name
	}
	if near := Nearest(name, names); len(near) > 0 {
		return fmt.Sprintf("did you mean %q?", near[0])
	}
	if len(names) == 0 {
		return fmt.Sprintf("add networks: [{name: %s}] to the deployment", name)
	}
	return "known here: " + strings.Join(names, ", ")
}

// rule reads one entry of allow. From holds what was written; resolvePeers
// replaces it.
func (s *source) rule(m map[string]any, pointer string) Rule {
	var r Rule
	ports, protocol, both := strings.Cut(text(m["ports"]), "/")
	if !both { // the schema takes nothing else
		r.Protocol = plan.ProtocolICMP
	} else {
		r.Protocol = protocol
		first, last, ranged := strings.Cut(ports, "-")
		if !ranged {
			last = first
		}
		a, _ := strconv.ParseUint(first, 10, 32) // at most 5 digits
		b, _ := strconv.ParseUint(last, 10, 32)
		where := s.placeOf(pointer + "/ports")
		switch {
		case a > b && b > 0:
			s.add(where, fmt.Sprintf("the range %s holds no port", ports), fmt.Sprintf("did you mean \"%d-%d/%s\"?", b, a, protocol))
		case a < 1 || b < 1 || a > 65535 || b > 65535:
			s.add(where, fmt.Sprintf("%s holds what is no port", ports), "ports are 1 to 65535")
		default:
			r.First, r.Last = uint16(a), uint16(b)
		}
	}
	from, _ := m["from"].([]any)
	for _, v := range from {
		r.From = append(r.From, text(v))
	}
	return r
}

// bandwidth reads what the schema accepted.
func bandwidth(s string) uint64 {
	if len(s) < 5 {
		return 0
	}
	unit := map[string]uint64{"kbit": 1_000, "Mbit": 1_000_000, "Gbit": 1_000_000_000}[s[len(s)-4:]]
	n, err := strconv.ParseUint(s[:len(s)-4], 10, 32)
	if err != nil {
		return 0
	}
	return n * unit
}

// peers checks what the workloads' attachments say of each other, once all are
// read, and replaces the names in From.
func (s *source) peers(d *Deployment) {
	names := map[string]int{} // workload's index
	for i, w := range d.Workloads {
		names[w.Name] = i
	}
	for i, n := range d.Networks {
		members := map[string][]string{} // workloads of the network by name and by alias
		for _, w := range d.Workloads {
			for _, a := range w.Networks {
				if a.Network == n.Name && plan.Runs(w.Kind) {
					members[w.Name] = append(members[w.Name], w.Name)
					for _, alias := range a.Aliases {
						members[alias] = append(members[alias], w.Name)
					}
				}
			}
		}
		if len(members) == 0 {
			s.add(s.placeOf(fmt.Sprintf("/networks/%d", i)), fmt.Sprintf("no workload is in the network %q", n.Name),
				fmt.Sprintf("add a line networks: [%s] to a workload, or remove the network", n.Name))
		}
		for wi := range d.Workloads {
			for ai := range d.Workloads[wi].Networks {
				a := &d.Workloads[wi].Networks[ai]
				if a.Network != n.Name {
					continue
				}
				s.aliases(d, wi, ai, names)
				for ri := range a.Allow {
					s.from(d, names, members, wi, ai, ri)
				}
				// A rule without names is for everyone: what is for nobody must not stay.
				a.Allow = slices.DeleteFunc(a.Allow, func(r Rule) bool { return r.nobody })
			}
		}
	}
}

// aliases checks that a workload's aliases are nobody's name.
func (s *source) aliases(d *Deployment, wi, ai int, names map[string]int) {
	a := d.Workloads[wi].Networks[ai]
	for i, alias := range a.Aliases {
		other, taken := names[alias]
		if !taken {
			continue
		}
		where := s.placeOf(fmt.Sprintf("/workloads/%d/networks/%d/aliases/%d", d.Workloads[wi].entry, ai, i))
		if other == wi {
			s.add(where, fmt.Sprintf("%q is this workload's own name", alias), "remove it: the name is known without an alias")
		} else {
			s.add(where, fmt.Sprintf("the alias %q is the name of the workload in line %d", alias, s.placeOf(fmt.Sprintf("/workloads/%d/name", d.Workloads[other].entry)).line),
				"choose another alias; replicas share one that is nobody's name")
		}
	}
}

// from replaces the names in a rule's From by the workloads that they mean. A
// name that means nobody is a mistake: the rule would match nothing.
func (s *source) from(d *Deployment, names map[string]int, members map[string][]string, wi, ai, ri int) {
	w := &d.Workloads[wi]
	a := &w.Networks[ai]
	meant := map[string]bool{}
	for k, name := range a.Allow[ri].From {
		where := s.placeOf(fmt.Sprintf("/workloads/%d/networks/%d/allow/%d/from/%d", d.Workloads[wi].entry, ai, ri, k))
		found := members[name]
		other, exists := names[name]
		switch {
		case len(found) == 1 && found[0] == w.Name && name == w.Set:
			// The only replica of its set, which reaches its own ports anyway. With more of
			// them the rule lets the others in.
		case len(found) == 1 && found[0] == w.Name:
			s.add(where, fmt.Sprintf("%q is this workload itself, which reaches its own ports anyway", name), "name another workload, or leave from out for everyone in the network")
		case len(found) > 0:
			for _, peer := range found {
				if peer != w.Name {
					meant[peer] = true
				}
			}
		case exists && d.Workloads[other].Kind == plan.KindGateway:
			s.add(where, fmt.Sprintf("%q is a gateway, which reaches what it publishes and nothing else", name), "leave it out here: what it publishes needs no rule")
		case exists:
			s.add(where, fmt.Sprintf("the workload %q is not in the network %q: this rule would let nobody in", name, a.Network),
				fmt.Sprintf("add %s to the networks of the workload in line %d", a.Network, s.placeOf(fmt.Sprintf("/workloads/%d/name", d.Workloads[other].entry)).line))
		default:
			known := make([]string, 0, len(members))
			for m := range members {
				if m != w.Name {
					known = append(known, m)
				}
			}
			sort.Strings(known)
			fix := "in this network: " + strings.Join(known, ", ") + "; a person's device joins before a rule names it"
			if near := Nearest(name, known); len(near) > 0 {
				fix = fmt.Sprintf("did you mean %q?", near[0])
			} else if len(known) == 0 {
				fix = "nobody else is in this network; a person's device joins before a rule names it"
			}
			// It may be a person's device: those stand in no spec.
			meant[name] = true
			d.strangers = append(d.strangers, stranger{name, a.Network, where,
				fmt.Sprintf("no workload or alias %q is in the network %q: this rule would let nobody in", name, a.Network), fix})
		}
	}
	if len(a.Allow[ri].From) > 0 {
		a.Allow[ri].From = slices.Sorted(maps.Keys(meant))
		a.Allow[ri].nobody = len(meant) == 0
	}
}
