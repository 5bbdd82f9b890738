package contract

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/sign"
)

func TestFarmIsSignedByItsOwnKeyAlone(t *testing.T) {
	w := newWorld(t)
	f := NewFarm(w.grid, "field", w.key("field").Public())
	w.refused(w.sign(f, KindFarm, "farm"), "signature-missing")
	w.refused(w.sign(f, KindFarm, "field", "farm"), "signature-unexpected")
	w.ok(w.sign(f, KindFarm, "field"))
	w.refused(w.sign(f, KindFarm, "field"), "already-exists")
	w.refused(w.sign(NewFarm(w.grid, "dud", sign.PublicKey("x")), KindFarm, "field"), "signature-missing")
}

func TestSlotIsItsFarmsAlone(t *testing.T) {
	w := newWorld(t)
	slot := func(change func(*Slot)) Slot {
		s := NewSlot(w.grid, w.farm, "n9", "mac:52:54:00:12:34:56", IdentityTPM, []string{"b", "a"}, big)
		change(&s)
		return s
	}
	w.refused(w.sign(slot(func(*Slot) {}), KindSlot, "red"), "signature-missing")
	w.refused(w.sign(slot(func(*Slot) {}), KindSlot, "farm", "red"), "signature-unexpected")
	for _, c := range []struct {
		name, code string
		change     func(*Slot)
	}{
		{"unknown farm", "farm-unknown", func(s *Slot) { s.Farm = canon.Sum(nil) }},
		{"name", "name-invalid", func(s *Slot) { s.Name = "N9" }},
		{"taken name", "name-taken", func(s *Slot) { s.Name = "n1" }},
		{"hint", "slot-invalid", func(s *Slot) { s.Hint = "anything" }},
		{"upper-case MAC", "slot-invalid", func(s *Slot) { s.Hint = "mac:52:54:00:AB:CD:EF" }},
		{"short MAC", "slot-invalid", func(s *Slot) { s.Hint = "mac:52:54:00" }},
		{"UUID", "slot-invalid", func(s *Slot) { s.Hint = "smbios:4c4c4544-0051" }},
		{"UUID's dashes", "slot-invalid", func(s *Slot) { s.Hint = "smbios:4c4c4544x0051x3510x8052xb4c04f4e4d31" }},
		{"unsorted disks", "slot-invalid", func(s *Slot) { s.Disks = []string{"b", "a"} }},
		{"disk twice", "slot-invalid", func(s *Slot) { s.Disks = []string{"a", "a"} }},
		{"disk without serial", "slot-invalid", func(s *Slot) { s.Disks = []string{""} }},
		{"disk with escape", "slot-invalid", func(s *Slot) { s.Disks = []string{"\x1b[2J"} }},
		{"disk too long", "slot-invalid", func(s *Slot) { s.Disks = []string{strings.Repeat("x", MaxText+1)} }},
		{"disks too many", "slot-invalid", func(s *Slot) {
			s.Disks = nil
			for i := range MaxDisks + 1 {
				s.Disks = append(s.Disks, fmt.Sprintf("%03d", i))
			}
		}},
		{"identity", "slot-invalid", func(s *Slot) { s.Identity = "" }},
		{"no capacity", "slot-invalid", func(s *Slot) { s.Capacity = Capacity{} }},
		{"capacity beyond reason", "slot-invalid", func(s *Slot) { s.Capacity.Memory = 1 << 63 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.refused(w.sign(slot(c.change), KindSlot, "farm"), c.code)
		})
	}
	w.t = t
	w.ok(w.sign(slot(func(s *Slot) { s.Hint = "smbios:4c4c4544-0051-3510-8052-b4c04f4e4d31" }), KindSlot, "farm"))
	w.refused(w.sign(slot(func(s *Slot) { s.Hint = "smbios:4c4c4544-0051-3510-8052-b4c04f4e4d31" }), KindSlot, "farm"), "already-exists")
	// Another farm may use the same name.
	other := w.sign(NewFarm(w.grid, "field", w.key("field").Public()), KindFarm, "field")
	w.ok(other)
	w.ok(w.sign(slot(func(s *Slot) { s.Farm = other.ID() }), KindSlot, "field"))
}

func TestConsentIsTheFarmsAndTheNewestCounts(t *testing.T) {
	w := newWorld(t)
	c := func(sequence, expiry uint64, by ...string) Signed {
		return w.sign(NewConsent(w.grid, w.farm, w.group, big, sequence, expiry), KindConsent, by...)
	}
	w.refused(c(2, later, "red"), "signature-missing")
	w.refused(c(2, later, "farm", "red"), "signature-unexpected")
	w.refused(c(1, later, "farm"), "stale-sequence")
	w.refused(c(0, later, "farm"), "stale-sequence")
	w.refused(c(2, w.now-1, "farm"), "consent-expired")
	w.refused(w.sign(NewConsent(w.grid, w.farm, canon.Sum(nil), big, 2, later), KindConsent, "farm"), "group-unknown")
	w.refused(w.sign(NewConsent(w.grid, canon.Sum(nil), w.group, big, 2, later), KindConsent, "farm"), "farm-unknown")
	w.ok(c(7, later, "farm"))
	w.refused(c(6, later, "farm"), "stale-sequence")
}

func TestDeployNeedsTheConsentOfEveryFarm(t *testing.T) {
	w := newWorld(t)
	other := w.sign(NewFarm(w.grid, "field", w.key("field").Public()), KindFarm, "field")
	w.ok(other)
	slot := w.ok(w.sign(NewSlot(w.grid, other.ID(), "n1", "mac:52:54:00:12:34:56", IdentityNone, nil, big), KindSlot, "field")).ID
	a := w.deploy("hello", w.job("a", w.slots[0]), w.job("b", slot))
	w.refused(w.approve(a, "red"), "no-consent")
	consent := func(c Capacity, sequence uint64) {
		w.ok(w.sign(NewConsent(w.grid, other.ID(), w.group, c, sequence, start+3600), KindConsent, "field"))
	}
	consent(Capacity{CPU: 999, Memory: gib, Disk: gib}, 1)
	w.refused(w.approve(a, "red"), "consent-exceeded")
	consent(Capacity{CPU: 1000, Memory: gib, Disk: gib}, 2)
	w.ok(w.approve(a, "red"))
	consent(Capacity{}, 3) // withdrawn between the approvals
	w.refused(w.approve(a, "green"), "no-consent")
	consent(big, 4)
	w.now = start + 3601 // expired between the approvals
	w.refused(w.approve(a, "green"), "no-consent")
	w.now = start + 3600
	w.ok(w.approve(a, "green"))
	if got := w.used(KeyUsedBy(other.ID(), w.group)); got.CPU != 1000 {
		t.Errorf("the group uses %s", got)
	}
}

func TestSlotIsNeverOvercommitted(t *testing.T) {
	for _, c := range []struct {
		name   string
		offers Capacity
	}{
		{"cpu", Capacity{CPU: 1999, Memory: 9 * gib, Disk: 9 * gib}},
		{"memory", Capacity{CPU: 9000, Memory: 2*gib - 1, Disk: 9 * gib}},
		{"disk", Capacity{CPU: 9000, Memory: 9 * gib, Disk: 2*gib - 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			slot := w.addSlot("tight", c.offers)
			w.refused(w.approve(w.deploy("two", w.job("a", slot), w.job("b", slot)), "red"), "capacity-exceeded")
			one, other := w.deploy("one", w.job("a", slot)), w.deploy("other", w.job("a", slot))
			w.ok(w.approve(one, "red"))
			w.ok(w.approve(other, "red"))
			w.ok(w.approve(one, "green"))
			w.refused(w.approve(other, "green"), "capacity-exceeded") // judged again at the last approval
			id := record[NameRecord](w, KeyContractName(w.group, "one")).ID
			// An update may use what its old version frees.
			w.ok(w.approve(w.update(id, 1, "one", w.job("b", slot)), "red", "green"))
			w.refused(w.approve(w.update(id, 2, "one", w.job("a", slot), w.job("b", slot)), "red"), "capacity-exceeded")
			w.ok(w.approve(w.cancel(id, 2, "one"), "red", "green"))
			w.ok(w.approve(other, "green"))
		})
	}
}

func TestConsentCoversTheSumOverTheFarm(t *testing.T) {
	w := newWorld(t)
	w.ok(w.consent(Capacity{CPU: 2000, Memory: big.Memory, Disk: big.Disk}, 2))
	w.running("a", w.job("a", w.slots[0]))
	id := w.running("b", w.job("b", w.slots[1]))
	c := w.deploy("c", w.job("c", w.slots[1]))
	w.refused(w.approve(c, "red"), "consent-exceeded")
	w.ok(w.approve(w.update(id, 1, "b", w.job("b", w.slots[0])), "red", "green"))
	w.refused(w.approve(w.update(id, 2, "b", w.job("b", w.slots[0]), w.job("c", w.slots[1])), "red"), "consent-exceeded")
	// A newer consent does not forget what is in use.
	w.ok(w.consent(Capacity{CPU: 2500, Memory: big.Memory, Disk: big.Disk}, 3))
	w.refused(w.approve(c, "red"), "consent-exceeded")
	// Another group's use is its own affair.
	w.ok(w.consent(Capacity{CPU: 3000, Memory: big.Memory, Disk: big.Disk}, 4))
	w.ok(w.approve(c, "red", "green"))
}

func TestNodeIsAdmittedByTheFarmAndItself(t *testing.T) {
	w := newWorld(t)
	n := w.node(w.slots[0], 1, "node")
	w.refused(w.sign(n, KindNode, "node"), "signature-missing")
	w.refused(w.sign(n, KindNode, "farm"), "signature-missing")
	w.refused(w.sign(n, KindNode, "node", "red"), "signature-missing")
	w.refused(w.sign(n, KindNode, "node", "farm", "red"), "signature-unexpected")
	for _, c := range []struct {
		name, code string
		change     func(*Node)
	}{
		{"epoch 0", "stale-epoch", func(n *Node) { n.Epoch = 0 }},
		{"epoch 2", "stale-epoch", func(n *Node) { n.Epoch = 2 }},
		{"unknown slot", "slot-unknown", func(n *Node) { n.Slot = canon.Sum(nil) }},
		{"expired", "node-expired", func(n *Node) { n.Expiry = w.now - 1 }},
		{"sealing key", "node-invalid", func(n *Node) { n.SealingKey = n.SealingKey[1:] }},
		{"nonce", "node-invalid", func(n *Node) { n.BootNonce = nil }},
		{"signing key", "node-invalid", func(n *Node) { n.SigningKey = []byte("x") }},
		{"unknown delegation", "delegation-refused", func(n *Node) { n.Delegation = canon.Sum(nil) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			n := w.node(w.slots[0], 1, "node")
			c.change(&n)
			w.refused(w.sign(n, KindNode, "node", "farm"), c.code)
		})
	}
	w.t = t
	self := w.node(w.slots[0], 1, "farm")
	w.refused(w.sign(self, KindNode, "farm"), "node-invalid")
	w.ok(w.sign(n, KindNode, "farm", "node"))
	if b := record[BoundRecord](w, KeyBound(w.slots[0])); b.Epoch != 1 || len(b.Delegation.Statement) != 0 || b.Time != w.now {
		t.Errorf("bound: %+v", b)
	}
	w.refused(w.sign(n, KindNode, "farm", "node"), "stale-epoch")
	w.refused(w.sign(w.node(w.slots[1], 1, "node"), KindNode, "farm", "node"), "key-taken")
	w.refused(w.sign(w.node(w.slots[1], 1, "red"), KindNode, "farm", "red"), "key-taken")
	w.refused(w.sign(NewAccount(w.grid, "spy", w.key("node").Public()), KindAccount, "node"), "key-taken")
}

func TestTokenCannotBeANodesKey(t *testing.T) {
	n := newWorld(t).node(canon.Sum(nil), 1, "node")
	point := n.SigningKey[len(n.SigningKey)-32:]
	wire := append([]byte{0, 0, 0, 26}, sign.TypeSKEd25519...)
	wire = append(append(wire, 0, 0, 0, 32), point...)
	n.SigningKey = append(wire, 0, 0, 0, 4, 's', 's', 'h', ':')
	if _, err := sign.ParsePublicKey(n.SigningKey); err != nil {
		t.Fatal(err)
	}
	if n.Validate() == nil {
		t.Error("accepted")
	}
}

func TestRekeyingNeedsNewKeysAndTheNextEpoch(t *testing.T) {
	w := newWorld(t)
	slot := w.slots[0]
	w.bind(slot, 1, "one")
	w.refused(w.sign(w.node(slot, 2, "one"), KindNode, "one", "farm"), "key-unchanged")
	half := w.node(slot, 2, "two")
	half.SealingKey = sealing(t, "one")
	w.refused(w.sign(half, KindNode, "two", "farm"), "key-unchanged")
	half = w.node(slot, 2, "two")
	half.SigningKey = w.key("one").Public()
	w.refused(w.sign(half, KindNode, "one", "farm"), "key-unchanged")
	w.refused(w.sign(w.node(slot, 3, "two"), KindNode, "two", "farm"), "stale-epoch")
	w.refused(w.sign(w.node(slot, 1, "two"), KindNode, "two", "farm"), "stale-epoch")
	w.bind(slot, 2, "two")
	w.absent(KeyKey(w.key("one").Public()))
	if k := record[KeyRecord](w, KeyKey(w.key("two").Public())); k != (KeyRecord{Kind: KindNode, Owner: slot}) {
		t.Errorf("key: %+v", k)
	}
}

// A random test of 47,000 transactions once missed this.
func TestRebindingANodeNeverResetsWhatItsSlotHolds(t *testing.T) {
	w := newWorld(t)
	slot := w.addSlot("tight", Capacity{CPU: 1500, Memory: 9 * gib, Disk: 9 * gib})
	w.bind(slot, 1, "one")
	id := w.running("hello", w.job("web", slot))
	before := map[string]string{}
	keys := []string{KeyUsed(slot), KeyUsedBy(w.farm, w.group), KeyNode(slot), KeyRun(slot, id), KeyRuns(slot), KeyContract(id), KeySlot(slot)}
	for _, k := range keys {
		before[k] = string(w.st.Get(k))
		if before[k] == "" {
			t.Fatalf("%s is missing", k)
		}
	}
	w.bind(slot, 2, "two")
	w.ok(w.consent(big.times(3), 2))
	for _, k := range keys {
		if string(w.st.Get(k)) != before[k] {
			t.Errorf("%s was changed by a new binding or consent", k)
		}
	}
	w.refused(w.approve(w.deploy("more", w.job("web", slot)), "red"), "capacity-exceeded")
}

func (w *world) delegate(sequence uint64, change func(*Delegation)) canon.Hash {
	w.t.Helper()
	d := NewDelegation(w.grid, w.farm, w.key("agent").Public(), []string{MayRekey, MayAdmit}, nil, 0, Capacity{}, sequence, later)
	change(&d)
	return w.ok(w.sign(d, KindDelegation, "farm")).ID
}

func (w *world) byAgent(slot canon.Hash, epoch uint64, name string, delegation canon.Hash) Signed {
	w.t.Helper()
	n := w.node(slot, epoch, name)
	n.Delegation = delegation
	return w.sign(n, KindNode, name, "agent")
}

func TestDelegateActsWithinItsBounds(t *testing.T) {
	w := newWorld(t)
	all := w.delegate(1, func(*Delegation) {})
	n := w.node(w.slots[0], 1, "one")
	n.Delegation = all
	w.refused(w.sign(n, KindNode, "one", "farm"), "signature-missing") // who is named must sign
	w.refused(w.sign(w.node(w.slots[0], 1, "one"), KindNode, "one", "agent"), "signature-missing")
	w.ok(w.byAgent(w.slots[0], 1, "one", all))
	if b := record[BoundRecord](w, KeyBound(w.slots[0])); b.Delegation.ID() != all {
		t.Errorf("bound under %s, want %s", b.Delegation.ID(), all)
	}
	w.ok(w.byAgent(w.slots[0], 2, "two", all))

	// A newer delegation voids the older at once.
	admit := w.delegate(2, func(d *Delegation) { d.Actions = []string{MayAdmit} })
	w.refused(w.byAgent(w.slots[0], 3, "three", all), "delegation-refused")
	w.refused(w.byAgent(w.slots[0], 3, "three", admit), "delegation-refused")
	rekey := w.delegate(3, func(d *Delegation) { d.Actions = []string{MayRekey} })
	w.refused(w.byAgent(w.slots[1], 1, "other", rekey), "delegation-refused")
	w.ok(w.byAgent(w.slots[0], 3, "three", rekey))

	named := w.delegate(4, func(d *Delegation) { d.Slots = []canon.Hash{w.slots[1]} })
	w.refused(w.byAgent(w.slots[0], 4, "four", named), "delegation-refused")
	w.ok(w.byAgent(w.slots[1], 1, "other", named))

	w.now = later + 1
	n = w.node(w.slots[0], 4, "four")
	n.Delegation, n.Expiry = named, later+100
	w.refused(w.sign(n, KindNode, "four", "agent"), "delegation-refused")
	wide := w.delegate(5, func(d *Delegation) { d.Expiry = later + 10 })
	n.Delegation = wide
	w.now = later + 11
	w.refused(w.sign(n, KindNode, "four", "agent"), "delegation-expired")
	w.now = later + 10
	w.ok(w.sign(n, KindNode, "four", "agent"))
	none := w.delegate(6, func(d *Delegation) { d.Actions, d.Expiry = nil, later+100 })
	n = w.node(w.slots[0], 5, "five")
	n.Delegation, n.Expiry = none, later+100
	w.refused(w.sign(n, KindNode, "five", "agent"), "delegation-refused")
}

func TestDelegateAdmitsNoMoreThanItsCountAndCapacity(t *testing.T) {
	w := newWorld(t)
	one := w.delegate(1, func(d *Delegation) { d.Count = 1 })
	w.ok(w.byAgent(w.slots[0], 1, "a", one))
	w.refused(w.byAgent(w.slots[1], 1, "b", one), "delegation-refused")
	w.ok(w.byAgent(w.slots[0], 2, "a2", one)) // re-keying is not an admission
	if d := record[DelegationRecord](w, KeyDelegation(one)); d.Admitted != 1 || d.Used != big {
		t.Errorf("delegation: %+v", d)
	}
	tight := w.delegate(2, func(d *Delegation) { d.Capacity = Capacity{CPU: big.CPU, Memory: big.Memory, Disk: big.Disk - 1} })
	w.refused(w.byAgent(w.slots[1], 1, "b", tight), "delegation-refused")
	fits := w.delegate(3, func(d *Delegation) { d.Capacity = big })
	w.ok(w.byAgent(w.slots[1], 1, "b", fits))
	third := w.addSlot("n3", big)
	w.refused(w.byAgent(third, 1, "c", fits), "delegation-refused")
}

func TestDelegateOfAnotherFarmMayNotAct(t *testing.T) {
	w := newWorld(t)
	other := w.sign(NewFarm(w.grid, "field", w.key("field").Public()), KindFarm, "field")
	w.ok(other)
	d := NewDelegation(w.grid, other.ID(), w.key("agent").Public(), []string{MayAdmit}, nil, 0, Capacity{}, 1, later)
	id := w.ok(w.sign(d, KindDelegation, "field")).ID
	w.refused(w.byAgent(w.slots[0], 1, "one", id), "delegation-refused")
}

func TestDelegationIsTheFarmsAndWellFormed(t *testing.T) {
	w := newWorld(t)
	d := func(change func(*Delegation)) Delegation {
		d := NewDelegation(w.grid, w.farm, w.key("agent").Public(), []string{MayRekey, MayAdmit}, w.slots, 1, big, 5, later)
		change(&d)
		return d
	}
	w.refused(w.sign(d(func(*Delegation) {}), KindDelegation, "agent"), "signature-missing")
	for name, change := range map[string]func(*Delegation){
		"key":              func(d *Delegation) { d.Key = nil },
		"unknown action":   func(d *Delegation) { d.Actions = []string{"own"} },
		"action twice":     func(d *Delegation) { d.Actions = []string{MayAdmit, MayAdmit} },
		"unsorted slots":   func(d *Delegation) { d.Slots[0], d.Slots[1] = d.Slots[1], d.Slots[0] },
		"slot twice":       func(d *Delegation) { d.Slots[0] = d.Slots[1] },
		"too many slots":   func(d *Delegation) { d.Slots = manySlots(MaxDelegated + 1) },
		"capacity too far": func(d *Delegation) { d.Capacity.CPU = 1 << 63 },
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.refused(w.sign(d(change), KindDelegation, "farm"), "delegation-invalid")
		})
	}
	w.t = t
	w.refused(w.sign(d(func(d *Delegation) { d.Farm = canon.Sum(nil) }), KindDelegation, "farm"), "farm-unknown")
	w.refused(w.sign(d(func(d *Delegation) { d.Expiry = w.now - 1 }), KindDelegation, "farm"), "delegation-expired")
	old := w.ok(w.sign(d(func(d *Delegation) { d.Slots = manySlots(MaxDelegated) }), KindDelegation, "farm")).ID
	w.refused(w.sign(d(func(*Delegation) {}), KindDelegation, "farm"), "stale-sequence")
	w.ok(w.sign(d(func(d *Delegation) { d.Sequence = 6 }), KindDelegation, "farm"))
	w.absent(KeyDelegation(old))
}

func manySlots(n int) []canon.Hash {
	slots := make([]canon.Hash, n)
	for i := range slots {
		slots[i][0], slots[i][1] = byte(i>>8), byte(i)
	}
	return slots
}

func TestReceiptComesFromTheBoundKeyInRisingOrder(t *testing.T) {
	w := newWorld(t)
	slot := w.slots[0]
	id := w.running("hello", w.job("web", slot))
	r := func(epoch, sequence uint64, change func(*Receipt)) Receipt {
		r := NewReceipt(w.grid, Receipt{Contract: id, Version: 1, Workload: "web", Slot: slot, Epoch: epoch, Sequence: sequence, State: StateRunning, Time: w.now})
		change(&r)
		return r
	}
	same := func(*Receipt) {}
	w.refused(w.sign(r(1, 1, same), KindReceipt, "one"), "slot-unbound")
	w.bind(slot, 1, "one")
	w.refused(w.sign(r(1, 1, same), KindReceipt), "signature-missing")
	w.refused(w.sign(r(1, 1, same), KindReceipt, "farm"), "signature-missing")
	w.refused(w.sign(r(2, 1, same), KindReceipt, "one"), "stale-epoch")
	w.ok(w.sign(r(1, 4, func(r *Receipt) { r.Ready, r.Isolation, r.Restarts = true, "microvm", 3 }), KindReceipt, "one"))
	w.ok(w.sign(r(1, 5, func(r *Receipt) { r.State, r.Ready = StateExited, true }), KindReceipt, "one"))
	if rec := record[ReceiptRecord](w, KeyReceipt(id, "web")); rec.Time != w.now {
		t.Errorf("receipt: %+v", rec)
	}
	w.refused(w.sign(r(1, 5, func(r *Receipt) { r.State = StateFailed }), KindReceipt, "one"), "stale-sequence")
	w.refused(w.sign(r(1, 4, same), KindReceipt, "one"), "stale-sequence")
	for _, c := range []struct {
		name, code string
		change     func(*Receipt)
	}{
		{"failed and ready", "receipt-invalid", func(r *Receipt) { r.State, r.Ready = StateFailed, true }},
		{"exited badly and ready", "receipt-invalid", func(r *Receipt) { r.State, r.ExitCode, r.Ready = StateExited, 1, true }},
		{"isolation that nobody knows", "receipt-invalid", func(r *Receipt) { r.Isolation = "jail" }},
		{"state", "receipt-invalid", func(r *Receipt) { r.State = "fine" }},
		{"reason", "receipt-invalid", func(r *Receipt) { r.Reason = "Oops!" }},
		{"detail that moves the cursor", "receipt-invalid", func(r *Receipt) { r.Detail = "\x1b[2J" }},
		{"detail too long", "receipt-invalid", func(r *Receipt) { r.Detail = strings.Repeat("x", MaxDetail+1) }},
		{"workload's name", "receipt-invalid", func(r *Receipt) { r.Workload = "" }},
		{"unknown contract", "contract-unknown", func(r *Receipt) { r.Contract = canon.Sum(nil) }},
		{"version to come", "stale-version", func(r *Receipt) { r.Version = 2 }},
		{"unknown workload", "receipt-unassigned", func(r *Receipt) { r.Workload = "db" }},
		{"unbound slot", "slot-unbound", func(r *Receipt) { r.Slot = w.slots[1] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.refused(w.sign(r(1, 6, c.change), KindReceipt, "one"), c.code)
		})
	}
	w.t = t
	w.bind(w.slots[1], 1, "neighbour")
	w.refused(w.sign(r(1, 1, func(r *Receipt) { r.Slot = w.slots[1] }), KindReceipt, "neighbour"), "receipt-unassigned")

	// A new epoch voids the old key and begins a new count.
	w.bind(slot, 2, "two")
	w.refused(w.sign(r(1, 6, same), KindReceipt, "one"), "stale-epoch")
	w.refused(w.sign(r(2, 1, same), KindReceipt, "one"), "signature-missing")
	w.ok(w.sign(r(2, 1, same), KindReceipt, "two"))

	// After the cancellation the node may still say that it is gone.
	w.ok(w.approve(w.cancel(id, 1, "hello"), "red", "green"))
	w.ok(w.sign(r(2, 2, func(r *Receipt) { r.State = StateGone }), KindReceipt, "two"))
}

func TestReceiptsOfWorkloadsThatMovedAreForgotten(t *testing.T) {
	w := newWorld(t)
	id := w.running("hello", w.job("a", w.slots[0]), w.job("b", w.slots[0]), w.job("c", w.slots[0]))
	w.bind(w.slots[0], 1, "one")
	w.bind(w.slots[1], 1, "two")
	for i, name := range []string{"a", "b", "c"} {
		w.ok(w.sign(NewReceipt(w.grid, Receipt{Contract: id, Version: 1, Workload: name, Slot: w.slots[0], Epoch: 1, Sequence: uint64(i + 1), State: StateRunning}), KindReceipt, "one"))
	}
	w.ok(w.approve(w.update(id, 1, "hello", w.job("a", w.slots[0]), w.job("b", w.slots[1])), "red", "green"))
	if w.st.Get(KeyReceipt(id, "a")) == nil {
		t.Error("the receipt of a workload that stays is gone")
	}
	w.absent(KeyReceipt(id, "b"))
	w.absent(KeyReceipt(id, "c"))
	late := NewReceipt(w.grid, Receipt{Contract: id, Version: 1, Workload: "b", Slot: w.slots[0], Epoch: 1, Sequence: 9, State: StateGone})
	w.refused(w.sign(late, KindReceipt, "one"), "receipt-unassigned")
}
