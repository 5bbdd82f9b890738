package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/spec/plan"
)

// maxZoneAddresses bounds the addresses of one name: what an answer over UDP holds.
const maxZoneAddresses = 16

// readNames reads what the grid's domain answers: each held name's gateways, by
// the newest plans of the contracts that publish it, and as name servers ns1, ns2,
// … all nodes with shared addresses.
func readNames(ctx context.Context, l ledgerLists, z contract.Zone, now uint64, grid canon.Hash) (*control.Zone, error) {
	out := &control.Zone{Domain: z.Domain, Serial: uint32(now), NS: []control.ZoneName{}, Names: []control.ZoneName{}, TXT: []control.ZoneRecord{}}
	pools, _, err := l.List(ctx, contract.KeyPoolPrefix)
	if err != nil {
		return nil, err
	}
	for _, kv := range pools {
		var rec contract.PoolRecord
		if canon.Unmarshal(kv.Value, &rec) != nil {
			continue
		}
		// Whose farm it is does not matter here: it was taken into the ledger.
		p, _, _, err := contract.Open[contract.Pool](rec.Signed, contract.KindPool, grid)
		if err != nil || len(p.Ranges) == 0 || len(p.Shared) == 0 {
			continue
		}
		out.NS = append(out.NS, control.ZoneName{Name: fmt.Sprintf("ns%d.%s", len(out.NS)+1, z.Domain), Addrs: bounded(p.Shared)})
		if len(out.NS) == 8 {
			break
		}
	}
	held, err := heldNames(ctx, l, now)
	if err != nil {
		return nil, err
	}
	plans := map[canon.Hash][]plan.Gateway{}
	for _, label := range slices.Sorted(maps.Keys(held)) {
		host := label + "." + z.Domain
		holder, found, err := get[contract.HolderRecord](ctx, l, contract.KeyHost(host, held[label]))
		if err != nil {
			return nil, err
		}
		if !found {
			continue // reserved, and published by nobody
		}
		gateways, known := plans[holder.Contract]
		if !known {
			if gateways, err = gatewaysOf(ctx, l, holder.Contract); err != nil {
				return nil, err
			}
			plans[holder.Contract] = gateways
		}
		var addrs []string
		for _, g := range gateways {
			if slices.ContainsFunc(g.Routes, func(r plan.Route) bool { return r.Host == host }) {
				addrs = append(addrs, g.Addresses...)
			}
		}
		if len(addrs) > 0 {
			out.Names = append(out.Names, control.ZoneName{Name: label, Addrs: bounded(addrs)})
		}
	}
	return out, nil
}

func bounded(addrs []string) []string {
	out := slices.Compact(slices.Sorted(slices.Values(addrs)))
	return out[:min(len(out), maxZoneAddresses)]
}

// heldNames are the labels that are held now, and whose they are.
func heldNames(ctx context.Context, l ledgerLists, now uint64) (map[string]canon.Hash, error) {
	all, _, err := l.List(ctx, contract.KeyHostNamePrefix)
	if err != nil {
		return nil, err
	}
	out := map[string]canon.Hash{}
	for _, kv := range all {
		var rec contract.HostNameRecord
		if canon.Unmarshal(kv.Value, &rec) == nil && now <= rec.Until {
			out[strings.TrimPrefix(kv.Key, contract.KeyHostNamePrefix)] = rec.Group
		}
	}
	return out, nil
}

// gatewaysOf are the gateways in a contract's newest plan.
func gatewaysOf(ctx context.Context, l ledgerLists, id canon.Hash) ([]plan.Gateway, error) {
	k, _, err := get[contract.ContractRecord](ctx, l, contract.KeyContract(id))
	if err != nil {
		return nil, err
	}
	a, err := newestApproval(k.History)
	if err != nil {
		return nil, nil
	}
	p, err := plan.Decode(a.Plan)
	if err != nil {
		return nil, nil
	}
	var out []plan.Gateway
	for _, w := range p.Workloads {
		if w.Kind != plan.KindGateway {
			continue
		}
		if g, err := plan.DecodeGateway(w.Config); err == nil {
			out = append(out, g)
		}
	}
	return out, nil
}
