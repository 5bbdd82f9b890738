package client

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// Published is a gateway of a standing contract: what its plan says, and what its
// node does.
type Published struct {
	Contract Contract
	Workload plan.Workload
	Gateway  plan.Gateway
	Live     *protocol.Gateway // nil: its node was not asked, or says nothing of it
	Err      error             // why its node says nothing
}

// Route finds what its node says of a route of its plan.
func (p Published) Route(r plan.Route) (protocol.GatewayRoute, bool) {
	if p.Live == nil {
		return protocol.GatewayRoute{}, false
	}
	for _, live := range p.Live.Routes {
		if live.Name == r.String() && live.Mode == r.Mode {
			return live, true
		}
	}
	return protocol.GatewayRoute{}, false
}

// GatewaysOf are the gateways of a contract's plan, in its order.
func GatewaysOf(k Contract) []Published {
	var out []Published
	for _, w := range k.Plan.Workloads {
		if w.Kind != plan.KindGateway {
			continue
		}
		if g, err := plan.DecodeGateway(w.Config); err == nil { // a plan of a contract is valid
			out = append(out, Published{Contract: k, Workload: w, Gateway: g})
		}
	}
	return out
}

// AllPublished lists the gateways of all standing contracts, without their nodes'
// word.
func (c *Client) AllPublished(ctx context.Context) ([]Published, error) {
	all, err := c.active(ctx)
	var out []Published
	for _, k := range all {
		out = append(out, GatewaysOf(k)...)
	}
	return out, err
}

// GatewayStatus asks a node how the gateways of a contract do there. Only members
// of the contract's group may.
func (c *Client) GatewayStatus(ctx context.Context, slot, contractID canon.Hash, by sign.Signer) (protocol.GatewayStatus, error) {
	asker, err := c.asker(ctx, by)
	if err != nil {
		return protocol.GatewayStatus{}, err
	}
	b, err := asker.Call(ctx, bus.Ask{Slot: slot, Contract: contractID, Method: bus.MethodGateway})
	if err != nil {
		return protocol.GatewayStatus{}, err
	}
	s, err := protocol.DecodeGatewayStatus(b)
	if err == nil && s.Slot != slot {
		err = problem.New("reply-invalid", "node %s answers for slot %s", slot.Short(), s.Slot.Short())
	}
	return s, err
}

// AskGateways asks the nodes of gateways, all at once, for their word: into Live,
// or Err. Those of contracts of which no key at hand is a member have the error
// "not-permitted".
func (c *Client) AskGateways(ctx context.Context, list []Published, as string) {
	type place struct{ contract, slot canon.Hash }
	at := map[place][]int{}
	for i, p := range list {
		key := place{p.Contract.ID, p.Workload.Slot}
		at[key] = append(at[key], i)
	}
	turns := make(chan struct{}, viewAtATime)
	var all sync.WaitGroup
	for where, mine := range at {
		all.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			wait, cancel := context.WithTimeout(ctx, viewTime)
			defer cancel()
			var status protocol.GatewayStatus
			by, err := c.MemberSigner(ctx, list[mine[0]].Contract, as)
			if err == nil {
				status, err = c.GatewayStatus(wait, where.slot, where.contract, by)
			}
			for _, i := range mine { // nobody else has these
				list[i].Err = err
				if j := slices.IndexFunc(status.Gateways, func(g protocol.Gateway) bool { return g.Name == list[i].Workload.Name }); err == nil && j >= 0 {
					list[i].Live = &status.Gateways[j]
				}
			}
		})
	}
	all.Wait()
}

// FindPublished picks those that a person means by GROUP/DEPLOYMENT/WORKLOAD or an
// end or beginning of that: a deployment with or without its group, with or without
// the gateway. Code "gateway-unknown".
func FindPublished(all []Published, ref string, names Names) ([]Published, error) {
	parts := strings.Split(ref, "/")
	var found []Published
	var known []string
	for _, p := range all {
		full := []string{names.Of(p.Contract.Group), p.Contract.Name, p.Workload.Name}
		for _, is := range [][]string{full, full[:2], full[1:], full[1:2]} {
			if slices.Equal(parts, is) {
				found = append(found, p)
				break
			}
		}
		known = append(known, full[0]+"/"+full[1])
	}
	if len(found) == 0 {
		slices.Sort(known)
		return nil, problem.New("gateway-unknown", "no gateway of a deployment %q", ref).
			WithFix("%s", suggestFull(ref, slices.Compact(known), "list them with: zos gateway ls"))
	}
	return found, nil
}

// FindHost picks the routes that publish a host, each with its gateway. Several
// gateways may, and several deployments may want to.
func FindHost(all []Published, host string) []Published {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	var out []Published
	for _, p := range all {
		if i := slices.IndexFunc(p.Gateway.Routes, func(r plan.Route) bool { return r.Host == host }); i >= 0 {
			p.Gateway.Routes = p.Gateway.Routes[i : i+1]
			out = append(out, p)
		}
	}
	return out
}

// KeysOf are the keys of a group's members by their accounts.
func (c *Client) KeysOf(ctx context.Context, g contract.Group) (map[canon.Hash]sign.PublicKey, error) {
	keys := make(map[canon.Hash]sign.PublicKey, len(g.Members))
	for _, m := range g.Members {
		account, err := c.Account(ctx, m.Account)
		if err != nil {
			return nil, err
		}
		keys[m.Account] = sign.PublicKey(account.Key)
	}
	return keys, nil
}
