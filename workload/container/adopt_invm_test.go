//go:build invm

package container

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/shim"
)

// killIn kills the shim of a workload as soon as it is in a state.
func killIn(t *testing.T, k *Kind, id workload.ID, state shim.State) shim.Status {
	t.Helper()
	var st shim.Status
	until(t, string(state), func() bool {
		var err error
		st, err = shim.ReadStatus(k.place(id).run)
		return err == nil && st.State == state && st.Shim.Alive()
	})
	must(t, unix.Kill(st.Shim.PID, unix.SIGKILL))
	until(t, "shim dead", func() bool { return !shim.Alive(k.place(id).run) })
	return st
}

// ensured calls Ensure until it succeeds: a start that a kill broke off may fail once.
func ensured(t *testing.T, k *Kind, d workload.Desired) {
	t.Helper()
	until(t, "ensured", func() bool { return k.Ensure(timeout(t), d) == nil })
}

func TestShimKilledInEveryStateIsGoneOnFrom(t *testing.T) {
	k := kind(t, &plainRootfs{})

	// Starting: Ensure is watched by nobody but itself.
	d := desire(t, "starting", []string{"append", "/file"})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() { defer wg.Done(); _ = k.Ensure(timeout(t), d) }()
	killIn(t, k, d.ID, shim.Starting)
	wg.Wait()
	ensured(t, k, d)
	output(t, k, d.ID, "lines 1")

	// Running, and the container dies with it: its data stays.
	st := killIn(t, k, d.ID, shim.Running)
	must(t, unix.Kill(st.Process.PID, unix.SIGKILL))
	ensured(t, k, d)
	output(t, k, d.ID, "lines 2")
	until(t, "counted as a restart", func() bool { return status(t, k, d.ID).Restarts == 1 })
	if now := status(t, k, d.ID); now.Reason != shim.ReasonSignal || now.Failures != 1 {
		t.Errorf("ended while nobody watched: %+v", now)
	}
	must(t, k.Remove(timeout(t), d.ID))

	// Ending: the next one finishes it, and then goes on.
	d = desire(t, "ending", []string{"trap"})
	must(t, k.Ensure(timeout(t), d))
	output(t, k, d.ID, "trapped")
	k.cfg.Grace = time.Minute
	spec, err := shim.ReadSpec(k.place(d.ID).run)
	must(t, err)
	spec.Life.Grace = 5 * time.Second
	must(t, shim.WriteSpec(k.place(d.ID).run, spec))
	if !k.reload(timeout(t), k.place(d.ID)) {
		t.Fatal("not reloaded")
	}
	if c := hear(t, dial(t, k, d.ID, control.Request{Verb: control.VerbRestart})); c.code != 0 {
		t.Fatal(c.failure)
	}
	st = killIn(t, k, d.ID, shim.Ending)
	if !st.Process.Alive() || st.Cause != shim.ReasonRestart {
		t.Errorf("%+v", st)
	}
	ensured(t, k, d)
	until(t, "restarted", func() bool { now := status(t, k, d.ID); return now.Restarts == 1 && now.State == shim.Running })
	if now := status(t, k, d.ID); now.Reason != shim.ReasonRestart || now.Failures != 0 || st.Process.Alive() {
		t.Errorf("%+v", now)
	}
	// Stopping: Remove finishes by itself.
	wg.Add(1)
	var removed error
	go func() { defer wg.Done(); removed = k.Remove(timeout(t), d.ID) }()
	killIn(t, k, d.ID, shim.Stopping)
	wg.Wait()
	must(t, removed)
	if _, there := mustObserve(t, k)[d.ID]; there {
		t.Error("something is left")
	}

	// Waiting, then given up.
	d = desire(t, "loop", []string{"exit", "3"}, lives(func(l *plan.Life) { l.Attempts = 4 }))
	must(t, k.Ensure(timeout(t), d))
	st = killIn(t, k, d.ID, shim.Waiting)
	ensured(t, k, d)
	until(t, "exhausted", func() bool { return status(t, k, d.ID).State == shim.Exhausted })
	if now := status(t, k, d.ID); now.Failures != 4 || now.Exit.Code != 3 {
		t.Errorf("%+v", now)
	}
	killIn(t, k, d.ID, shim.Exhausted)
	ensured(t, k, d)
	if s := observe(t, k, d.ID); s.State != contract.StateFailed || s.Reason != shim.ReasonAttempts {
		t.Errorf("%+v", s)
	}
}

// A node daemon that comes back finds its shims by reading, and shims that died are
// replaced side by side; TestAHundredAreFoundAgainWithinTwoSeconds asserts the time.
// ZOS_TEST_MANY is how many, for measuring.
func TestManyAreFoundAgainFast(t *testing.T) {
	k := kind(t, &plainRootfs{})
	many := 3
	if n, err := strconv.Atoi(os.Getenv("ZOS_TEST_MANY")); err == nil {
		many = n
	}
	var all []workload.Desired
	for n := range many {
		all = append(all, desire(t, fmt.Sprintf("app-%d", n), []string{"sleep"}, memory(24<<20), func(d *workload.Desired, _ *planContainer) { d.Plan.Resources.Disk = 1 }))
	}
	each := func() time.Duration {
		began := time.Now()
		var wg sync.WaitGroup
		room := make(chan struct{}, 4)
		for _, d := range all {
			wg.Add(1)
			go func() {
				defer wg.Done()
				room <- struct{}{}
				defer func() { <-room }()
				if err := k.Ensure(timeout(t), d); err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		return time.Since(began)
	}
	t.Logf("measured: first start of %d containers: %d ms", many, each().Milliseconds())
	for _, d := range all {
		running(t, k, d.ID)
	}
	first := map[workload.ID]shim.Status{}
	for _, d := range all {
		first[d.ID] = status(t, k, d.ID)
	}
	began := time.Now()
	seen := mustObserve(t, k)
	t.Logf("measured: Observe of %d: %d us", many, time.Since(began).Microseconds())
	if len(seen) != many {
		t.Errorf("%d observed", len(seen))
	}
	t.Logf("measured: Ensure of %d that stand: %d us", many, each().Microseconds())
	for _, d := range all {
		must(t, unix.Kill(first[d.ID].Shim.PID, unix.SIGKILL))
	}
	for _, d := range all {
		until(t, "shim dead", func() bool { return !shim.Alive(k.place(d.ID).run) })
	}
	t.Logf("measured: %d containers adopted by new shims: %d ms, four at a time", many, each().Milliseconds())
	for _, d := range all {
		if now := status(t, k, d.ID); now.Process != first[d.ID].Process || !now.Process.Alive() || now.Restarts != 0 || now.Shim == first[d.ID].Shim {
			t.Errorf("not adopted: %+v, was %+v", now, first[d.ID])
		}
	}
}
