package network

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Gate is a gateway of a network, and all that it may begin a connection to there:
// what its routes name, whatever the rules of its backends say of others.
type Gate struct {
	Workload   string
	Slot       canon.Hash
	IPv4, IPv6 netip.Addr
	Targets    []Target // sorted, each once
}

// Target is one port that a gateway reaches.
type Target struct {
	Workload   string // the backend; "" for the router of an entry
	Slot       canon.Hash
	IPv4, IPv6 netip.Addr
	Protocol   string // plan.ProtocolTCP or plan.ProtocolUDP
	Port       uint16
}

// GatesOf lists the gateways of a network of a plan, in the plan's order. Errors
// have the code "plan-invalid"; a plan that Validate has passed gives none.
func GatesOf(p *plan.Plan, name string) ([]Gate, error) {
	places := map[string]Target{}
	var configs []plan.Gateway
	var out []Gate
	for _, w := range p.Workloads {
		a, there, err := plan.AttachmentIn(w, name)
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		at := Target{Workload: w.Name, Slot: w.Slot}
		if at.IPv4, err = netip.ParseAddr(a.IPv4); err == nil {
			at.IPv6, err = netip.ParseAddr(a.IPv6)
		}
		if err != nil {
			return nil, problem.New("plan-invalid", "workload %s: %w", w.Name, err)
		}
		switch w.Kind {
		case plan.KindContainer, plan.KindVM:
			places[w.Name] = at
		case plan.KindGateway:
			g, err := plan.DecodeGateway(w.Config)
			if err != nil {
				return nil, err
			}
			configs = append(configs, g)
			out = append(out, Gate{Workload: w.Name, Slot: w.Slot, IPv4: at.IPv4, IPv6: at.IPv6})
		}
	}
	for i := range out {
		for _, r := range configs[i].Routes {
			if r.Network != name {
				continue
			}
			if !r.Entry.IsZero() {
				at, ok := routerOf(p, name, r.Entry)
				if !ok {
					return nil, problem.New("plan-invalid", "workload %s: its entry is no node of network %s", out[i].Workload, name)
				}
				at.Protocol, at.Port = plan.ProtocolUDP, plan.EntryPort
				out[i].Targets = append(out[i].Targets, at)
			}
			for _, b := range r.Backends {
				at, ok := places[b]
				if !ok {
					return nil, problem.New("plan-invalid", "workload %s publishes %.63s, which is not in network %s", out[i].Workload, b, name)
				}
				if at.Protocol = plan.ProtocolTCP; r.Mode == plan.ModeUDP {
					at.Protocol = plan.ProtocolUDP
				}
				at.Port = r.Target
				out[i].Targets = append(out[i].Targets, at)
			}
		}
		slices.SortFunc(out[i].Targets, func(a, b Target) int {
			return cmp.Or(a.IPv4.Compare(b.IPv4), strings.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
		})
		out[i].Targets = slices.Compact(out[i].Targets)
	}
	return out, nil
}

// routerOf is the router of a network on a slot.
func routerOf(p *plan.Plan, name string, slot canon.Hash) (Target, bool) {
	for _, n := range p.Networks {
		for _, node := range n.Nodes {
			if n.Name != name || node.Slot != slot {
				continue
			}
			v4, err4 := netip.ParsePrefix(node.IPv4)
			v6, err6 := netip.ParsePrefix(node.IPv6)
			return Target{Slot: slot, IPv4: plan.RouterAddr(v4), IPv6: plan.RouterAddr(v6)}, err4 == nil && err6 == nil
		}
	}
	return Target{}, false
}

// Edges are the slots that carry gateways of a network and nothing else of it. Who
// takes such a node over has the gateways' reach, and is given no more: it knows
// only the nodes that its gateways' routes lead to.
type Edges struct {
	reach map[canon.Hash]map[canon.Hash]bool
}

// EdgesOf finds the edges of a network of a plan. Errors are those of GatesOf.
func EdgesOf(p *plan.Plan, name string) (Edges, error) {
	gates, err := GatesOf(p, name)
	if err != nil {
		return Edges{}, err
	}
	e := Edges{map[canon.Hash]map[canon.Hash]bool{}}
	for _, g := range gates {
		if e.reach[g.Slot] == nil {
			e.reach[g.Slot] = map[canon.Hash]bool{}
		}
		for _, t := range g.Targets {
			e.reach[g.Slot][t.Slot] = true
		}
	}
	for _, w := range p.Workloads {
		if _, there, err := plan.AttachmentIn(w, name); err != nil {
			return Edges{}, err
		} else if there && w.Kind != plan.KindGateway {
			delete(e.reach, w.Slot)
		}
	}
	for _, n := range p.Networks {
		if n.Name == name {
			delete(e.reach, n.Exit) // everyone who leaves by it meets it
		}
	}
	return e, nil
}

// Has tells whether a slot is an edge.
func (e Edges) Has(slot canon.Hash) bool { return e.reach[slot] != nil }

// Meet tells whether two slots of the network know each other: unless one is an
// edge whose routes do not lead to the other.
//
//	a         b         they meet
//	no edge   no edge   yes
//	edge      no edge   if a route of a gateway on a leads to b
//	no edge   edge      if a route of a gateway on b leads to a
//	edge      edge      if both: never, as routes lead to what makes a slot no edge
func (e Edges) Meet(a, b canon.Hash) bool {
	meets := func(from, to canon.Hash) bool { return e.reach[from] == nil || e.reach[from][to] }
	return bytes.Equal(a[:], b[:]) || meets(a, b) && meets(b, a)
}
