package contract

import (
	"bytes"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// What a delegate may do.
const (
	MayAdmit = "admit" // bind the first keys to a slot
	MayRekey = "rekey" // bind further keys
)

// delegation records that a key may act for a farm. A newer one to the same
// key replaces the older; one without actions takes the right away.
func (l *ledger) delegation(s Signed) (Result, error) {
	d, id, keys, err := Open[Delegation](s, KindDelegation, l.grid)
	if err != nil {
		return Result{}, err
	}
	if err := l.byFarm(d.Farm, keys); err != nil {
		return Result{}, err
	}
	if err := d.Validate(); err != nil {
		return Result{}, err
	}
	if err := l.fresh(d.Expiry, "delegation-expired", "the delegation"); err != nil {
		return Result{}, err
	}
	key := KeyAgent(d.Farm, d.Key)
	old, ok, err := Load[AgentRecord](l.st, key)
	if err != nil {
		return Result{}, err
	}
	if ok {
		if d.Sequence <= old.Sequence {
			return Result{}, problem.New("stale-sequence", "the delegation has sequence %d, the ledger knows %d already", d.Sequence, old.Sequence)
		}
		l.st.Delete(KeyDelegation(old.Delegation))
	}
	if err := store(l.st, key, AgentRecord{Delegation: id, Sequence: d.Sequence}); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeyDelegation(id), DelegationRecord{Signed: s, Time: l.now})
}

// Validate checks what can be known of d without the ledger; code
// "delegation-invalid".
func (d Delegation) Validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("delegation-invalid", "delegation: "+format, args...)
	}
	if _, err := sign.ParsePublicKey(d.Key); err != nil {
		return bad("%w", err)
	}
	for i, a := range d.Actions {
		if a != MayAdmit && a != MayRekey {
			return bad("action %.20q is not known", a)
		}
		if i > 0 && d.Actions[i-1] >= a {
			return bad("actions are not sorted, or one stands twice")
		}
	}
	if len(d.Slots) > MaxDelegated {
		return bad("%d slots, at most %d are allowed", len(d.Slots), MaxDelegated)
	}
	for i, s := range d.Slots {
		if i > 0 && bytes.Compare(d.Slots[i-1][:], s[:]) >= 0 {
			return bad("slots are not sorted, or one stands twice")
		}
	}
	if !d.Capacity.Within(maxCapacity) {
		return bad("capacity %s is out of range", d.Capacity)
	}
	return nil
}

// delegate returns the key that may act for the farm of slot under delegation
// id. For an admission it counts the slot against the delegation's bounds.
func (l *ledger) delegate(id, slotID canon.Hash, slot Slot, action string) ([]byte, Signed, error) {
	refuse := func(format string, args ...any) ([]byte, Signed, error) {
		return nil, Signed{}, problem.New("delegation-refused", "delegation %s: "+format, append([]any{id.Short()}, args...)...).
			WithFix("the farm has to sign a newer delegation, or the admission itself")
	}
	rec, ok, err := Load[DelegationRecord](l.st, KeyDelegation(id))
	if err != nil {
		return nil, Signed{}, err
	}
	if !ok {
		return refuse("it is not on the ledger, or a newer one replaced it")
	}
	d, err := statement[Delegation](rec.Signed)
	if err != nil {
		return nil, Signed{}, err
	}
	switch {
	case d.Farm != slot.Farm:
		return refuse("it is of another farm")
	case !slices.Contains(d.Actions, action):
		return refuse("it does not allow %q", action)
	case len(d.Slots) > 0 && !slices.Contains(d.Slots, slotID):
		return refuse("it does not name slot %s", slot.Name)
	}
	if err := l.fresh(d.Expiry, "delegation-expired", "the delegation"); err != nil {
		return nil, Signed{}, err
	}
	if action != MayAdmit {
		return d.Key, rec.Signed, nil
	}
	if d.Count > 0 && rec.Admitted >= d.Count {
		return refuse("it has admitted all %d slots that it may", d.Count)
	}
	used, ok := rec.Used.plus(slot.Capacity)
	if !ok || !d.Capacity.IsZero() && !used.Within(d.Capacity) {
		return refuse("with slot %s it would admit more capacity than it may", slot.Name)
	}
	rec.Admitted, rec.Used = rec.Admitted+1, used
	return d.Key, rec.Signed, store(l.st, KeyDelegation(id), rec)
}
