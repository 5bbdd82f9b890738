package contract

import (
	"bytes"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// TestKeysOfASlotAreTheFarmsWord plays a ledger that shows what it likes.
func TestKeysOfASlotAreTheFarmsWord(t *testing.T) {
	w := newWorld(t)
	slot := w.slots[0]
	all := w.delegate(1, func(*Delegation) {})
	w.ok(w.byAgent(slot, 1, "one", all))
	first := record[BoundRecord](w, KeyBound(slot))
	w.ok(w.sign(w.node(slot, 2, "two"), KindNode, "two", "farm"))
	second := record[BoundRecord](w, KeyBound(slot))
	slotStatement, farmStatement := record[SlotRecord](w, KeySlot(slot)).Signed, record[FarmRecord](w, KeyFarm(w.farm)).Signed
	farmKey, err := FarmOfSlot(w.grid, slot, slotStatement, farmStatement)
	if err != nil || !bytes.Equal(farmKey, w.key("farm").Public()) {
		t.Fatalf("farm's key: %x, %v", farmKey, err)
	}
	evilFarm := w.sign(NewFarm(w.grid, "evil", w.key("evil").Public()), KindFarm, "evil")
	narrow := func(change func(*Delegation), by string) Signed {
		d := NewDelegation(w.grid, w.farm, w.key("agent").Public(), []string{MayRekey, MayAdmit}, nil, 0, Capacity{}, 9, later)
		change(&d)
		return w.sign(d, KindDelegation, by)
	}
	under := func(d Signed, epoch uint64, by string) BoundRecord {
		n := w.node(slot, epoch, "ghost")
		n.Delegation = d.ID()
		return BoundRecord{Signed: w.sign(n, KindNode, "ghost", by), Delegation: d, Epoch: epoch}
	}
	for name, c := range map[string]struct {
		rec  BoundRecord
		code string
	}{
		"by a delegate":                      {first, ""},
		"by the farm":                        {second, ""},
		"epoch of the record was raised":     {BoundRecord{Signed: second.Signed, Epoch: 7}, "bound-refused"},
		"delegation left out":                {BoundRecord{Signed: first.Signed, Epoch: 1}, "bound-refused"},
		"admitted by itself alone":           {BoundRecord{Signed: w.sign(w.node(slot, 3, "ghost"), KindNode, "ghost"), Epoch: 3}, "signature-missing"},
		"admitted by somebody":               {BoundRecord{Signed: w.sign(w.node(slot, 3, "ghost"), KindNode, "ghost", "evil"), Epoch: 3}, "signature-missing"},
		"the key has not signed":             {BoundRecord{Signed: w.sign(w.node(slot, 3, "ghost"), KindNode, "farm"), Epoch: 3}, "signature-missing"},
		"of another slot":                    {BoundRecord{Signed: w.sign(w.node(w.slots[1], 3, "ghost"), KindNode, "ghost", "farm"), Epoch: 3}, "bound-refused"},
		"delegation by somebody":             {under(narrow(func(d *Delegation) {}, "evil"), 3, "agent"), "signature-missing"},
		"delegation of another farm":         {under(narrow(func(d *Delegation) { d.Farm = evilFarm.ID() }, "farm"), 3, "agent"), "bound-refused"},
		"delegation for other slots":         {under(narrow(func(d *Delegation) { d.Slots = []canon.Hash{w.slots[1]} }, "farm"), 3, "agent"), "bound-refused"},
		"delegate may not re-key":            {under(narrow(func(d *Delegation) { d.Actions = []string{MayAdmit} }, "farm"), 3, "agent"), "bound-refused"},
		"delegate may not admit":             {under(narrow(func(d *Delegation) { d.Actions = []string{MayRekey} }, "farm"), 1, "agent"), "bound-refused"},
		"delegate of the farm may do both":   {under(narrow(func(d *Delegation) {}, "farm"), 3, "agent"), ""},
		"the delegate named has not signed":  {under(narrow(func(d *Delegation) {}, "farm"), 3, "farm"), "signature-missing"},
		"an envelope without any statements": {BoundRecord{}, "statement-invalid"},
	} {
		n, err := JudgeBound(w.grid, slot, w.farm, farmKey, c.rec)
		if problem.Code(err) != c.code {
			t.Errorf("%s: code %q, want %q: %v", name, problem.Code(err), c.code, err)
		}
		if err == nil && n.Slot != slot {
			t.Errorf("%s: %+v", name, n)
		}
	}
	for name, c := range map[string]struct{ slot, farm Signed }{
		"another slot":   {record[SlotRecord](w, KeySlot(w.slots[1])).Signed, farmStatement},
		"another farm":   {slotStatement, evilFarm},
		"nothing at all": {},
	} {
		if _, err := FarmOfSlot(w.grid, slot, c.slot, c.farm); problem.Code(err) != "bound-refused" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
