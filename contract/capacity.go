package contract

import (
	"bytes"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// claims is what a proposal would make of the capacity in use, if accepted:
// the new sums of every slot that it touches, and of the group in every farm.
// Both are sorted, so that every replica writes them in one order.
type claims []claim

type claim struct {
	key  string // of the UsedRecord
	used Capacity
}

// claims works out the sums and refuses what exceeds a slot's capacity or a
// farm's consent to the group. What the standing version holds counts as free.
// A cancellation is never refused here: it only frees.
func (l *ledger) claims(a Approval, p plan.Plan, now standing) (claims, error) {
	var out claims
	var farms []canon.Hash
	free, need := map[canon.Hash]Capacity{}, map[canon.Hash]Capacity{} // by farm
	for _, id := range slotsOf(now.plan, p) {
		slot, err := l.loadSlot(id)
		if err != nil {
			return nil, err
		}
		old, more := demand(now.plan, id), demand(p, id)
		used, err := l.change(KeyUsed(id), old, more)
		if err != nil {
			return nil, err
		}
		if a.Action != ActionCancel && !more.IsZero() && !used.Within(slot.Capacity) {
			return nil, problem.New("capacity-exceeded", "slot %s offers %s, with this plan %s would be used", slot.Name, slot.Capacity, used).
				WithFix("plan less, or choose another node")
		}
		out = append(out, claim{KeyUsed(id), used})
		if !slices.Contains(farms, slot.Farm) {
			farms = append(farms, slot.Farm)
		}
		free[slot.Farm], _ = free[slot.Farm].plus(old)
		need[slot.Farm], _ = need[slot.Farm].plus(more)
	}
	slices.SortFunc(farms, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
	for _, farm := range farms {
		key := KeyUsedBy(farm, a.Group)
		used, err := l.change(key, free[farm], need[farm])
		if err != nil {
			return nil, err
		}
		if !need[farm].IsZero() {
			if err := l.consented(farm, a.Group, used); err != nil {
				return nil, err
			}
		}
		out = append(out, claim{key, used})
	}
	return out, nil
}

// change returns the sum at key with old released and more taken.
func (l *ledger) change(key string, old, more Capacity) (Capacity, error) {
	rec, _, err := Load[UsedRecord](l.st, key)
	if err != nil {
		return Capacity{}, err
	}
	rest, ok := rec.Capacity.minus(old)
	if !ok {
		return Capacity{}, problem.New("state-damaged", "ledger record %s holds less than the contract that it frees", key)
	}
	sum, ok := rest.plus(more)
	if !ok {
		return Capacity{}, problem.New("capacity-exceeded", "the sum at %s overflows", key)
	}
	return sum, nil
}

// consented refuses what the farm's newest consent to the group doesn't cover.
func (l *ledger) consented(farm, group canon.Hash, used Capacity) error {
	rec, ok, err := Load[ConsentRecord](l.st, KeyConsent(farm, group))
	if err != nil {
		return err
	}
	if !ok {
		return problem.New("no-consent", "farm %s has not admitted group %s", farm.Short(), group.Short()).
			WithFix("ask the farm's owner: zos farm consent")
	}
	c, err := statement[Consent](rec.Signed)
	if err != nil {
		return err
	}
	switch {
	case c.Capacity.IsZero():
		return problem.New("no-consent", "farm %s has withdrawn its consent to group %s", farm.Short(), group.Short())
	case l.now > c.Expiry:
		return problem.New("no-consent", "the consent of farm %s to group %s expired at %d", farm.Short(), group.Short(), c.Expiry).
			WithFix("ask the farm's owner to renew it")
	case !used.Within(c.Capacity):
		return problem.New("consent-exceeded", "farm %s grants group %s %s, with this plan %s would be used", farm.Short(), group.Short(), c.Capacity, used)
	}
	return nil
}

// settle writes the sums.
func (l *ledger) settle(c claims) error {
	for _, one := range c {
		if one.used.IsZero() {
			l.st.Delete(one.key)
		} else if err := store(l.st, one.key, UsedRecord{Capacity: one.used}); err != nil {
			return err
		}
	}
	return nil
}

// demand sums what p asks of slot. A Plan's limits rule out overflow.
func demand(p plan.Plan, slot canon.Hash) Capacity {
	var sum Capacity
	for _, w := range p.Workloads {
		if w.Slot == slot {
			sum, _ = sum.plus(Capacity{CPU: w.Resources.CPU, Memory: w.Resources.Memory, Disk: w.Resources.Disk})
		}
	}
	return sum
}
