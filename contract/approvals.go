package contract

import (
	"bytes"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// approval adds approvals to a proposal, opening it if it is new, and carries
// it out when they meet the threshold of the group as it stands. Whether the
// proposal is possible at all is judged at every approval, so also at the last.
func (l *ledger) approval(s Signed) (Result, error) {
	a, id, keys, err := Open[Approval](s, KindApproval, l.grid)
	if err != nil {
		return Result{}, err
	}
	prospectOf, err := l.class(a, id)
	if err != nil {
		return Result{}, err
	}
	g, grec, err := l.loadGroup(a.Group)
	if err != nil {
		return Result{}, err
	}
	if a.GroupEpoch != grec.Epoch {
		return Result{}, problem.New("stale-epoch", "the approval is for epoch %d of group %s, it is at %d", a.GroupEpoch, g.Name, grec.Epoch)
	}
	if len(keys) == 0 {
		return Result{}, problem.New("signature-missing", "nobody signed the approval")
	}
	prop, known, err := Load[ProposalRecord](l.st, KeyProposal(id))
	if err != nil {
		return Result{}, err
	}
	if prop, err = l.addApprovers(prop, g, keys); err != nil {
		return Result{}, err
	}
	if known && prop.State != ProposalOpen {
		return Result{}, problem.New("proposal-closed", "proposal %s is already %s", id.Short(), prop.State)
	}
	if err := l.fresh(a.Expiry, "proposal-expired", "the proposal"); err != nil {
		return Result{}, err
	}
	if a.Expiry-l.now > MaxProposalLife {
		return Result{}, problem.New("expiry-too-far", "the proposal would expire in %d days, at most %d are allowed", (a.Expiry-l.now)/86400, MaxProposalLife/86400)
	}
	would, err := prospectOf()
	if err != nil {
		return Result{}, err
	}
	if !known {
		if err := l.openProposal(a.Group, Pending{Proposal: id, Opener: prop.Approvers[0], Contract: a.Contract, Name: a.Name, Expiry: a.Expiry}); err != nil {
			return Result{}, err
		}
		prop.Signed.Statement = s.Statement
		prop.State, prop.Threshold = ProposalOpen, g.Threshold
		prop.Group, prop.Action, prop.Name, prop.Version = a.Group, a.Action, a.Name, a.Version
		prop.Contract, prop.Expiry, prop.Time = would.id, a.Expiry, l.now
	}
	prop.Signed.Signatures = append(prop.Signed.Signatures, s.Signatures...)
	res := Result{Contract: would.id, Version: a.Version, Weight: prop.Weight, Threshold: g.Threshold}
	if prop.Weight >= g.Threshold {
		if err := would.accept(prop.Signed); err != nil {
			return Result{}, err
		}
		res.Accepted = true
		prop.State, prop.Decided, prop.Signed = ProposalAccepted, l.now, Signed{}
	}
	if err := store(l.st, KeyProposal(id), prop); err != nil {
		return Result{}, err
	}
	if res.Accepted {
		return res, l.closeProposals(a, id)
	}
	return res, nil
}

// prospect is what a proposal comes to if it is accepted.
type prospect struct {
	id     canon.Hash         // of the contract, or of the reservation of a name
	accept func(Signed) error // carries it out, with all signatures
}

// class checks what can be known of a without the ledger, by its class, and
// returns what judges whether it is possible now. id is the proposal's.
func (l *ledger) class(a Approval, id canon.Hash) (func() (prospect, error), error) {
	if a.Class == ClassName {
		n, err := a.ValidateName()
		return func() (prospect, error) { return l.prospectName(a, n, id) }, err
	}
	p, err := a.Validate()
	return func() (prospect, error) { return l.prospect(a, p, id) }, err
}

// prospect judges whether an approval about a contract is possible now.
func (l *ledger) prospect(a Approval, p plan.Plan, id canon.Hash) (prospect, error) {
	now, err := l.standing(a, id)
	if err != nil {
		return prospect{}, err
	}
	claims, err := l.claims(a, p, now)
	if err != nil {
		return prospect{}, err
	}
	leases, err := l.leases(a, p, now)
	if err != nil {
		return prospect{}, err
	}
	return prospect{id: now.id, accept: func(s Signed) error {
		if err := l.let(leases); err != nil {
			return err
		}
		return l.accept(a, p, s, now, claims)
	}}, nil
}

// Validate checks what can be known of an approval of class "workload" without
// the ledger and returns its plan. Codes: "approval-invalid", "plan-invalid", "class-unknown",
// "stale-version" for a version that its action can't have.
func (a Approval) Validate() (plan.Plan, error) {
	bad := func(format string, args ...any) (plan.Plan, error) {
		return plan.Plan{}, problem.New("approval-invalid", "approval: "+format, args...)
	}
	if a.Class != ClassWorkload {
		return plan.Plan{}, problem.New("class-unknown", "approval: class of action %.40q is not that of contracts", a.Class)
	}
	if len(a.Nonce) != NonceSize {
		return bad("the nonce has %d bytes, want %d", len(a.Nonce), NonceSize)
	}
	p, err := plan.Decode(a.Plan)
	if err != nil {
		return plan.Plan{}, err
	}
	if p.Group != a.Group {
		return bad("its plan is of group %s, the approval of %s", p.Group.Short(), a.Group.Short())
	}
	if p.Name != a.Name {
		return bad("its plan is named %s, the approval %.63q", p.Name, a.Name)
	}
	switch a.Action {
	case ActionDeploy:
		if !a.Contract.IsZero() {
			return bad("a deployment names no contract, it founds one")
		}
		if a.Version != 1 {
			return plan.Plan{}, problem.New("stale-version", "approval: a deployment has version 1, not %d", a.Version)
		}
	case ActionUpdate, ActionCancel:
		if a.Contract.IsZero() {
			return bad("it names no contract to %s", a.Action)
		}
		if a.Version < 2 {
			return plan.Plan{}, problem.New("stale-version", "approval: to %s needs version 2 or later, not %d", a.Action, a.Version)
		}
	default:
		return bad("action %.40q is not known", a.Action)
	}
	if (a.Action == ActionCancel) != (len(p.Workloads) == 0) {
		return bad("a cancellation has no workloads, everything else has some")
	}
	return p, nil
}

// addApprovers adds the accounts behind keys to those who approved.
func (l *ledger) addApprovers(prop ProposalRecord, g Group, keys []sign.PublicKey) (ProposalRecord, error) {
	for _, key := range keys {
		k, ok, err := Load[KeyRecord](l.st, KeyKey(key))
		if err != nil {
			return prop, err
		}
		weight := g.Weight(k.Owner)
		if !ok || k.Kind != KindAccount || weight == 0 {
			return prop, problem.New("not-a-member", "%s does not speak for a member of group %s", key.Fingerprint(), g.Name).
				WithFix("let a member approve")
		}
		if slices.Contains(prop.Approvers, k.Owner) {
			return prop, problem.New("already-approved", "account %s has approved this proposal already", k.Owner.Short())
		}
		prop.Approvers = append(prop.Approvers, k.Owner)
		prop.Weight += weight // at most MaxMembers times MaxWeight: it can't overflow
	}
	return prop, nil
}

// standing is the contract as it is before the proposal.
type standing struct {
	id     canon.Hash
	exists bool
	rec    ContractRecord
	plan   plan.Plan // of the newest version; empty if there is none
}

// standing loads the contract that a speaks of and checks that a is its very
// next step. id is the proposal's, which a deployment makes the contract's.
func (l *ledger) standing(a Approval, id canon.Hash) (standing, error) {
	if a.Action == ActionDeploy {
		if l.st.Get(KeyContractName(a.Group, a.Name)) != nil {
			return standing{}, problem.New("name-taken", "the group has a deployment %s already", a.Name).
				WithFix("update it, remove it first, or choose another name")
		}
		return standing{id: id}, nil
	}
	rec, ok, err := Load[ContractRecord](l.st, KeyContract(a.Contract))
	if err != nil {
		return standing{}, err
	}
	switch {
	case !ok:
		return standing{}, problem.New("contract-unknown", "contract %s is not on the ledger", a.Contract.Short())
	case rec.Group != a.Group || rec.Name != a.Name:
		return standing{}, problem.New("wrong-contract", "contract %s is %s of group %s, the approval speaks of %s of group %s", a.Contract.Short(), rec.Name, rec.Group.Short(), a.Name, a.Group.Short())
	case rec.State != ContractActive:
		return standing{}, problem.New("contract-cancelled", "contract %s was cancelled", a.Contract.Short())
	case a.Version != rec.Version+1:
		return standing{}, problem.New("stale-version", "the approval is for version %d, contract %s is at %d", a.Version, rec.Name, rec.Version).
			WithFix("plan again: the next version is %d", rec.Version+1)
	}
	last, err := statement[Approval](rec.History[len(rec.History)-1])
	if err != nil {
		return standing{}, err
	}
	p, err := plan.Decode(last.Plan)
	return standing{id: a.Contract, exists: true, rec: rec, plan: p}, err
}

// accept carries a out: with s, the Approval and all its signatures, as the
// contract's newest version.
func (l *ledger) accept(a Approval, p plan.Plan, s Signed, now standing, c claims) error {
	if err := l.settle(c); err != nil {
		return err
	}
	planHash := plan.Hash(a.Plan)
	if err := l.assign(now.id, a.Version, planHash, now.plan, p); err != nil {
		return err
	}
	if a.Action != ActionCancel {
		l.dropReceipts(now.id, now.plan, p)
	}
	rec := now.rec
	if !now.exists {
		rec = ContractRecord{Group: a.Group, Name: a.Name, Created: l.now}
		if err := claimName(l.st, KeyContractName(a.Group, a.Name), a.Name, now.id); err != nil {
			return err
		}
	}
	rec.Version, rec.Plan, rec.State, rec.Changed = a.Version, planHash, ContractActive, l.now
	rec.History = trim(append(rec.History, s))
	if a.Action == ActionCancel {
		rec.State = ContractCancelled
		l.st.Delete(KeyContractName(a.Group, a.Name))
	}
	return store(l.st, KeyContract(now.id), rec)
}

// trim drops the oldest entries after the first while history exceeds
// MaxHistory, but keeps the two newest. The first names the contract, the newest
// says what holds, and below a cancellation the one before says what it ended;
// nothing is decided by those between.
func trim(history []Signed) []Signed {
	size := 0
	for _, s := range history {
		size += s.size()
	}
	for size > MaxHistory && len(history) > 3 {
		size -= history[1].size()
		history = slices.Delete(history, 1, 2)
	}
	return history
}

// size returns about how many bytes s takes.
func (s Signed) size() int {
	n := len(s.Statement)
	for _, sig := range s.Signatures {
		n += len(sig.Key) + len(sig.Sig)
	}
	return n
}

// openProposal adds one to the group's open proposals, after forgetting those
// that expired. The bound is per member: one who floods the group can't keep the
// others from proposing.
func (l *ledger) openProposal(group canon.Hash, one Pending) error {
	pending, _, err := Load[PendingRecord](l.st, KeyPending(group))
	if err != nil {
		return err
	}
	var open []Pending
	sameOpener := 0
	for _, other := range pending.Proposals {
		if l.now > other.Expiry {
			l.st.Delete(KeyProposal(other.Proposal))
			continue
		}
		if other.Opener == one.Opener {
			sameOpener++
		}
		open = append(open, other)
	}
	if sameOpener >= MaxOpenProposals {
		return problem.New("too-many-proposals", "account %s has %d open proposals in the group, at most %d are allowed", one.Opener.Short(), sameOpener, MaxOpenProposals).
			WithFix("get some approved, or wait until they expire")
	}
	return store(l.st, KeyPending(group), PendingRecord{Proposals: append(open, one)})
}

// closeProposals takes the accepted proposal off the group's open ones, and
// marks those of the group that it made impossible: for the same version of the
// same contract or reservation, or for the same free name. Another group's for a
// name that is taken now stays open until it expires; nobody can approve it.
func (l *ledger) closeProposals(a Approval, id canon.Hash) error {
	pending, _, err := Load[PendingRecord](l.st, KeyPending(a.Group))
	if err != nil {
		return err
	}
	var open []Pending
	for _, other := range pending.Proposals {
		if other.Proposal == id {
			continue
		}
		if other.Contract != a.Contract || a.Contract.IsZero() && other.Name != a.Name {
			open = append(open, other)
			continue
		}
		rec, _, err := Load[ProposalRecord](l.st, KeyProposal(other.Proposal))
		if err != nil {
			return err
		}
		if a.Contract.IsZero() && rec.Action != a.Action { // a deployment and a label of one name
			open = append(open, other)
			continue
		}
		rec.State, rec.Decided, rec.Signed = ProposalStale, l.now, Signed{}
		if err := store(l.st, KeyProposal(other.Proposal), rec); err != nil {
			return err
		}
	}
	return store(l.st, KeyPending(a.Group), PendingRecord{Proposals: open})
}

// assign rewrites which slots the contract runs on: it leaves those that only
// the old plan names and holds those of the new one.
func (l *ledger) assign(contract canon.Hash, version uint64, planHash canon.Hash, from, to plan.Plan) error {
	want := slotsOf(to)
	for _, slot := range slotsOf(from, to) {
		var entry *RunEntry
		if slices.Contains(want, slot) {
			entry = &RunEntry{Contract: contract, Version: version, Plan: planHash}
		}
		if err := l.setRun(slot, contract, entry); err != nil {
			return err
		}
	}
	return nil
}

// setRun writes or, with a nil entry, removes what contract runs on slot, and
// renews the slot's NodeRecord.
func (l *ledger) setRun(slot, contract canon.Hash, entry *RunEntry) error {
	runs, _, err := Load[RunsRecord](l.st, KeyRuns(slot))
	if err != nil {
		return err
	}
	i, found := slices.BinarySearchFunc(runs.Entries, contract, func(e RunEntry, id canon.Hash) int {
		return bytes.Compare(e.Contract[:], id[:])
	})
	if found {
		runs.Entries = slices.Delete(runs.Entries, i, i+1)
	}
	if entry == nil {
		l.st.Delete(KeyRun(slot, contract))
	} else {
		if len(runs.Entries) >= MaxRuns {
			return problem.New("capacity-exceeded", "slot %s runs %d contracts, at most %d are allowed", slot.Short(), len(runs.Entries), MaxRuns)
		}
		runs.Entries = slices.Insert(runs.Entries, i, *entry)
		if err := store(l.st, KeyRun(slot, contract), RunRecord{Version: entry.Version, Plan: entry.Plan}); err != nil {
			return err
		}
	}
	root, err := Root(runs.Entries)
	if err != nil {
		return err
	}
	node, _, err := Load[NodeRecord](l.st, KeyNode(slot))
	if err != nil {
		return err
	}
	node = NodeRecord{Count: uint64(len(runs.Entries)), Version: node.Version + 1, Root: root}
	if err := store(l.st, KeyNode(slot), node); err != nil {
		return err
	}
	return store(l.st, KeyRuns(slot), runs)
}

// slotsOf returns the slots of the plans, sorted and each once.
func slotsOf(plans ...plan.Plan) []canon.Hash {
	var slots []canon.Hash
	for _, p := range plans {
		for _, w := range p.Workloads {
			slots = append(slots, w.Slot)
		}
	}
	slices.SortFunc(slots, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(slots)
}
