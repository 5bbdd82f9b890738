package contract

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// ChallengeLabel stands before a host's name where an authority looks for the
// answer to its DNS-01 challenge, RFC 8555 §8.4.
const ChallengeLabel = "_acme-challenge."

// Validate checks what can be known of c without the ledger; code
// "challenge-invalid".
func (c Challenge) Validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("challenge-invalid", "challenge: "+format, args...)
	}
	switch {
	case !plan.ValidHost(c.Host) || len(ChallengeLabel)+len(c.Host) > 253:
		return bad("%.253q is no host name under which %s has room", c.Host, strings.TrimSuffix(ChallengeLabel, "."))
	case c.Value != "" && !validDigest(c.Value):
		return bad("value %.80q: want the 43 characters of a digest, or none to take it back", c.Value)
	case c.Sequence < 1:
		return bad("sequence 0: the first is 1")
	}
	return nil
}

// validDigest tells whether s is a SHA-256 digest in base64url, in its one form.
func validDigest(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == canon.HashSize && !strings.ContainsAny(s, "\r\n")
}

// ChallengeFacts are what a challenge is judged by: what the ledger has at the
// keys that the challenge names, zero where it has nothing.
type ChallengeFacts struct {
	Bound    BoundRecord    // of the challenge's slot
	Contract ContractRecord // that it names
	Zone     Zone           // the grid's newest
	Name     HostNameRecord // of the host's label under Zone's domain
	Now      uint64         // block time, Unix seconds
}

// JudgeChallenge decides whether a challenge may stand at block time: it is signed
// by the key that is bound to its slot now, has not expired, and its host ends its
// TLS at a gateway that the newest plan of its contract has on this very slot, for
// the group that holds the host's name. One without a value takes another back: for
// that the plan does not count. The ledger judges by it, and nodes once more by what
// they have proven. Sequences, and how many there are, only the ledger counts.
//
// Codes: those of Open, "challenge-invalid", "slot-unbound", "stale-epoch",
// "signature-missing", "signature-unexpected", "challenge-expired",
// "expiry-too-far", "contract-unknown", "contract-cancelled",
// "challenge-unassigned", and those of JudgeHost.
func JudgeChallenge(grid canon.Hash, s Signed, f ChallengeFacts) (Challenge, error) {
	c, _, keys, err := Open[Challenge](s, KindChallenge, grid)
	if err != nil {
		return Challenge{}, err
	}
	return c, c.judge(keys, f)
}

// judge is JudgeChallenge of a challenge that these keys signed.
func (c Challenge) judge(keys []sign.PublicKey, f ChallengeFacts) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if len(f.Bound.Signed.Statement) == 0 {
		return problem.New("slot-unbound", "no node is bound to slot %s", c.Slot.Short())
	}
	n, err := statement[Node](f.Bound.Signed)
	if err != nil {
		return err
	}
	if c.Slot != n.Slot || c.Epoch != f.Bound.Epoch {
		return problem.New("stale-epoch", "the challenge is of epoch %d of slot %s, slot %s is at %d", c.Epoch, c.Slot.Short(), n.Slot.Short(), f.Bound.Epoch)
	}
	if err := signedBy(keys, n.SigningKey); err != nil {
		return err
	}
	if f.Now > c.Expiry {
		return problem.New("challenge-expired", "the challenge of %s expired at %s, block time is %s", c.Host, utc(c.Expiry), utc(f.Now))
	}
	if c.Expiry-f.Now > MaxChallengeLife {
		return problem.New("expiry-too-far", "the challenge of %s would expire in %d s, at most %d are allowed", c.Host, c.Expiry-f.Now, MaxChallengeLife)
	}
	if c.Value == "" {
		return nil
	}
	if err := c.ends(f.Contract); err != nil {
		return err
	}
	own, err := JudgeHost(f.Zone, c.Host, f.Name, f.Contract.Group, f.Now)
	if err == nil && own {
		err = problem.New("challenge-unassigned", "host %s is not under the grid's domain: others answer for it", c.Host)
	}
	return err
}

// ends refuses a challenge whose host does not end its TLS at its slot, by the
// newest plan of its contract.
func (c Challenge) ends(rec ContractRecord) error {
	if len(rec.History) == 0 {
		return problem.New("contract-unknown", "contract %s is not on the ledger", c.Contract.Short())
	}
	if rec.State != ContractActive {
		return problem.New("contract-cancelled", "contract %s was cancelled", rec.Name)
	}
	a, err := statement[Approval](rec.History[len(rec.History)-1])
	if err != nil {
		return err
	}
	p, err := plan.Decode(a.Plan)
	if err != nil {
		return err
	}
	slots, gateways, err := gatewaysOf(p)
	if err != nil {
		return err
	}
	for i, g := range gateways {
		here := slots[i] == c.Slot && slices.ContainsFunc(g.Routes, func(r plan.Route) bool { return r.Host == c.Host && r.Mode == plan.ModeTerminate })
		if here {
			return nil
		}
	}
	return problem.New("challenge-unassigned", "contract %s has no gateway on slot %s that ends the TLS of %s", rec.Name, c.Slot.Short(), c.Host)
}

// challenge puts the answer to an authority's challenge under the grid's domain,
// or takes it away. What has expired of the slot goes with it.
func (l *ledger) challenge(s Signed) (Result, error) {
	c, _, keys, err := Open[Challenge](s, KindChallenge, l.grid)
	if err != nil {
		return Result{}, err
	}
	facts, err := l.challengeFacts(c)
	if err != nil {
		return Result{}, err
	}
	if err := c.judge(keys, facts); err != nil {
		return Result{}, err
	}
	rec, _, err := Load[ChallengesRecord](l.st, KeyChallenges(c.Slot))
	if err != nil {
		return Result{}, err
	}
	if rec.Epoch == c.Epoch && c.Sequence <= rec.Sequence {
		return Result{}, problem.New("stale-sequence", "the challenge has sequence %d, the ledger knows %d already", c.Sequence, rec.Sequence)
	}
	rec.Epoch, rec.Sequence = c.Epoch, c.Sequence
	had := false
	rec.Open = slices.DeleteFunc(rec.Open, func(o OpenChallenge) bool {
		this := o.Host == c.Host
		had = had || this && o.Contract == c.Contract && l.now <= o.Expiry
		if this && c.Value != "" {
			return true // it is overwritten
		}
		gone := this && o.Contract == c.Contract || l.now > o.Expiry
		if gone {
			l.st.Delete(KeyChallenge(o.Host, c.Slot))
		}
		return gone
	})
	if c.Value == "" {
		if !had {
			return Result{}, problem.New("challenge-absent", "slot %s has no challenge of %s to take back", c.Slot.Short(), c.Host)
		}
		return Result{}, store(l.st, KeyChallenges(c.Slot), rec)
	}
	of := 0
	for _, o := range rec.Open {
		if o.Contract == c.Contract {
			of++
		}
	}
	if of >= MaxChallengesOf || len(rec.Open) >= MaxChallenges {
		return Result{}, problem.New("too-many-challenges", "slot %s has %d challenges, %d of them of contract %s; at most %d and %d are allowed",
			c.Slot.Short(), len(rec.Open), of, c.Contract.Short(), MaxChallenges, MaxChallengesOf).WithFix("take some back, or wait until they expire")
	}
	at, _ := slices.BinarySearchFunc(rec.Open, c.Host, func(o OpenChallenge, host string) int { return strings.Compare(o.Host, host) })
	rec.Open = slices.Insert(rec.Open, at, OpenChallenge{Host: c.Host, Contract: c.Contract, Expiry: c.Expiry})
	if err := store(l.st, KeyChallenge(c.Host, c.Slot), ChallengeRecord{Signed: s, Time: l.now}); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeyChallenges(c.Slot), rec)
}

// challengeFacts reads what a challenge that is not judged yet names.
func (l *ledger) challengeFacts(c Challenge) (f ChallengeFacts, err error) {
	f.Now = l.now
	if f.Bound, _, err = Load[BoundRecord](l.st, KeyBound(c.Slot)); err != nil {
		return f, err
	}
	if f.Contract, _, err = Load[ContractRecord](l.st, KeyContract(c.Contract)); err != nil {
		return f, err
	}
	if f.Zone, err = l.loadZone(); err != nil {
		return f, err
	}
	if label, _ := f.Zone.Label(c.Host); ValidName(label) {
		f.Name, _, err = Load[HostNameRecord](l.st, KeyHostName(label))
	}
	return f, err
}
