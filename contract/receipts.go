package contract

import (
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// receipt records a node's latest word on a workload: signed by the key that
// is bound to the slot now, in rising order, about a workload that the
// contract gives to this slot, or gave when it was cancelled.
func (l *ledger) receipt(s Signed) (Result, error) {
	r, _, keys, err := Open[Receipt](s, KindReceipt, l.grid)
	if err != nil {
		return Result{}, err
	}
	if err := r.Validate(); err != nil {
		return Result{}, err
	}
	bound, ok, err := Load[BoundRecord](l.st, KeyBound(r.Slot))
	if err != nil {
		return Result{}, err
	}
	if !ok {
		return Result{}, problem.New("slot-unbound", "no node is bound to slot %s", r.Slot.Short())
	}
	n, err := statement[Node](bound.Signed)
	if err != nil {
		return Result{}, err
	}
	if r.Epoch != bound.Epoch {
		return Result{}, problem.New("stale-epoch", "the receipt is of epoch %d, slot %s is at %d", r.Epoch, r.Slot.Short(), bound.Epoch)
	}
	if err := signedBy(keys, n.SigningKey); err != nil {
		return Result{}, err
	}
	last, _, err := Load[SequenceRecord](l.st, KeySequence(r.Slot))
	if err != nil {
		return Result{}, err
	}
	if last.Epoch == r.Epoch && r.Sequence <= last.Sequence {
		return Result{}, problem.New("stale-sequence", "the receipt has sequence %d, the ledger knows %d already", r.Sequence, last.Sequence)
	}
	if err := l.assigned(r); err != nil {
		return Result{}, err
	}
	if err := store(l.st, KeySequence(r.Slot), SequenceRecord{Epoch: r.Epoch, Sequence: r.Sequence}); err != nil {
		return Result{}, err
	}
	return Result{}, store(l.st, KeyReceipt(r.Contract, r.Workload), ReceiptRecord{Signed: s, Time: l.now})
}

// Validate checks what can be known of r without the ledger; code
// "receipt-invalid".
func (r Receipt) Validate() error {
	bad := func(format string, args ...any) error {
		return problem.New("receipt-invalid", "receipt: "+format, args...)
	}
	states := []string{StatePending, StateRunning, StateExited, StateFailed, StateGone}
	switch {
	case !slices.Contains(states, r.State):
		return bad("state %.40q is not known", r.State)
	case !ValidName(r.Workload):
		return bad("workload name %.80q: want [a-z0-9-], 1 to 63 characters", r.Workload)
	case r.Reason != "" && !ValidName(r.Reason):
		return bad("reason %.80q is no code", r.Reason)
	case r.Ready && r.State != StateRunning && (r.State != StateExited || r.ExitCode != 0):
		return bad("a workload in state %s, exit code %d, is not ready", r.State, r.ExitCode)
	case !slices.Contains([]string{"", plan.IsolationMicroVM, plan.IsolationNamespace, plan.KindVM}, r.Isolation):
		return bad("isolation class %.40q is not known", r.Isolation)
	case !printable(r.Detail, 0, MaxDetail):
		return bad("detail is longer than %d bytes or has characters that don't print", MaxDetail)
	}
	return nil
}

// assigned refuses a receipt for a workload that isn't the slot's.
func (l *ledger) assigned(r Receipt) error {
	rec, ok, err := Load[ContractRecord](l.st, KeyContract(r.Contract))
	if err != nil {
		return err
	}
	if !ok {
		return problem.New("contract-unknown", "contract %s is not on the ledger", r.Contract.Short())
	}
	if r.Version > rec.Version {
		return problem.New("stale-version", "the receipt is of version %d, contract %s is at %d", r.Version, rec.Name, rec.Version)
	}
	index := len(rec.History) - 1
	if rec.State == ContractCancelled {
		index-- // the cancellation itself gives nobody anything
	}
	a, err := statement[Approval](rec.History[index])
	if err != nil {
		return err
	}
	p, err := plan.Decode(a.Plan)
	if err != nil {
		return err
	}
	for _, w := range p.Workloads {
		if w.Name == r.Workload && w.Slot == r.Slot {
			return nil
		}
	}
	return problem.New("receipt-unassigned", "contract %s gives slot %s no workload %s", rec.Name, r.Slot.Short(), r.Workload)
}

// dropReceipts forgets the receipts of workloads that the new plan no longer
// has where they were.
func (l *ledger) dropReceipts(contract canon.Hash, from, to plan.Plan) {
	for _, old := range from.Workloads {
		stays := slices.ContainsFunc(to.Workloads, func(w plan.Workload) bool {
			return w.Name == old.Name && w.Slot == old.Slot
		})
		if !stays {
			l.st.Delete(KeyReceipt(contract, old.Name))
		}
	}
}
