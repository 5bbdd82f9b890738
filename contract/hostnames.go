package contract

import (
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// ValidateName checks what can be known of an approval of class "name" without
// the ledger and returns what it approves. Codes: "approval-invalid",
// "plan-invalid", "class-unknown", "name-reserved", "stale-version".
func (a Approval) ValidateName() (plan.Name, error) {
	bad := func(format string, args ...any) (plan.Name, error) {
		return plan.Name{}, problem.New("approval-invalid", "approval: "+format, args...)
	}
	if a.Class != ClassName {
		return plan.Name{}, problem.New("class-unknown", "approval: class of action %.40q is not that of names", a.Class)
	}
	if len(a.Nonce) != NonceSize {
		return bad("the nonce has %d bytes, want %d", len(a.Nonce), NonceSize)
	}
	n, err := plan.DecodeName(a.Plan)
	if err != nil {
		return plan.Name{}, err
	}
	if n.Label != a.Name {
		return bad("it is of name %.63q, its plan of %s", a.Name, n.Label)
	}
	switch a.Action {
	case ActionReserve:
		if !a.Contract.IsZero() {
			return bad("a reservation names no other, it begins one")
		}
		if a.Version != 1 {
			return plan.Name{}, problem.New("stale-version", "approval: a reservation has version 1, not %d", a.Version)
		}
		if ReservedLabel(n.Label) {
			return plan.Name{}, problem.New("name-reserved", "the name %s has a meaning of its own to programs: nobody can reserve it", n.Label).
				WithFix("choose another name")
		}
	case ActionRenew, ActionTransfer, ActionRelease:
		if a.Contract.IsZero() {
			return bad("it names no reservation to %s", a.Action)
		}
		if a.Version < 2 {
			return plan.Name{}, problem.New("stale-version", "approval: to %s needs version 2 or later, not %d", a.Action, a.Version)
		}
	default:
		return bad("action %.40q is not known", a.Action)
	}
	if (a.Action == ActionTransfer) == n.To.IsZero() {
		return bad("a transfer names who receives, nothing else does")
	}
	if n.To == a.Group {
		return bad("the name is the group's already")
	}
	return n, nil
}

// ReservedLabel tells whether programs ask for a label by themselves, so that
// whoever had it would answer them: name servers of the domain, and what finds a
// network's proxies and mail settings.
func ReservedLabel(label string) bool {
	if rest, ok := strings.CutPrefix(label, "ns"); ok && strings.Trim(rest, "0123456789") == "" {
		return true
	}
	switch label {
	case "localhost", "wpad", "isatap", "autoconfig", "autodiscover", "mta-sts":
		return true
	}
	return false
}

// Kept tells whether nobody but its group can have the name, or a look-alike of
// it, at block time now: it is held, or its grace has not passed.
func (r HostNameRecord) Kept(now uint64) bool { return now <= r.Until+NameGrace }

// JudgeName decides whether a name's record follows from the approval that it
// holds, for those who trust no ledger with that: label is the record's, group and
// members are the statements of the group that approved it, which for a transfer
// is the one that gave the name away. That no newer approval exists, and that the
// group came first, only the ledger can tell. Codes: those of Open,
// "group-untrusted", "approvals-insufficient", "record-mismatch", and those of
// Approval.ValidateName.
func JudgeName(grid canon.Hash, label string, rec HostNameRecord, group Signed, members []Signed) error {
	j := &judge{Evidence: Evidence{Grid: grid, Group: group, Members: members}}
	if err := j.people(); err != nil {
		return err
	}
	a, _, err := j.quorum(rec.Signed)
	if err != nil {
		return err
	}
	n, err := a.ValidateName()
	if err != nil {
		return err
	}
	owner := a.Group
	if a.Action == ActionTransfer {
		owner = n.To
	}
	id := a.Contract
	if a.Action == ActionReserve {
		id = rec.Signed.ID()
	}
	if a.Group != j.groupID || a.GroupEpoch != 1 || a.Action == ActionRelease || n.Label != label || rec.ID != id ||
		rec.Group != owner || rec.Until != n.Until || rec.Version != a.Version || rec.Skeleton != Skeleton(label) {
		return problem.New("record-mismatch", "the approval of name %s by group %s does not come to what the ledger says", label, j.groupID.Short())
	}
	return nil
}

// prospectName judges whether an approval about a name is possible now.
func (l *ledger) prospectName(a Approval, n plan.Name, id canon.Hash) (prospect, error) {
	rec, known, err := Load[HostNameRecord](l.st, KeyHostName(n.Label))
	if err != nil {
		return prospect{}, err
	}
	if a.Action == ActionReserve || a.Action == ActionRenew {
		if n.Until <= l.now {
			return prospect{}, problem.New("name-expired", "name %s: the reservation would end at %s, block time is %s", n.Label, utc(n.Until), utc(l.now))
		}
		if n.Until-l.now > MaxNameLife {
			return prospect{}, problem.New("expiry-too-far", "name %s: the reservation would end in %d days, at most %d are allowed", n.Label, (n.Until-l.now)/86400, MaxNameLife/86400)
		}
	}
	if a.Action == ActionReserve {
		if known && (rec.Kept(l.now) || rec.Group == a.Group) {
			return prospect{}, l.nameTaken(n.Label, rec, a.Group)
		}
	} else if err := l.nameStands(a, n, rec, known); err != nil {
		return prospect{}, err
	}
	switch a.Action {
	case ActionReserve:
		gone, err := l.lookalikes(n.Label, a.Group)
		if err != nil {
			return prospect{}, err
		}
		next := HostNameRecord{ID: id, Group: a.Group, Until: n.Until, Version: 1, Skeleton: Skeleton(n.Label), Counts: a.Group}
		if known {
			gone = append(gone, n.Label) // lapsed, and another group's
		}
		return prospect{id: id, accept: func(s Signed) error { return l.putName(n.Label, next, s, gone) }}, l.roomForName(a.Group)
	case ActionRenew:
		if n.Until <= rec.Until {
			return prospect{}, problem.New("approval-invalid", "name %s is reserved until %s already; a renewal to %s is none", n.Label, utc(rec.Until), utc(n.Until))
		}
		if rec.Counts != a.Group {
			if err := l.roomForName(a.Group); err != nil {
				return prospect{}, err
			}
		}
		next := rec
		next.Until, next.Version, next.Counts = n.Until, a.Version, a.Group
		return prospect{id: rec.ID, accept: func(s Signed) error { return l.putName(n.Label, next, s, nil) }}, nil
	case ActionTransfer:
		if _, _, err := l.loadGroup(n.To); err != nil {
			return prospect{}, err
		}
		gone, err := l.lookalikes(n.Label, n.To)
		if err != nil {
			return prospect{}, err
		}
		next := rec
		next.Group, next.Version = n.To, a.Version
		return prospect{id: rec.ID, accept: func(s Signed) error { return l.putName(n.Label, next, s, gone) }}, nil
	default:
		return prospect{id: rec.ID, accept: func(Signed) error { return l.dropName(n.Label) }}, nil
	}
}

// nameStands checks that a is the very next step of the reservation in rec.
func (l *ledger) nameStands(a Approval, n plan.Name, rec HostNameRecord, known bool) error {
	switch {
	case !known:
		return problem.New("name-unreserved", "the name %s is not reserved", n.Label).
			WithFix("reserve it: zos name reserve %s", n.Label)
	case rec.Group != a.Group:
		return l.nameTaken(n.Label, rec, a.Group)
	case rec.ID != a.Contract:
		return problem.New("wrong-contract", "the approval is for another reservation of the name %s than the one that stands", n.Label)
	case a.Version != rec.Version+1:
		return problem.New("stale-version", "the approval is for version %d, the name %s is at %d", a.Version, n.Label, rec.Version).
			WithFix("propose again: the next version is %d", rec.Version+1)
	case a.Action != ActionRenew && n.Until != rec.Until:
		return problem.New("stale-version", "the approval speaks of the name %s as it is reserved until %s, that is %s", n.Label, utc(n.Until), utc(rec.Until))
	case a.Action == ActionTransfer && l.now > rec.Until:
		return problem.New("name-expired", "the name %s ended at %s: it can't be given to anyone", n.Label, utc(rec.Until)).
			WithFix("renew it first: zos name renew %s", n.Label)
	}
	return nil
}

// nameTaken says whose a name is, to a group that wants to reserve it.
func (l *ledger) nameTaken(label string, rec HostNameRecord, group canon.Hash) error {
	err := problem.New("name-taken", "the name %s is of group %s, until %s", label, l.groupName(rec.Group), utc(rec.Until))
	switch {
	case rec.Group == group:
		return err.WithFix("it is yours; renew it: zos name renew %s", label)
	case l.now > rec.Until:
		return err.WithFix("it has ended; if its group does not renew it, it is free after %s", utc(rec.Until+NameGrace))
	}
	return err.WithFix("choose another name")
}

// groupName returns a group's name for people.
func (l *ledger) groupName(id canon.Hash) string {
	g, _, err := l.loadGroup(id)
	if err != nil {
		return id.Short()
	}
	return g.Name
}

// lookalikes refuses label for group if another group keeps a name with its
// skeleton. It returns those with the skeleton that other groups let lapse: they
// give way. All names of one skeleton that are kept are one group's, so there are
// few.
func (l *ledger) lookalikes(label string, group canon.Hash) (gone []string, err error) {
	index, _, err := Load[LookalikeRecord](l.st, KeyLookalike(Skeleton(label)))
	if err != nil {
		return nil, err
	}
	for _, other := range index.Labels {
		if other == label {
			continue
		}
		rec, _, err := Load[HostNameRecord](l.st, KeyHostName(other))
		if err != nil {
			return nil, err
		}
		if rec.Group == group {
			continue
		}
		if rec.Kept(l.now) {
			return nil, problem.New("name-lookalike", "the name %s looks like %s, which is of group %s", label, other, l.groupName(rec.Group)).
				WithFix("choose another name; only one group can have names that look alike")
		}
		gone = append(gone, other)
	}
	return gone, nil
}

// roomForName refuses one name too many of a group.
func (l *ledger) roomForName(group canon.Hash) error {
	rec, _, err := Load[HostNamesRecord](l.st, KeyHostNames(group))
	if err != nil {
		return err
	}
	if rec.Count >= MaxHostNames {
		return problem.New("too-many-names", "group %s has %d names, at most %d are allowed", l.groupName(group), rec.Count, MaxHostNames).
			WithFix("release some: zos name release NAME")
	}
	return nil
}

// countName adds to, or takes from, the names that count for a group.
func (l *ledger) countName(group canon.Hash, add bool) error {
	rec, _, err := Load[HostNamesRecord](l.st, KeyHostNames(group))
	if err != nil {
		return err
	}
	switch {
	case add:
		rec.Count++
	case rec.Count == 0:
		return problem.New("state-damaged", "%s counts no name and has one", KeyHostNames(group))
	default:
		rec.Count--
	}
	if rec.Count == 0 {
		l.st.Delete(KeyHostNames(group))
		return nil
	}
	return store(l.st, KeyHostNames(group), rec)
}

// putName writes a name as s made it, after the names that give way.
func (l *ledger) putName(label string, rec HostNameRecord, s Signed, gone []string) error {
	for _, other := range gone {
		if err := l.dropName(other); err != nil {
			return err
		}
	}
	old, known, err := Load[HostNameRecord](l.st, KeyHostName(label))
	if err != nil {
		return err
	}
	if !known || old.Counts != rec.Counts {
		if known {
			if err := l.countName(old.Counts, false); err != nil {
				return err
			}
		}
		if err := l.countName(rec.Counts, true); err != nil {
			return err
		}
	}
	if err := l.indexName(label, rec.Skeleton, true); err != nil {
		return err
	}
	rec.Signed, rec.Time = s, l.now
	return store(l.st, KeyHostName(label), rec)
}

// dropName forgets a name.
func (l *ledger) dropName(label string) error {
	rec, known, err := Load[HostNameRecord](l.st, KeyHostName(label))
	if err != nil || !known {
		return err
	}
	if err := l.countName(rec.Counts, false); err != nil {
		return err
	}
	if err := l.indexName(label, rec.Skeleton, false); err != nil {
		return err
	}
	l.st.Delete(KeyHostName(label))
	return nil
}

// indexName puts a label into the list of its skeleton, or takes it out.
func (l *ledger) indexName(label, skeleton string, in bool) error {
	key := KeyLookalike(skeleton)
	index, _, err := Load[LookalikeRecord](l.st, key)
	if err != nil {
		return err
	}
	i, found := slices.BinarySearch(index.Labels, label)
	switch {
	case found == in:
		return nil
	case in:
		index.Labels = slices.Insert(index.Labels, i, label)
	default:
		index.Labels = slices.Delete(index.Labels, i, i+1)
	}
	if len(index.Labels) == 0 {
		l.st.Delete(key)
		return nil
	}
	return store(l.st, key, index)
}
