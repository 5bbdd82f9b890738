package netnode

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// Slots is how many slots there are.
const Slots = 128

// epoch of every slot's key.
const epoch = 1

// Grid is the laboratory's grid.
var Grid = canon.Sum([]byte("netnode"))

// Slot is the id of slot number i.
func Slot(i int) canon.Hash {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(i))
	return canon.Sum(append([]byte("slot"), b[:]...))
}

// Identity is who a node is in a grid that exists: its place, its keys, and what that
// grid's ledger says of the other slots.
type Identity struct {
	Grid, Slot       canon.Hash
	Epoch            uint64
	Signing, Sealing [32]byte // seeds
	Bindings         map[canon.Hash]bus.Binding
}

// Slot is the slot of a node.
func (c Config) Slot() canon.Hash {
	if c.Identity != nil {
		return c.Identity.Slot
	}
	return Slot(c.Number)
}

// who is a node's place and keys, and how it reads those of others.
type who struct {
	grid, slot canon.Hash
	epoch      uint64
	signer     sign.Signer
	sealing    *seal.PrivateKey
	bound      bus.Bound
}

func (c Config) who() (w who, err error) {
	id := c.Identity
	if id == nil {
		w = who{grid: Grid, slot: Slot(c.Number), epoch: epoch, signer: signer(c.Number), bound: bound}
		if _, err := ledger(); err != nil { // now, not when somebody waits
			return w, err
		}
		w.sealing, err = sealing(c.Number)
		return w, err
	}
	w = who{grid: id.Grid, slot: id.Slot, epoch: id.Epoch, signer: sign.FromSeed(id.Signing)}
	w.bound = func(_ context.Context, slot canon.Hash) (bus.Binding, error) {
		b, ok := id.Bindings[slot]
		if !ok {
			return b, problem.New("slot-unknown", "nothing was said of slot %s", slot.Short())
		}
		return b, nil
	}
	w.sealing, err = seal.KeyFromSeed(id.Sealing)
	return w, err
}

func seed(kind byte, i int) (s [32]byte) {
	s[0] = kind
	binary.BigEndian.PutUint64(s[24:], uint64(i)+1)
	return s
}

func signer(i int) sign.Signer { return sign.FromSeed(seed('s', i)) }

func sealing(i int) (*seal.PrivateKey, error) { return seal.KeyFromSeed(seed('e', i)) }

// ledger holds what a ledger would say of all slots. It is computed once: a
// node reads records, it makes no keys.
var ledger = sync.OnceValues(func() (map[canon.Hash]bus.Binding, error) {
	all := map[canon.Hash]bus.Binding{}
	for i := range Slots {
		k, err := sealing(i)
		if err != nil {
			return nil, err
		}
		all[Slot(i)] = bus.Binding{Epoch: epoch, SigningKey: signer(i).Public(), SealingKey: k.Public()}
	}
	return all, nil
})

// bound reads it.
func bound(_ context.Context, slot canon.Hash) (bus.Binding, error) {
	all, err := ledger()
	if err != nil {
		return bus.Binding{}, err
	}
	b, ok := all[slot]
	if !ok {
		return bus.Binding{}, problem.New("slot-unknown", "no slot %s in the laboratory", slot.Short())
	}
	return b, nil
}
