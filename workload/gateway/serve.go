package gateway

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// Judgement is what the ledger, proven by the node, says of a gateway.
type Judgement struct {
	// Err says why nothing of it is served: no pool, an address that the pool does
	// not have.
	Err error
	// Hosts says of host names why they are not served: the group doesn't hold the
	// name, or has not proven its domain.
	Hosts map[string]error
	// Age orders gateways that want the same: the lower one has it.
	Age uint64
}

// Facts are what a gateway needs beside its plan. Their methods return at once
// with what was last found; Kind.Kick is called when that changed.
type Facts interface {
	// Pool is the newest pool of this slot, without ranges if it has none; false
	// as long as nothing is known.
	Pool() (contract.Pool, bool)
	Judge(d workload.Desired, g plan.Gateway) Judgement
	// Zone is what the name server of the grid's domain answers; nil: there is none.
	Zone() *control.Zone
}

// Challenges puts answers to certificate authorities under the grid's domain.
type Challenges interface {
	// Answer makes the grid's name servers answer value as the text of the host's
	// _acme-challenge for a while; "" takes that back. It returns when it is decided,
	// which may be before all name servers know of it.
	Answer(ctx context.Context, contract canon.Hash, host, value string) error
}

// published is one gateway as it is to be served.
type published struct {
	d    workload.Desired
	g    plan.Gateway
	says Judgement
}

// networkKey names a gateway's namespace to the process.
func networkKey(id workload.ID) string { return id.Contract.String() + "/" + id.Name }

// RouteID names a route of a gateway to the process.
func RouteID(id workload.ID, r plan.Route) string { return networkKey(id) + "/" + r.String() }

// order puts gateways into the order in which they get what they want.
func order(all []published) {
	slices.SortFunc(all, func(a, b published) int {
		return cmp.Or(cmp.Compare(a.says.Age, b.says.Age), slices.Compare(a.d.ID.Contract[:], b.d.ID.Contract[:]), cmp.Compare(a.d.ID.Name, b.d.ID.Name))
	})
}

// routesOf is what the process is to serve: of all gateways, in their order. What
// may not be served is there with its problem.
func routesOf(all []published) []control.Route {
	order(all)
	out := []control.Route{}
	for _, p := range all {
		for _, r := range p.g.Routes {
			out = append(out, routeOf(p, r))
		}
	}
	return out
}

func routeOf(p published, r plan.Route) control.Route {
	out := control.Route{
		ID: RouteID(p.d.ID, r), Contract: p.d.ID.Contract, Workload: p.d.ID.Name, Addresses: p.g.Addresses, Host: r.Host, Mode: r.Mode,
		Port: r.Port, Network: networkKey(p.d.ID), Backends: []control.Backend{}, Proxy: r.Proxy, Check: r.Check, Path: r.Path,
	}
	backends, err := backendsOf(p.d.Deployment, r)
	out.Backends = backends
	switch {
	case p.says.Err != nil:
		err = p.says.Err
	case p.says.Hosts[r.Host] != nil:
		err = p.says.Hosts[r.Host]
	case err == nil && len(backends) == 0:
		err = problem.New("plan-invalid", "nothing is behind it")
	}
	if err != nil {
		out.Problem = problemText(err)
	}
	return out
}

// problemText is a problem as it goes to the process and comes back: the code
// before the first space.
func problemText(err error) string {
	return control.Short(cmp.Or(problem.Code(err), "not-served") + " " + err.Error())
}

// backendsOf are the places behind a route, by the plan alone.
func backendsOf(p *plan.Plan, r plan.Route) ([]control.Backend, error) {
	if p == nil {
		return nil, problem.New("plan-invalid", "route %s: its plan is not known", r)
	}
	out := []control.Backend{}
	if !r.Entry.IsZero() {
		a, err := routerOf(p, r)
		if err != nil {
			return nil, err
		}
		return append(out, control.Backend{Name: "entry", Addr: netip.AddrPortFrom(a, r.Target).String()}), nil
	}
	for _, w := range p.Workloads {
		if !slices.Contains(r.Backends, w.Name) {
			continue
		}
		a, ok, err := plan.AttachmentIn(w, r.Network)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, problem.New("plan-invalid", "route %s: %s is not in network %s", r, w.Name, r.Network)
		}
		addr, err := netip.ParseAddr(a.IPv4)
		if err != nil {
			return nil, problem.New("plan-invalid", "route %s: %w", r, err)
		}
		out = append(out, control.Backend{Name: w.Name, Addr: netip.AddrPortFrom(addr, r.Target).String()})
	}
	return out, nil
}

// routerOf is the address of the router by which a route's devices enter.
func routerOf(p *plan.Plan, r plan.Route) (netip.Addr, error) {
	for _, n := range p.Networks {
		for _, node := range n.Nodes {
			if n.Name != r.Network || node.Slot != r.Entry {
				continue
			}
			part, err := netip.ParsePrefix(node.IPv4)
			if err != nil {
				return netip.Addr{}, problem.New("plan-invalid", "network %s: %w", n.Name, err)
			}
			return plan.RouterAddr(part), nil
		}
	}
	return netip.Addr{}, problem.New("plan-invalid", "route %s: %s is no node of network %s", r, r.Entry.Short(), r.Network)
}

// addressesOf are the addresses that the public card has: those that all share,
// and those that a gateway here serves.
func addressesOf(pool contract.Pool, all []published) ([]netip.Addr, error) {
	texts := slices.Clone(pool.Shared)
	for _, p := range all {
		if p.says.Err == nil {
			texts = append(texts, p.g.Addresses...)
		}
	}
	out, err := control.Addrs(texts)
	if err != nil {
		return nil, fmt.Errorf("public addresses: %w", err)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	out = slices.Compact(out)
	// The pool may have changed since a gateway was judged.
	return slices.DeleteFunc(out, func(a netip.Addr) bool { in, _ := pool.Contains(a); return !in }), nil
}

// openingsOf are the ports of these addresses that take connections: 80 and 443
// where hosts are published, ports that are, and 53 of dns.
func openingsOf(addresses []netip.Addr, dns []netip.Addr, all []published) []opening {
	var out []opening
	for _, a := range dns {
		out = append(out, opening{a, true, 53}, opening{a, false, 53})
	}
	for _, p := range all {
		if p.says.Err != nil {
			continue
		}
		for _, text := range p.g.Addresses {
			a, err := netip.ParseAddr(text)
			if err != nil || !slices.Contains(addresses, a) {
				continue
			}
			for _, r := range p.g.Routes {
				if r.Host != "" {
					out = append(out, opening{a, false, 80}, opening{a, false, 443})
				} else {
					out = append(out, opening{a, r.Mode == plan.ModeUDP, r.Port})
				}
			}
		}
	}
	slices.SortFunc(out, compareOpenings)
	return slices.Compact(out)
}
