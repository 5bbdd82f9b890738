package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
)

// offer is what a gateway gets of a node's public addresses.
type offer struct {
	addresses []string
	leased    bool
	ports     []uint16 // of each entry of publish; 443 for a host
}

// misfit is why a node can't be a gateway's: a mistake at an entry of the
// workload.
type misfit struct{ pointer, message, fix string }

// claim is one thing at a public address of a node; without host and port it is
// the whole address.
type claim struct {
	node    int
	address string
	host    string
	port    PublicPort
}

// lease is a port at the addresses that a node shares, or an address of it.
type lease struct {
	slot    canon.Hash
	address string
	port    PublicPort
}

// market is what gateways want of public addresses, and what has been given.
type market struct {
	hosts   [][]string     // full names, of each workload's entries
	stood   [][]plan.Route // what each entry continues; of no mode: nothing
	before  map[lease]bool // what the standing version leases
	kept    map[lease]int  // of that, what a workload of this version continues
	claimed map[claim]int  // what has been given, to which workload
}

func newMarket(d *Deployment, hosts [][]string, nodes []Node, old standing) *market {
	m := &market{hosts: hosts, stood: make([][]plan.Route, len(d.Workloads)), before: map[lease]bool{}, kept: map[lease]int{}, claimed: map[claim]int{}}
	for name, g := range old.gateways {
		slot := old.slots[name]
		for _, a := range g.Addresses {
			if g.Leased {
				m.before[lease{slot: slot, address: a}] = true
			}
		}
		for _, r := range g.Routes {
			if !g.Leased && r.Host == "" {
				m.before[lease{slot: slot, port: PublicPort{r.Mode, r.Port}}] = true
			}
		}
	}
	for wi, w := range d.Workloads {
		g, stands := old.gateways[w.Name]
		if w.Kind != plan.KindGateway {
			continue
		}
		m.stood[wi] = make([]plan.Route, len(w.Publish))
		if !stands {
			continue
		}
		m.stood[wi] = continued(w.Publish, g.Routes, nodes)
		slot := old.slots[w.Name]
		i := slices.IndexFunc(nodes, func(n Node) bool { return n.Slot == slot })
		if i < 0 || w.Node != "" && !isNamed(nodes[i], w.Node) {
			continue // it goes elsewhere
		}
		if g.Leased && w.Address == AddressOwn {
			m.kept[lease{slot: slot, address: g.Addresses[0]}] = wi
		}
		for _, r := range m.stood[wi] {
			if !g.Leased && r.Mode != "" && (w.Address == AddressShared || slices.Contains(g.Addresses, w.Address)) {
				m.kept[lease{slot: slot, port: PublicPort{r.Mode, r.Port}}] = wi
			}
		}
	}
	return m
}

// continued finds for each published port the standing route that it goes on
// with, so that the port which the planner picked stays: the closest one, and
// none twice.
func continued(publish []Publish, routes []plan.Route, nodes []Node) []plan.Route {
	out := make([]plan.Route, len(publish))
	used := make([]bool, len(routes))
	entry := func(p Publish, r plan.Route) bool {
		return slices.ContainsFunc(nodes, func(n Node) bool { return n.Slot == r.Entry && isNamed(n, p.Entry) })
	}
	same := func(p Publish, r plan.Route) bool {
		return p.Port == 0 && p.Network == r.Network && p.Join == !r.Entry.IsZero()
	}
	backends := func(p Publish, r plan.Route) bool {
		return same(p, r) && p.Target == r.Target && slices.Equal(p.Backends, r.Backends) && (p.Entry == "" || entry(p, r))
	}
	for _, close := range []func(Publish, plan.Route) bool{
		func(p Publish, r plan.Route) bool { return p.Port == r.Port },
		func(p Publish, r plan.Route) bool { return backends(p, r) && p.Entry != "" },
		func(p Publish, r plan.Route) bool {
			return backends(p, r) && p.Proxy == r.Proxy && p.Check == r.Check && p.Path == r.Path
		},
		backends,
		func(p Publish, r plan.Route) bool { return same(p, r) && p.Target == r.Target },
		func(p Publish, r plan.Route) bool { return same(p, r) && slices.Equal(p.Backends, r.Backends) },
	} {
		for _, i := range inOrder(publish) {
			for j, r := range routes {
				if p := publish[i]; p.Host == "" && out[i].Mode == "" && !used[j] && p.Mode == r.Mode && close(p, r) {
					out[i], used[j] = r, true
				}
			}
		}
	}
	return out
}

// inOrder returns the indexes of entries in an order that is not the file's.
func inOrder(publish []Publish) []int {
	return byName(publish, func(p Publish) string {
		return fmt.Sprintf("%s %s %s %05d %05d %v %q %d %s %s", p.Host, p.Mode, p.Network, p.Port, p.Target, p.Backends, p.Entry, p.Proxy, p.Check, p.Path)
	})
}

// offer decides what a gateway would get on a node, and changes nothing.
func (p *placement) offer(d *Deployment, wi, at int) (offer, *misfit) {
	w, n := d.Workloads[wi], p.nodes[at]
	if !hasPool(n) {
		fix := "ask its farm for some: zos farm pool set"
		if names := poolNames(p.nodes); len(names) > 0 {
			fix = "nodes that have some: " + strings.Join(names, ", ")
		}
		return offer{}, &misfit{"/node", fmt.Sprintf("node %s has no public addresses", n.Name), fix}
	}
	o, wrong := p.addresses(d, wi, at)
	if wrong != nil {
		return o, wrong
	}
	o.ports = make([]uint16, len(w.Publish))
	mine := map[PublicPort]bool{}
	for i, e := range w.Publish {
		o.ports[i] = e.Port
		if e.Host != "" {
			o.ports[i] = 443
			if other := p.taken(claim{at, "", p.market.hosts[wi][i], PublicPort{}}, o.addresses); other >= 0 {
				return o, &misfit{fmt.Sprintf("/publish/%d/host", i),
					fmt.Sprintf("%s is published at %s already, by the gateway in line %d", p.market.hosts[wi][i], o.addresses[0], d.source.lineOf(d.Workloads[other].entry)),
					"publish it once there; a second gateway for it goes on another node"}
			}
			continue
		}
		if e.Port == 0 {
			continue
		}
		public := PublicPort{e.Mode, e.Port}
		mine[public] = true
		if wrong := p.port(d, wi, at, public, o); wrong != nil {
			wrong.pointer = fmt.Sprintf("/publish/%d/port", i)
			return o, wrong
		}
	}
	for _, again := range []bool{true, false} { // first what goes on, so that nothing new takes it away
		for _, i := range inOrder(w.Publish) {
			e := w.Publish[i]
			if o.ports[i] != 0 {
				continue
			}
			o.ports[i] = p.pick(d, wi, i, at, o, mine, again)
			if o.ports[i] != 0 {
				mine[PublicPort{e.Mode, o.ports[i]}] = true
				continue
			}
			wrong := &misfit{fmt.Sprintf("/publish/%d/port", i), fmt.Sprintf("no port %d to %d of node %s is free for %s", n.Pool.First, n.Pool.Last, n.Name, e.Mode), "name another node with public addresses, or write address: own"}
			if n.Pool.First == 0 {
				wrong.message = fmt.Sprintf("node %s leases no ports of its shared addresses", n.Name)
			}
			if !again {
				return o, wrong
			}
		}
	}
	return o, nil
}

// addresses decides at which addresses a gateway would listen.
func (p *placement) addresses(d *Deployment, wi, at int) (offer, *misfit) {
	w, n := d.Workloads[wi], p.nodes[at]
	shared := slices.DeleteFunc(slices.Sorted(slices.Values(n.Pool.Shared)), func(a string) bool { return n.leased(a) }) // from before it was shared
	whole := func(address string) int { return p.taken(claim{at, "", "", PublicPort{}}, []string{address}) }
	switch w.Address {
	case AddressShared:
		if len(shared) == 0 {
			return offer{}, &misfit{"/address", fmt.Sprintf("node %s shares no public address", n.Name), "write address: own"}
		}
		return offer{addresses: shared[:min(len(shared), plan.MaxAddresses)]}, nil
	case AddressOwn:
		if a := p.own(d, wi, at); a != "" {
			return offer{addresses: []string{a}, leased: true}, nil
		}
		return offer{}, &misfit{"/address", fmt.Sprintf("no public address of node %s is free", n.Name), "name another node with public addresses, or write address: shared"}
	}
	other := whole(w.Address)
	if keeper, kept := p.market.kept[lease{slot: n.Slot, address: w.Address}]; kept && keeper != wi {
		other = keeper
	}
	switch {
	case !inPool(*n.Pool, w.Address):
		return offer{}, &misfit{"/address", fmt.Sprintf("%s is none of the public addresses of node %s", w.Address, n.Name), "it has " + showPool(*n.Pool)}
	case n.leased(w.Address):
		return offer{}, &misfit{"/address", fmt.Sprintf("%s is leased by %s", w.Address, p.holder(n.Leased[w.Address])), "write address: own for one that is free"}
	case slices.Contains(shared, w.Address):
		return offer{addresses: []string{w.Address}}, nil
	case other >= 0:
		return offer{}, &misfit{"/address", fmt.Sprintf("%s is the address of the gateway in line %d", w.Address, d.source.lineOf(d.Workloads[other].entry)), "publish all of it by one gateway, or write address: own for one that is free"}
	}
	return offer{addresses: []string{w.Address}, leased: true}, nil
}

// own picks an address for a gateway alone: the one it has, or the lowest free
// one, IPv4 first; what the standing version gives back comes last.
func (p *placement) own(d *Deployment, wi, at int) string {
	n := p.nodes[at]
	free := func(a string, reuse bool) bool {
		l := lease{slot: n.Slot, address: a}
		keeper, kept := p.market.kept[l]
		if n.leased(a) || slices.Contains(n.Pool.Shared, a) || !inPool(*n.Pool, a) || p.taken(claim{at, "", "", PublicPort{}}, []string{a}) >= 0 || kept && keeper != wi {
			return false
		}
		if kept {
			return true
		}
		return (reuse || !p.market.before[l]) && !slices.ContainsFunc(d.Workloads, func(w Workload) bool { return w.Address == a })
	}
	for l, keeper := range p.market.kept {
		if keeper == wi && l.slot == n.Slot && l.address != "" && free(l.address, false) { // it keeps one at most
			return l.address
		}
	}
	ranges := slices.Clone(n.Pool.Ranges)
	slices.SortStableFunc(ranges, func(a, b contract.Range) int {
		return cmp.Compare(strings.Count(a.Prefix, ":"), strings.Count(b.Prefix, ":")) // IPv4 has none
	})
	for _, reuse := range []bool{false, true} {
		for _, r := range ranges {
			a, err1 := netip.ParseAddr(r.First)
			last, err2 := netip.ParseAddr(r.Last)
			if err1 != nil || err2 != nil {
				continue
			}
			for tries := 0; tries < 1<<16 && a.IsValid() && !last.Less(a); tries, a = tries+1, a.Next() {
				if free(a.String(), reuse) {
					return a.String()
				}
			}
		}
	}
	return ""
}

// port checks a port that a spec writes. What another gateway of the deployment
// has stays there.
func (p *placement) port(d *Deployment, wi, at int, public PublicPort, o offer) *misfit {
	n := p.nodes[at]
	other := p.taken(claim{at, "", "", public}, o.addresses)
	if keeper, kept := p.market.kept[lease{slot: n.Slot, port: public}]; kept && keeper != wi && !o.leased {
		other = keeper
	}
	if other >= 0 {
		return &misfit{message: fmt.Sprintf("%s is published at %s already, by the gateway in line %d", public, o.addresses[0], d.source.lineOf(d.Workloads[other].entry)),
			fix: "choose another port, or place one of the two gateways on another node"}
	}
	if o.leased {
		return nil
	}
	switch holder, held := n.Ports[public]; {
	case n.Pool.First == 0:
		return &misfit{message: fmt.Sprintf("node %s leases no ports of its shared addresses", n.Name), fix: "write address: own, which has every port"}
	case !n.Pool.HasPort(public.Port) || webPort(public.Mode, public.Port):
		return &misfit{message: fmt.Sprintf("%s is none of the ports %d to %d that node %s leases", public, n.Pool.First, n.Pool.Last, n.Name),
			fix: fmt.Sprintf("write one of them, or port: %s for one that is free; with address: own there is every port", public.Mode)}
	case held:
		return &misfit{message: fmt.Sprintf("%s of node %s is leased by %s", public, n.Name, p.holder(holder)), fix: fmt.Sprintf("choose another one, or write port: %s for one that is free", public.Mode)}
	}
	return nil
}

// pick chooses the port of an entry that leaves it open, or 0: again the one
// that stands; or else, at an address of its own the workload's, and the lowest
// free one, last of all what the standing version gives back.
func (p *placement) pick(d *Deployment, wi, i, at int, o offer, mine map[PublicPort]bool, again bool) uint16 {
	w, n := d.Workloads[wi], p.nodes[at]
	e := w.Publish[i]
	first, last := n.Pool.First, n.Pool.Last
	if o.leased {
		first, last = 1024, 65535
	}
	free := func(port uint16, reuse bool) bool {
		public := PublicPort{e.Mode, port}
		// What is left to the planner never gets the hosts' ports: hosts may come.
		if port == 0 || webPort(e.Mode, port) || mine[public] || p.taken(claim{at, "", "", public}, o.addresses) >= 0 {
			return false
		}
		if o.leased {
			return true
		}
		l := lease{slot: n.Slot, port: public}
		_, held := n.Ports[public]
		if keeper, kept := p.market.kept[l]; kept && keeper != wi || held || !n.Pool.HasPort(port) {
			return false
		}
		return again || !p.written(d, wi, at, public) && (reuse || !p.market.before[l])
	}
	if again {
		if stands := p.market.stood[wi][i].Port; free(stands, true) {
			return stands
		}
		return 0
	}
	if o.leased && free(e.Target, true) {
		return e.Target
	}
	for _, reuse := range []bool{false, true} {
		for port := int(first); first > 0 && port <= int(last); port++ {
			if free(uint16(port), reuse) {
				return uint16(port)
			}
		}
	}
	return 0
}

// written tells whether another gateway, which may be at these addresses, writes
// a port: what the planner picks must not take it away.
func (p *placement) written(d *Deployment, wi, at int, public PublicPort) bool {
	for i, w := range d.Workloads {
		if i == wi || w.Node != "" && !isNamed(p.nodes[at], w.Node) || w.Address != AddressShared && !slices.Contains(p.nodes[at].Pool.Shared, w.Address) {
			continue
		}
		for _, e := range w.Publish {
			if e.Mode == public.Mode && e.Port == public.Port {
				return true
			}
		}
	}
	return false
}

// taken tells which workload has something at one of the addresses; -1: none.
// Who has the whole address has all that is at it.
func (p *placement) taken(c claim, addresses []string) int {
	for _, a := range addresses {
		c.address = a
		if other, ok := p.market.claimed[c]; ok {
			return other
		}
	}
	return -1
}

// accept gives a gateway what was offered to it.
func (p *placement) accept(d *Deployment, wi, at int, o offer) {
	for _, a := range o.addresses {
		if o.leased {
			p.market.claimed[claim{at, a, "", PublicPort{}}] = wi
		}
		for i, e := range d.Workloads[wi].Publish {
			if e.Host != "" {
				p.market.claimed[claim{at, a, p.market.hosts[wi][i], PublicPort{}}] = wi
			} else {
				p.market.claimed[claim{at, a, "", PublicPort{e.Mode, o.ports[i]}}] = wi
			}
		}
	}
	p.offers[wi] = o
}

// leased tells whether others hold an address.
func (n Node) leased(address string) bool {
	_, held := n.Leased[address]
	return held
}

func hasPool(n Node) bool { return n.Pool != nil && n.Pool.Live() }

func poolNames(nodes []Node) []string {
	var out []string
	for _, n := range nodes {
		if hasPool(n) {
			out = append(out, n.Name)
		}
	}
	slices.Sort(out)
	return out
}

// inPool tells whether an address is one of a pool's.
func inPool(pool contract.Pool, text string) bool {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return false
	}
	in, _ := pool.Contains(a)
	return in
}

func showPool(pool contract.Pool) string {
	parts := make([]string, len(pool.Ranges))
	for i, r := range pool.Ranges {
		if parts[i] = r.First; r.First != r.Last {
			parts[i] += " to " + r.Last
		}
	}
	return strings.Join(parts, ", ")
}
