package client

import (
	"cmp"
	"context"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/sign"
)

// SlotPool is a slot's public addresses, and what contracts have of them.
type SlotPool struct {
	Node Node
	Pool contract.Pool // live
	// Leases are the addresses of the pool that contracts use, in canonical text.
	Leases map[string]contract.LeaseRecord
}

// Pools lists the slots that have public addresses, sorted by name. What a slot's
// farm did not sign is an error: whoever serves the ledger lies.
func (c *Client) Pools(ctx context.Context) ([]SlotPool, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	leases, err := List[contract.LeaseRecord](ctx, c, contract.KeyLease(""))
	if err != nil {
		return nil, err
	}
	out := []SlotPool{}
	for _, n := range nodes {
		p, err := c.Pool(ctx, n)
		if err != nil {
			return nil, err
		}
		if !p.Live() {
			continue
		}
		one := SlotPool{Node: n, Pool: p, Leases: map[string]contract.LeaseRecord{}}
		for _, l := range leases {
			if a, ok := contract.PublicAddr(l.Name); ok {
				if in, _ := p.Contains(a); in {
					one.Leases[l.Name] = l.Value
				}
			}
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b SlotPool) int { return cmp.Compare(a.Node.Name, b.Node.Name) })
	return out, nil
}

// SetPool gives a slot public addresses with its farm's key, or takes them back if
// p has no ranges. Header and sequence are filled in; the lists are brought into
// order.
func (c *Client) SetPool(ctx context.Context, p contract.Pool, farm sign.Signer) (canon.Hash, error) {
	rec, ok, err := Get[contract.PoolRecord](ctx, c, contract.KeyPool(p.Slot))
	if err != nil {
		return canon.Hash{}, err
	}
	p.Sequence = 1
	if ok {
		old, _, _, err := contract.Open[contract.Pool](rec.Signed, contract.KindPool, c.Grid())
		if err != nil {
			return canon.Hash{}, err
		}
		p.Sequence = old.Sequence + 1
	}
	p = contract.NewPool(c.Grid(), p)
	if err := p.Validate(); err != nil {
		return canon.Hash{}, err
	}
	return c.submit(ctx, p, contract.KindPool, farm)
}
