//go:build !invm

package container

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/supervise"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/shim"
)

// TestMain is also a shim, of the engine that tests have.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && filepath.IsAbs(os.Args[1]) {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := shim.Run(ctx, os.Args[1], shim.LockFD, shim.Engines{shim.EngineRunc: func(context.Context, shim.Host, shim.Spec) (shim.Engine, error) { return sleepers{}, nil }})
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// sleepers is an engine whose workloads are processes that sleep.
type sleepers struct{}

func (sleepers) Adopt(_ context.Context, _ shim.Spec, known process.Ref) (shim.Instance, error) {
	h, err := known.Open()
	if err != nil {
		return nil, nil //nolint:nilerr // it has gone
	}
	return &sleeper{h: h}, nil
}
func (sleepers) Missed(context.Context, shim.Spec, process.Ref) shim.Ended {
	return shim.Ended{Exit: process.Exit{Code: -1}}
}
func (sleepers) Start(context.Context, shim.Spec) (shim.Instance, error) {
	cmd := exec.Command("sleep", "3600")
	cmd.Dir = "/"
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ref, err := process.Of(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	h, err := ref.Open()
	if err != nil {
		return nil, err
	}
	return &sleeper{h: h, child: true}, nil
}
func (sleepers) Clean(context.Context) error { return nil }
func (sleepers) Close() error                { return nil }

type sleeper struct {
	h     *process.Handle
	child bool
}

func (s *sleeper) Process() process.Ref { return s.h.Ref() }
func (s *sleeper) Release()             { s.h.Close() }
func (s *sleeper) Wait(ctx context.Context) (shim.Ended, error) {
	if err := s.h.Wait(ctx); err != nil {
		return shim.Ended{}, err
	}
	if !s.child {
		return shim.Ended{Exit: process.Exit{Code: -1}}, nil
	}
	return shim.Ended{Exit: shim.Reap(s.h.Ref().PID)}, nil
}
func (s *sleeper) Stop(ctx context.Context, sig unix.Signal) error             { return s.h.Signal(sig) }
func (s *sleeper) Signal(_ context.Context, sig unix.Signal) error             { return s.h.Signal(sig) }
func (s *sleeper) Kill(context.Context) error                                  { return s.h.Signal(unix.SIGKILL) }
func (s *sleeper) Probe(context.Context, control.Probe) error                  { return nil }
func (s *sleeper) Resize(context.Context, control.Limits) (bool, error)        { return true, nil }
func (s *sleeper) Stats(context.Context) (control.Stats, error)                { return control.Stats{}, nil }
func (s *sleeper) Serve(context.Context, *control.Conn, control.Request) error { return nil }

// loose is containers without anything to contain them.
type loose struct{ containers }

func (loose) Prepare(_ context.Context, r *Run) error { return shim.WriteSpec(r.Dir(), r.shimSpec()) }

// noRootfs is one that is never mounted.
type noRootfs struct{}

func (noRootfs) Mount(context.Context, canon.Hash, string, string, string, uint32) (bool, error) {
	return true, nil
}
func (noRootfs) Unmount(string) error                          { return nil }
func (noRootfs) Failure(canon.Hash) (string, string)           { return "", "" }
func (noRootfs) Damage(canon.Hash, time.Time) (string, string) { return "", "" }
func (noRootfs) Damages() uint64                               { return 0 }

// bareKind is a Kind of a node daemon whose shims are this program.
func bareKind(t *testing.T, dir string) *Kind {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run"), RuncRoot: filepath.Join(dir, "runc"), Exits: filepath.Join(dir, "exits"),
		Runc: "/bin/false", Shim: self, CgroupParent: "/zos-test-that-is-not-there", Grace: 10 * time.Second, LogBound: 64 << 10, Rootfs: noRootfs{},
		Backoff: supervise.Backoff{First: time.Millisecond, Max: 10 * time.Millisecond, Reset: time.Minute},
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	defaults(&cfg)
	return &Kind{cfg: cfg, form: loose{}}
}

// all calls f for every workload, four at a time, as the node does.
func all(t *testing.T, ds []workload.Desired, f func(workload.Desired) error) {
	t.Helper()
	var wg sync.WaitGroup
	room := make(chan struct{}, 4)
	for _, d := range ds {
		wg.Add(1)
		room <- struct{}{}
		go func() {
			defer func() { <-room; wg.Done() }()
			if err := f(d); err != nil {
				t.Errorf("%s: %v", d.ID.Name, err)
			}
		}()
	}
	wg.Wait()
}

// A node daemon that starts anew takes over a hundred workloads within two seconds,
// and restarts none.
func TestAHundredAreFoundAgainWithinTwoSeconds(t *testing.T) {
	const many, limit = 100, 2 * time.Second
	dir, err := os.MkdirTemp("", "zos-found") // short and passable
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	k := bareKind(t, dir)
	var ds []workload.Desired
	for n := range many {
		c, r := example()
		d := desired(c, r)
		d.ID.Name = fmt.Sprintf("web-%d", n)
		d.Plan.Name = d.ID.Name
		ds = append(ds, d)
	}
	t.Cleanup(func() {
		all(t, ds, func(d workload.Desired) error { return k.Remove(context.Background(), d.ID) })
	})
	began := time.Now()
	all(t, ds, func(d workload.Desired) error { return k.Ensure(ctx, d) })
	t.Logf("measured: %d started in %d ms", many, time.Since(began).Milliseconds())
	if t.Failed() {
		t.FailNow()
	}
	before := map[workload.ID]shim.Status{}
	for _, d := range ds {
		st, err := shim.ReadStatus(k.place(d.ID).run)
		if err != nil || !st.Process.Alive() {
			t.Fatalf("%s: %+v, %v", d.ID.Name, st, err)
		}
		before[d.ID] = st
	}

	k = bareKind(t, dir)
	began = time.Now()
	seen, err := k.Observe(ctx)
	observed := time.Since(began)
	if err != nil || len(seen) != many {
		t.Fatalf("%d observed, %v", len(seen), err)
	}
	all(t, ds, func(d workload.Desired) error { return k.Ensure(ctx, d) })
	took := time.Since(began)
	t.Logf("measured: %d found again in %d us: Observe %d us, Ensure %d us", many, took.Microseconds(), observed.Microseconds(), (took - observed).Microseconds())
	if took > limit {
		t.Errorf("%d found again in %s, want at most %s", many, took, limit)
	}
	for _, d := range ds {
		st, err := shim.ReadStatus(k.place(d.ID).run)
		if err != nil || st.Process != before[d.ID].Process || st.Shim != before[d.ID].Shim || st.Restarts != 0 || !st.Process.Alive() {
			t.Errorf("%s: %+v, was %+v, %v", d.ID.Name, st, before[d.ID], err)
		}
		if s := seen[d.ID]; s.State != contract.StateRunning || s.Restarts != 0 {
			t.Errorf("%s: observed as %+v", d.ID.Name, s)
		}
	}
}

// A finished job runs again neither because its life changes nor because its limits
// do, unless its new life asks for that.
func TestAFinishedJobStaysFinished(t *testing.T) {
	dir, err := os.MkdirTemp("", "zos-found")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	k := bareKind(t, dir)
	version := uint64(0)
	job := func(change func(*plan.Container, *plan.Resources)) workload.Desired {
		c, r := example()
		c.Life.Restart = "on-failure"
		change(&c, &r)
		d := desired(c, r)
		version++
		d.Version = version
		return d
	}
	d := job(func(*plan.Container, *plan.Resources) {})
	t.Cleanup(func() {
		if err := k.Remove(context.Background(), d.ID); err != nil {
			t.Error(err)
		}
	})
	p := k.place(d.ID)
	ensure := func(d workload.Desired) {
		t.Helper()
		if err := k.Ensure(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	ensure(d)
	st, err := shim.ReadStatus(p.run)
	if err != nil {
		t.Fatal(err)
	}
	// It ends as a job does.
	if _, err := shim.Await(ctx, p.run, func(s shim.Status) bool { return s.State == shim.Running }); err != nil {
		t.Fatal(err)
	}
	over := func(reason string, code int) {
		t.Helper()
		if err := k.endShim(ctx, p); err != nil {
			t.Fatal(err)
		}
		rec, err := readRecord(p)
		if err != nil {
			t.Fatal(err)
		}
		final := shim.Status{Plan: rec.Plan, State: shim.Over, Reason: reason, Exit: process.Exit{Code: code}}
		if err := shim.WriteJSON(p.final, final); err != nil {
			t.Fatal(err)
		}
		if err := shim.WriteJSON(filepath.Join(p.run, "status.json"), final); err != nil {
			t.Fatal(err)
		}
	}
	over(shim.ReasonExited, 0)
	if st.Process.Alive() {
		t.Fatal("it did not end")
	}
	stays := func(what string, d workload.Desired) {
		t.Helper()
		ensure(d)
		if shim.Alive(p.run) {
			t.Errorf("%s: it ran again", what)
		}
		seen, err := k.Observe(ctx)
		if s := seen[d.ID]; err != nil || s.State != contract.StateExited || s.Version != d.Version {
			t.Errorf("%s: %+v, %v", what, s, err)
		}
		ensure(d) // and once more
		if shim.Alive(p.run) {
			t.Errorf("%s: it ran again, the second time", what)
		}
	}
	stays("another deadline", job(func(c *plan.Container, _ *plan.Resources) { c.Life.Deadline = 77 }))
	stays("other limits", job(func(_ *plan.Container, r *plan.Resources) { r.CPU, r.Memory = 100, 64<<20 }))
	stays("never instead of on failure", job(func(c *plan.Container, _ *plan.Resources) { c.Life.Restart = "never" }))
	// The daemon dies between the two files.
	next := job(func(c *plan.Container, _ *plan.Resources) { c.Life.Deadline = 78 })
	parts, err := k.form.Decode(next)
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := digests(next.Plan, parts)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := readRecord(p)
	if err != nil {
		t.Fatal(err)
	}
	if !k.stayOver(parts, p, rec, want) {
		t.Error("not kept")
	}
	stays("broken off half-way", next)

	runs := func(what string, d workload.Desired) {
		t.Helper()
		ensure(d)
		if !shim.Alive(p.run) {
			t.Errorf("%s: it does not run", what)
		}
		over(shim.ReasonExited, 1)
	}
	runs("a service now", job(func(c *plan.Container, _ *plan.Resources) { c.Life.Restart = "always" }))
	stays("failed, and never again", job(func(c *plan.Container, _ *plan.Resources) { c.Life.Restart = "never" }))
	runs("failed, and on failure again", job(func(*plan.Container, *plan.Resources) {}))
	runs("another program", job(func(c *plan.Container, _ *plan.Resources) { c.Args = []string{"/bin/other"} }))
}
