package contract

import (
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// features records what a node says that it can do: signed by the key that is
// bound to the slot now, in rising order. The newest one takes the place of the
// one before.
func (l *ledger) features(s Signed) (Result, error) {
	f, _, keys, err := Open[Features](s, KindFeatures, l.grid)
	if err != nil {
		return Result{}, err
	}
	bound, ok, err := Load[BoundRecord](l.st, KeyBound(f.Slot))
	if err != nil {
		return Result{}, err
	}
	if !ok {
		return Result{}, problem.New("slot-unbound", "no node is bound to slot %s", f.Slot.Short())
	}
	n, err := statement[Node](bound.Signed)
	if err != nil {
		return Result{}, err
	}
	if err := f.judge(keys, n); err != nil {
		return Result{}, err
	}
	key := KeyFeatures(f.Slot)
	rec, known, err := Load[FeaturesRecord](l.st, key)
	if err != nil {
		return Result{}, err
	}
	if known {
		last, err := statement[Features](rec.Signed)
		if err != nil {
			return Result{}, err
		}
		if last.Epoch == f.Epoch && f.Sequence <= last.Sequence {
			return Result{}, problem.New("stale-sequence", "the features have sequence %d, the ledger knows %d already", f.Sequence, last.Sequence)
		}
	}
	return Result{}, store(l.st, key, FeaturesRecord{Signed: s, Time: l.now})
}

// JudgeFeatures decides whether a node that keys are bound to says what s says.
// The ledger judges by it, and so does who plans: bound is the slot's binding,
// which JudgeBound verifies for those who trust no ledger with it. Features of a
// former epoch say nothing of the node that is bound now; sequences only the
// ledger counts.
//
// Codes: those of Open, "features-invalid", "stale-epoch", "signature-missing",
// "signature-unexpected".
func JudgeFeatures(grid canon.Hash, s Signed, bound Node) (Features, error) {
	f, _, keys, err := Open[Features](s, KindFeatures, grid)
	if err != nil {
		return Features{}, err
	}
	if err := f.judge(keys, bound); err != nil {
		return Features{}, err
	}
	return f, nil
}

// judge is JudgeFeatures of features that these keys signed.
func (f Features) judge(keys []sign.PublicKey, bound Node) error {
	if err := f.Validate(); err != nil {
		return err
	}
	if f.Slot != bound.Slot || f.Epoch != bound.Epoch {
		return problem.New("stale-epoch", "the features are of epoch %d of slot %s, slot %s is at %d", f.Epoch, f.Slot.Short(), bound.Slot.Short(), bound.Epoch)
	}
	return signedBy(keys, bound.SigningKey)
}

// Validate checks what can be known of f without the ledger; code
// "features-invalid".
func (f Features) Validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("features-invalid", "features: "+format, args...)
	}
	known := []string{plan.IsolationMicroVM, plan.IsolationNamespace}
	for i, class := range f.Isolation {
		switch {
		case !slices.Contains(known, class):
			return bad("isolation class %.40q is not known", class)
		case i > 0 && f.Isolation[i-1] >= class:
			return bad("isolation classes are not sorted, or %s occurs twice", class)
		}
	}
	switch {
	case f.Sequence < 1:
		return bad("sequence 0: the first is 1")
	case f.Reason != "" && !ValidName(f.Reason):
		return bad("reason %.80q is no code", f.Reason)
	case !printable(f.Detail, 0, MaxDetail):
		return bad("detail is longer than %d bytes or has characters that don't print", MaxDetail)
	case !ValidName(f.Arch):
		return bad("architecture %.80q: want [a-z0-9-], 1 to 63 characters", f.Arch)
	}
	return nil
}

// Can tells whether the node runs containers of an isolation class.
func (f Features) Can(class string) bool { return slices.Contains(f.Isolation, class) }

// Same tells whether f says what other says, but for when: a node that finds the
// ledger's to be the same writes nothing.
func (f Features) Same(other Features) bool {
	return f.Slot == other.Slot && f.Epoch == other.Epoch && slices.Equal(f.Isolation, other.Isolation) &&
		f.Reason == other.Reason && f.Detail == other.Detail && f.Arch == other.Arch
}
