package bus

import (
	"context"
	"sync"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Read gets one record of the ledger, proven.
type Read func(ctx context.Context, key string) (value []byte, found bool, err error)

// maxFarms bounds the slots whose farm is remembered.
const maxFarms = 4096

// farmKey is the farm of a slot and its key. A slot's id fixes both, so they are
// read once.
type farmKey struct {
	farm canon.Hash
	key  []byte
}

// BoundBy reads bindings with read and judges each by the farm's own signatures:
// a ledger whose validators all collude can't put a key of theirs under a slot.
// Errors have the codes of contract.JudgeBound and FarmOfSlot, "node-unbound" if
// nobody has joined the slot, "slot-unknown", or what read says.
func BoundBy(grid canon.Hash, read Read) Bound {
	var mu sync.Mutex
	farms := map[canon.Hash]farmKey{}
	return func(ctx context.Context, slot canon.Hash) (Binding, error) {
		mu.Lock()
		f, known := farms[slot]
		mu.Unlock()
		if !known {
			var err error
			if f, err = readFarm(ctx, grid, slot, read); err != nil {
				return Binding{}, err
			}
			mu.Lock()
			if len(farms) >= maxFarms {
				clear(farms)
			}
			farms[slot] = f
			mu.Unlock()
		}
		rec, found, err := readRecord[contract.BoundRecord](ctx, read, contract.KeyBound(slot))
		if err != nil {
			return Binding{}, err
		}
		if !found {
			return Binding{}, problem.New("node-unbound", "no node has joined slot %s yet", slot.Short())
		}
		n, err := contract.JudgeBound(grid, slot, f.farm, f.key, rec)
		if err != nil {
			return Binding{}, err
		}
		return Binding{Epoch: n.Epoch, SigningKey: sign.PublicKey(n.SigningKey), SealingKey: n.SealingKey}, nil
	}
}

func readFarm(ctx context.Context, grid, slot canon.Hash, read Read) (farmKey, error) {
	s, found, err := readRecord[contract.SlotRecord](ctx, read, contract.KeySlot(slot))
	if err != nil {
		return farmKey{}, err
	}
	if !found {
		return farmKey{}, problem.New("slot-unknown", "slot %s is not on the ledger", slot.Short())
	}
	st, _, _, err := contract.Open[contract.Slot](s.Signed, contract.KindSlot, grid)
	if err != nil {
		return farmKey{}, err
	}
	f, _, err := readRecord[contract.FarmRecord](ctx, read, contract.KeyFarm(st.Farm))
	if err != nil {
		return farmKey{}, err
	}
	key, err := contract.FarmOfSlot(grid, slot, s.Signed, f.Signed)
	return farmKey{st.Farm, key}, err
}

func readRecord[T any](ctx context.Context, read Read, key string) (T, bool, error) {
	var v T
	b, found, err := read(ctx, key)
	if err != nil || !found {
		return v, false, err
	}
	if err := canon.Unmarshal(b, &v); err != nil {
		return v, false, problem.New("record-mismatch", "read ledger record %s: %w", key, err)
	}
	return v, true, nil
}

// Binding is what the ledger says of another slot, read within the last minute:
// the very keys by which calls from it are judged.
func (p *Peers) Binding(ctx context.Context, slot canon.Hash) (Binding, error) {
	return p.book.get(ctx, slot)
}
