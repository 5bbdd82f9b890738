package client

import (
	"context"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Founded is what a founding statement on the ledger made: an account, a group
// or a farm.
type Founded[T contract.Statement] struct {
	ID   canon.Hash
	Is   T
	Time uint64 // block time of inclusion, Unix seconds
}

// opened reads the statements of listed records.
func opened[T contract.Statement, R any](records []Record[R], kind string, grid canon.Hash, parts func(R) (contract.Signed, uint64)) ([]Founded[T], error) {
	out := make([]Founded[T], 0, len(records))
	for _, r := range records {
		s, at := parts(r.Value)
		st, id, _, err := contract.Open[T](s, kind, grid)
		if err != nil {
			return nil, err
		}
		out = append(out, Founded[T]{ID: id, Is: st, Time: at})
	}
	return out, nil
}

// Accounts lists all accounts.
func (c *Client) Accounts(ctx context.Context) ([]Founded[contract.Account], error) {
	records, err := List[contract.AccountRecord](ctx, c, "account/")
	if err != nil {
		return nil, err
	}
	return opened[contract.Account](records, contract.KindAccount, c.Grid(), func(r contract.AccountRecord) (contract.Signed, uint64) { return r.Signed, r.Time })
}

// Groups lists all groups.
func (c *Client) Groups(ctx context.Context) ([]Founded[contract.Group], error) {
	records, err := List[contract.GroupRecord](ctx, c, "group/")
	if err != nil {
		return nil, err
	}
	return opened[contract.Group](records, contract.KindGroup, c.Grid(), func(r contract.GroupRecord) (contract.Signed, uint64) { return r.Signed, r.Time })
}

// Farms lists all farms.
func (c *Client) Farms(ctx context.Context) ([]Founded[contract.Farm], error) {
	records, err := List[contract.FarmRecord](ctx, c, "farm/")
	if err != nil {
		return nil, err
	}
	return opened[contract.Farm](records, contract.KindFarm, c.Grid(), func(r contract.FarmRecord) (contract.Signed, uint64) { return r.Signed, r.Time })
}

// AccountOf returns the account that a key speaks for, if there is one.
func (c *Client) AccountOf(ctx context.Context, key sign.PublicKey) (canon.Hash, bool, error) {
	rec, ok, err := Get[contract.KeyRecord](ctx, c, contract.KeyKey(key))
	if err != nil || !ok || rec.Kind != contract.KindAccount {
		return canon.Hash{}, false, err
	}
	return rec.Owner, true, nil
}

// Farm reads a farm's founding statement.
func (c *Client) Farm(ctx context.Context, id canon.Hash) (contract.Farm, error) {
	rec, ok, err := Get[contract.FarmRecord](ctx, c, contract.KeyFarm(id))
	if err != nil {
		return contract.Farm{}, err
	}
	if !ok {
		return contract.Farm{}, problem.New("farm-unknown", "no farm %s", id.Short()).WithFix("list them with: zos farm ls")
	}
	f, got, _, err := contract.Open[contract.Farm](rec.Signed, contract.KindFarm, c.Grid())
	if err == nil {
		err = sameID("farm", got, id)
	}
	return f, err
}

// OwnFarm resolves a farm of which the key is at hand, with its signer. An empty
// name means the only one.
func (c *Client) OwnFarm(ctx context.Context, ref, as string) (Founded[contract.Farm], sign.Signer, error) {
	var none Founded[contract.Farm]
	if ref != "" {
		id, err := c.FarmID(ctx, ref)
		if err != nil {
			return none, nil, err
		}
		f, err := c.Farm(ctx, id)
		if err != nil {
			return none, nil, err
		}
		by, err := c.SignerAmong(ctx, as, sign.PublicKey(f.Key).Equal)
		return Founded[contract.Farm]{ID: id, Is: f}, by, err
	}
	all, err := c.Farms(ctx)
	if err != nil {
		return none, nil, err
	}
	var own []Founded[contract.Farm]
	for _, f := range all {
		if _, err := c.keyAmong(as, sign.PublicKey(f.Is.Key).Equal); err == nil {
			own = append(own, f)
		}
	}
	if len(own) == 0 {
		return none, nil, problem.New("not-permitted", "none of the grid's %d farms has its key in context %s, or it is not the one named with --as", len(all), c.context.Name).
			WithFix("add the farm's key: zos key add NAME FILE")
	}
	if len(own) > 1 {
		return none, nil, problem.New("farm-unknown", "which farm? %d have a key in context %s", len(own), c.context.Name).
			WithFix("name it with --farm NAME")
	}
	by, err := c.SignerAmong(ctx, as, sign.PublicKey(own[0].Is.Key).Equal)
	return own[0], by, err
}

// Consents lists what a farm grants to groups, withdrawn ones included.
func (c *Client) Consents(ctx context.Context, farm canon.Hash) ([]contract.Consent, error) {
	records, err := List[contract.ConsentRecord](ctx, c, "consent/"+farm.String()+"/")
	if err != nil {
		return nil, err
	}
	out := make([]contract.Consent, 0, len(records))
	for _, r := range records {
		s, _, _, err := contract.Open[contract.Consent](r.Value.Signed, contract.KindConsent, c.Grid())
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Delegations lists the farm's agents.
func (c *Client) Delegations(ctx context.Context, farm canon.Hash) ([]contract.Delegation, error) {
	agents, err := List[contract.AgentRecord](ctx, c, "agent/"+farm.String()+"/")
	if err != nil {
		return nil, err
	}
	out := make([]contract.Delegation, 0, len(agents))
	for _, a := range agents {
		rec, ok, err := Get[contract.DelegationRecord](ctx, c, contract.KeyDelegation(a.Value.Delegation))
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		d, _, _, err := contract.Open[contract.Delegation](rec.Signed, contract.KindDelegation, c.Grid())
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}
