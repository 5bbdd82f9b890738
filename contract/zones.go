package contract

import (
	"bytes"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// OpenZone reads the domain of the grid that genesis founds and checks that the
// quorum of its release keys signed it; another's signature is refused. It does
// not know whether it is the newest.
func OpenZone(s Signed, grid canon.Hash, genesis Genesis) (Zone, error) {
	z, _, keys, err := Open[Zone](s, KindZone, grid)
	if err != nil {
		return Zone{}, err
	}
	if !plan.ValidHost(z.Domain) || len(z.Domain) > MaxDomain || z.Sequence < 1 {
		return Zone{}, problem.New("zone-invalid", "zone: %.200q is no domain in lower case of at most %d bytes, or its sequence is 0", z.Domain, MaxDomain)
	}
	if len(z.Farms) > MaxZoneFarms {
		return Zone{}, problem.New("zone-invalid", "zone: %d farms, at most %d are allowed", len(z.Farms), MaxZoneFarms)
	}
	for i := 1; i < len(z.Farms); i++ {
		if bytes.Compare(z.Farms[i-1][:], z.Farms[i][:]) >= 0 {
			return Zone{}, problem.New("zone-invalid", "zone: its farms are not sorted, or one stands twice")
		}
	}
	return z, releaseQuorum("zone", keys, genesis)
}

// releaseQuorum refuses a statement that the quorum of the grid's release keys
// did not sign, or that anyone else did.
func releaseQuorum(what string, keys []sign.PublicKey, genesis Genesis) error {
	for _, k := range keys {
		if !isReleaseKey(genesis, k) {
			return problem.New("signature-unexpected", "%s: %s is no release key of this grid", what, k.Fingerprint())
		}
	}
	if uint64(len(keys)) < genesis.ReleaseThreshold {
		return problem.New("approvals-insufficient", "%s: %d of the %d needed release keys signed it", what, len(keys), genesis.ReleaseThreshold)
	}
	return nil
}

// zone sets the grid's domain. Names are reserved by their label, so they go
// with the grid to another domain.
func (l *ledger) zone(s Signed) (Result, error) {
	z, err := OpenZone(s, l.grid, l.genesis)
	if err != nil {
		return Result{}, err
	}
	old, _, err := Load[ZoneRecord](l.st, KeyZone)
	if err != nil {
		return Result{}, err
	}
	if z.Sequence <= old.Sequence {
		return Result{}, problem.New("stale-sequence", "the zone has sequence %d, the ledger knows %d already", z.Sequence, old.Sequence)
	}
	return Result{}, store(l.st, KeyZone, ZoneRecord{Signed: s, Sequence: z.Sequence, Time: l.now})
}

// loadZone returns the grid's domain; an empty one if it has none.
func (l *ledger) loadZone() (Zone, error) {
	rec, ok, err := Load[ZoneRecord](l.st, KeyZone)
	if err != nil || !ok {
		return Zone{}, err
	}
	return statement[Zone](rec.Signed)
}

// Label returns the label directly under z's domain by which host is somebody's,
// "" for the domain itself, and whether host is under z at all. All of a label's
// own subdomains are its group's. Without a domain nothing is under z.
func (z Zone) Label(host string) (label string, under bool) {
	if z.Domain == "" {
		return "", false
	}
	if host == z.Domain {
		return "", true
	}
	rest, ok := strings.CutSuffix(host, "."+z.Domain)
	if !ok {
		return "", false
	}
	return rest[strings.LastIndexByte(rest, '.')+1:], true
}

// JudgeHost decides whether group holds host at block time now, as far as the
// ledger knows: z is the grid's newest Zone, name the record at KeyHostName of
// the host's label, or a zero one if there is none. With own the host is outside
// of the grid's domain, and DNS has to tell. Codes: "name-unreserved",
// "name-taken", "name-expired".
func JudgeHost(z Zone, host string, name HostNameRecord, group canon.Hash, now uint64) (own bool, err error) {
	label, under := z.Label(host)
	switch {
	case !under:
		return true, nil
	case label == "":
		return false, problem.New("name-unreserved", "host %s is the grid's own domain", host).
			WithFix("publish under a name: zos name reserve NAME")
	case name.Group.IsZero():
		return false, problem.New("name-unreserved", "host %s: nobody has reserved the name %s", host, label).
			WithFix("reserve it: zos name reserve %s", label)
	case name.Group != group:
		return false, problem.New("name-taken", "host %s: the name %s is of group %s", host, label, name.Group.Short()).
			WithFix("choose another name")
	case now > name.Until:
		return false, problem.New("name-expired", "host %s: the name %s ended at %s, it is %s", host, label, utc(name.Until), utc(now)).
			WithFix("renew it: zos name renew %s", label)
	}
	return false, nil
}
