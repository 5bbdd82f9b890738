// Package engine replicates rules over a Merkle state with CometBFT: the
// application that CometBFT drives, its storage, and a node around both.
//
// Package ledger runs it with the contract's rules; tests run it with others.
package engine

import (
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
)

// Rules say what a transaction does. They must give the same result for the
// same input on every machine: no clock but now, no map order, no floats.
type Rules interface {
	// Init writes the state that the genesis founds.
	Init(st contract.State, genesis []byte) error
	// Apply judges tx at block time now (Unix seconds) and returns what to tell its
	// sender. If it fails, what it wrote is discarded.
	Apply(st contract.State, now uint64, tx []byte) (result []byte, err error)
}

// Contract is the rules of package contract.
type Contract struct{}

// Init implements Rules.
func (Contract) Init(st contract.State, genesis []byte) error { return contract.Init(st, genesis) }

// Apply implements Rules.
func (Contract) Apply(st contract.State, now uint64, tx []byte) ([]byte, error) {
	res, err := contract.Apply(st, now, tx)
	if err != nil {
		return nil, err
	}
	return canon.Marshal(res)
}
