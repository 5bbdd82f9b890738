package contract

import (
	"slices"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// evidence is what an honest ledger hands the node of slot 0 about a contract.
func (w *world) evidence(contract canon.Hash) Evidence {
	w.t.Helper()
	slot := w.slots[0]
	e := Evidence{
		Grid: w.grid, Farm: w.signed["farm"], SlotID: slot,
		Slot:    record[SlotRecord](w, KeySlot(slot)).Signed,
		Consent: record[ConsentRecord](w, KeyConsent(w.farm, w.group)).Signed,
		History: record[ContractRecord](w, KeyContract(contract)).History,
	}
	g := record[GroupRecord](w, KeyGroup(w.group)).Signed
	e.Group = g
	group, err := statement[Group](g)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range group.Members {
		e.Members = append(e.Members, record[AccountRecord](w, KeyAccount(m.Account)).Signed)
	}
	run, _, err := Load[RunRecord](w.st, KeyRun(slot, contract))
	if err != nil {
		w.t.Fatal(err)
	}
	e.Entry = RunEntry{Contract: contract, Version: run.Version, Plan: run.Plan}
	return e
}

// point makes the entry agree with the history, as a lying ledger would.
func (e Evidence) point() Evidence {
	last := e.History[len(e.History)-1]
	a, err := statement[Approval](last)
	if err != nil {
		panic(err)
	}
	e.Entry = RunEntry{Contract: e.History[0].ID(), Version: a.Version, Plan: plan.Hash(a.Plan)}
	return e
}

func TestNodeRunsWhatItsGroupAndFarmAgreedOn(t *testing.T) {
	w := newWorld(t)
	id := w.running("hello", w.job("a", w.slots[0]), w.job("b", w.slots[1]), w.job("c", w.slots[0]))
	for version := uint64(1); version <= 3; version++ {
		v, err := Judge(w.evidence(id))
		if err != nil {
			t.Fatal(err)
		}
		c := record[ContractRecord](w, KeyContract(id))
		if v.Contract != id || v.Group != w.group || v.Name != "hello" || v.Version != version || v.Plan != c.Plan {
			t.Errorf("verdict: %+v", v)
		}
		if len(v.Workloads) != 2 || v.Workloads[0].Name != "a" || v.Workloads[1].Name != "c" {
			t.Errorf("workloads: %+v", v.Workloads)
		}
		w.ok(w.approve(w.update(id, version, "hello", w.job("a", w.slots[0]), w.job("c", w.slots[0])), "red", "blue"))
	}
	// Versions between the first and the newest may have been dropped.
	e := w.evidence(id)
	e.History = slices.Delete(slices.Clone(e.History), 1, 3)
	if v, err := Judge(e); err != nil || v.Version != 4 {
		t.Errorf("shortened history: %+v, %v", v, err)
	}
}

// The truth table. Each row is a lie that a ledger could tell whose operators
// hold every validator key, and so can show any state and any proof of it.
func TestLyingLedgerGetsNothingRun(t *testing.T) {
	w := newWorld(t)
	id := w.running("hello", w.job("web", w.slots[0]))
	elsewhere := w.running("elsewhere", w.job("web", w.slots[1]))
	w.ok(w.approve(w.update(id, 1, "hello", w.job("web", w.slots[0])), "red", "green"))
	ended := w.running("ended", w.job("web", w.slots[0]))
	w.ok(w.approve(w.cancel(ended, 1, "ended"), "red", "green"))
	for _, who := range []string{"mallory-1", "mallory-2", "mallory-3"} {
		w.addAccount(who)
	}
	demo := w.group
	forged := w.addGroup("forged", "mallory-1", 1, w.members("mallory-1", "mallory-2")...)
	small := w.addGroup("small", "red", 1, w.members("red")...)
	otherFarm := w.sign(NewFarm(w.grid, "field", w.key("field").Public()), KindFarm, "field")
	otherGrid := newWorldIn(t, "elsewhere")
	otherID := otherGrid.running("hello", otherGrid.job("web", otherGrid.slots[0]))

	// ofGroup makes an approval of the plan "evil" in a group.
	ofGroup := func(group canon.Hash) Approval {
		w.group = group
		defer func() { w.group = demo }()
		return w.deploy("evil", w.job("web", w.slots[0]))
	}
	account := func(name string, key string) Signed {
		return w.sign(NewAccount(w.grid, name, w.key(key).Public()), KindAccount, key)
	}
	change := func(s Signed, change func(*Approval), by ...string) Signed {
		a, err := statement[Approval](s)
		if err != nil {
			t.Fatal(err)
		}
		change(&a)
		return w.approve(a, by...)
	}

	for _, c := range []struct {
		name, code string
		lie        func(e *Evidence)
	}{
		// Someone else's place.
		{"a farm of another key", "slot-untrusted", func(e *Evidence) { e.Farm = otherFarm }},
		{"a farm that did not sign itself", "slot-untrusted", func(e *Evidence) { e.Farm.Signatures = nil }},
		{"another slot", "slot-untrusted", func(e *Evidence) { e.Slot = w.signed["n2"] }},
		{"a slot of another farm", "slot-untrusted", func(e *Evidence) {
			e.Slot = w.sign(NewSlot(w.grid, otherFarm.ID(), "n1", "mac:52:54:00:00:00:01", IdentityDisk, nil, big), KindSlot, "field")
			e.SlotID = e.Slot.ID()
		}},
		{"a slot that the farm signed for another farm", "slot-untrusted", func(e *Evidence) {
			e.Slot = w.sign(NewSlot(w.grid, otherFarm.ID(), "n1", "mac:52:54:00:00:00:01", IdentityDisk, nil, big), KindSlot, "farm")
			e.SlotID = e.Slot.ID()
		}},
		{"a slot that the farm did not sign", "slot-untrusted", func(e *Evidence) {
			e.Slot = Signed{Statement: e.Slot.Statement, Signatures: w.sign(Slot{Header: header(w.grid, KindSlot)}, KindSlot, "farm").Signatures}
		}},
		{"a slot signed by another", "slot-untrusted", func(e *Evidence) {
			s, err := statement[Slot](e.Slot)
			if err != nil {
				t.Fatal(err)
			}
			e.Slot = w.sign(s, KindSlot, "mallory-1")
		}},

		// Another key under the group's name.
		{"another group's statement", "no-consent", func(e *Evidence) {
			e.Group, e.Members = w.signed["forged"], []Signed{w.signed["mallory-1"], w.signed["mallory-2"]}
		}},
		{"a new group, its own approvals, no consent", "no-consent", func(e *Evidence) {
			e.Group, e.Members = w.signed["forged"], []Signed{w.signed["mallory-1"], w.signed["mallory-2"]}
			e.History = []Signed{w.approve(ofGroup(forged), "mallory-1", "mallory-2")}
			*e = e.point()
		}},
		{"a new group with a consent by its own farm", "no-consent", func(e *Evidence) {
			e.Group, e.Members = w.signed["forged"], []Signed{w.signed["mallory-1"], w.signed["mallory-2"]}
			e.Consent = w.sign(NewConsent(w.grid, otherFarm.ID(), forged, big, 1, later), KindConsent, "field")
			e.History = []Signed{w.approve(ofGroup(forged), "mallory-1", "mallory-2")}
			*e = e.point()
		}},
		{"a new group with a consent in the farm's name", "no-consent", func(e *Evidence) {
			e.Group, e.Members = w.signed["forged"], []Signed{w.signed["mallory-1"], w.signed["mallory-2"]}
			e.Consent = w.sign(NewConsent(w.grid, w.farm, forged, big, 1, later), KindConsent, "mallory-1")
			e.History = []Signed{w.approve(ofGroup(forged), "mallory-1", "mallory-2")}
			*e = e.point()
		}},
		{"the true group with approvals of the new one", "approvals-insufficient", func(e *Evidence) {
			e.History = []Signed{w.approve(ofGroup(forged), "mallory-1", "mallory-2")}
			*e = e.point()
		}},
		{"approvals for the true group by strangers", "approvals-insufficient", func(e *Evidence) {
			e.History = []Signed{w.approve(ofGroup(demo), "mallory-1", "mallory-2")}
			*e = e.point()
		}},
		{"forged keys under the members' names", "group-untrusted", func(e *Evidence) {
			e.Members = []Signed{account("red", "mallory-1"), account("green", "mallory-2"), account("blue", "mallory-3")}
			e.History = []Signed{w.approve(ofGroup(demo), "mallory-1", "mallory-2")}
			*e = e.point()
		}},
		{"one forged member of three", "group-untrusted", func(e *Evidence) {
			e.Members = append(e.Members[:2:2], account("blue", "mallory-1"))
		}},
		{"a member left out", "group-untrusted", func(e *Evidence) { e.Members = e.Members[:2] }},
		{"a member twice", "group-untrusted", func(e *Evidence) { e.Members = []Signed{e.Members[0], e.Members[1], e.Members[1]} }},
		{"an account that its key did not sign", "group-untrusted", func(e *Evidence) {
			e.Members = slices.Clone(e.Members)
			e.Members[0].Signatures = e.Members[1].Signatures
		}},
		{"an account without a signature", "group-untrusted", func(e *Evidence) {
			e.Members = slices.Clone(e.Members)
			e.Members[0].Signatures = nil
		}},
		{"the group's threshold altered in place", "no-consent", func(e *Evidence) {
			e.Group = Signed{Statement: slices.Clone(e.Group.Statement)}
			e.Group.Statement[len(e.Group.Statement)-1] ^= 1
		}},
		{"the group with a lower threshold", "no-consent", func(e *Evidence) {
			g, err := statement[Group](e.Group)
			if err != nil {
				t.Fatal(err)
			}
			g.Threshold = 1
			e.Group = w.sign(g, KindGroup, "mallory-1")
		}},
		{"a group whose threshold is nothing", "group-untrusted", func(e *Evidence) {
			g, err := statement[Group](e.Group)
			if err != nil {
				t.Fatal(err)
			}
			g.Threshold = 0
			e.Group = w.sign(g, KindGroup, "mallory-1")
		}},
		{"another group of the same member", "no-consent", func(e *Evidence) {
			e.Group, e.Members = w.signed["small"], []Signed{w.signed["red"]}
			e.History = []Signed{w.approve(ofGroup(small), "red")}
			*e = e.point()
		}},
		{"the consent for another group", "no-consent", func(e *Evidence) {
			e.Consent = w.sign(NewConsent(w.grid, w.farm, small, big, 9, later), KindConsent, "farm")
		}},
		{"the consent of another farm", "no-consent", func(e *Evidence) {
			e.Consent = w.sign(NewConsent(w.grid, otherFarm.ID(), demo, big, 9, later), KindConsent, "farm")
		}},
		{"a consent that was withdrawn", "no-consent", func(e *Evidence) {
			e.Consent = w.sign(NewConsent(w.grid, w.farm, demo, Capacity{}, 9, later), KindConsent, "farm")
		}},
		{"a consent without a signature", "no-consent", func(e *Evidence) { e.Consent.Signatures = nil }},
		{"no consent", "no-consent", func(e *Evidence) { e.Consent = Signed{} }},

		// Too few, or counted twice.
		{"no approvals", "approvals-insufficient", func(e *Evidence) { e.History = nil }},
		{"an approval without signatures", "approvals-insufficient", func(e *Evidence) {
			e.History = []Signed{{Statement: e.History[0].Statement}, e.History[1]}
		}},
		{"one approval of two", "approvals-insufficient", func(e *Evidence) {
			e.History = []Signed{e.History[0], {Statement: e.History[1].Statement, Signatures: e.History[1].Signatures[:1]}}
		}},
		{"one approval of two in an old version", "approvals-insufficient", func(e *Evidence) {
			e.History = []Signed{{Statement: e.History[0].Statement, Signatures: e.History[0].Signatures[:1]}, e.History[1]}
		}},
		{"one approval twice", "approvals-insufficient", func(e *Evidence) {
			s := e.History[1]
			e.History = []Signed{e.History[0], {Statement: s.Statement, Signatures: []Signature{s.Signatures[0], s.Signatures[0]}}}
		}},
		{"one approval and a stranger's", "approvals-insufficient", func(e *Evidence) {
			e.History = []Signed{e.History[0], change(e.History[1], func(*Approval) {}, "red", "mallory-1")}
		}},
		{"two approvals and a stranger's", "approvals-insufficient", func(e *Evidence) {
			e.History = []Signed{e.History[0], change(e.History[1], func(*Approval) {}, "red", "green", "mallory-1")}
		}},
		{"a member's signature for another statement", "approvals-insufficient", func(e *Evidence) {
			s := e.History[1]
			e.History = []Signed{e.History[0], {Statement: s.Statement, Signatures: []Signature{s.Signatures[0], e.History[0].Signatures[1]}}}
		}},
		{"altered bytes", "approvals-insufficient", func(e *Evidence) {
			a, err := statement[Approval](e.History[1])
			if err != nil {
				t.Fatal(err)
			}
			a.Expiry++
			b, err := canon.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			e.History = []Signed{e.History[0], {Statement: b, Signatures: e.History[1].Signatures}}
			*e = e.point()
		}},

		// True approvals in the wrong place.
		{"another grid's approvals", "approvals-insufficient", func(e *Evidence) {
			e.History = record[ContractRecord](otherGrid, KeyContract(otherID)).History
			*e = e.point()
		}},
		{"another grid's everything", "slot-untrusted", func(e *Evidence) {
			grid := e.Grid
			*e = otherGrid.evidence(otherID)
			e.Grid = grid
		}},
		{"another contract's newer version", "approvals-insufficient", func(e *Evidence) {
			up := w.approve(w.update(elsewhere, 1, "elsewhere", w.job("web", w.slots[0])), "red", "green")
			e.History = []Signed{e.History[0], up}
			*e = e.point()
		}},
		{"another contract's newer version, under this one's name", "approvals-insufficient", func(e *Evidence) {
			up := w.approve(w.update(elsewhere, 1, "hello", w.job("web", w.slots[0])), "red", "green")
			e.History = []Signed{e.History[0], up}
			*e = e.point()
		}},
		{"another name within the contract", "approvals-insufficient", func(e *Evidence) {
			up := w.approve(w.update(id, 1, "other", w.job("web", w.slots[0])), "red", "green")
			e.History = []Signed{e.History[0], up}
			*e = e.point()
		}},
		{"another epoch of the group", "approvals-insufficient", func(e *Evidence) {
			e.History = []Signed{e.History[0], change(e.History[1], func(a *Approval) { a.GroupEpoch = 2 }, "red", "green")}
			*e = e.point()
		}},
		{"another class of action", "class-unknown", func(e *Evidence) {
			e.History = []Signed{e.History[0], change(e.History[1], func(a *Approval) { a.Class = "group" }, "red", "green")}
			*e = e.point()
		}},
		{"no founding approval", "record-mismatch", func(e *Evidence) { e.History = e.History[1:] }},
		{"no founding approval, and the entry bent to it", "approvals-insufficient", func(e *Evidence) {
			e.History = e.History[1:]
			*e = e.point()
		}},
		{"versions in the wrong order", "approvals-insufficient", func(e *Evidence) {
			next := w.approve(w.update(id, 2, "hello", w.job("web", w.slots[0])), "red", "green")
			e.History = []Signed{e.History[0], next, e.History[1]}
			*e = e.point()
		}},
		{"a version twice", "approvals-insufficient", func(e *Evidence) {
			e.History = append(slices.Clone(e.History), e.History[1])
			*e = e.point()
		}},
		{"a second deployment in the history", "approvals-insufficient", func(e *Evidence) {
			e.History = append(slices.Clone(e.History), w.approve(w.deploy("hello", w.job("x", w.slots[0])), "red", "green"))
			*e = e.point()
		}},
		{"another contract under this id", "record-mismatch", func(e *Evidence) {
			e.History = record[ContractRecord](w, KeyContract(elsewhere)).History
		}},
		{"an older version than the list names", "record-mismatch", func(e *Evidence) { e.History = e.History[:1] }},
		{"another version in the list", "record-mismatch", func(e *Evidence) { e.Entry.Version = 3 }},
		{"another plan in the list", "record-mismatch", func(e *Evidence) { e.Entry.Plan = canon.Sum(nil) }},

		// What is over, or was never for this node.
		{"a cancelled contract", "contract-cancelled", func(e *Evidence) {
			e.History = record[ContractRecord](w, KeyContract(ended)).History
			*e = e.point()
		}},
		{"a version after the cancellation", "approvals-insufficient", func(e *Evidence) {
			h := record[ContractRecord](w, KeyContract(ended)).History
			e.History = append(slices.Clone(h), w.approve(w.update(ended, 2, "ended", w.job("web", w.slots[0])), "red", "green"))
			*e = e.point()
		}},
		{"a contract of another slot", "not-for-this-slot", func(e *Evidence) {
			e.History = record[ContractRecord](w, KeyContract(elsewhere)).History
			*e = e.point()
		}},
		{"a plan that is damaged", "plan-invalid", func(e *Evidence) {
			e.History = []Signed{e.History[0], change(e.History[1], func(a *Approval) { a.Plan = a.Plan[1:] }, "red", "green")}
			*e = e.point()
		}},
		{"more than the slot has", "capacity-exceeded", func(e *Evidence) {
			jobs := []plan.Workload{w.job("a", w.slots[0])}
			jobs[0].Resources.CPU = big.CPU + 1
			e.History = []Signed{e.History[0], w.approve(w.update(id, 1, "hello", jobs...), "red", "green")}
			*e = e.point()
		}},
		{"more than the farm grants", "capacity-exceeded", func(e *Evidence) {
			e.Consent = w.sign(NewConsent(w.grid, w.farm, demo, Capacity{CPU: 999, Memory: gib, Disk: gib}, 9, later), KindConsent, "farm")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := w.evidence(id)
			if _, err := Judge(e); err != nil {
				t.Fatalf("the truth is refused: %v", err)
			}
			c.lie(&e)
			v, err := Judge(e)
			if err == nil {
				t.Fatalf("accepted: %+v", v)
			}
			if got := problem.Code(err); got != c.code {
				t.Errorf("refused with code %q (%v), want %q", got, err, c.code)
			}
			if len(v.Workloads) > 0 {
				t.Error("a refusal names workloads")
			}
		})
	}
}

// Two members with one key: the ledger never takes a second account of a key,
// but a lying one could show it.
func TestTwoAccountsOfOneKeyDoNotMakeAQuorum(t *testing.T) {
	w := newWorld(t)
	one, two := w.signed["red"], w.sign(NewAccount(w.grid, "red-2", w.key("red").Public()), KindAccount, "red")
	g := w.sign(NewGroup(w.grid, "twins", one.ID(), 2, nonce("twins"), Member{one.ID(), 1}, Member{two.ID(), 1}), KindGroup, "red")
	consent := w.sign(NewConsent(w.grid, w.farm, g.ID(), big, 1, later), KindConsent, "farm")
	w.group = g.ID()
	e := Evidence{
		Grid: w.grid, Farm: w.signed["farm"], SlotID: w.slots[0], Slot: w.signed["n1"], Consent: consent, Group: g,
		Members: []Signed{one, two}, History: []Signed{w.approve(w.deploy("evil", w.job("web", w.slots[0])), "red")},
	}
	if _, err := Judge(e.point()); problem.Code(err) != "group-untrusted" {
		t.Errorf("%v, want code group-untrusted", err)
	}
}
