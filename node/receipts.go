package node

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/workload"
)

// receiptPause is the least time between two receipts of one workload: one that
// crashes in a loop must not fill the ledger.
const receiptPause = 2 * time.Second

// submitter is where receipts go: *light.Client.
type submitter interface {
	ledger
	Submit(ctx context.Context, tx []byte) (light.Result, error)
}

// receipts writes the newest status of every workload to the ledger, on change
// only, and tries again for as long as it takes.
type receipts struct {
	grid, slot canon.Hash
	signer     sign.Signer
	log        *slog.Logger

	mu      sync.Mutex
	epoch   uint64 // 0: not joined yet
	pending map[workload.ID]workload.Status
	sent    map[workload.ID]time.Time
	kick    chan struct{}

	sequence uint64 // last one used in epoch; 0: ask the ledger
}

func newReceipts(grid, slot canon.Hash, signer sign.Signer, log *slog.Logger) *receipts {
	return &receipts{grid: grid, slot: slot, signer: signer, log: log,
		pending: map[workload.ID]workload.Status{}, sent: map[workload.ID]time.Time{}, kick: make(chan struct{}, 1)}
}

// joined says under which epoch the signer speaks for the slot.
func (r *receipts) joined(epoch uint64) {
	r.mu.Lock()
	r.epoch, r.sequence = epoch, 0
	r.mu.Unlock()
	r.wake()
}

// report takes the newest status of a workload; it replaces one not sent yet.
func (r *receipts) report(id workload.ID, _ string, s workload.Status) {
	r.mu.Lock()
	r.pending[id] = s
	r.mu.Unlock()
	r.wake()
}

func (r *receipts) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// run sends until ctx ends.
func (r *receipts) run(ctx context.Context, l submitter) error {
	tick := time.NewTicker(receiptPause)
	defer tick.Stop()
	for {
		for id, s := range r.due() {
			if err := r.send(ctx, l, id, s); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if final(err) {
					r.log.Warn("the ledger refuses a receipt", "workload", id.Name, "contract", id.Contract.Short(), "state", s.State, "error", err)
					continue
				}
				r.log.Warn("write a receipt, will try again", "workload", id.Name, "error", err)
				r.again(id, s)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-r.kick:
		}
	}
}

// final tells whether sending the same receipt again can't help: the contract
// moved on, or the slot's key did, and then another status follows.
func final(err error) bool {
	switch problem.Code(err) {
	case light.CodeUnreachable, light.CodeLying, light.CodeStale, light.CodeProof, light.CodeBusy, light.CodeExpired, "stale-sequence", "":
		return false
	}
	return true
}

// due takes out what may be sent now.
func (r *receipts) due() map[workload.ID]workload.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch == 0 {
		return nil
	}
	out := map[workload.ID]workload.Status{}
	for id, s := range r.pending {
		if time.Since(r.sent[id]) >= receiptPause {
			out[id] = s
			r.sent[id] = time.Now()
			delete(r.pending, id)
		}
	}
	return out
}

// again puts a status back unless a newer one came.
func (r *receipts) again(id workload.ID, s workload.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence = 0
	if _, newer := r.pending[id]; !newer {
		r.pending[id] = s
	}
}

// send writes one receipt, unless the ledger says the same already.
func (r *receipts) send(ctx context.Context, l submitter, id workload.ID, s workload.Status) error {
	r.mu.Lock()
	epoch, sequence := r.epoch, r.sequence
	r.mu.Unlock()
	next := contract.NewReceipt(r.grid, contract.Receipt{
		Contract: id.Contract, Version: s.Version, Workload: id.Name, Slot: r.slot, Epoch: epoch,
		State: s.State, Reason: s.Reason, Detail: oneLine(s.Detail), ExitCode: int64(s.ExitCode), Verity: s.Verity,
		Ready: s.Ready, Isolation: s.Isolation, Restarts: s.Restarts,
		Time: uint64(time.Now().Unix()),
	})
	if old, found, err := get[contract.ReceiptRecord](ctx, l, contract.KeyReceipt(id.Contract, id.Name)); err != nil {
		return err
	} else if found && r.same(old, next) {
		return nil
	}
	if sequence == 0 {
		last, _, err := get[contract.SequenceRecord](ctx, l, contract.KeySequence(r.slot))
		if err != nil {
			return err
		}
		if last.Epoch == epoch {
			sequence = last.Sequence
		}
	}
	next.Sequence = sequence + 1
	signed, err := contract.Sign(ctx, next, contract.KindReceipt, r.signer)
	if err != nil {
		return err
	}
	tx, err := signed.Encode()
	if err != nil {
		return err
	}
	if _, err := l.Submit(ctx, tx); err != nil {
		return err
	}
	r.mu.Lock()
	r.sequence = next.Sequence
	r.mu.Unlock()
	return nil
}

// same tells whether the ledger's receipt says what next says, but for words
// and time.
func (r *receipts) same(old contract.ReceiptRecord, next contract.Receipt) bool {
	o, _, _, err := contract.Open[contract.Receipt](old.Signed, contract.KindReceipt, r.grid)
	o.Detail, o.Time, o.Sequence, o.Restarts = next.Detail, next.Time, next.Sequence, next.Restarts
	return err == nil && o == next
}

// oneLine makes any text fit a receipt: printable, on one line, bounded.
func oneLine(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 || c == '\uFFFD' {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, " "))
	s = strings.Join(strings.Fields(s), " ")
	const room = contract.MaxDetail - len("…")
	if len(s) > contract.MaxDetail {
		s = strings.ToValidUTF8(s[:room], "") + "…"
	}
	return s
}
