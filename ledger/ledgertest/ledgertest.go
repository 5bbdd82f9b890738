// Package ledgertest helps tests of a ledger's readers: grids to test with, and
// a ledger whose validators lie.
package ledgertest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/internal/engine"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Grid is a grid of one validator.
type Grid struct {
	Genesis      []byte // canonical contract.Genesis
	ID           canon.Hash
	ValidatorKey []byte // seed, for ledger.Config
}

// NewGrid founds a grid, created now, with keys of its own.
func NewGrid(name string) (Grid, error) {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) // never fails (crypto/rand)
	_, release, err := sign.Generate()
	if err != nil {
		return Grid{}, fmt.Errorf("found test grid: %w", err)
	}
	genesis, err := contract.EncodeGenesis(contract.Genesis{
		V: contract.Version, Kind: contract.KindGenesis, Name: name,
		Created: uint64(time.Now().Unix()), Nonce: contract.NewNonce(),
		Validators: []contract.Validator{{
			Name: "validator", Key: ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey), Power: 1,
		}},
		ReleaseKeys: [][]byte{release.Public()}, ReleaseThreshold: 1,
	})
	if err != nil {
		return Grid{}, fmt.Errorf("found test grid: %w", err)
	}
	return Grid{Genesis: genesis, ID: canon.Sum(genesis), ValidatorKey: seed}, nil
}

// Write is a change that a forger makes to the state, whatever the rules say.
type Write struct {
	Key    string `cbor:"key"`
	Value  []byte `cbor:"value"`
	Delete bool   `cbor:"delete"`
}

// forged is a transaction that only forgers understand.
type forged struct {
	Forged []Write `cbor:"forged"`
	Refuse string  `cbor:"refuse"` // a problem code to refuse it with, or none
	After  uint64  `cbor:"after"`  // block time after which Refuse holds, Unix seconds
	Nonce  []byte  `cbor:"nonce"`
}

// Forge returns the transaction that makes the writes on a forger's chain; no
// two are equal.
func Forge(writes ...Write) []byte { return forge(forged{Forged: writes}) }

// ForgeRefused returns a transaction that forgers refuse with the problem code
// once block time, in Unix seconds, is past after.
func ForgeRefused(code string, after uint64) []byte {
	return forge(forged{Refuse: code, After: after})
}

func forge(f forged) []byte {
	f.Nonce = contract.NewNonce()
	b, err := canon.Marshal(f)
	if err != nil {
		panic(err) // plain data always encodes
	}
	return b
}

// rules are the contract's, and forged transactions on top of them.
type rules struct{ engine.Contract }

func (r rules) Apply(st contract.State, now uint64, tx []byte) ([]byte, error) {
	var f forged
	if canon.Unmarshal(tx, &f) != nil {
		return r.Contract.Apply(st, now, tx)
	}
	if f.Refuse != "" && now > f.After {
		return nil, problem.New(f.Refuse, "refused, as was asked for").WithFix("ask for something else")
	}
	for _, w := range f.Forged {
		if w.Delete {
			st.Delete(w.Key)
		} else {
			st.Set(w.Key, w.Value)
		}
	}
	return []byte("forged"), nil
}

// Forger is a ledger node whose operator holds the validator keys and does not
// keep the rules: its headers are validly signed, its state is what he likes.
type Forger struct{ *ledger.Node }

// StartForger starts a forger. With an empty cfg.Dir directory it founds the
// chain anew, with the same id and the same validators as the true one; with a
// copy of a stopped true node's directory it goes on from there, so that what it
// signs follows from the true chain's checkpoints. It serves a full node's role
// too (no ValidatorKey), as the forger's own witness.
func StartForger(ctx context.Context, cfg ledger.Config) (*Forger, error) {
	n, err := engine.Start(ctx, cfg, rules{})
	if err != nil {
		return nil, fmt.Errorf("start forger: %w", err)
	}
	return &Forger{n}, nil
}

// Write changes the state and returns when a block holds the change.
func (f *Forger) Write(ctx context.Context, writes ...Write) error {
	return f.Submit(ctx, Forge(writes...))
}
