package contract

import (
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// OpenRelease reads a release of the grid that genesis founds and checks that
// the quorum of its release keys signed it; another's signature is refused. It
// checks neither expiry nor sequence: the caller knows its clock and its floor.
func OpenRelease(s Signed, grid canon.Hash, genesis Genesis) (Release, canon.Hash, error) {
	r, id, keys, err := Open[Release](s, KindRelease, grid)
	if err != nil {
		return Release{}, canon.Hash{}, err
	}
	if r.OS.IsZero() || r.Sequence < 1 || !printable(r.Name, 1, MaxText) {
		return Release{}, canon.Hash{}, problem.New("statement-invalid", "release: name, sequence or OS digest is out of range")
	}
	if err := releaseQuorum("release", keys, genesis); err != nil {
		return Release{}, canon.Hash{}, err
	}
	return r, id, nil
}

func isReleaseKey(g Genesis, key sign.PublicKey) bool {
	for _, k := range g.ReleaseKeys {
		if key.Equal(k) {
			return true
		}
	}
	return false
}

// release raises the floor below which no node may boot.
func (l *ledger) release(s Signed) (Result, error) {
	r, _, err := OpenRelease(s, l.grid, l.genesis)
	if err != nil {
		return Result{}, err
	}
	if err := l.fresh(r.Expiry, "release-expired", "the release"); err != nil {
		return Result{}, err
	}
	floor, _, err := Load[ReleaseRecord](l.st, KeyReleaseFloor)
	if err != nil {
		return Result{}, err
	}
	if r.Sequence <= floor.Sequence {
		return Result{}, problem.New("stale-sequence", "the release has sequence %d, the ledger's floor is %d", r.Sequence, floor.Sequence)
	}
	return Result{}, store(l.st, KeyReleaseFloor, ReleaseRecord{Signed: s, Sequence: r.Sequence, Time: l.now})
}
