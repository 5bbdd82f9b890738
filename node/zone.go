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
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// maxZoneAddresses bounds the addresses of one name: what an answer over UDP holds.
// maxZoneTexts bounds its texts, maxZoneChallenges the answers to authorities that
// are looked at, each with a few questions to the ledger.
const (
	maxZoneAddresses  = 16
	maxZoneTexts      = 16
	maxZoneChallenges = 512
)

// readNames reads what the grid's domain answers: the gateways of each held name
// and of those below it, by the newest plans of the contracts that publish them,
// and as name servers ns1, ns2, … all nodes with shared addresses.
func readNames(ctx context.Context, l ledgerLists, z contract.Zone, now uint64, grid canon.Hash) (*control.Zone, error) {
	out := &control.Zone{Domain: z.Domain, Serial: uint32(now), NS: []control.ZoneName{}, Names: []control.ZoneName{}, TXT: []control.ZoneRecord{}}
	pools, err := listAll(ctx, l, contract.KeyPoolPrefix)
	if err != nil {
		return nil, err
	}
	for _, kv := range pools {
		var rec contract.PoolRecord
		if canon.Unmarshal(kv.Value, &rec) != nil {
			continue
		}
		// Anybody can found a farm and give it a pool: who answers for the domain is
		// what the release quorum says.
		p, _, _, err := contract.Open[contract.Pool](rec.Signed, contract.KindPool, grid)
		if err != nil || len(p.Ranges) == 0 || len(p.Shared) == 0 || !slices.Contains(z.Farms, p.Farm) {
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
	published, err := publishedHosts(ctx, l, z, held)
	if err != nil {
		return nil, err
	}
	plans := map[canon.Hash][]plan.Gateway{}
	deeper := map[string]int{} // by label
	for _, host := range slices.Sorted(maps.Keys(published)) {
		id := published[host]
		gateways, known := plans[id]
		if !known {
			if gateways, err = gatewaysOf(ctx, l, id); err != nil {
				return nil, err
			}
			plans[id] = gateways
		}
		var addrs []string
		for _, g := range gateways {
			if slices.ContainsFunc(g.Routes, func(r plan.Route) bool { return r.Host == host }) {
				addrs = append(addrs, g.Addresses...)
			}
		}
		if len(addrs) == 0 {
			continue
		}
		name := strings.TrimSuffix(host, "."+z.Domain)
		if label, _ := z.Label(host); label != name {
			if deeper[label]++; deeper[label] > maxDeeper {
				continue
			}
		}
		out.Names = append(out.Names, control.ZoneName{Name: name, Addrs: bounded(addrs)})
	}
	return out, nil
}

// maxDeeper bounds the names below one label, so that nobody fills the zone.
const maxDeeper = 64

// publishedHosts are the hosts under the grid's domain that a contract of their
// label's holder publishes, and the contracts. Where the ledger has more hosts than
// one question may ask for, those that a contract publishes in several depths
// are found by the name right under the domain alone.
func publishedHosts(ctx context.Context, l ledgerLists, z contract.Zone, held map[string]canon.Hash) (map[string]canon.Hash, error) {
	out := map[string]canon.Hash{}
	all, _, err := l.List(ctx, contract.KeyHostPrefix)
	if err != nil && problem.Code(err) != wire.ProblemTooLarge {
		return nil, err
	}
	for _, kv := range all {
		host, group, _ := strings.Cut(strings.TrimPrefix(kv.Key, contract.KeyHostPrefix), "/")
		label, _ := z.Label(host)
		holder, is := held[label]
		var rec contract.HolderRecord
		if is && holder.String() == group && canon.Unmarshal(kv.Value, &rec) == nil {
			out[host] = rec.Contract
		}
	}
	if err == nil {
		return out, nil
	}
	for label, holder := range held {
		host := label + "." + z.Domain
		rec, found, err := get[contract.HolderRecord](ctx, l, contract.KeyHost(host, holder))
		if err != nil {
			return nil, err
		}
		if !found {
			continue // reserved, and published by nobody
		}
		gateways, err := gatewaysOf(ctx, l, rec.Contract)
		if err != nil {
			return nil, err
		}
		for _, g := range gateways {
			for _, r := range g.Routes {
				if under, _ := z.Label(r.Host); under == label {
					out[r.Host] = rec.Contract
				}
			}
		}
	}
	return out, nil
}

// readChallenges reads the texts with which nodes answer certificate authorities now.
// The ledger's word that a node may do so is not taken: each is judged again, by the
// slot's key, the contract's plan and the name as they are now.
func readChallenges(ctx context.Context, l ledgerLists, z contract.Zone, now uint64, grid canon.Hash) ([]control.ZoneRecord, error) {
	out := []control.ZoneRecord{}
	all, _, err := l.List(ctx, contract.KeyChallengePrefix)
	if err != nil {
		return out, err
	}
	by, looked := map[string][]string{}, 0
	for _, kv := range all {
		var rec contract.ChallengeRecord
		var c contract.Challenge
		if canon.Unmarshal(kv.Value, &rec) != nil || canon.UnmarshalLimit(rec.Signed.Statement, contract.MaxPlain, &c) != nil {
			continue
		}
		label, _ := z.Label(c.Host)
		if label == "" || !contract.ValidName(label) || now > c.Expiry || looked == maxZoneChallenges {
			continue // nothing is read for it
		}
		looked++
		facts := contract.ChallengeFacts{Zone: z, Now: now}
		if facts.Bound, _, err = get[contract.BoundRecord](ctx, l, contract.KeyBound(c.Slot)); err != nil {
			return out, err
		}
		if facts.Contract, _, err = get[contract.ContractRecord](ctx, l, contract.KeyContract(c.Contract)); err != nil {
			return out, err
		}
		if facts.Name, _, err = get[contract.HostNameRecord](ctx, l, contract.KeyHostName(label)); err != nil {
			return out, err
		}
		if _, err := contract.JudgeChallenge(grid, rec.Signed, facts); err != nil || c.Value == "" {
			continue // the plan, the name or the node is another one now
		}
		name := contract.ChallengeLabel + c.Host
		if len(by[name]) < maxZoneTexts {
			by[name] = append(by[name], c.Value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		texts := slices.Sorted(slices.Values(by[name]))
		out = append(out, control.ZoneRecord{Name: name, Texts: slices.Compact(texts)})
	}
	return out, nil
}

func bounded(addrs []string) []string {
	out := slices.Compact(slices.Sorted(slices.Values(addrs)))
	return out[:min(len(out), maxZoneAddresses)]
}

// heldNames are the labels that are held now, and whose they are.
func heldNames(ctx context.Context, l ledgerLists, now uint64) (map[string]canon.Hash, error) {
	all, err := listAll(ctx, l, contract.KeyHostNamePrefix)
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
