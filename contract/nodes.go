package contract

import (
	"bytes"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// node binds new keys to a slot: signed by the new key, which proves that the
// node holds it, and by the farm or its delegate. It writes the binding alone:
// what the slot runs and what is used of it belongs to the slot, not to a key.
func (l *ledger) node(s Signed) (Result, error) {
	n, _, keys, err := Open[Node](s, KindNode, l.grid)
	if err != nil {
		return Result{}, err
	}
	if err := n.Validate(); err != nil {
		return Result{}, err
	}
	if err := l.fresh(n.Expiry, "node-expired", "the binding's statement"); err != nil {
		return Result{}, err
	}
	slot, err := l.loadSlot(n.Slot)
	if err != nil {
		return Result{}, err
	}
	old, bound, err := Load[BoundRecord](l.st, KeyBound(n.Slot))
	if err != nil {
		return Result{}, err
	}
	if n.Epoch != old.Epoch+1 {
		return Result{}, problem.New("stale-epoch", "the binding is for epoch %d, slot %s is at %d", n.Epoch, slot.Name, old.Epoch)
	}
	action := MayAdmit
	if bound {
		action = MayRekey
		if err := l.voidKeys(n, old); err != nil {
			return Result{}, err
		}
	}
	rec := BoundRecord{Signed: s, Epoch: n.Epoch, Time: l.now}
	var authority []byte
	if n.Delegation.IsZero() {
		f, err := l.loadFarm(slot.Farm)
		if err != nil {
			return Result{}, err
		}
		authority = f.Key
	} else if authority, rec.Delegation, err = l.delegate(n.Delegation, n.Slot, slot, action); err != nil {
		return Result{}, err
	}
	if bytes.Equal(authority, n.SigningKey) {
		return Result{}, problem.New("node-invalid", "a node's key can't admit itself")
	}
	if err := signedBy(keys, n.SigningKey, authority); err != nil {
		return Result{}, err
	}
	if err := l.claimKey(n.SigningKey, KindNode, n.Slot); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeyBound(n.Slot), rec)
}

// Validate checks what can be known of n without the ledger; code
// "node-invalid".
func (n Node) Validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("node-invalid", "node: "+format, args...)
	}
	if key, err := sign.ParsePublicKey(n.SigningKey); err != nil {
		return bad("signing key: %w", err)
	} else if key.Type() != sign.TypeEd25519 {
		return bad("signing key is of type %s, want %s", key.Type(), sign.TypeEd25519)
	}
	if err := seal.CheckPublic(n.SealingKey); err != nil {
		return bad("%w", err)
	}
	if len(n.BootNonce) != NonceSize {
		return bad("the boot nonce has %d bytes, want %d", len(n.BootNonce), NonceSize)
	}
	return nil
}

// voidKeys voids the slot's former keys, neither of which may come again with
// the new epoch.
func (l *ledger) voidKeys(n Node, old BoundRecord) error {
	last, err := statement[Node](old.Signed)
	if err != nil {
		return err
	}
	if bytes.Equal(last.SigningKey, n.SigningKey) || bytes.Equal(last.SealingKey, n.SealingKey) {
		return problem.New("key-unchanged", "a new epoch needs new keys; a node that still has its keys needs no new epoch")
	}
	l.st.Delete(KeyKey(last.SigningKey))
	return nil
}

// loadSlot returns the slot with id.
func (l *ledger) loadSlot(id canon.Hash) (Slot, error) {
	rec, ok, err := Load[SlotRecord](l.st, KeySlot(id))
	if err != nil {
		return Slot{}, err
	}
	if !ok {
		return Slot{}, problem.New("slot-unknown", "slot %s is not on the ledger", id.Short())
	}
	return statement[Slot](rec.Signed)
}
