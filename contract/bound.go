package contract

import (
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// FarmOfSlot returns the key of the farm that founded a slot. Both statements are
// known by their hashes, which the slot's id fixes: it needs no trust in who showed
// them. Errors have the codes of Open, or "bound-refused".
func FarmOfSlot(grid, id canon.Hash, slot, farm Signed) (key []byte, err error) {
	if slot.ID() != id {
		return nil, problem.New("bound-refused", "slot %s: another slot's statement was shown", id.Short())
	}
	s, _, keys, err := Open[Slot](slot, KindSlot, grid)
	if err != nil {
		return nil, err
	}
	if farm.ID() != s.Farm {
		return nil, problem.New("bound-refused", "slot %s: another farm's statement was shown", id.Short())
	}
	f, _, _, err := Open[Farm](farm, KindFarm, grid)
	if err != nil {
		return nil, err
	}
	return f.Key, signedBy(keys, f.Key)
}

// JudgeBound decides whether the keys in rec speak for the slot, for those who
// trust no ledger with that: they do if the slot's farm says so, itself or through
// a delegate that it named. A former binding passes too: that a newer one exists
// only the ledger can tell. Errors have the codes of Open, or "bound-refused".
func JudgeBound(grid, slot, farm canon.Hash, farmKey []byte, rec BoundRecord) (Node, error) {
	refuse := func(format string, args ...any) (Node, error) {
		return Node{}, problem.New("bound-refused", "keys of slot %s: "+format, append([]any{slot.Short()}, args...)...)
	}
	n, _, keys, err := Open[Node](rec.Signed, KindNode, grid)
	if err != nil {
		return Node{}, err
	}
	if err := n.Validate(); err != nil {
		return Node{}, err
	}
	if n.Slot != slot || n.Epoch != rec.Epoch || n.Epoch == 0 {
		return refuse("they are of another slot or epoch")
	}
	authority := farmKey
	if !n.Delegation.IsZero() {
		if rec.Delegation.ID() != n.Delegation {
			return refuse("the delegation under which they were admitted is not shown")
		}
		d, _, by, err := Open[Delegation](rec.Delegation, KindDelegation, grid)
		if err != nil {
			return Node{}, err
		}
		if err := signedBy(by, farmKey); err != nil {
			return Node{}, err
		}
		action := MayRekey
		if n.Epoch == 1 {
			action = MayAdmit
		}
		if d.Farm != farm || !slices.Contains(d.Actions, action) || len(d.Slots) > 0 && !slices.Contains(d.Slots, slot) {
			return refuse("the delegate may not %s this slot", action)
		}
		authority = d.Key
	}
	return n, signedBy(keys, n.SigningKey, authority)
}
