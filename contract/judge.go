package contract

import (
	"bytes"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Evidence is everything that a node looks at before it runs a contract. Only
// Grid, Farm and SlotID are its own knowledge, from its boot archive; the rest
// came over the ledger and is believed for its signatures alone.
type Evidence struct {
	Grid    canon.Hash // id of the grid
	Farm    Signed     // Farm, from the boot archive
	SlotID  canon.Hash // the slot that the node fills
	Slot    Signed     // Slot
	Consent Signed     // Consent of the farm to the group
	Group   Signed     // Group
	Members []Signed   // Account of every member, in any order
	History []Signed   // Approvals: a ContractRecord's History
	// Entry is what the slot's proven list says: the contract, its version and
	// its plan's hash. The approvals must come to the same.
	Entry RunEntry
}

// Verdict is what a contract asks of the slot that Evidence speaks of.
type Verdict struct {
	Contract  canon.Hash
	Group     canon.Hash
	Name      string
	Version   uint64
	Plan      canon.Hash // plan hash
	Workloads []plan.Workload
	// Deployment is the whole plan, whose Workloads are those of every slot: a
	// network's router must know the other nodes and who may reach whom.
	Deployment plan.Plan
	// Asked is what the plan asks of this slot, Granted what the farm's consent lets the
	// group use in all of its slots, Offered what this slot has.
	Asked, Granted, Offered Capacity
}

// Judge decides whether a node may run a contract. It assumes that the ledger,
// every validator included, may lie: whoever can't make the farm's consent and
// the signatures of a quorum of the group's own members gets nothing run.
//
// It has no clock: a consent's and an approval's expiry bound when the ledger
// takes them, not how long an accepted contract runs. A farm ends that by a
// newer consent of no capacity, which Judge refuses. How fresh the evidence is
// the caller knows from the ledger's head.
//
// Codes: "slot-untrusted", "no-consent", "group-untrusted",
// "approvals-insufficient", "contract-cancelled", "record-mismatch",
// "plan-invalid", "capacity-exceeded", "not-for-this-slot".
func Judge(e Evidence) (Verdict, error) {
	j := &judge{Evidence: e}
	steps := []struct {
		what  string
		check func() error
	}{
		{"slot", j.place},
		{"group", j.people},
		{"consent", j.admitted},
		{"approvals", j.approvals},
		{"newest plan", j.newest},
	}
	for _, step := range steps {
		if err := step.check(); err != nil {
			return Verdict{}, fmt.Errorf("judge contract %s: %s: %w", e.Entry.Contract.Short(), step.what, err)
		}
	}
	return j.verdict, nil
}

// judge carries what one step found to the next.
type judge struct {
	Evidence
	farmID  canon.Hash
	farm    Farm
	slot    Slot
	groupID canon.Hash
	group   Group
	member  map[string]canon.Hash // account id by public key
	consent Consent
	last    Approval // newest version
	lastP   plan.Plan
	verdict Verdict
}

// place checks that the slot is the node's own and the farm's.
func (j *judge) place() error {
	f, farmID, keys, err := Open[Farm](j.Farm, KindFarm, j.Grid)
	if err != nil {
		return problem.New("slot-untrusted", "farm: %w", err)
	}
	if err := signedBy(keys, f.Key); err != nil {
		return problem.New("slot-untrusted", "farm: %w", err)
	}
	s, slotID, keys, err := Open[Slot](j.Slot, KindSlot, j.Grid)
	if err != nil {
		return problem.New("slot-untrusted", "slot: %w", err)
	}
	if slotID != j.SlotID {
		return problem.New("slot-untrusted", "the slot's statement is of %s, this node fills %s", slotID.Short(), j.SlotID.Short())
	}
	if s.Farm != farmID {
		return problem.New("slot-untrusted", "the slot is of farm %s, this node's farm is %s", s.Farm.Short(), farmID.Short())
	}
	if err := signedBy(keys, f.Key); err != nil {
		return problem.New("slot-untrusted", "slot: %w", err)
	}
	j.farm, j.farmID, j.slot = f, farmID, s
	return nil
}

// people checks that the keys which may approve are those of the group's
// founding statement: its hash is the group's id, it names its members by the
// hashes of their accounts, and these name the keys.
func (j *judge) people() error {
	g, id, _, err := Open[Group](j.Group, KindGroup, j.Grid)
	if err != nil {
		return problem.New("group-untrusted", "%w", err)
	}
	if err := g.Validate(); err != nil {
		return problem.New("group-untrusted", "%w", err)
	}
	if len(j.Members) != len(g.Members) {
		return problem.New("group-untrusted", "%d accounts for %d members", len(j.Members), len(g.Members))
	}
	j.member = make(map[string]canon.Hash, len(j.Members))
	seen := make(map[canon.Hash]bool, len(j.Members))
	for _, m := range j.Members {
		a, account, keys, err := Open[Account](m, KindAccount, j.Grid)
		if err != nil {
			return problem.New("group-untrusted", "account: %w", err)
		}
		if err := signedBy(keys, a.Key); err != nil {
			return problem.New("group-untrusted", "account %s: %w", account.Short(), err)
		}
		if g.Weight(account) == 0 || seen[account] {
			return problem.New("group-untrusted", "account %s is no member of the group, or stands twice", account.Short())
		}
		if other, taken := j.member[string(a.Key)]; taken {
			return problem.New("group-untrusted", "accounts %s and %s have one key", account.Short(), other.Short())
		}
		seen[account] = true
		j.member[string(a.Key)] = account
	}
	j.group, j.groupID = g, id
	return nil
}

// admitted checks that the farm's own key admitted the group.
func (j *judge) admitted() error {
	c, _, keys, err := Open[Consent](j.Consent, KindConsent, j.Grid)
	if err != nil {
		return problem.New("no-consent", "%w", err)
	}
	if err := signedBy(keys, j.farm.Key); err != nil {
		return problem.New("no-consent", "the farm did not sign it: %w", err)
	}
	switch {
	case c.Farm != j.farmID:
		return problem.New("no-consent", "it is of farm %s, this node's farm is %s", c.Farm.Short(), j.farmID.Short())
	case c.Group != j.groupID:
		return problem.New("no-consent", "it is for group %s, the contract is of %s", c.Group.Short(), j.groupID.Short())
	case c.Capacity.IsZero():
		return problem.New("no-consent", "the farm has withdrawn it")
	}
	j.consent = c
	return nil
}

// approvals checks every kept version: the first names the contract, versions
// rise, and each was approved by a quorum of the group.
func (j *judge) approvals() error {
	if len(j.History) == 0 {
		return problem.New("approvals-insufficient", "there are none")
	}
	contract := j.History[0].ID()
	if contract != j.Entry.Contract {
		return problem.New("record-mismatch", "the first approval founds contract %s", contract.Short())
	}
	for i, s := range j.History {
		a, p, err := j.approved(s)
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		bad := func(format string, args ...any) error {
			return problem.New("approvals-insufficient", "entry %d: "+format, append([]any{i}, args...)...)
		}
		switch {
		case a.Group != j.groupID || a.GroupEpoch != 1:
			return bad("it is of epoch %d of group %s", a.GroupEpoch, a.Group.Short())
		case (i == 0) != (a.Action == ActionDeploy):
			return bad("action %s is out of place", a.Action)
		case i > 0 && a.Contract != contract:
			return bad("it is of contract %s", a.Contract.Short())
		case i > 0 && a.Name != j.last.Name:
			return bad("it is named %s, the contract %s", a.Name, j.last.Name)
		case i > 0 && a.Version <= j.last.Version:
			return bad("version %d follows %d", a.Version, j.last.Version)
		case i > 0 && j.last.Action == ActionCancel:
			return bad("it follows the cancellation")
		}
		j.last, j.lastP = a, p
	}
	return nil
}

// approved checks that a quorum of the group signed s, and returns its plan.
func (j *judge) approved(s Signed) (Approval, plan.Plan, error) {
	a, _, err := j.quorum(s)
	if err != nil {
		return Approval{}, plan.Plan{}, err
	}
	p, err := a.Validate()
	return a, p, err
}

// quorum checks that a quorum of the group signed s, each account counted once.
func (j *judge) quorum(s Signed) (Approval, canon.Hash, error) {
	a, id, keys, err := Open[Approval](s, KindApproval, j.Grid)
	if err != nil {
		return Approval{}, canon.Hash{}, problem.New("approvals-insufficient", "%w", err)
	}
	var weight uint64 // at most MaxMembers times MaxWeight: it can't overflow
	for _, key := range keys {
		account, ok := j.member[string(key)]
		if !ok {
			return Approval{}, canon.Hash{}, problem.New("approvals-insufficient", "%s signed it and is no member's key", key.Fingerprint())
		}
		weight += j.group.Weight(account)
	}
	if weight < j.group.Threshold {
		return Approval{}, canon.Hash{}, problem.New("approvals-insufficient", "approvals weigh %d, group %s needs %d", weight, j.group.Name, j.group.Threshold)
	}
	return a, id, nil
}

// newest reads from the newest plan what this slot has to run.
func (j *judge) newest() error {
	if j.last.Action == ActionCancel {
		return problem.New("contract-cancelled", "the group has cancelled the contract")
	}
	planHash := plan.Hash(j.last.Plan)
	if j.Entry.Version != j.last.Version || !bytes.Equal(j.Entry.Plan[:], planHash[:]) {
		return problem.New("record-mismatch", "the ledger's list names version %d, plan %s; the approvals come to version %d, plan %s",
			j.Entry.Version, j.Entry.Plan.Short(), j.last.Version, planHash.Short())
	}
	need := demand(j.lastP, j.SlotID)
	if !need.Within(j.slot.Capacity) || !need.Within(j.consent.Capacity) {
		return problem.New("capacity-exceeded", "the plan asks for %s, the slot offers %s, the farm grants the group %s", need, j.slot.Capacity, j.consent.Capacity)
	}
	j.verdict = Verdict{
		Contract: j.Entry.Contract, Group: j.groupID, Name: j.last.Name,
		Version: j.last.Version, Plan: planHash, Deployment: j.lastP,
		Asked: need, Granted: j.consent.Capacity, Offered: j.slot.Capacity,
	}
	for _, w := range j.lastP.Workloads {
		if w.Slot == j.SlotID {
			j.verdict.Workloads = append(j.verdict.Workloads, w)
		}
	}
	if len(j.verdict.Workloads) == 0 {
		return problem.New("not-for-this-slot", "version %d gives this slot nothing to run", j.last.Version)
	}
	return nil
}
