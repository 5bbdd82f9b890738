package contract

import (
	"github.com/zero-os/zos/problem"
)

// consent records a farm's word on a group. It never touches what the group
// uses already: that is counted at KeyUsedBy, whatever the farm says later.
func (l *ledger) consent(s Signed) (Result, error) {
	c, _, keys, err := Open[Consent](s, KindConsent, l.grid)
	if err != nil {
		return Result{}, err
	}
	if err := l.byFarm(c.Farm, keys); err != nil {
		return Result{}, err
	}
	if _, _, err := l.loadGroup(c.Group); err != nil {
		return Result{}, err
	}
	if err := l.fresh(c.Expiry, "consent-expired", "the consent"); err != nil {
		return Result{}, err
	}
	key := KeyConsent(c.Farm, c.Group)
	old, ok, err := Load[ConsentRecord](l.st, key)
	if err != nil {
		return Result{}, err
	}
	if ok {
		last, err := statement[Consent](old.Signed)
		if err != nil {
			return Result{}, err
		}
		if c.Sequence <= last.Sequence {
			return Result{}, problem.New("stale-sequence", "the consent has sequence %d, the ledger knows %d already", c.Sequence, last.Sequence)
		}
	}
	return Result{}, store(l.st, key, ConsentRecord{Signed: s, Time: l.now})
}
