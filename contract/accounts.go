package contract

import (
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// account founds an account: signed by its own key alone, under a free name,
// with a key that speaks for nothing else yet.
func (l *ledger) account(s Signed) (Result, error) {
	a, id, keys, err := Open[Account](s, KindAccount, l.grid)
	if err != nil {
		return Result{}, err
	}
	if err := signedBy(keys, a.Key); err != nil {
		return Result{}, err
	}
	if err := l.absent(KeyAccount(id)); err != nil {
		return Result{}, err
	}
	if err := l.claimKey(a.Key, KindAccount, id); err != nil {
		return Result{}, err
	}
	if err := claimName(l.st, KeyAccountName(a.Name), a.Name, id); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeyAccount(id), AccountRecord{Signed: s, Time: l.now})
}

// claimKey makes the key speak for owner. One key founds at most one account,
// so counting approvals by key counts them by account.
func (l *ledger) claimKey(wire []byte, kind string, owner canon.Hash) error {
	if l.st.Get(KeyKey(wire)) != nil {
		return problem.New("key-taken", "the key already speaks for an account or a node").
			WithFix("use another key")
	}
	return store(l.st, KeyKey(wire), KeyRecord{Kind: kind, Owner: owner})
}

// loadAccount returns the account with id.
func (l *ledger) loadAccount(id canon.Hash) (Account, error) {
	rec, ok, err := Load[AccountRecord](l.st, KeyAccount(id))
	if err != nil {
		return Account{}, err
	}
	if !ok {
		return Account{}, problem.New("account-unknown", "account %s is not on the ledger", id.Short()).
			WithFix("register it first: zos account create")
	}
	return statement[Account](rec.Signed)
}

// statement decodes what the ledger itself verified before it stored it.
func statement[T any](s Signed) (T, error) {
	var v T
	err := canon.Unmarshal(s.Statement, &v)
	return v, err
}
