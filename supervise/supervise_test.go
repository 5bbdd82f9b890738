package supervise

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var quick = Backoff{First: time.Millisecond, Max: 10 * time.Millisecond, Reset: time.Hour}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a tree that must be able to stop.
func start(t *testing.T, root Runnable) *Tree {
	t.Helper()
	tree := Start(context.Background(), root, quick, nil)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := tree.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return tree
}

func wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func state(tree *Tree, name string) State {
	for _, s := range tree.States() {
		if s.Name == name {
			return s
		}
	}
	return State{}
}

// block signals and works until cancelled.
func block(ctx context.Context) error {
	Signal(ctx, Healthy)
	<-ctx.Done()
	return ctx.Err()
}

func TestFailedRunnableStartsAgain(t *testing.T) {
	var runs atomic.Int32
	boom := errors.New("boom")
	tree := start(t, func(ctx context.Context) error {
		err := Run(ctx, "flaky", func(ctx context.Context) error {
			if runs.Add(1) < 4 {
				return boom
			}
			return block(ctx)
		})
		if err != nil {
			return err
		}
		return block(ctx)
	})
	wait(t, "healthy", func() bool { return state(tree, "root.flaky").Phase == Running })
	s := state(tree, "root.flaky")
	if s.Restarts != 3 || !errors.Is(s.Err, boom) {
		t.Errorf("%+v", s)
	}
	if root := state(tree, "root"); root.Restarts != 0 || root.Phase != Running {
		t.Errorf("the parent was touched: %+v", root)
	}
}

func TestPanicIsAnError(t *testing.T) {
	var runs atomic.Int32
	tree := start(t, func(ctx context.Context) error {
		if runs.Add(1) == 1 {
			panic("not again")
		}
		return block(ctx)
	})
	wait(t, "healthy after the panic", func() bool { return state(tree, "root").Phase == Running })
	if s := state(tree, "root"); s.Err == nil || !strings.Contains(s.Err.Error(), "panic: not again") {
		t.Errorf("%+v", s)
	}
}

func TestReturningWithoutDoneIsAFailure(t *testing.T) {
	var runs atomic.Int32
	tree := start(t, func(context.Context) error { runs.Add(1); return nil })
	wait(t, "three runs", func() bool { return runs.Load() >= 3 })
	if s := state(tree, "root"); s.Err == nil {
		t.Errorf("%+v", s)
	}
}

func TestDoneIsForGoodAndItsChildrenGoOn(t *testing.T) {
	var runs atomic.Int32
	tree := start(t, func(ctx context.Context) error {
		runs.Add(1)
		if err := Run(ctx, "worker", block); err != nil {
			return err
		}
		Signal(ctx, Done)
		return nil
	})
	wait(t, "done", func() bool { return state(tree, "root").Phase == Finished })
	wait(t, "worker", func() bool { return state(tree, "root.worker").Phase == Running })
	if runs.Load() != 1 {
		t.Errorf("ran %d times", runs.Load())
	}
}

func TestGroupLivesAndDiesTogether(t *testing.T) {
	var a, b, other atomic.Int32
	fail := make(chan struct{})
	count := func(n *atomic.Int32, fail <-chan struct{}) Runnable {
		return func(ctx context.Context) error {
			n.Add(1)
			Signal(ctx, Healthy)
			select {
			case <-fail:
				return errors.New("told to fail")
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	tree := start(t, func(ctx context.Context) error {
		if err := Run(ctx, "other", count(&other, nil)); err != nil {
			return err
		}
		if err := RunGroup(ctx, map[string]Runnable{"a": count(&a, fail), "b": count(&b, nil)}); err != nil {
			return err
		}
		return block(ctx)
	})
	wait(t, "all healthy", func() bool { return a.Load() == 1 && b.Load() == 1 && other.Load() == 1 })
	fail <- struct{}{}
	wait(t, "both started again", func() bool { return a.Load() == 2 && b.Load() == 2 })
	if other.Load() != 1 || state(tree, "root").Restarts != 0 {
		t.Error("a runnable outside the group was started again")
	}
}

func TestChildrenNeverOutliveTheirParent(t *testing.T) {
	var alive, most atomic.Int32
	var runs atomic.Int32
	child := func(ctx context.Context) error {
		if n := alive.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer alive.Add(-1)
		Signal(ctx, Healthy)
		<-ctx.Done()
		time.Sleep(5 * time.Millisecond) // slow to end
		return ctx.Err()
	}
	start(t, func(ctx context.Context) error {
		if err := Run(ctx, "child", child); err != nil {
			return err
		}
		if runs.Add(1) < 5 {
			time.Sleep(2 * time.Millisecond)
			return errors.New("again")
		}
		return block(ctx)
	})
	wait(t, "five runs", func() bool { return runs.Load() == 5 && alive.Load() == 1 })
	if most.Load() != 1 {
		t.Errorf("%d children of one name at a time", most.Load())
	}
}

func TestNamesAreUniqueAndTheDyingBearNoChildren(t *testing.T) {
	var twice, late error
	var once atomic.Bool
	tree := start(t, func(ctx context.Context) error {
		if !once.CompareAndSwap(false, true) {
			return block(ctx)
		}
		if err := Run(ctx, "x", block); err != nil {
			return err
		}
		twice = Run(ctx, "x", block)
		go func() {
			<-ctx.Done()
			late = Run(ctx, "y", block)
			once.Store(true)
		}()
		return errors.New("end")
	})
	wait(t, "second run", func() bool { return state(tree, "root").Phase == Running })
	if twice == nil {
		t.Error("two children of one name")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := tree.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if late == nil {
		t.Error("a runnable that had ended got a child")
	}
}

func TestStopNamesWhoDoesNotReturn(t *testing.T) {
	release := make(chan struct{})
	tree := Start(context.Background(), func(ctx context.Context) error {
		if err := Run(ctx, "stuck", func(ctx context.Context) error { Signal(ctx, Healthy); <-release; return nil }); err != nil {
			return err
		}
		return block(ctx)
	}, quick, nil)
	wait(t, "running", func() bool { return state(tree, "root.stuck").Phase == Running })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := tree.Stop(ctx); err == nil || !strings.Contains(err.Error(), "root.stuck") {
		t.Errorf("stop: %v", err)
	}
	close(release)
	if err := tree.Wait(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestNotifyHearsEveryChange(t *testing.T) {
	heard := make(chan State, 100)
	var runs atomic.Int32
	tree := Start(context.Background(), func(ctx context.Context) error {
		if runs.Add(1) == 1 {
			return errors.New("first")
		}
		return block(ctx)
	}, quick, func(s State) { heard <- s })
	var phases []string
	for range 5 {
		phases = append(phases, string((<-heard).Phase))
	}
	if err := tree.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(phases, " "); got != "starting dead backoff starting healthy" {
		t.Error(got)
	}
}

func TestBackoffGrowsAndBeginsAgain(t *testing.T) {
	b := Backoff{First: 100 * time.Millisecond, Max: time.Second, Reset: time.Minute}
	for n, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 4: 800 * time.Millisecond, 5: time.Second, 1000: time.Second} {
		if got := b.Pause(n); got != want {
			t.Errorf("pause %d: %v, want %v", n, got, want)
		}
	}
	seen := map[time.Duration]bool{}
	for range 100 {
		n, p := b.Failed(3, time.Second)
		if n != 4 || p < 640*time.Millisecond || p > 960*time.Millisecond {
			t.Fatalf("failed: %d, %v", n, p)
		}
		seen[p] = true
	}
	if len(seen) < 10 {
		t.Error("the pauses are not spread")
	}
	if n, p := b.Failed(9, time.Minute); n != 1 || p > 120*time.Millisecond {
		t.Errorf("after a long run: %d, %v", n, p)
	}
}
