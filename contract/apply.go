package contract

import (
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Result says what a transaction did.
type Result struct {
	Kind string     `cbor:"kind"`
	ID   canon.Hash `cbor:"id"` // of the statement; for an Approval the proposal's id
	// The rest is about approvals only.
	Accepted  bool       `cbor:"accepted"` // this transaction met the threshold
	Contract  canon.Hash `cbor:"contract"`
	Version   uint64     `cbor:"version"`
	Weight    uint64     `cbor:"weight"` // of all approvals so far
	Threshold uint64     `cbor:"threshold"`
}

// ledger is one application of the rules: the state, when and where.
type ledger struct {
	st      State
	now     uint64 // block time, Unix seconds
	grid    canon.Hash
	genesis Genesis
}

// Apply judges the transaction tx, an encoded Signed, at block time now (Unix
// seconds) and writes what follows from it into st. On error the caller must
// discard what was written. The error's code says which rule refused it
// (docs/reference/errors.md). The same state, time and bytes give the same
// writes in the same order on every machine.
func Apply(st State, now uint64, tx []byte) (Result, error) {
	s, err := DecodeSigned(tx)
	if err != nil {
		return Result{}, err
	}
	head, err := Peek(s.Statement)
	if err != nil {
		return Result{}, err
	}
	grid, genesis, err := loadGrid(st)
	if err != nil {
		return Result{}, err
	}
	l := &ledger{st: st, now: now, grid: grid, genesis: genesis}
	rules := map[string]func(Signed) (Result, error){
		KindAccount:    l.account,
		KindGroup:      l.group,
		KindFarm:       l.farm,
		KindSlot:       l.slot,
		KindDelegation: l.delegation,
		KindConsent:    l.consent,
		KindNode:       l.node,
		KindApproval:   l.approval,
		KindReceipt:    l.receipt,
		KindRelease:    l.release,
		KindPool:       l.pool,
		KindZone:       l.zone,
		KindChallenge:  l.challenge,
		KindFeatures:   l.features,
	}
	rule, ok := rules[head.Kind]
	if !ok {
		return Result{}, problem.New("kind-unknown", "statements of kind %.64q do not go on the ledger", head.Kind)
	}
	res, err := rule(s)
	if err != nil {
		return Result{}, fmt.Errorf("apply %s: %w", head.Kind, err)
	}
	res.Kind, res.ID = head.Kind, s.ID()
	return res, nil
}

// fresh refuses an expiry that block time has passed.
func (l *ledger) fresh(expiry uint64, code, what string) error {
	if l.now > expiry {
		return problem.New(code, "%s expired at %d, block time is %d", what, expiry, l.now)
	}
	return nil
}

// absent refuses a founding statement that is already on the ledger.
func (l *ledger) absent(key string) error {
	if l.st.Get(key) != nil {
		return problem.New("already-exists", "%s is already on the ledger", key)
	}
	return nil
}
