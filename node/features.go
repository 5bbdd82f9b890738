package node

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/supervise"
)

// codeIsolation says that a node can't run what the plan wants it to be isolated by.
const codeIsolation = "isolation-unavailable"

const (
	// probeLimit bounds one look, in which the monitor may be fetched.
	probeLimit = 2 * time.Minute
	// sayAgain is the pause before features are looked for again, or written again.
	sayAgain = 10 * time.Second
)

// features is what this node can do: it finds out at boot, by a guest that it runs, and
// says on the ledger what came of it.
type features struct {
	grid, slot canon.Hash
	signer     sign.Signer
	log        *slog.Logger
	// probe tells whether machines run here. An error with codeIsolation says that none
	// can; after any other one it is asked again.
	probe func(ctx context.Context) error

	mu    sync.Mutex
	epoch uint64 // 0: not joined
	found []string
	why   error // why a class is missing
	news  chan struct{}
}

func newFeatures(grid, slot canon.Hash, signer sign.Signer, probe func(context.Context) error, log *slog.Logger) *features {
	return &features{grid: grid, slot: slot, signer: signer, log: log, probe: probe, news: make(chan struct{}, 1)}
}

// find finds out, for as long as it takes: what a machine needs may first have to be
// fetched.
func (f *features) find(ctx context.Context) {
	began := time.Now()
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, probeLimit)
		err := protect(func() error { return f.probe(try) })
		cancel()
		f.mu.Lock()
		f.why = err
		switch {
		case err == nil:
			f.found = []string{plan.IsolationMicroVM, plan.IsolationNamespace}
		case problem.Code(err) == codeIsolation:
			f.found = []string{plan.IsolationNamespace}
		}
		done := f.found != nil
		f.mu.Unlock()
		f.log.Info("looked what this node can do", "microvm", err == nil, "took", time.Since(began).Round(time.Millisecond), "error", err)
		if done {
			f.wake()
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(sayAgain):
		}
	}
}

// joined says under which epoch the signer speaks for the slot.
func (f *features) joined(epoch uint64) {
	f.mu.Lock()
	f.epoch = epoch
	f.mu.Unlock()
	f.wake()
}

func (f *features) wake() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// status is what it shows people.
func (f *features) status() protocol.Features {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := protocol.Features{Probed: f.found != nil, Isolation: slices.Clone(f.found), Machines: slices.Contains(f.found, plan.IsolationMicroVM)}
	if f.why != nil {
		s.Detail = oneLine(f.why.Error())
	}
	return s
}

// may refuses a workload whose class this node can't do. It never takes a lower one.
func (f *features) may(w plan.Workload) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return mayRun(w, f.found, f.why)
}

// mayRun decides whether a node that can do these classes may run w. nil: it has not
// found out yet.
func mayRun(w plan.Workload, found []string, why error) error {
	class := ""
	switch w.Kind {
	case plan.KindVM:
		class = plan.IsolationMicroVM
	case plan.KindContainer:
		c, err := plan.DecodeContainer(w.Config)
		if err != nil {
			return err
		}
		class = c.Isolation
	default:
		return nil
	}
	switch {
	case class == plan.IsolationNamespace || slices.Contains(found, class):
		return nil
	case found == nil && why != nil:
		return problem.New(codeIsolation, "workload %s wants %s, for which this node is not ready yet: %w", w.Name, class, why)
	case found == nil:
		return problem.New(codeIsolation, "workload %s wants %s, and this node is still finding out whether it can do that", w.Name, class)
	case why != nil:
		return problem.New(codeIsolation, "workload %s wants %s, which this node can't do: %w", w.Name, class, why).
			WithFix("plan it for another node, or with isolation: namespace")
	}
	return problem.New(codeIsolation, "workload %s wants %s, which this node can't do", w.Name, class).
		WithFix("plan it for another node, or with isolation: namespace")
}

// run keeps the ledger's word about this node true, until ctx ends.
func (f *features) run(ctx context.Context, l submitter) error {
	supervise.Signal(ctx, supervise.Healthy)
	for {
		again := (<-chan time.Time)(nil)
		if err := f.say(ctx, l); err != nil && ctx.Err() == nil {
			f.log.Warn("write what this node can do", "error", err)
			again = time.After(sayAgain)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.news:
		case <-again:
		}
	}
}

// say writes the features, unless the ledger has the same.
func (f *features) say(ctx context.Context, l submitter) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	f.mu.Lock()
	epoch, found, why := f.epoch, f.found, f.why
	f.mu.Unlock()
	if epoch == 0 || found == nil {
		return nil
	}
	next := contract.Features{Slot: f.slot, Epoch: epoch, Sequence: 1, Isolation: found, Arch: runtime.GOARCH, Time: uint64(max(0, time.Now().Unix()))}
	if why != nil {
		next.Reason, next.Detail = problem.Code(why), oneLine(why.Error())
	}
	next = contract.NewFeatures(f.grid, next)
	rec, known, err := get[contract.FeaturesRecord](ctx, l, contract.KeyFeatures(f.slot))
	if err != nil {
		return err
	}
	if known {
		last, _, _, err := contract.Open[contract.Features](rec.Signed, contract.KindFeatures, f.grid)
		if err != nil {
			return err
		}
		if last.Same(next) {
			return nil
		}
		if last.Epoch == epoch {
			next.Sequence = last.Sequence + 1
		}
	}
	signed, err := contract.Sign(ctx, next, contract.KindFeatures, f.signer)
	if err != nil {
		return err
	}
	tx, err := signed.Encode()
	if err != nil {
		return err
	}
	_, err = l.Submit(ctx, tx)
	return err
}
