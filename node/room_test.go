package node

import (
	"log/slog"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/rollout"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// gib is a deployment's version with one workload of that much memory.
func gib(group canon.Hash, n uint64, slot canon.Hash) *plan.Plan {
	u := plan.DefaultUpdate()
	u.Return = true
	return &plan.Plan{Group: group, Update: u, Workloads: []plan.Workload{{Name: "w", Kind: plan.KindContainer, Slot: slot, Resources: plan.Resources{Memory: n << 30}}}}
}

func gibs(n uint64) contract.Capacity { return contract.Capacity{Memory: n << 30} }

// Whoever has a small version approved over a large one gets no more than the small
// one once others were promised the rest, by the slot or of the group's own share.
func TestAVersionThatFailedKeepsNoRoomOfOthers(t *testing.T) {
	slot, mine, theirs := canon.Hash{1}, canon.Hash{2}, canon.Hash{3}
	update := func(group canon.Hash, from, to uint64) *deployment {
		d := &deployment{version: 1, plan: gib(group, to, slot), asked: gibs(to), granted: gibs(16), offered: gibs(16)}
		if from > 0 {
			d.version, d.base, d.basePlan = 2, 1, gib(group, from, slot)
		}
		return d
	}
	back := map[canon.Hash]rollout.Memory{{9}: {Version: 2, Base: 1, Returned: true}}
	done := func(d *deployment) *deployment { d.done = true; return d }
	granted := func(d *deployment, n uint64) *deployment { d.granted = gibs(n); return d }
	for name, c := range map[string]struct {
		first    *deployment // contract 9
		others   []*deployment
		memories map[canon.Hash]rollout.Memory
		want     bool
	}{
		"alone on the slot":                  {update(mine, 8, 1), nil, nil, false},
		"beside one that fits":               {update(mine, 8, 1), []*deployment{update(theirs, 0, 8)}, nil, false},
		"beside one that does not":           {update(mine, 8, 1), []*deployment{update(theirs, 0, 9)}, nil, true},
		"two whose former versions don't":    {update(mine, 8, 1), []*deployment{update(theirs, 9, 1)}, nil, true},
		"one that asks for as much":          {update(mine, 8, 8), []*deployment{update(theirs, 0, 9)}, nil, false},
		"one that is over its update":        {done(update(mine, 8, 1)), []*deployment{update(theirs, 0, 9)}, nil, false},
		"one that went back and is over":     {done(update(mine, 8, 1)), []*deployment{update(theirs, 0, 9)}, back, true},
		"beyond the group's share":           {granted(update(mine, 8, 1), 8), []*deployment{granted(update(mine, 0, 1), 8)}, nil, true},
		"within it":                          {granted(update(mine, 8, 1), 9), []*deployment{granted(update(mine, 0, 1), 9)}, nil, false},
		"a first version has nothing before": {update(mine, 0, 8), []*deployment{update(theirs, 0, 16)}, nil, false},
	} {
		all := map[canon.Hash]*deployment{{9}: c.first}
		for i, d := range c.others {
			all[canon.Hash{10, byte(i)}] = d
		}
		if got := crowded(slot, all, c.memories)[canon.Hash{9}]; got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

// It gives the room up for good: it does not come and go with what it holds.
func TestWhoGaveUpRoomDoesNotTakeItAgain(t *testing.T) {
	slot, group := canon.Hash{1}, canon.Hash{2}
	turns := newTurns(slot, "", slog.New(slog.DiscardHandler))
	first, other := canon.Hash{9}, canon.Hash{10}
	turns.deployed[first] = &deployment{
		contract: first, version: 2, plan: gib(group, 1, slot), base: 1, basePlan: gib(group, 8, slot),
		there: map[string]rollout.View{}, asked: gibs(1), granted: gibs(64), offered: gibs(16),
	}
	turns.memories[first] = rollout.Memory{Version: 2, Base: 1, Returned: true}
	seen := map[workload.ID]rollout.View{}
	run := func() uint64 {
		w := turns.aims(seen)[workload.ID{Contract: first, Name: "w"}]
		seen[w.ID] = rollout.View{Version: w.Version, Ready: true}
		return w.Version
	}
	for range 3 {
		if got := run(); got != 1 {
			t.Fatalf("with room, version %d runs", got)
		}
	}
	turns.deployed[other] = &deployment{contract: other, version: 1, plan: gib(canon.Hash{3}, 10, slot), asked: gibs(10), granted: gibs(64), offered: gibs(16), there: map[string]rollout.View{}}
	for range 3 {
		if got := run(); got != 2 {
			t.Fatalf("without room, version %d runs", got)
		}
	}
}
