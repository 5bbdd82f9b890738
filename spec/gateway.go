package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// fullNames gives each published host its full name, and checks whose it is. What
// is not the group's, or stands twice in one gateway, is a mistake.
func fullNames(d *Deployment, facts Facts) [][]string {
	s := d.source
	out := make([][]string, len(d.Workloads))
	for wi, w := range d.Workloads {
		out[wi] = make([]string, len(w.Publish))
		first := map[string]int{}
		for pi, p := range w.Publish {
			if p.Host == "" {
				continue
			}
			where := s.placeOf(fmt.Sprintf("/workloads/%d/publish/%d/host", d.Workloads[wi].entry, pi))
			full, message, fix := fullName(p.Host, facts)
			if message != "" {
				s.add(where, message, fix)
				continue
			}
			if j, twice := first[full]; twice {
				s.add(where, fmt.Sprintf("%s is published twice, first in line %d", full, s.placeOf(fmt.Sprintf("/workloads/%d/publish/%d/host", d.Workloads[wi].entry, j)).line),
					"remove one of the two; several workloads behind one name share an alias")
				continue
			}
			first[full] = pi
			if other, held := facts.Hosts[full]; held {
				s.add(where, fmt.Sprintf("%s is published by %s already", full, facts.holder(other)), "publish it in one deployment only")
				continue
			}
			out[wi][pi] = full
		}
	}
	return out
}

// fullName makes a host's full name. What it returns as a message is why it
// can't be published.
func fullName(host string, facts Facts) (full, message, fix string) {
	zone := facts.Zone
	full = host
	if !strings.Contains(host, ".") {
		if zone == "" {
			return "", fmt.Sprintf("this grid has no domain for the name %q", host), fmt.Sprintf("write a full name of a domain of your own, like %s.example.org", host)
		}
		full = host + "." + zone
	}
	if full == zone {
		return "", full + " is the domain of the grid itself", "write a name under it, that the group has reserved"
	}
	if !plan.ValidHost(full) {
		return "", fmt.Sprintf("%s is no host name: it is too long", full), "choose a shorter one"
	}
	label, under := contract.Zone{Domain: zone}.Label(full)
	if !under {
		return full, "", "" // a domain of its own, which the gateways ask for a proof
	}
	holder, mine, reserved := "", false, false
	if facts.Name != nil {
		holder, mine, reserved = facts.Name(label)
	}
	name := label + "." + zone
	switch {
	case !plan.ValidLabel(label):
		return "", fmt.Sprintf("%s is no name that can be reserved", name), "use letters, digits and single hyphens between them"
	case mine && !reserved:
		return "", fmt.Sprintf("the group's reservation of %s has ended", name), "renew it first: zos name renew " + label
	case !reserved:
		return "", fmt.Sprintf("nobody has reserved the name %s", name), "let the group reserve it first: zos name reserve " + label
	case !mine:
		return "", fmt.Sprintf("the name %s is reserved by %s", name, holder), fmt.Sprintf("choose another name, or let %s transfer it", holder)
	}
	return full, "", ""
}

// publish chooses the node of a gateway and what it gets there: the named node,
// or the one where it stands, or the one with most free memory that has the
// addresses and the room.
func (p *placement) publish(d *Deployment, wi, before int) bool {
	w := d.Workloads[wi]
	wrong := func(m misfit) bool {
		d.source.add(d.source.placeOf(fmt.Sprintf("/workloads/%d%s", d.Workloads[wi].entry, m.pointer)), m.message, m.fix)
		return false
	}
	settle := func(at int, o offer) bool {
		p.at[wi] = at
		p.take(at, p.need(w, at), w.Networks)
		p.accept(d, wi, at, o)
		return true
	}
	if w.Node != "" {
		at, err := p.named(w.Node)
		if err != nil {
			return wrong(misfit{"/node", err.Error(), problem.Fix(err)})
		}
		o, bad := p.offer(d, wi, at)
		if bad != nil {
			return wrong(*bad)
		}
		if need := p.need(w, at); !need.Within(p.free[at]) {
			return wrong(misfit{"/node", fmt.Sprintf("node %s has %s free, this workload wants %s", p.nodes[at].Name, describe(p.free[at]), describe(need)), "name another node with public addresses"})
		}
		return settle(at, o)
	}
	var candidates []int
	for i, n := range p.nodes {
		if hasPool(n) {
			candidates = append(candidates, i)
		}
	}
	if len(candidates) == 0 {
		return wrong(misfit{"", "no node that takes this group's workloads has public addresses", "ask a farm that has some to run: zos farm admit GROUP"})
	}
	literal := w.Address != AddressShared && w.Address != AddressOwn
	slices.SortFunc(candidates, func(a, b int) int { return p.prefer(a, b, before) })
	if literal { // the node that has the address, if there is one
		slices.SortStableFunc(candidates, func(a, b int) int {
			return less(inPool(*p.nodes[b].Pool, w.Address), inPool(*p.nodes[a].Pool, w.Address))
		})
	}
	var first *misfit
	for _, at := range candidates {
		o, bad := p.offer(d, wi, at)
		if need := p.need(w, at); bad == nil && !need.Within(p.free[at]) {
			bad = &misfit{"", fmt.Sprintf("node %s, which has public addresses, has %s free, this workload wants %s", p.nodes[at].Name, describe(p.free[at]), describe(need)), "cancel a contract there, or ask another farm for a gateway"}
		}
		if bad == nil {
			return settle(at, o)
		}
		if first == nil {
			first = bad
		}
		if at == before && strings.HasPrefix(bad.pointer, "/publish") {
			// It would be elsewhere, at other addresses, for the sake of one entry.
			return wrong(*bad)
		}
	}
	return wrong(*first)
}

// less orders false before true.
func less(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// prefer orders nodes: where it stands, then most free memory, then by id.
func (p *placement) prefer(a, b, before int) int {
	switch {
	case a == b:
		return 0
	case a == before:
		return -1
	case b == before:
		return 1
	case p.free[a].Memory != p.free[b].Memory:
		return less(p.free[a].Memory > p.free[b].Memory, p.free[b].Memory > p.free[a].Memory) * -1
	}
	return strings.Compare(p.nodes[a].Slot.String(), p.nodes[b].Slot.String())
}

// config makes what the plan says of a gateway, once it has its place and its
// networks.
func (p *placement) config(d *Deployment, wi int, networks []plan.Attachment) plan.Gateway {
	o := p.offers[wi]
	g := plan.Gateway{V: plan.Version, Addresses: o.addresses, Leased: o.leased, Networks: networks}
	for i, e := range d.Workloads[wi].Publish {
		r := plan.Route{
			Host: p.market.hosts[wi][i], Mode: e.Mode, Port: o.ports[i], Network: e.Network, Backends: e.Backends, Target: e.Target,
			Proxy: e.Proxy, Check: e.Check, Path: e.Path,
		}
		if e.Join {
			r.Entry = p.nodes[p.entries[[2]int{wi, i}]].Slot
		}
		g.Routes = append(g.Routes, r)
	}
	plan.SortRoutes(g.Routes)
	return g
}
