package client

import (
	"bytes"
	"context"
	"sort"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/sign"
)

// submit signs a statement, sends it, and returns its id.
func (c *Client) submit(ctx context.Context, st contract.Statement, kind string, by ...sign.Signer) (canon.Hash, error) {
	s, err := contract.Sign(ctx, st, kind, by...)
	if err != nil {
		return canon.Hash{}, err
	}
	return s.ID(), c.Submit(ctx, s)
}

// FoundAccount founds an account for a key.
func (c *Client) FoundAccount(ctx context.Context, name string, key sign.Signer) (canon.Hash, error) {
	return c.submit(ctx, contract.Account{Header: c.header(contract.KindAccount), Name: name, Key: key.Public()}, contract.KindAccount, key)
}

// FoundGroup founds a group that decides with the given threshold.
func (c *Client) FoundGroup(ctx context.Context, name string, members []contract.Member, threshold uint64, founder sign.Signer) (canon.Hash, error) {
	rec, ok, err := Get[contract.KeyRecord](ctx, c, contract.KeyKey(founder.Public()))
	if err != nil {
		return canon.Hash{}, err
	}
	if !ok || rec.Kind != contract.KindAccount {
		return canon.Hash{}, unknownKey(founder.Public())
	}
	sort.Slice(members, func(i, j int) bool { return bytes.Compare(members[i].Account[:], members[j].Account[:]) < 0 })
	return c.submit(ctx, contract.Group{Header: c.header(contract.KindGroup), Name: name, Founder: rec.Owner,
		Members: members, Threshold: threshold, Nonce: nonce()}, contract.KindGroup, founder)
}

// FoundFarm founds a farm for a key.
func (c *Client) FoundFarm(ctx context.Context, name string, key sign.Signer) (canon.Hash, error) {
	return c.submit(ctx, contract.Farm{Header: c.header(contract.KindFarm), Name: name, Key: key.Public()}, contract.KindFarm, key)
}

// AddSlot adds a slot to a farm; the header is filled in.
func (c *Client) AddSlot(ctx context.Context, s contract.Slot, farm sign.Signer) (canon.Hash, error) {
	s.Header = c.header(contract.KindSlot)
	return c.submit(ctx, s, contract.KindSlot, farm)
}

// Delegate lets an agent's key act for a farm; the header is filled in.
func (c *Client) Delegate(ctx context.Context, d contract.Delegation, farm sign.Signer) (canon.Hash, error) {
	d.Header = c.header(contract.KindDelegation)
	return c.submit(ctx, d, contract.KindDelegation, farm)
}

// Admit lets a group use a farm's nodes up to a capacity, until expiry (Unix
// seconds). A zero capacity withdraws it.
func (c *Client) Admit(ctx context.Context, farm, group canon.Hash, capacity contract.Capacity, expiry uint64, key sign.Signer) (canon.Hash, error) {
	rec, ok, err := Get[contract.ConsentRecord](ctx, c, contract.KeyConsent(farm, group))
	if err != nil {
		return canon.Hash{}, err
	}
	sequence := uint64(1)
	if ok {
		old, _, _, err := contract.Open[contract.Consent](rec.Signed, contract.KindConsent, c.Grid())
		if err != nil {
			return canon.Hash{}, err
		}
		sequence = old.Sequence + 1
	}
	return c.submit(ctx, contract.Consent{Header: c.header(contract.KindConsent), Farm: farm, Group: group,
		Capacity: capacity, Sequence: sequence, Expiry: expiry}, contract.KindConsent, key)
}
