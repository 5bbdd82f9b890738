package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// machineKind is a kind whose kernel is a map.
type machineKind struct {
	mu      sync.Mutex
	runs    map[workload.ID]workload.Status
	ensures []time.Time
	removes int
	ensure  func(ctx context.Context, d workload.Desired) error // nil: it runs
	observe error
}

func (k *machineKind) Ensure(ctx context.Context, d workload.Desired) error {
	k.mu.Lock()
	k.ensures = append(k.ensures, time.Now())
	f := k.ensure
	k.mu.Unlock()
	if f != nil {
		if err := f(ctx, d); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.runs[d.ID] = workload.Status{State: contract.StateRunning, Version: d.Version}
	return nil
}

func (k *machineKind) Observe(context.Context) (map[workload.ID]workload.Status, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.observe != nil {
		return nil, k.observe
	}
	out := map[workload.ID]workload.Status{}
	for id, s := range k.runs {
		out[id] = s
	}
	return out, nil
}

func (k *machineKind) Remove(_ context.Context, id workload.ID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.removes++
	delete(k.runs, id)
	return nil
}

func (k *machineKind) count() (ensures, removes, runs int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.ensures), k.removes, len(k.runs)
}

// reconciling runs a reconciler in fake time over a machineKind, and returns what it
// reported last.
func reconciling(t *testing.T, f func(r *reconciler, k *machineKind, last func(workload.ID) workload.Status)) {
	synctest.Test(t, func(t *testing.T) {
		k := &machineKind{runs: map[workload.ID]workload.Status{}}
		var mu sync.Mutex
		reported := map[workload.ID]workload.Status{}
		r := newReconciler(map[string]workload.Kind{plan.KindContainer: k}, func(id workload.ID, _ string, s workload.Status) {
			mu.Lock()
			defer mu.Unlock()
			reported[id] = s
		}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = r.run(ctx)
		}()
		f(r, k, func(id workload.ID) workload.Status {
			mu.Lock()
			defer mu.Unlock()
			return reported[id]
		})
		stop()
		<-done
	})
}

func wish(name string, version uint64) workload.Desired {
	return workload.Desired{ID: workload.ID{Contract: canon.Sum([]byte("c")), Name: name}, Version: version, Plan: plan.Workload{Name: name, Kind: plan.KindContainer}}
}

func TestWhatIsDesiredRunsAndWhatIsNotGoes(t *testing.T) {
	reconciling(t, func(r *reconciler, k *machineKind, last func(workload.ID) workload.Status) {
		d := wish("w", 1)
		r.setDesired([]workload.Desired{d})
		time.Sleep(5 * time.Second)
		if s := last(d.ID); s.State != contract.StateRunning {
			t.Fatalf("reported %+v", s)
		}
		r.setDesired([]workload.Desired{})
		time.Sleep(5 * time.Second)
		if s := last(d.ID); s.State != contract.StateGone {
			t.Fatalf("after its end it is reported as %+v", s)
		}
		if e, rm, runs := k.count(); e != 1 || rm != 1 || runs != 0 {
			t.Fatalf("%d ensures, %d removes, %d left", e, rm, runs)
		}
	})
}

func TestNothingIsTouchedBeforeASetWasProven(t *testing.T) {
	reconciling(t, func(_ *reconciler, k *machineKind, _ func(workload.ID) workload.Status) {
		k.mu.Lock()
		k.runs[wish("left", 1).ID] = workload.Status{State: contract.StateRunning, Version: 1}
		k.mu.Unlock()
		time.Sleep(time.Minute)
		if e, rm, runs := k.count(); e != 0 || rm != 0 || runs != 1 {
			t.Fatalf("%d ensures, %d removes, %d run: a node without news changed something", e, rm, runs)
		}
	})
}

func TestAFailureIsTriedForEverWithItsReason(t *testing.T) {
	reconciling(t, func(r *reconciler, k *machineKind, last func(workload.ID) workload.Status) {
		d := wish("w", 1)
		k.ensure = func(context.Context, workload.Desired) error { return problem.New("hub-unreachable", "no hub") }
		r.setDesired([]workload.Desired{d})
		time.Sleep(10 * time.Minute)
		if s := last(d.ID); s.State != contract.StateFailed || s.Reason != "hub-unreachable" {
			t.Fatalf("reported %+v", s)
		}
		k.mu.Lock()
		tries := k.ensures
		k.ensure = nil
		k.mu.Unlock()
		// 1, 2, 4, 8, 16, then every 30 s, rounded up to the next look.
		if n := len(tries); n < 20 || n > 28 {
			t.Fatalf("%d tries in ten minutes", n)
		}
		time.Sleep(maxBackoff + observeEvery)
		if s := last(d.ID); s.State != contract.StateRunning || s.Reason != "" {
			t.Fatalf("healed, but reported as %+v", s)
		}
	})
}

func TestANewerVersionDoesNotWaitForTheOlder(t *testing.T) {
	reconciling(t, func(r *reconciler, k *machineKind, last func(workload.ID) workload.Status) {
		k.ensure = func(ctx context.Context, d workload.Desired) error {
			if d.Version == 1 {
				<-ctx.Done() // hangs, as a fetch may
				return ctx.Err()
			}
			return nil
		}
		r.setDesired([]workload.Desired{wish("w", 1)})
		time.Sleep(5 * time.Second)
		r.setDesired([]workload.Desired{wish("w", 2)})
		time.Sleep(5 * time.Second)
		if s := last(wish("w", 2).ID); s.State != contract.StateRunning || s.Version != 2 {
			t.Fatalf("reported %+v", s)
		}
	})
}

func TestAKindThatCannotBeSeenIsNotJudged(t *testing.T) {
	reconciling(t, func(r *reconciler, k *machineKind, last func(workload.ID) workload.Status) {
		d := wish("w", 1)
		r.setDesired([]workload.Desired{d})
		time.Sleep(5 * time.Second)
		k.mu.Lock()
		k.observe = errors.New("the kernel does not say")
		k.mu.Unlock()
		r.setDesired([]workload.Desired{})
		time.Sleep(time.Minute)
		if _, rm, runs := k.count(); rm != 0 || runs != 1 {
			t.Fatalf("%d removes, %d run", rm, runs)
		}
		if s := last(d.ID); s.State != contract.StateRunning {
			t.Fatalf("reported as %+v without having been seen", s)
		}
	})
}

func TestAPanicOfAKindIsAnErrorOfItsWorkload(t *testing.T) {
	reconciling(t, func(r *reconciler, k *machineKind, last func(workload.ID) workload.Status) {
		k.ensure = func(_ context.Context, d workload.Desired) error {
			if d.ID.Name == "bad" {
				panic("a defect")
			}
			return nil
		}
		r.setDesired([]workload.Desired{wish("bad", 1), wish("good", 1)})
		time.Sleep(10 * time.Second)
		if s := last(wish("good", 1).ID); s.State != contract.StateRunning {
			t.Fatalf("its neighbour is %+v", s)
		}
		if s := last(wish("bad", 1).ID); s.State != contract.StateFailed || s.Detail == "" {
			t.Fatalf("reported %+v", s)
		}
	})
}

func TestAnUnknownKindSaysSo(t *testing.T) {
	reconciling(t, func(r *reconciler, _ *machineKind, last func(workload.ID) workload.Status) {
		d := wish("w", 1)
		d.Plan.Kind = "vm"
		r.setDesired([]workload.Desired{d})
		time.Sleep(5 * time.Second)
		if s := last(d.ID); s.Reason != "kind-unknown" {
			t.Fatalf("reported %+v", s)
		}
	})
}

func TestAnyTextFitsAReceipt(t *testing.T) {
	for _, in := range []string{"", "plain", "two\nlines\x00\x1b[31m", string([]byte{0xff, 'a', 0xfe}), string(make([]byte, 5000)), "é" + string(make([]rune, 900))} {
		out := oneLine(in)
		r := contract.NewReceipt(canon.Hash{1}, contract.Receipt{Workload: "w", State: contract.StateFailed, Detail: out})
		if err := r.Validate(); err != nil {
			t.Errorf("%q becomes %q: %v", in, out, err)
		}
	}
}
