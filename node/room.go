package node

import (
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/rollout"
)

// crowded finds the contracts whose version before may not hold more on this slot than
// the newest plan asks for: there is no room for it, because the ledger, which counts
// newest versions alone, has promised it to other contracts of the slot or, of the
// group's share, of the group. While there is room nobody is hurried: an update takes
// its time, and one that failed goes back.
func crowded(slot canon.Hash, all map[canon.Hash]*deployment, memories map[canon.Hash]rollout.Memory) map[canon.Hash]bool {
	var asked, more sum
	groupAsked, groupMore := map[canon.Hash]*sum{}, map[canon.Hash]*sum{}
	excess := map[canon.Hash]contract.Capacity{}
	for id, d := range all {
		group := d.plan.Group
		if groupAsked[group] == nil {
			groupAsked[group], groupMore[group] = &sum{}, &sum{}
		}
		asked.add(d.asked)
		groupAsked[group].add(d.asked)
		if m := memories[id]; d.done && !(m.Version == d.version && m.Returned) {
			continue // nothing of the version before is left, or comes again
		}
		r := rollout.Excess(d.plan, d.basePlan, slot)
		if e := (contract.Capacity{CPU: r.CPU, Memory: r.Memory, Disk: r.Disk}); !e.IsZero() {
			excess[id] = e
			more.add(e)
			groupMore[group].add(e)
		}
	}
	out := map[canon.Hash]bool{}
	for id := range excess {
		d := all[id]
		group := d.plan.Group
		if !within(asked, more, d.offered) || !within(*groupAsked[group], *groupMore[group], d.granted) {
			out[id] = true
		}
	}
	return out
}

// sum adds capacities, each of which is bounded by its plan; it stops at the top.
type sum contract.Capacity

func (s *sum) add(c contract.Capacity) {
	s.CPU, s.Memory, s.Disk = plus(s.CPU, c.CPU), plus(s.Memory, c.Memory), plus(s.Disk, c.Disk)
}

func plus(a, b uint64) uint64 {
	if a+b < a {
		return ^uint64(0)
	}
	return a + b
}

// within tells whether two sums together are within a limit.
func within(a, b sum, limit contract.Capacity) bool {
	a.add(contract.Capacity(b))
	return contract.Capacity(a).Within(limit)
}
