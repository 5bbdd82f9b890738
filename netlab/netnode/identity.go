package netnode

import (
	"context"
	"encoding/binary"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// Slots is how many slots there are.
const Slots = 256

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

func seed(kind byte, i int) (s [32]byte) {
	s[0] = kind
	binary.BigEndian.PutUint64(s[24:], uint64(i)+1)
	return s
}

func signer(i int) sign.Signer { return sign.FromSeed(seed('s', i)) }

func sealing(i int) (*seal.PrivateKey, error) { return seal.KeyFromSeed(seed('e', i)) }

// number finds a slot by its id.
func number(slot canon.Hash) (int, error) {
	for i := range Slots {
		if Slot(i) == slot {
			return i, nil
		}
	}
	return 0, problem.New("slot-unknown", "no slot %s in the laboratory", slot.Short())
}

// bound is what a ledger would say.
func bound(_ context.Context, slot canon.Hash) (bus.Binding, error) {
	i, err := number(slot)
	if err != nil {
		return bus.Binding{}, err
	}
	k, err := sealing(i)
	if err != nil {
		return bus.Binding{}, err
	}
	return bus.Binding{Epoch: epoch, SigningKey: signer(i).Public(), SealingKey: k.Public()}, nil
}
