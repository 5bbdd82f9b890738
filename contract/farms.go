package contract

import (
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// farm founds a farm: signed by its own key alone, under a free name.
func (l *ledger) farm(s Signed) (Result, error) {
	f, id, keys, err := Open[Farm](s, KindFarm, l.grid)
	if err != nil {
		return Result{}, err
	}
	if err := signedBy(keys, f.Key); err != nil {
		return Result{}, err
	}
	if err := l.absent(KeyFarm(id)); err != nil {
		return Result{}, err
	}
	if err := claimName(l.st, KeyFarmName(f.Name), f.Name, id); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeyFarm(id), FarmRecord{Signed: s, Time: l.now})
}

// loadFarm returns the farm with id.
func (l *ledger) loadFarm(id canon.Hash) (Farm, error) {
	rec, ok, err := Load[FarmRecord](l.st, KeyFarm(id))
	if err != nil {
		return Farm{}, err
	}
	if !ok {
		return Farm{}, problem.New("farm-unknown", "farm %s is not on the ledger", id.Short())
	}
	return statement[Farm](rec.Signed)
}

// byFarm refuses a statement that the farm alone did not sign.
func (l *ledger) byFarm(id canon.Hash, keys []sign.PublicKey) error {
	f, err := l.loadFarm(id)
	if err != nil {
		return err
	}
	return signedBy(keys, f.Key)
}
