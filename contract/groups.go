package contract

import (
	"bytes"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// group founds a group: signed by its founder alone, of accounts that exist,
// with a threshold that its members can meet.
func (l *ledger) group(s Signed) (Result, error) {
	g, id, keys, err := Open[Group](s, KindGroup, l.grid)
	if err != nil {
		return Result{}, err
	}
	if err := g.Validate(); err != nil {
		return Result{}, err
	}
	founder, err := l.loadAccount(g.Founder)
	if err != nil {
		return Result{}, err
	}
	if err := signedBy(keys, founder.Key); err != nil {
		return Result{}, err
	}
	if err := l.absent(KeyGroup(id)); err != nil {
		return Result{}, err
	}
	for _, m := range g.Members {
		if _, err := l.loadAccount(m.Account); err != nil {
			return Result{}, err
		}
	}
	if err := claimName(l.st, KeyGroupName(g.Name), g.Name, id); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeyGroup(id), GroupRecord{Signed: s, Epoch: 1, Time: l.now})
}

// Validate checks what can be known of g without the ledger. Codes:
// "group-invalid", "threshold-unreachable".
func (g Group) Validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("group-invalid", "group %.63q: "+format, append([]any{g.Name}, args...)...)
	}
	if !ValidName(g.Name) {
		return problem.New("name-invalid", "group name %.80q: want [a-z0-9-], 1 to 63 characters", g.Name)
	}
	if len(g.Nonce) != NonceSize {
		return bad("the nonce has %d bytes, want %d", len(g.Nonce), NonceSize)
	}
	if len(g.Members) == 0 || len(g.Members) > MaxMembers {
		return bad("%d members, want 1 to %d", len(g.Members), MaxMembers)
	}
	var total uint64
	for i, m := range g.Members {
		if i > 0 && bytes.Compare(g.Members[i-1].Account[:], m.Account[:]) >= 0 {
			return bad("members are not sorted by account, or one stands twice")
		}
		if m.Weight < 1 || m.Weight > MaxWeight {
			return bad("a member's weight is %d, want 1 to %d", m.Weight, uint64(MaxWeight))
		}
		total += m.Weight // at most MaxMembers times MaxWeight: it can't overflow
	}
	if g.Threshold < 1 {
		return bad("the threshold is 0: anyone could decide")
	}
	if g.Threshold > total {
		return problem.New("threshold-unreachable", "group %s: the threshold is %d, all members together weigh %d", g.Name, g.Threshold, total).
			WithFix("choose a threshold of at most %d", total)
	}
	return nil
}

// Weight returns the weight of account in g, 0 for an outsider.
func (g Group) Weight(account canon.Hash) uint64 {
	for _, m := range g.Members {
		if m.Account == account {
			return m.Weight
		}
	}
	return 0
}

// loadGroup returns the group with id and its record.
func (l *ledger) loadGroup(id canon.Hash) (Group, GroupRecord, error) {
	rec, ok, err := Load[GroupRecord](l.st, KeyGroup(id))
	if err != nil {
		return Group{}, GroupRecord{}, err
	}
	if !ok {
		return Group{}, GroupRecord{}, problem.New("group-unknown", "group %s is not on the ledger", id.Short())
	}
	g, err := statement[Group](rec.Signed)
	return g, rec, err
}
