package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rollout"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// Pace of the reconciler: it looks at the kernel this often, and tries a failed
// workload again after minBackoff, doubling up to maxBackoff.
const (
	observeEvery = 2 * time.Second
	minBackoff   = time.Second
	maxBackoff   = 30 * time.Second
)

// Report is called with every change of a workload's status, including the last
// one, contract.StateGone, after it was removed. It must not block.
type Report func(id workload.ID, kind string, s workload.Status)

// reconciler makes what runs equal to what is desired: observe, diff, act. Its
// only memory is what it tried last; everything else is asked of the kinds.
type reconciler struct {
	kinds  map[string]workload.Kind
	report Report
	log    *slog.Logger

	// turns says whose turn it is in an update; nil: everything may start.
	turns *turns
	// may refuses what this node can't run as its plan says; nil: nothing.
	may func(plan.Workload) error
	// happened is told what is reported, beside what was before, a change of the number
	// of restarts included. May be nil.
	happened func(id workload.ID, before, now workload.Status)

	mu sync.Mutex
	// desired is nil until a set was proven: then nothing is started or removed.
	desired map[workload.ID]workload.Desired
	aims    map[workload.ID]aim          // of the last round
	views   map[workload.ID]rollout.View // likewise
	tasks   map[workload.ID]*task
	kick    chan struct{}
}

// task is what the reconciler remembers of one workload.
type task struct {
	kind     string
	busy     bool
	cancel   context.CancelFunc // ends the verb in flight
	removing bool               // the verb in flight is Remove
	version  uint64             // of the contract, that the last verb was for
	failures int
	next     time.Time
	err      error // of the last verb
	reported workload.Status
}

func newReconciler(kinds map[string]workload.Kind, report Report, log *slog.Logger) *reconciler {
	return &reconciler{kinds: kinds, report: report, log: log, tasks: map[workload.ID]*task{}, kick: make(chan struct{}, 1)}
}

// setDesired replaces the proven set.
func (r *reconciler) setDesired(set []workload.Desired) {
	m := make(map[workload.ID]workload.Desired, len(set))
	for _, d := range set {
		m[d.ID] = d
	}
	r.mu.Lock()
	r.desired = m
	r.mu.Unlock()
	r.wake()
}

func (r *reconciler) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// run reconciles until ctx ends, then waits for the verbs in flight.
func (r *reconciler) run(ctx context.Context) error {
	var verbs sync.WaitGroup
	defer verbs.Wait()
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		r.step(ctx, &verbs)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-r.kick:
		}
	}
}

// step is one round: observe every kind, then act where it differs.
func (r *reconciler) step(ctx context.Context, verbs *sync.WaitGroup) {
	type seen struct {
		kind   string
		status workload.Status
	}
	observed := map[workload.ID]seen{}
	blind := map[string]bool{}
	for name, kind := range r.kinds {
		statuses, err := kind.Observe(ctx)
		if err != nil {
			// Without sight of a kind nothing of it may be judged as absent.
			r.log.Warn("observe workloads", "kind", name, "error", err)
			blind[name] = true
			continue
		}
		for id, s := range statuses {
			observed[id] = seen{name, s}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.desired == nil {
		return
	}
	now := time.Now()
	views := make(map[workload.ID]rollout.View, len(observed))
	for id, v := range r.views {
		// What can't be seen now must not look as if it were not there.
		if t := r.tasks[id]; t != nil && blind[t.kind] {
			views[id] = v
		}
	}
	for id, o := range observed {
		views[id] = viewOf(o.kind, o.status)
	}
	r.views = views
	r.aims = r.aim(views)
	for id, d := range r.aims {
		if d.gone || d.Plan.Kind != "" && blind[d.Plan.Kind] {
			continue
		}
		o, exists := observed[id]
		kind := d.Plan.Kind
		if kind == "" {
			kind = o.kind // of a version that is older than those that are known here
		}
		t := r.task(id, kind)
		o.status.Ready = isReady(kind, o.status)
		if t.busy {
			if t.removing || t.version != d.Version {
				t.cancel() // it was for something that is no longer wanted
			}
		} else if !exists || o.status.Version != d.Version || o.status.State == contract.StateFailed || o.status.State == contract.StatePending {
			if t.version != d.Version {
				t.failures, t.next, t.err = 0, time.Time{}, nil
			}
			if d.start && d.Plan.Kind != "" && !now.Before(t.next) {
				if err := r.refuse(d.Plan); err != nil {
					t.version = d.Version
					r.failed(t, err)
				} else {
					r.start(ctx, verbs, id, t, d.Version, false, func(ctx context.Context, k workload.Kind) error { return k.Ensure(ctx, d.Desired) })
				}
			}
		} else {
			t.failures, t.err = 0, nil
		}
		r.tell(id, t, statusOf(d, t, exists, o.status))
	}
	for id, o := range observed {
		if r.wants(id) {
			continue
		}
		t := r.task(id, o.kind)
		if t.busy && !t.removing {
			t.cancel()
		} else if !t.busy && !now.Before(t.next) {
			r.start(ctx, verbs, id, t, 0, true, func(ctx context.Context, k workload.Kind) error { return k.Remove(ctx, id) })
		}
	}
	for id, t := range r.tasks {
		_, exists := observed[id]
		if r.wants(id) || exists || t.busy || blind[t.kind] {
			continue
		}
		gone := workload.Status{State: contract.StateGone, Version: t.reported.Version}
		if w := r.aims[id]; w.returned > 0 {
			gone.Version, gone.Reason, gone.Detail = w.returned, codeReturned, w.why
		}
		r.tell(id, t, gone)
		delete(r.tasks, id)
	}
}

// aim is what is wanted now: of contracts with a plan as package rollout says, of
// others everything. The caller holds the lock.
func (r *reconciler) aim(seen map[workload.ID]rollout.View) map[workload.ID]aim {
	out := map[workload.ID]aim{}
	for id, d := range r.desired {
		out[id] = aim{Desired: d, start: true}
	}
	if r.turns == nil {
		return out
	}
	for id, w := range r.turns.aims(seen) {
		out[id] = w
	}
	return out
}

// refuse says why this node can't run a workload as its plan wants it.
func (r *reconciler) refuse(w plan.Workload) error {
	if r.may == nil {
		return nil
	}
	return r.may(w)
}

// wants tells whether a workload is to be here; the caller holds the lock.
func (r *reconciler) wants(id workload.ID) bool {
	w, ok := r.aims[id]
	return ok && !w.gone
}

// task finds or makes the memory of one workload.
func (r *reconciler) task(id workload.ID, kind string) *task {
	t := r.tasks[id]
	if t == nil {
		t = &task{kind: kind}
		r.tasks[id] = t
	}
	return t
}

// start runs one verb in its own goroutine; the caller holds the lock.
func (r *reconciler) start(ctx context.Context, verbs *sync.WaitGroup, id workload.ID, t *task, version uint64, removing bool, verb func(context.Context, workload.Kind) error) {
	kind, known := r.kinds[t.kind]
	if !known {
		t.version = version
		r.failed(t, problem.New("kind-unknown", "this node's OS release can't run workloads of kind %q", t.kind))
		return
	}
	vctx, cancel := context.WithCancel(ctx)
	t.busy, t.cancel, t.removing, t.version = true, cancel, removing, version
	verbs.Go(func() {
		defer cancel()
		began := time.Now()
		err := protect(func() error { return verb(vctx, kind) })
		r.mu.Lock()
		t.busy = false
		switch {
		case err == nil:
			r.log.Info("reconciled workload", "workload", id.Name, "contract", id.Contract.Short(), "version", version, "remove", removing,
				"took", time.Since(began).Round(time.Millisecond))
			t.failures, t.err, t.next = 0, nil, time.Time{}
			if !removing {
				// Ensure succeeded, so the next look shows it running; if not, don't spin.
				t.next = time.Now().Add(minBackoff)
			}
		case vctx.Err() != nil && ctx.Err() == nil:
			t.next = time.Time{} // cancelled for a newer aim
		default:
			r.failed(t, err)
			r.log.Warn("reconcile workload", "workload", id.Name, "contract", id.Contract.Short(), "remove", removing, "failures", t.failures, "error", err)
		}
		r.mu.Unlock()
		r.wake()
	})
}

func (r *reconciler) failed(t *task, err error) {
	t.err = err
	backoff := maxBackoff
	if t.failures < 5 {
		backoff = minBackoff << t.failures
	}
	t.failures++
	t.next = time.Now().Add(backoff)
}

// protect turns a panic into an error: a defect in one workload kind, or in the
// answer to one request, must not take down the node.
func protect(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// statusOf is what people are told of a desired workload.
func statusOf(w aim, t *task, exists bool, seen workload.Status) workload.Status {
	s := workload.Status{State: contract.StatePending, Version: w.Version}
	switch {
	case exists && (seen.Version == w.Version && t.err == nil || len(w.waiting) > 0 && !w.start):
		s = seen
	case t.err != nil:
		s.State, s.Reason, s.Detail = contract.StateFailed, problem.Code(t.err), t.err.Error()
		if s.Reason == "" {
			s.Reason = "start-failed"
		}
	case exists && seen.Version != w.Version && len(w.waiting) > 0:
		s = seen
	}
	switch {
	case w.returned > 0:
		// Of the version that failed: so other nodes know from what it went back.
		why := fmt.Sprintf("version %d runs again: %s", w.Version, w.why)
		if s.Detail != "" {
			why += "; " + s.Detail
		}
		s.Version, s.Reason, s.Detail = w.returned, codeReturned, why
	case len(w.waiting) > 0 && s.Reason == "":
		s.Reason, s.Detail = codeWaiting, waitingText(w.waiting)
	}
	return s
}

// tell reports a status when it differs from the last one reported.
func (r *reconciler) tell(id workload.ID, t *task, s workload.Status) {
	if s == t.reported {
		return
	}
	before := t.reported
	t.reported = s
	r.report(id, t.kind, s)
	if r.happened != nil {
		r.happened(id, before, s)
	}
}

// told is a desired workload and what was last reported of it.
type told struct {
	workload.Desired
	status workload.Status
}

// of lists the desired workloads of one contract by name.
func (r *reconciler) of(id canon.Hash) []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []told
	for wid, d := range r.desired {
		if wid.Contract != id {
			continue
		}
		if now, ok := r.aims[wid]; ok && now.Deployment != nil {
			d = now.Desired // an older version may run until its turn, or again
		}
		w := told{Desired: d}
		if t := r.tasks[wid]; t != nil {
			w.status = t.reported
		}
		out = append(out, w)
	}
	for wid, now := range r.aims {
		_, newest := r.desired[wid]
		if t := r.tasks[wid]; wid.Contract == id && !newest && !now.gone && now.Deployment != nil && t != nil {
			// Of the version before, which runs until its turn, or again.
			out = append(out, told{Desired: now.Desired, status: t.reported})
		}
	}
	slices.SortFunc(out, func(a, b told) int { return strings.Compare(a.ID.Name, b.ID.Name) })
	return out
}

// newest lists what the newest plan of a contract has here, whatever runs yet: what it
// grants no more is not granted.
func (r *reconciler) newest(id canon.Hash) []workload.Desired {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []workload.Desired
	for wid, d := range r.desired {
		if wid.Contract == id {
			out = append(out, d)
		}
	}
	return out
}

// one finds a desired workload, in the version that is to run here now.
func (r *reconciler) one(id workload.ID) (workload.Desired, bool) {
	for _, w := range r.of(id.Contract) {
		if w.ID == id {
			return w.Desired, true
		}
	}
	return workload.Desired{}, false
}

// wanted lists the desired workloads of one kind.
func (r *reconciler) wanted(kind string) []workload.Desired {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []workload.Desired
	for _, d := range r.desired {
		if d.Plan.Kind == kind {
			out = append(out, d)
		}
	}
	return out
}

// running counts the workloads that run.
func (r *reconciler) running() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := uint64(0)
	for _, t := range r.tasks {
		if t.reported.State == contract.StateRunning {
			n++
		}
	}
	return n
}
