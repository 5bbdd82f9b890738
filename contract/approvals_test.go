package contract

import (
	"fmt"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

func TestOneApprovalIsNotEnoughAndTwoAre(t *testing.T) {
	w := newWorld(t)
	a := w.deploy("hello", w.job("web", w.slots[0]))
	res := w.ok(w.approve(a, "red"))
	if res.Accepted || res.Weight != 1 || res.Threshold != 2 {
		t.Fatalf("after one approval: %+v", res)
	}
	w.absent(KeyContract(res.ID))
	w.absent(KeyRun(w.slots[0], res.ID))
	w.absent(KeyNode(w.slots[0]))
	w.absent(KeyUsed(w.slots[0]))
	if p := record[ProposalRecord](w, KeyProposal(res.ID)); p.State != ProposalOpen || len(p.Signed.Signatures) != 1 || p.Weight != 1 {
		t.Errorf("proposal: %+v", p)
	}

	w.now += 10
	res = w.ok(w.approve(a, "green"))
	if !res.Accepted || res.Contract != res.ID || res.Version != 1 || res.Weight != 2 {
		t.Fatalf("after two approvals: %+v", res)
	}
	c := record[ContractRecord](w, KeyContract(res.Contract))
	hash := plan.Hash(a.Plan)
	if c.State != ContractActive || c.Version != 1 || c.Plan != hash || c.Group != w.group || c.Name != "hello" || c.Created != w.now || len(c.History) != 1 {
		t.Errorf("contract: %+v", c)
	}
	if n := len(c.History[0].Signatures); n != 2 {
		t.Errorf("history keeps %d signatures, want 2", n)
	}
	if r := record[RunRecord](w, KeyRun(w.slots[0], res.Contract)); r != (RunRecord{Version: 1, Plan: hash}) {
		t.Errorf("run: %+v", r)
	}
	root, _ := Root([]RunEntry{{Contract: res.Contract, Version: 1, Plan: hash}})
	if n := record[NodeRecord](w, KeyNode(w.slots[0])); n != (NodeRecord{Count: 1, Version: 1, Root: root}) {
		t.Errorf("node: %+v", n)
	}
	want := Capacity{CPU: 1000, Memory: gib, Disk: gib}
	if got := w.used(KeyUsed(w.slots[0])); got != want {
		t.Errorf("slot uses %s, want %s", got, want)
	}
	if got := w.used(KeyUsedBy(w.farm, w.group)); got != want {
		t.Errorf("group uses %s of the farm, want %s", got, want)
	}
	if p := record[ProposalRecord](w, KeyProposal(res.ID)); p.State != ProposalAccepted || p.Decided != w.now || len(p.Approvers) != 2 {
		t.Errorf("proposal: %+v", p)
	}
	if n := record[NameRecord](w, KeyContractName(w.group, "hello")); n.ID != res.Contract {
		t.Errorf("name leads to %s", n.ID)
	}
	w.absent(KeyNode(w.slots[1]))
}

func TestApprovalByAnOutsiderIsRefused(t *testing.T) {
	w := newWorld(t)
	a := w.deploy("hello", w.job("web", w.slots[0]))
	w.refused(w.approve(a, "eve"), "not-a-member")        // an account, but no member
	w.refused(w.approve(a, "stranger"), "not-a-member")   // no account at all
	w.refused(w.approve(a, "farm"), "not-a-member")       // the farm may host, not decide
	w.refused(w.approve(a, "red", "eve"), "not-a-member") // nor carried by a member
	w.bind(w.slots[0], 1, "node")
	w.refused(w.approve(a, "node"), "not-a-member")
	w.refused(w.approve(a), "signature-missing")
}

func TestApprovingTwiceCountsOnce(t *testing.T) {
	w := newWorld(t)
	a := w.deploy("hello", w.job("web", w.slots[0]))
	id := w.ok(w.approve(a, "red")).ID
	w.refused(w.approve(a, "red"), "already-approved")
	twice := w.approve(a, "red")
	twice.Signatures = append(twice.Signatures, twice.Signatures[0])
	w.refused(twice, "signature-duplicate")
	// Carrying a stranger's fresh approval does not make the old one new.
	w.refused(w.approve(a, "red", "green"), "already-approved")
	if p := record[ProposalRecord](w, KeyProposal(id)); p.Weight != 1 || len(p.Signed.Signatures) != 1 || p.State != ProposalOpen {
		t.Errorf("proposal counts %d, %d signatures, %s", p.Weight, len(p.Signed.Signatures), p.State)
	}
	w.ok(w.approve(a, "green"))
	w.refused(w.approve(a, "red"), "already-approved")
	w.refused(w.approve(a, "blue"), "proposal-closed")
}

func TestExpiryIsJudgedByBlockTime(t *testing.T) {
	w := newWorld(t)
	a := w.deploy("hello", w.job("web", w.slots[0]))
	w.ok(w.approve(a, "red"))
	w.now = later + 1
	w.refused(w.approve(a, "green"), "proposal-expired")
	w.now = later
	if !w.ok(w.approve(a, "green")).Accepted {
		t.Error("an approval at the very second of its expiry did not count")
	}
	far := w.deploy("far", w.job("web", w.slots[0]))
	far.Expiry = w.now + MaxProposalLife + 1
	w.refused(w.approve(far, "red"), "expiry-too-far")
	far.Expiry--
	w.ok(w.approve(far, "red"))
}

// Everything that ties an approval to one decision is inside the signed bytes.
func TestApprovalForSomethingElseIsRefused(t *testing.T) {
	w := newWorld(t)
	hello := w.running("hello", w.job("web", w.slots[0]))
	other := w.running("other", w.job("web", w.slots[0]))
	elsewhere := founded(t, "elsewhere")
	small := w.addGroup("small", "red", 1, w.members("red")...)

	deploy := func(change func(*Approval)) Approval {
		a := w.deploy("new", w.job("web", w.slots[0]))
		change(&a)
		return a
	}
	update := func(change func(*Approval)) Approval {
		a := w.update(hello, 1, "hello", w.job("web", w.slots[0]), w.job("web-2", w.slots[0]))
		change(&a)
		return a
	}
	replan := func(a *Approval, change func(*plan.Plan)) {
		p, err := plan.Decode(a.Plan)
		if err != nil {
			t.Fatal(err)
		}
		change(&p)
		if a.Plan, err = canon.Marshal(p); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, code string
		a          Approval
	}{
		{"another grid", "wrong-grid", deploy(func(a *Approval) { a.Grid = elsewhere.grid })},
		{"a later group epoch", "stale-epoch", deploy(func(a *Approval) { a.GroupEpoch = 2 })},
		{"no group epoch", "stale-epoch", deploy(func(a *Approval) { a.GroupEpoch = 0 })},
		{"another class", "class-unknown", deploy(func(a *Approval) { a.Class = "group" })},
		{"an unknown action", "approval-invalid", deploy(func(a *Approval) { a.Action = "delete" })},
		{"an unknown group", "group-unknown", deploy(func(a *Approval) {
			a.Group = canon.Sum(nil)
			replan(a, func(p *plan.Plan) { p.Group = a.Group })
		})},
		{"a short nonce", "approval-invalid", deploy(func(a *Approval) { a.Nonce = a.Nonce[1:] })},
		{"a plan of another group", "approval-invalid", deploy(func(a *Approval) { replan(a, func(p *plan.Plan) { p.Group = small }) })},
		{"a plan of another name", "approval-invalid", deploy(func(a *Approval) { a.Name = "newer" })},
		{"a deployment of a contract", "approval-invalid", deploy(func(a *Approval) { a.Contract = hello })},
		{"a deployment of version 2", "stale-version", deploy(func(a *Approval) { a.Version = 2 })},
		{"a deployment without workloads", "approval-invalid", deploy(func(a *Approval) { replan(a, func(p *plan.Plan) { p.Workloads = nil }) })},
		{"a name that is taken", "name-taken", w.deploy("hello", w.job("web", w.slots[1]))},
		{"an unknown contract", "contract-unknown", update(func(a *Approval) { a.Contract = canon.Sum(nil) })},
		{"no contract", "approval-invalid", update(func(a *Approval) { a.Contract = canon.Hash{} })},
		{"another contract", "wrong-contract", update(func(a *Approval) { a.Contract = other })},
		{"another group's contract", "wrong-contract", update(func(a *Approval) {
			a.Group = small
			replan(a, func(p *plan.Plan) { p.Group = small })
		})},
		{"the version that runs", "stale-version", update(func(a *Approval) { a.Version = 1 })},
		{"a version too far", "stale-version", update(func(a *Approval) { a.Version = 3 })},
		{"an update without workloads", "approval-invalid", update(func(a *Approval) { replan(a, func(p *plan.Plan) { p.Workloads = nil }) })},
		{"a cancellation with workloads", "approval-invalid", update(func(a *Approval) { a.Action = ActionCancel })},
		{"a slot that is unknown", "slot-unknown", w.deploy("new", w.job("web", canon.Sum(nil)))},
		{"a plan that is not canonical", "plan-invalid", deploy(func(a *Approval) { a.Plan = append(a.Plan, 0) })},
		{"a plan of another format", "plan-invalid", deploy(func(a *Approval) { replan(a, func(p *plan.Plan) { p.V = 2 }) })},
		{"a plan with bad limits", "plan-invalid", deploy(func(a *Approval) { replan(a, func(p *plan.Plan) { p.Workloads[0].Resources.PIDs = 0 }) })},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			by := "red"
			w.refused(w.approve(c.a, by), c.code)
		})
	}
	w.t = t
	// The base of all of these is good, so each was refused for its one change.
	w.ok(w.approve(deploy(func(*Approval) {}), "red"))
	w.ok(w.approve(update(func(*Approval) {}), "red"))
}

func TestSignatureOverOtherBytesIsRefused(t *testing.T) {
	w := newWorld(t)
	s := w.approve(w.deploy("hello", w.job("web", w.slots[0])), "red", "green")
	other := w.approve(w.deploy("other", w.job("web", w.slots[0])), "red", "green")
	mixed := Signed{Statement: s.Statement, Signatures: []Signature{s.Signatures[0], other.Signatures[1]}}
	w.refused(mixed, "signature-invalid")
	// A signature of another kind of statement over the same bytes.
	cross, err := Countersign(t.Context(), Signed{Statement: s.Statement}, KindReceipt, w.key("red"))
	if err != nil {
		t.Fatal(err)
	}
	w.refused(cross, "signature-invalid")
	// Bytes that say the same in another encoding can't even be a statement.
	loose := s
	loose.Statement = append([]byte{0xb8, s.Statement[0] & 31}, s.Statement[1:]...)
	w.refused(loose, "statement-invalid")
}

func TestUpdateNeedsTheQuorumAndReplacesTheVersion(t *testing.T) {
	w := newWorld(t)
	id := w.running("hello", w.job("web", w.slots[0]))
	up := w.update(id, 1, "hello", w.job("db", w.slots[1]))
	w.ok(w.approve(up, "blue"))
	if c := record[ContractRecord](w, KeyContract(id)); c.Version != 1 {
		t.Fatalf("one approval made version %d", c.Version)
	}
	res := w.ok(w.approve(up, "green"))
	if !res.Accepted || res.Contract != id || res.Version != 2 {
		t.Fatalf("update: %+v", res)
	}
	c := record[ContractRecord](w, KeyContract(id))
	if c.Version != 2 || len(c.History) != 2 || c.Plan != plan.Hash(up.Plan) || c.State != ContractActive {
		t.Errorf("contract: %+v", c)
	}
	w.absent(KeyRun(w.slots[0], id))
	w.absent(KeyUsed(w.slots[0]))
	empty, _ := Root(nil)
	if n := record[NodeRecord](w, KeyNode(w.slots[0])); n != (NodeRecord{Count: 0, Version: 2, Root: empty}) {
		t.Errorf("slot that was left: %+v", n)
	}
	if n := record[NodeRecord](w, KeyNode(w.slots[1])); n.Count != 1 || n.Version != 1 {
		t.Errorf("slot that was taken: %+v", n)
	}
	if got := w.used(KeyUsedBy(w.farm, w.group)); got.CPU != 1000 {
		t.Errorf("group uses %s of the farm", got)
	}
	// A slot whose contract stays is told of the new version, too.
	w.ok(w.approve(w.update(id, 2, "hello", w.job("db", w.slots[1])), "red", "green"))
	if n := record[NodeRecord](w, KeyNode(w.slots[1])); n.Count != 1 || n.Version != 2 {
		t.Errorf("slot that stayed: %+v", n)
	}
	if r := record[RunRecord](w, KeyRun(w.slots[1], id)); r.Version != 3 {
		t.Errorf("run: %+v", r)
	}
}

func TestCancellationNeedsTheQuorumAndFreesEverything(t *testing.T) {
	w := newWorld(t)
	id := w.running("hello", w.job("a", w.slots[0]), w.job("b", w.slots[1]))
	stop := w.cancel(id, 1, "hello")
	w.ok(w.approve(stop, "red"))
	if c := record[ContractRecord](w, KeyContract(id)); c.State != ContractActive {
		t.Fatal("one approval cancelled the contract")
	}
	if !w.ok(w.approve(stop, "blue")).Accepted {
		t.Fatal("two approvals did not cancel the contract")
	}
	c := record[ContractRecord](w, KeyContract(id))
	if c.State != ContractCancelled || c.Version != 2 || len(c.History) != 2 {
		t.Errorf("contract: %+v", c)
	}
	for _, s := range w.slots {
		w.absent(KeyRun(s, id))
		w.absent(KeyUsed(s))
		if n := record[NodeRecord](w, KeyNode(s)); n.Count != 0 || n.Version != 2 {
			t.Errorf("node: %+v", n)
		}
	}
	w.absent(KeyUsedBy(w.farm, w.group))
	w.absent(KeyContractName(w.group, "hello"))
	w.refused(w.approve(w.update(id, 2, "hello", w.job("a", w.slots[0])), "red"), "contract-cancelled")
	w.refused(w.approve(w.cancel(id, 2, "hello"), "red"), "contract-cancelled")
	// The name is free again, for a contract of its own.
	again := w.deploy("hello", w.job("a", w.slots[0]))
	again.Nonce = nonce("again")
	if res := w.ok(w.approve(again, "red", "green")); res.Contract == id {
		t.Error("the new contract has the old one's id")
	}
}

func TestTheVeryStatementOfACancelledContractCannotRunAgain(t *testing.T) {
	w := newWorld(t)
	a := w.deploy("hello", w.job("a", w.slots[0]))
	s := w.approve(a, "red", "green")
	id := w.ok(s).Contract
	w.ok(w.approve(w.cancel(id, 1, "hello"), "red", "green"))
	w.refused(s, "already-approved")
	w.refused(w.approve(a, "blue"), "proposal-closed")
}

func TestCancellationNeedsNoConsent(t *testing.T) {
	w := newWorld(t)
	id := w.running("hello", w.job("a", w.slots[0]))
	w.ok(w.consent(Capacity{}, 2))
	w.refused(w.approve(w.update(id, 1, "hello", w.job("a", w.slots[0])), "red"), "no-consent")
	if !w.ok(w.approve(w.cancel(id, 1, "hello"), "red", "green")).Accepted {
		t.Error("not cancelled")
	}
}

func TestFirstOfCompetingProposalsWins(t *testing.T) {
	w := newWorld(t)
	id := w.running("hello", w.job("web", w.slots[0]))
	one := w.update(id, 1, "hello", w.job("one", w.slots[0]))
	two := w.update(id, 1, "hello", w.job("two", w.slots[0]))
	stop := w.cancel(id, 1, "hello")
	bystander := w.deploy("bystander", w.job("web", w.slots[0]))
	lost := []canon.Hash{w.ok(w.approve(one, "red")).ID, w.ok(w.approve(stop, "blue")).ID}
	kept := w.ok(w.approve(bystander, "red")).ID
	w.ok(w.approve(two, "red"))
	w.ok(w.approve(two, "green"))
	for _, l := range lost {
		p := record[ProposalRecord](w, KeyProposal(l))
		if p.State != ProposalStale || p.Decided != w.now || len(p.Signed.Statement) != 0 {
			t.Errorf("the loser: %+v", p)
		}
	}
	w.refused(w.approve(one, "green"), "proposal-closed")
	w.refused(w.approve(stop, "green"), "proposal-closed")
	if p := record[PendingRecord](w, KeyPending(w.group)); len(p.Proposals) != 1 || p.Proposals[0].Proposal != kept {
		t.Errorf("open proposals: %v, want %v", p.Proposals, kept)
	}

	// Two deployments want one name.
	a := w.deploy("shop", w.job("a", w.slots[0]))
	b := w.deploy("shop", w.job("b", w.slots[0]))
	loser := w.ok(w.approve(b, "red")).ID
	w.ok(w.approve(a, "red", "green"))
	if p := record[ProposalRecord](w, KeyProposal(loser)); p.State != ProposalStale {
		t.Errorf("the loser: %+v", p)
	}
	w.refused(w.approve(b, "green"), "proposal-closed")
}

func TestOpenProposalsAreBoundedAndExpiredOnesGo(t *testing.T) {
	w := newWorld(t)
	var first canon.Hash
	for i := range MaxOpenProposals {
		id := w.ok(w.approve(w.deploy(fmt.Sprintf("p-%d", i), w.job("web", w.slots[0])), "red")).ID
		if i == 0 {
			first = id
		}
	}
	more := w.deploy("more", w.job("web", w.slots[0]))
	more.Expiry = later + 100
	w.refused(w.approve(more, "red"), "too-many-proposals")
	// One who floods the group keeps nobody else from proposing.
	other := w.deploy("other", w.job("web", w.slots[0]))
	w.ok(w.approve(other, "green"))
	if !w.ok(w.approve(other, "blue")).Accepted {
		t.Error("not accepted")
	}
	w.now = later + 1
	w.ok(w.approve(more, "red"))
	w.absent(KeyProposal(first))
	if p := record[PendingRecord](w, KeyPending(w.group)); len(p.Proposals) != 1 {
		t.Errorf("%d open proposals, want 1", len(p.Proposals))
	}
}

func TestWeightsDecideNotHeads(t *testing.T) {
	w := newWorld(t)
	m := w.members("red", "green", "blue")
	m[0].Weight = 3 // red
	w.group = w.addGroup("weighted", "red", 3, m...)
	w.ok(w.sign(NewConsent(w.grid, w.farm, w.group, big, 1, later), KindConsent, "farm"))
	if res := w.ok(w.approve(w.deploy("a", w.job("web", w.slots[0])), "green", "blue")); res.Accepted || res.Weight != 2 {
		t.Errorf("two small weights: %+v", res)
	}
	if res := w.ok(w.approve(w.deploy("b", w.job("web", w.slots[0])), "red")); !res.Accepted || res.Weight != 3 {
		t.Errorf("one great weight: %+v", res)
	}
}

func TestHistoryKeepsTheFirstAndTheNewest(t *testing.T) {
	w := newWorld(t)
	job := w.job("web", w.slots[0])
	id := w.running("hello", job)
	c, err := plan.DecodeContainer(job.Config)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		c.Args = append(c.Args, string(make30k()))
	}
	if job.Config, err = c.Encode(); err != nil {
		t.Fatal(err)
	}
	first := record[ContractRecord](w, KeyContract(id)).History[0].ID()
	for v := uint64(1); v < 12; v++ {
		w.ok(w.approve(w.update(id, v, "hello", job), "red", "green"))
	}
	rec := record[ContractRecord](w, KeyContract(id))
	size := 0
	for _, s := range rec.History {
		size += s.size()
	}
	last, err := statement[Approval](rec.History[len(rec.History)-1])
	if err != nil {
		t.Fatal(err)
	}
	if size > MaxHistory || rec.History[0].ID() != first || last.Version != 12 || len(rec.History) < 3 {
		t.Errorf("%d entries of %d bytes, newest version %d", len(rec.History), size, last.Version)
	}
	w.ok(w.approve(w.cancel(id, 12, "hello"), "red", "green"))
	if rec := record[ContractRecord](w, KeyContract(id)); len(rec.History) < 3 {
		t.Errorf("the cancellation left %d entries", len(rec.History))
	}
}

func make30k() []byte {
	b := make([]byte, 30<<10)
	for i := range b {
		b[i] = 'x'
	}
	return b
}
