package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
)

func TestWhatComesAfterARunTruthTable(t *testing.T) {
	const none, below, at = 0, 4, 5 // failures, of 5 attempts
	for _, c := range []struct {
		policy   string
		attempts int
		o        outcome
		failures int
		want     decision
	}{
		{"always", 0, succeeded, none, again}, {"always", 0, failed, 1000, again}, {"always", 0, notStarted, 1000, again},
		{"always", 5, succeeded, none, again}, {"always", 5, failed, below, again}, {"always", 5, failed, at, exhausted},
		{"always", 5, notStarted, below, again}, {"always", 5, notStarted, at, exhausted},
		{"on-failure", 0, succeeded, none, over}, {"on-failure", 0, failed, 1000, again}, {"on-failure", 5, failed, at, exhausted},
		{"on-failure", 5, notStarted, at, exhausted}, {"on-failure", 5, succeeded, none, over},
		{"never", 0, succeeded, none, over}, {"never", 0, failed, 1, over}, {"never", 5, failed, at, over},
		{"never", 0, notStarted, 1000, again}, {"never", 5, notStarted, at, exhausted},
		{"always", 5, asked, at, atOnce}, {"on-failure", 5, asked, at, atOnce}, {"never", 5, asked, at, atOnce},
		{"sometimes", 0, failed, 1, over}, {"", 0, succeeded, 0, over},
	} {
		if got := decide(Life{Restart: c.policy, Attempts: c.attempts}, c.o, c.failures); got != c.want {
			t.Errorf("decide(%q, %d attempts, %d, %d failures) = %d, want %d", c.policy, c.attempts, c.o, c.failures, got, c.want)
		}
	}
	for _, bad := range []string{"", "Always", "sometimes"} {
		if CheckPolicy(bad) == nil {
			t.Errorf("policy %q was accepted", bad)
		}
	}
}

func TestWhatIsOverUnderAnotherLifeTruthTable(t *testing.T) {
	exited := func(code int) Status {
		return Status{State: Over, Reason: ReasonExited, Exit: process.Exit{Code: code}}
	}
	late := Status{State: Over, Reason: ReasonDeadline, Exit: process.Exit{Code: 137, Signal: 9}}
	for _, c := range []struct {
		s      Status
		policy string
		want   bool
	}{
		{exited(0), "never", true}, {exited(0), "on-failure", true}, {exited(0), "always", false},
		{exited(1), "never", true}, {exited(1), "on-failure", false}, {exited(1), "always", false},
		{late, "never", true}, {late, "on-failure", false}, {late, "always", false},
		{Status{State: Stopped, Reason: ReasonExited}, "never", false}, {Status{State: Running}, "never", false}, {Status{}, "never", false},
	} {
		if got := c.s.Done(Life{Restart: c.policy, Attempts: 3}); got != c.want {
			t.Errorf("%s by %s with code %d, now %q: %t", c.s.State, c.s.Reason, c.s.Exit.Code, c.policy, got)
		}
	}
}

func TestOutcomeTruthTable(t *testing.T) {
	for _, c := range []struct {
		reason string
		code   int
		want   outcome
	}{
		{ReasonStart, 0, notStarted}, {ReasonExited, 0, succeeded}, {ReasonExited, 1, failed}, {ReasonExited, -1, failed},
		{ReasonSignal, 137, failed}, {ReasonOOM, 137, failed}, {ReasonDiskFull, 1, failed}, {ReasonPanic, 0, failed}, {ReasonVMM, 0, failed},
		{ReasonUnhealthy, 0, failed}, {ReasonDeadline, 0, failed}, {ReasonRestart, 0, asked}, {ReasonRestart, 137, asked},
	} {
		if got := outcomeOf(c.reason, c.code); got != c.want {
			t.Errorf("outcomeOf(%s, %d) = %d, want %d", c.reason, c.code, got, c.want)
		}
	}
}

func TestFailuresInARowTruthTable(t *testing.T) {
	for _, c := range []struct {
		n      int
		o      outcome
		lasted time.Duration
		want   int
	}{
		{0, failed, time.Second, 1}, {4, failed, time.Second, 5}, {4, failed, time.Minute, 1}, {4, succeeded, time.Second, 0},
		{4, asked, time.Second, 0}, {4, notStarted, time.Second, 5}, {4, notStarted, time.Hour, 5},
	} {
		if got := countFailures(c.n, c.o, c.lasted, time.Minute); got != c.want {
			t.Errorf("countFailures(%d, %d, %s) = %d, want %d", c.n, c.o, c.lasted, got, c.want)
		}
	}
}

func TestHealthTruthTable(t *testing.T) {
	h := Health{Retries: 3, Start: 10 * time.Second}
	const early, late = time.Second, time.Minute
	for _, c := range []struct {
		name   string
		j      judgement
		passed bool
		since  time.Duration
		want   judgement
	}{
		{"passes at once", judgement{}, true, early, judgement{healthy: true}},
		{"fails in its time to start", judgement{}, false, early, judgement{}},
		{"fails after it", judgement{}, false, late, judgement{failures: 1}},
		{"was healthy, fails early", judgement{healthy: true}, false, early, judgement{failures: 1, healthy: true}},
		{"still healthy below retries", judgement{failures: 1, healthy: true}, false, late, judgement{failures: 2, healthy: true}},
		{"unhealthy at retries", judgement{failures: 2, healthy: true}, false, late, judgement{failures: 3, sick: true}},
		{"one pass forgives", judgement{failures: 2, healthy: true}, true, late, judgement{healthy: true}},
		{"sick, and well again", judgement{failures: 9, sick: true}, true, late, judgement{healthy: true}},
	} {
		if got := h.judge(c.j, c.passed, c.since); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestReadyTruthTable(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		s    Status
		want bool
	}{
		{"has just begun", Status{State: Running, Ran: now}, false},
		{"has run for a while", Status{State: Running, Ran: now.Add(-SteadyAfter)}, true},
		{"nobody knows since when", Status{State: Running}, false},
		{"checked and not passed", Status{State: Running, Ran: now.Add(-time.Hour), Checked: true}, false},
		{"checked and passed", Status{State: Running, Ran: now, Checked: true, Healthy: true}, true},
		{"job done", Status{State: Over, Reason: ReasonExited}, true},
		{"job failed", Status{State: Over, Reason: ReasonExited, Exit: process.Exit{Code: 1}}, false},
		{"job out of time", Status{State: Over, Reason: ReasonDeadline}, false},
		{"waits", Status{State: Waiting, Ran: now.Add(-time.Hour)}, false},
		{"being ended", Status{State: Ending, Ran: now.Add(-time.Hour), Checked: true, Healthy: true}, false},
		{"given up", Status{State: Exhausted}, false},
	} {
		if got := c.s.Ready(now); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

// puppet is an engine whose instances do what a test says.
type puppet struct {
	mu     sync.Mutex
	starts int
	cleans int
	deaf   bool // ends by force alone
	sick   bool // fails its checks
	small  bool // can't be resized live
	fail   error
	at     func(n int) *Ended // how start n ends by itself; nil: it runs
	now    *act
	kills  int
	sigs   []unix.Signal
	adopt  bool
}

type act struct {
	p    *puppet
	gone chan struct{}
	how  Ended
	once sync.Once
}

func (p *puppet) Adopt(context.Context, Spec, process.Ref) (Instance, error) {
	if !p.adopt {
		return nil, nil
	}
	p.now = &act{p: p, gone: make(chan struct{})}
	return p.now, nil
}
func (p *puppet) Missed(context.Context, Spec, process.Ref) Ended {
	return Ended{Exit: process.Exit{Code: -1}}
}
func (p *puppet) Start(context.Context, Spec) (Instance, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starts++
	if p.fail != nil {
		return nil, p.fail
	}
	p.now = &act{p: p, gone: make(chan struct{})}
	if p.at != nil {
		if e := p.at(p.starts); e != nil {
			p.now.end(*e)
		}
	}
	return p.now, nil
}
func (p *puppet) Clean(context.Context) error { p.mu.Lock(); p.cleans++; p.mu.Unlock(); return nil }
func (p *puppet) Close() error                { return nil }
func (p *puppet) count() int                  { p.mu.Lock(); defer p.mu.Unlock(); return p.starts }

func (i *act) end(e Ended)          { i.once.Do(func() { i.how = e; close(i.gone) }) }
func (i *act) Process() process.Ref { return process.Ref{PID: 4000000, Start: 1} }
func (i *act) Release()             {}
func (i *act) Wait(ctx context.Context) (Ended, error) {
	select {
	case <-i.gone:
		return i.how, nil
	case <-ctx.Done():
		return Ended{}, ctx.Err()
	}
}
func (i *act) Stop(_ context.Context, s unix.Signal) error {
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	if i.p.sigs = append(i.p.sigs, s); !i.p.deaf {
		i.end(Ended{})
	}
	return nil
}
func (i *act) Signal(_ context.Context, s unix.Signal) error { return nil }
func (i *act) Kill(context.Context) error {
	i.p.mu.Lock()
	i.p.kills++
	i.p.mu.Unlock()
	i.end(Ended{Exit: process.Exit{Code: 137, Signal: 9}})
	return nil
}
func (i *act) Probe(context.Context, control.Probe) error {
	i.p.mu.Lock()
	defer i.p.mu.Unlock()
	if i.p.sick {
		return errors.New("no answer")
	}
	return nil
}
func (i *act) Resize(context.Context, control.Limits) (bool, error) { return !i.p.small, nil }
func (i *act) Stats(context.Context) (control.Stats, error) {
	return control.Stats{PIDs: 7}, nil
}
func (i *act) Serve(context.Context, *control.Conn, control.Request) error {
	return unsupported("x")
}

// world is a shim with a puppet.
type world struct {
	t    *testing.T
	dir  string
	p    *puppet
	stop context.CancelFunc
	done chan error
}

func begin(t *testing.T, p *puppet, l Life, before ...Status) *world {
	t.Helper()
	dir := t.TempDir()
	return beginIn(t, dir, p, l, before...)
}

func beginIn(t *testing.T, dir string, p *puppet, l Life, before ...Status) *world {
	t.Helper()
	if l.Grace == 0 {
		l.Grace = time.Minute
	}
	spec := Spec{ID: "x", Plan: "p", Life: l, LogDir: filepath.Join(dir, "log"), Final: filepath.Join(dir, "final"),
		Backoff: supervise.Backoff{First: time.Millisecond, Max: 2 * time.Millisecond, Reset: time.Minute}}
	if err := WriteSpec(dir, spec); err != nil {
		t.Fatal(err)
	}
	ring, err := logs.Open(spec.LogDir, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &shim{dir: dir, spec: spec, ring: ring, engine: p, asks: make(chan ask), status: Status{Plan: "p", State: Starting}}
	for _, b := range before {
		s.status = b
	}
	w := &world{t: t, dir: dir, p: p, stop: cancel, done: make(chan error, 1)}
	if err := s.set(s.status.State); err != nil {
		t.Fatal(err)
	}
	served := s.serve(ctx)
	go func() {
		err := s.keep(ctx)
		cancel()
		w.done <- errors.Join(err, <-served, ring.Close())
	}()
	t.Cleanup(func() { cancel(); w.done <- <-w.done })
	return w
}

// until waits for a status of which ok is true.
func (w *world) until(what string, ok func(Status) bool) Status {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		st, err := ReadStatus(w.dir)
		if err == nil && ok(st) {
			return st
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited a minute for: %s; it is %+v", what, st)
		}
		time.Sleep(time.Millisecond)
	}
}

// end waits for the shim's own end.
func (w *world) end() Status {
	w.t.Helper()
	select {
	case err := <-w.done:
		w.done <- err
		if err != nil {
			w.t.Fatal(err)
		}
	case <-time.After(time.Minute):
		w.t.Fatal("the shim never ended")
	}
	st, err := ReadStatus(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *world) ask(r control.Request, v any) (int, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := Dial(ctx, w.dir)
	if err != nil {
		return 0, err
	}
	return control.Ask(ctx, conn, r, v)
}

func exits(code int) func(int) *Ended {
	return func(int) *Ended { return &Ended{Exit: process.Exit{Code: code}} }
}

func TestJobEndsWhenItsPolicyIsSatisfied(t *testing.T) {
	w := begin(t, &puppet{at: func(n int) *Ended {
		if n < 3 {
			return &Ended{Exit: process.Exit{Code: 1}}
		}
		return &Ended{}
	}}, Life{Restart: "on-failure"})
	if st := w.end(); st.State != Over || st.Reason != ReasonExited || st.Restarts != 2 || st.Failures != 0 || !st.Ready(time.Now()) {
		t.Errorf("%+v", st)
	}
	var final Status
	if err := ReadJSON(filepath.Join(w.dir, "final"), &final); err != nil || final.State != Over {
		t.Errorf("final %+v, %v", final, err)
	}
}

// A full disk costs no one's end: it stands in memory, and is written when there is room.
func TestEndIsKeptUntilItCanBeWritten(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "final")
	if err := os.MkdirAll(filepath.Join(final, "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	job := Life{Restart: "never"}
	p := &puppet{at: exits(5)}
	w := beginIn(t, dir, p, job)
	st := w.until("over", func(s Status) bool { return s.State == Over })
	if st.Exit.Code != 5 {
		t.Errorf("%+v", st)
	}
	if _, err := w.ask(control.Request{Verb: control.VerbRestart}, nil); problem.Code(err) != CodeNotRunning {
		t.Errorf("restart of what has ended: %v", err)
	}
	w.stop() // ended from outside before it could write
	w.end()
	again := &puppet{}
	w = beginIn(t, dir, again, job, st)
	w.until("over still", func(s Status) bool { return s.State == Over })
	if err := os.RemoveAll(final); err != nil {
		t.Fatal(err)
	}
	w.end()
	var written Status
	if err := ReadJSON(final, &written); err != nil || written.State != Over || written.Exit.Code != 5 || again.count() != 0 {
		t.Errorf("%+v, %v, and %d starts by the second shim", written, err, again.count())
	}
}

func TestAttemptsRunOutAndAHandStartsItAgain(t *testing.T) {
	p := &puppet{at: exits(3)}
	w := begin(t, p, Life{Restart: "always", Attempts: 4})
	st := w.until("exhausted", func(s Status) bool { return s.State == Exhausted })
	if p.count() != 4 || st.Failures != 4 || st.Exit.Code != 3 {
		t.Errorf("%d starts, %+v", p.count(), st)
	}
	p.mu.Lock()
	p.at = nil // somebody has mended what it needs
	p.mu.Unlock()
	if code, err := w.ask(control.Request{Verb: control.VerbRestart}, nil); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	w.until("running", func(s Status) bool { return s.State == Running })
	w.stop()
	if st := w.end(); st.State != Stopped || p.count() != 5 {
		t.Errorf("%d starts, %+v", p.count(), st)
	}
}

func TestShimThatComesToAnExhaustedOneStartsNothing(t *testing.T) {
	p := &puppet{}
	w := begin(t, p, Life{Restart: "always", Attempts: 1}, Status{Plan: "p", State: Exhausted, Failures: 1, Reason: ReasonExited})
	if _, err := w.ask(control.Request{Verb: control.VerbSignal, Signal: 1}, nil); problem.Code(err) != CodeNotRunning {
		t.Errorf("signal: %v", err)
	}
	var st control.Stats
	if _, err := w.ask(control.Request{Verb: control.VerbStatus}, &st); err != nil || st.PIDs != 0 {
		t.Errorf("stats of what doesn't run: %+v, %v", st, err)
	}
	if p.count() != 0 {
		t.Error("it was started")
	}
	if code, err := w.ask(control.Request{Verb: control.VerbRestart}, nil); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	w.until("running", func(s Status) bool { return s.State == Running })
}

func TestDeadlineEndsARunLikeAFailure(t *testing.T) {
	p := &puppet{deaf: true}
	w := begin(t, p, Life{Restart: "never", Deadline: 20 * time.Millisecond, Grace: time.Millisecond, Signal: int(unix.SIGINT)})
	st := w.end()
	if st.State != Over || st.Reason != ReasonDeadline || st.Ready(time.Now()) || p.kills != 1 || !slices.Equal(p.sigs, []unix.Signal{unix.SIGINT}) {
		t.Errorf("%d kills, signals %v, %+v", p.kills, p.sigs, st)
	}
}

func TestUnhealthyIsRestartedByPolicy(t *testing.T) {
	check := &Health{Probe: control.Probe{Kind: "tcp", Port: 1, Timeout: 1000}, Interval: time.Millisecond, Retries: 3}
	p := &puppet{}
	w := begin(t, p, Life{Restart: "on-failure", Health: check})
	st := w.until("healthy", func(s Status) bool { return s.Healthy })
	if !st.Ready(time.Now()) {
		t.Errorf("healthy and not ready: %+v", st)
	}
	p.mu.Lock()
	p.sick = true
	p.mu.Unlock()
	w.until("restarted", func(s Status) bool { return s.Restarts > 0 && s.Reason == ReasonUnhealthy })
	p.mu.Lock()
	p.sick = false
	p.mu.Unlock()
	w.until("healthy again", func(s Status) bool { return s.State == Running && s.Healthy })

	p = &puppet{sick: true}
	w = begin(t, p, Life{Restart: "never", Health: check})
	st = w.until("running", func(s Status) bool { return s.State == Running && s.Checked })
	if st.Ready(time.Now()) {
		t.Error("unhealthy and ready")
	}
	if code, err := w.ask(control.Request{Verb: control.VerbProbe, Probe: &check.Probe}, nil); problem.Code(err) != ReasonUnhealthy {
		t.Errorf("probe by hand: %d, %v", code, err)
	}
	w.stop()
	if w.end(); p.count() != 1 {
		t.Errorf("policy never: %d starts", p.count())
	}
}

func TestRestartByHandIsNoFailure(t *testing.T) {
	p := &puppet{}
	w := begin(t, p, Life{Restart: "never", Attempts: 1})
	w.until("running", func(s Status) bool { return s.State == Running })
	if code, err := w.ask(control.Request{Verb: control.VerbRestart}, nil); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	st := w.until("again", func(s Status) bool { return s.State == Running && s.Restarts == 1 })
	if st.Failures != 0 || st.Reason != ReasonRestart {
		t.Errorf("%+v", st)
	}
	var stats control.Stats
	if _, err := w.ask(control.Request{Verb: control.VerbStatus}, &stats); err != nil || stats.Restarts != 1 || stats.PIDs != 7 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestEndingIsFinishedByTheNextShim(t *testing.T) {
	p := &puppet{adopt: true, at: exits(0)}
	w := begin(t, p, Life{Restart: "on-failure"}, Status{Plan: "p", State: Ending, Cause: ReasonDeadline, Process: process.Ref{PID: 4000000, Start: 1}})
	st := w.end()
	if st.Restarts != 1 || p.count() != 1 || len(p.sigs) != 1 || st.Reason != ReasonExited {
		t.Errorf("%d starts, signals %v, %+v", p.count(), p.sigs, st)
	}
}

// Each state that a killed shim may have left ends in a workload that runs, or in the
// end that its policy wants: never in one that nobody looks after.
func TestEveryLeftStateIsGoneOnFrom(t *testing.T) {
	for _, state := range []State{Starting, Running, Ending, Waiting} {
		for _, there := range []bool{true, false} {
			left := Status{Plan: "p", State: state, Reason: ReasonExited, Exit: process.Exit{Code: 1}, Started: time.Now(), Failures: 1}
			if there || state != Starting {
				left.Process = process.Ref{PID: 4000000, Start: 1}
			}
			p := &puppet{adopt: there}
			w := begin(t, p, Life{Restart: "always"}, left)
			w.until(string(state)+" went on", func(s Status) bool { return s.State == Running })
			if want := map[bool]int{true: 0, false: 1}[there && state != Ending]; there && state != Ending && p.count() != want {
				t.Errorf("%s, there: %t: %d starts", state, there, p.count())
			}
			w.stop()
			if st := w.end(); st.State != Stopped {
				t.Errorf("%s, there: %t: %+v", state, there, st)
			}
		}
	}
}

// A job that runs and that no new shim can reach is ended, which its policy judges: it
// is not run a second time behind everybody's back.
func TestWhatCannotBeTakenOverHasEnded(t *testing.T) {
	for policy, starts := range map[string]int{"never": 0, "always": 1} {
		self, err := process.Of(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		p := &puppet{}
		w := begin(t, p, Life{Restart: policy}, Status{Plan: "p", State: Running, Process: self, Started: time.Now()})
		w.until(policy, func(s Status) bool {
			return s.Reason == ReasonExited && s.Restarts == starts && (s.State == Running || s.State == Over)
		})
		if p.count() != starts {
			t.Errorf("%s: %d starts, want %d", policy, p.count(), starts)
		}
		if policy == "always" {
			w.stop()
		}
		w.end()
	}
}

func TestReloadChangesLifeAndLimitsOnly(t *testing.T) {
	p := &puppet{}
	w := begin(t, p, Life{Restart: "always"})
	w.until("running", func(s Status) bool { return s.State == Running })
	spec, err := ReadSpec(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	spec.Plan, spec.Life.Restart, spec.Life.Deadline = "q", "never", time.Millisecond
	if err := WriteSpec(w.dir, spec); err != nil {
		t.Fatal(err)
	}
	if code, err := w.ask(control.Request{Verb: control.VerbReload}, nil); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	if st := w.end(); st.Plan != "q" || st.State != Over || st.Reason != ReasonDeadline || p.count() != 1 {
		t.Errorf("%+v", st)
	}

	p = &puppet{small: true}
	w = begin(t, p, Life{Restart: "always"})
	w.until("running", func(s Status) bool { return s.State == Running })
	spec.Plan = "r"
	if err := WriteSpec(w.dir, spec); err != nil {
		t.Fatal(err)
	}
	if code, err := w.ask(control.Request{Verb: control.VerbReload}, nil); code != 1 || err != nil {
		t.Errorf("what needs a new start: %d, %v", code, err)
	}
	if st, _ := ReadStatus(w.dir); st.Plan != "p" {
		t.Errorf("plan %s", st.Plan)
	}
	spec.ID = "other"
	if err := WriteSpec(w.dir, spec); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ask(control.Request{Verb: control.VerbReload}, nil); err == nil {
		t.Error("another workload's spec was taken")
	}
}

func TestStartFailuresAreToldApart(t *testing.T) {
	p := &puppet{fail: errors.New("no such program")}
	w := begin(t, p, Life{Restart: "never", Attempts: 2})
	st := w.until("exhausted", func(s Status) bool { return s.State == Exhausted })
	if st.Reason != ReasonStart || st.Detail != "no such program" || p.count() != 2 {
		t.Errorf("%d starts, %+v", p.count(), st)
	}
}

func TestReasonTruthTable(t *testing.T) {
	for _, c := range []struct {
		cause string
		e     Ended
		want  string
	}{
		{"", Ended{}, ReasonExited}, {"", Ended{Exit: process.Exit{Code: 2}}, ReasonExited}, {"", Ended{Exit: process.Exit{Code: -1}}, ReasonExited},
		{"", Ended{Exit: process.Exit{Code: 143, Signal: 15}}, ReasonSignal}, {"", Ended{Reason: ReasonPanic}, ReasonPanic},
		{"", Ended{Reason: ReasonVMM}, ReasonVMM}, {"", Ended{Reason: ReasonOOM, Exit: process.Exit{Code: 137, Signal: 9}}, ReasonOOM},
		{ReasonUnhealthy, Ended{Exit: process.Exit{Code: 137, Signal: 9}}, ReasonUnhealthy}, {ReasonDeadline, Ended{}, ReasonDeadline},
		{ReasonRestart, Ended{Exit: process.Exit{Code: 143, Signal: 15}}, ReasonRestart}, {ReasonDeadline, Ended{Reason: ReasonOOM}, ReasonOOM},
	} {
		s := &shim{status: Status{Cause: c.cause, Healthy: true}}
		if s.ended(c.e); s.status.Reason != c.want || s.status.Cause != "" || s.status.Detail == "" || s.status.Healthy {
			t.Errorf("%q, %+v: %+v", c.cause, c.e, s.status)
		}
	}
}

func TestSocketIsRootsAlone(t *testing.T) {
	w := begin(t, &puppet{}, Life{Restart: "always"})
	w.until("running", func(s Status) bool { return s.State == Running })
	st, err := os.Stat(filepath.Join(w.dir, socketFile))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if _, err := Dial(context.Background(), t.TempDir()); problem.Code(err) != CodeNotRunning {
		t.Errorf("where no shim is: %v", err)
	}
}
