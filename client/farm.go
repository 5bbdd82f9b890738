package client

import (
	"context"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
)

// FarmLedger is the ledger as a farm's agent reads it; it implements
// farm.Ledger.
type FarmLedger struct{ Client *Client }

// Bound implements farm.Ledger.
func (l FarmLedger) Bound(ctx context.Context, slot canon.Hash) (contract.BoundRecord, bool, error) {
	return Get[contract.BoundRecord](ctx, l.Client, contract.KeyBound(slot))
}

// Delegation implements farm.Ledger.
func (l FarmLedger) Delegation(ctx context.Context, id canon.Hash) (contract.DelegationRecord, bool, error) {
	return Get[contract.DelegationRecord](ctx, l.Client, contract.KeyDelegation(id))
}

// Submit implements farm.Ledger.
func (l FarmLedger) Submit(ctx context.Context, tx contract.Signed) error {
	return l.Client.Submit(ctx, tx)
}
