//go:build invm

package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

// patience bounds every wait; a nested machine may take a minute to start.
const patience = 5 * time.Minute

// TestCyclesLeakNothing creates and deletes workloads, each with a fault drawn from the
// seed, and asserts after each that it converged, and after every hundred that the
// node is as it was.
func TestCyclesLeakNothing(t *testing.T) {
	soak(t, plan.IsolationNamespace, number("ZOS_SOAK_CYCLES", 20))
}

// TestMachineCyclesLeakNothing does the same with containers in micro-VMs.
func TestMachineCyclesLeakNothing(t *testing.T) {
	soak(t, plan.IsolationMicroVM, number("ZOS_SOAK_MACHINES", 2))
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

func soak(t *testing.T, isolation string, cycles int) {
	seed, first := uint64(number("ZOS_SOAK_SEED", 1)), number("ZOS_SOAK_FIRST", 0)
	r := &run{t: t}
	defer r.stop()
	// The first use makes directories, groups and descriptors that stay.
	warm := []Cycle{{N: 1 << 20, Isolation: isolation, Strike: Strike{None, Running}, Program: Serve, CPU: 1000, Memory: 64 << 20, Disk: 64 << 20, PIDs: 64, Network: true, Health: plan.CheckTCP}}
	if isolation == plan.IsolationNamespace {
		killed, other := warm[0], warm[0]
		killed.Strike, killed.N = Strike{Daemon, Created}, killed.N+1
		other.Strike, other.N = Strike{Full, Running}, other.N+2
		warm = append(warm, killed, other)
	}
	for _, c := range warm {
		r.cycle(c)
	}
	before := r.between()
	struck, classes := map[Strike]int{}, map[Program]int{}
	began := time.Now()
	r.parts = nil
	idle0, waiting0 := idle()
	var slowest time.Duration
	asked, limit := cycles, 24*time.Hour
	if d, err := time.ParseDuration(os.Getenv("ZOS_SOAK_FOR")); err == nil {
		limit = d
	}
	for n := range asked {
		if time.Since(began) > limit {
			cycles = n
			t.Logf("measured: %d of %d cycles in %v", n, asked, limit)
			break
		}
		c := Draw(seed, isolation, first+n)
		start := time.Now()
		if r.cycle(c) {
			struck[c.Strike]++
		}
		classes[c.Program]++
		if d := time.Since(start); d > slowest {
			slowest = d
			t.Logf("slowest so far: %.1f s, %v", d.Seconds(), c)
		}
		if (n+1)%100 == 0 && n+1 < cycles {
			took := time.Since(began)
			r.between()
			nothingLeaked(t, before, fmt.Sprintf("after %d cycles, %.1f s each", n+1, took.Seconds()/float64(n+1)))
		}
	}
	took := time.Since(began)
	r.between()
	nothingLeaked(t, before, fmt.Sprintf("seed %d, after %d cycles of class %s from %d on, in %.0f s", seed, cycles, isolation, first, took.Seconds()))
	byFault := map[Fault]int{}
	for s, n := range struck {
		byFault[s.Fault] += n
	}
	for _, f := range slices.Sorted(maps.Keys(byFault)) {
		t.Logf("measured: %s struck %d times", f, byFault[f])
	}
	t.Logf("measured: programs %v; networks made and removed: %d; the slowest cycle took %.1f s", classes, r.networks, slowest.Seconds())
	idle1, waiting1 := idle()
	t.Logf("measured: %.0f s were idle, %.0f s more for the disk alone; parts of the time: %v", (idle1 - idle0).Seconds(), (waiting1 - waiting0).Seconds(), r.parts)
	// A fault that never strikes proves nothing.
	if all := Strikes(isolation); cycles >= 2*len(all) {
		for _, s := range all {
			if s.Fault != None && struck[s] == 0 {
				t.Errorf("%v never struck", s)
			}
		}
	}
}

// run is a run of cycles.
type run struct {
	t        *testing.T
	now      *daemon // the node daemon; nil: none, or a process of its own
	networks int
	parts    map[string]time.Duration // of all cycles
}

func (r *run) daemon() *daemon {
	if r.now == nil {
		d, err := newDaemon()
		must(r.t, err)
		r.now = d
	}
	return r.now
}

// laps returns what adds the time since the last call to a part of the whole.
func (r *run) laps() func(string) {
	last := time.Now()
	if r.parts == nil {
		r.parts = map[string]time.Duration{}
	}
	return func(part string) {
		now := time.Now()
		r.parts[part] += now.Sub(last)
		last = now
	}
}

// idle is how long the processors have had nothing to do, and how long they waited for
// the disk with nothing to do, since the machine began.
func idle() (idle, waiting time.Duration) {
	b, _ := os.ReadFile("/proc/stat")
	f := strings.Fields(string(b))
	if len(f) < 6 {
		return 0, 0
	}
	of := func(s string) time.Duration {
		n, _ := strconv.Atoi(s)
		return time.Duration(n) * time.Second / 100
	}
	return of(f[4]), of(f[5])
}

func (r *run) stop() {
	if r.now != nil {
		must(r.t, r.now.close())
		r.now = nil
	}
}

// between ends the daemon and takes away what is the test's own, not the node's.
func (r *run) between() trace {
	r.stop()
	must(r.t, os.RemoveAll("/tmp/lower"))
	must(r.t, os.Truncate(nodeLog, 0))
	now, err := take()
	must(r.t, err)
	return now
}

// cycle creates a workload, lets its fault strike, asserts that it converges, and
// deletes it. It returns false if the fault found nothing to strike.
func (r *run) cycle(c Cycle) bool {
	w, err := desired(c)
	must(r.t, err)
	defer func() {
		if r.t.Failed() {
			r.dump(c, w)
		}
	}()
	if c.Network {
		r.networks++
	}
	f := &fault{run: r, cycle: c, desired: w, place: placeOf(w.ID), done: make(chan struct{})}
	defer f.undo()
	late := c.Moment == Stopping || c.Moment == Removing
	if !late {
		f.watch()
	}
	lap := r.laps()
	f.perform("ensure")
	lap("ensure")
	if !late {
		f.wait()
	}
	if c.Fault == Replace {
		r.stop()
	}
	lap("fault")
	r.converge(f)
	lap("converge")
	if late {
		f.watch()
	}
	f.perform("remove")
	if late {
		f.wait()
	}
	r.until(c, "removed", func() error { return r.daemon().remove(r.context(), w) })
	lap("remove")
	all, err := r.daemon().Observe(r.context())
	must(r.t, err)
	if len(all) != 0 {
		r.t.Fatalf("%v: after its removal there is %+v", c, all)
	}
	return f.struck
}

func (r *run) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

// until calls f until it succeeds.
func (r *run) until(c Cycle, what string, f func() error) {
	r.t.Helper()
	end := time.Now().Add(patience) // by the monotonic clock, which doesn't jump
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("%v: not %s after %v: %v", c, what, patience, err)
		}
		time.Sleep(60 * time.Millisecond)
	}
}

// truthful are the codes with which an Ensure may fail that a fault disturbed.
var truthful = []string{"disk-full", shim.ReasonStart}

// converge calls Ensure as the reconciler does until the workload is what its plan
// says, or its end is told as it was.
func (r *run) converge(f *fault) {
	r.t.Helper()
	c, id := f.cycle, f.desired.ID
	r.until(c, "what it must be", func() error {
		if err := r.daemon().ensure(r.context(), f.desired); err != nil {
			if code := problem.Code(err); !slices.Contains(truthful, code) {
				r.t.Logf("%v: ensure: code %q: %v", c, code, err)
			}
			return err
		}
		all, err := r.daemon().Observe(r.context())
		must(r.t, err)
		return f.settled(all[id])
	})
	if c.Fault == Full || c.Job() && c.Program != Exit {
		return // what it printed may have found no room
	}
	r.until(c, "given what its plan says", func() error { return f.said() })
	if c.Fault == Full || c.Job() || c.Program == Crash {
		return
	}
	st, _ := f.place.status()
	switch {
	case f.before.Process.PID == 0 || c.Moment == Ending || c.Moment == Created:
	case c.Fault == Shim, c.Fault == Daemon, c.Fault == Replace, c.Fault == Clock, c.Fault == None:
		if st.Process != f.before.Process || st.Restarts != 0 {
			r.t.Fatalf("%v: it was restarted: %+v, was %+v", c, st, f.before)
		}
	case c.Fault == Init, c.Fault == Monitor, c.Fault == FileServer, c.Fault == Agent:
		want := map[Fault]string{Init: shim.ReasonSignal, Monitor: shim.ReasonVMM, FileServer: shim.ReasonVMM, Agent: shim.ReasonPanic}[c.Fault]
		if st.Process == f.before.Process || st.Restarts != 1 || st.Reason != want {
			r.t.Fatalf("%v: %+v, was %+v; want one restart because of %s", c, st, f.before, want)
		}
	}
}

// settled returns nil if s is where the workload's life leads.
func (f *fault) settled(s workload.Status) error {
	c := f.cycle
	not := fmt.Errorf("status %+v", s)
	if s.Version != 1 {
		return not
	}
	if c.Job() {
		end := fmt.Sprint(s.State, " ", s.ExitCode, " ", s.Reason)
		want := map[Program]string{
			Exit: fmt.Sprint(contract.StateExited, " ", c.Code, " exited"), Hog: fmt.Sprint(contract.StateFailed, " 137 oom-killed"), Fill: fmt.Sprint(contract.StateFailed, " 1 disk-full"),
		}[c.Program]
		want = strings.Replace(want, contract.StateFailed, s.State, 1) // the reason says it
		if end == want && (s.State == contract.StateExited || s.State == contract.StateFailed) {
			return nil
		}
		return not
	}
	st, ok := f.place.status()
	if !ok || st.State != shim.Running || !st.Process.Alive() || c.Health != "" && !st.Healthy {
		return fmt.Errorf("%w, shim %+v", not, st)
	}
	// One that was started again counts as running after five seconds.
	if s.State != contract.StateRunning && !(s.State == contract.StateFailed && st.Restarts > 0) {
		return not
	}
	if s.State == contract.StateRunning && c.Health != "" && !s.Ready {
		return not
	}
	return nil
}

// said returns nil once the program has printed what its plan gives it.
func (f *fault) said() error {
	var given []string
	for i := range 4 {
		g := ""
		if i < f.cycle.Files {
			g += fmt.Sprintf("file %d", i)
		}
		if i < f.cycle.Secrets {
			g += fmt.Sprintf("opened secret %d", i)
		}
		given = append(given, g)
	}
	want, last := " given "+strings.Join(given, ","), ""
	recs, _, err := logs.NewReader(f.place.data+"/log").Read(1, 100000)
	if err != nil {
		return err
	}
	for _, rec := range recs {
		if rec.Stream != logs.Node {
			if last = string(rec.Data); strings.HasPrefix(last, "run ") && strings.HasSuffix(last, want) {
				return nil
			}
		}
	}
	return fmt.Errorf("it printed %q, want %q", last, want)
}

// fault is the fault of one cycle.
type fault struct {
	*run
	cycle   Cycle
	desired workload.Desired
	place   place
	before  shim.Status // as it was when the fault struck
	struck  bool
	done    chan struct{}
	process *exec.Cmd     // the daemon, if it is one to be killed
	jumped  time.Duration // what is to be taken from the clock
	watched bool
	err     error
}

// watch lets the fault strike when its moment comes.
func (f *fault) watch() {
	f.watched = true
	go func() {
		defer close(f.done)
		end := time.Now().Add(patience)
		for !f.at(f.cycle.Moment) {
			if time.Now().After(end) || f.passed() {
				return
			}
			time.Sleep(3 * time.Millisecond) // each look costs an emulated processor something
		}
		f.before, _ = f.place.status()
		f.struck, f.err = f.strike()
	}()
}

// wait returns when the fault has struck, or can't any more.
func (f *fault) wait() {
	<-f.done
	must(f.t, f.err)
}

// perform asks the node daemon for the workload, or for its removal: a process if it
// is to be killed meanwhile.
func (f *fault) perform(verb string) {
	c := f.cycle
	late := c.Moment == Stopping || c.Moment == Removing
	if c.Fault == Daemon && late == (verb == "remove") {
		f.stop()
		var err error
		f.process, err = startDaemon(verb, f.desired)
		must(f.t, err)
		if c.Moment == Ending {
			f.restart()
		}
		<-f.done
		must(f.t, f.process.Process.Kill()) // whether it has struck or not
		_ = f.process.Wait()
		return
	}
	d := f.daemon()
	var err error
	if verb == "remove" {
		err = d.remove(f.context(), f.desired)
	} else {
		err = d.ensure(f.context(), f.desired)
	}
	if err != nil && !slices.Contains(truthful, problem.Code(err)) && verb == "ensure" {
		f.t.Logf("%v: %s: code %q: %v", c, verb, problem.Code(err), err)
	}
	if c.Moment == Ending && verb == "ensure" {
		f.restart()
	}
}

// restart asks the shim for a restart by hand.
func (f *fault) restart() {
	f.t.Helper()
	f.until(f.cycle, "running before its restart", func() error {
		if st, ok := f.place.status(); !ok || st.State != shim.Running {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	conn, err := shim.Dial(f.context(), f.place.run)
	must(f.t, err)
	_, err = control.Ask(f.context(), conn, control.Request{Verb: control.VerbRestart}, nil)
	must(f.t, err)
}

// at tells whether the moment has come.
func (f *fault) at(m Moment) bool {
	p := f.place
	there := func(path string) bool { _, err := os.Lstat(path); return err == nil }
	switch m {
	case Recorded:
		return there(p.data + "/container.json")
	case Layered:
		return there(p.data + "/disk.img")
	case Mounted:
		return there(p.run + "/bundle/rootfs/bin/payload")
	case Configured:
		return there(p.run + "/spec.json")
	case Created:
		return there(p.runc + "/state.json")
	case Removing:
		return !there(p.run) && there(p.data+"/container.json")
	}
	st, ok := p.status()
	if !ok {
		return false
	}
	switch m {
	case Ready:
		return st.State == shim.Running && st.Healthy
	case Running:
		return st.State == shim.Running && st.Process.Alive()
	}
	return st.State == map[Moment]shim.State{Starting: shim.Starting, Waiting: shim.Waiting, Ending: shim.Ending, Stopping: shim.Stopping}[m]
}

// passed tells whether the moment can't come any more.
func (f *fault) passed() bool {
	switch f.cycle.Moment {
	case Stopping, Removing:
		_, err := os.Lstat(f.place.data + "/container.json")
		return os.IsNotExist(err)
	case Recorded, Layered, Mounted, Configured, Starting, Created:
		st, ok := f.place.status()
		return ok && st.State != shim.Starting && !f.at(f.cycle.Moment)
	}
	return false
}

// strike is the fault. It returns false if there was nothing to strike.
func (f *fault) strike() (bool, error) {
	p := f.place
	kill := func(pids ...int) (bool, error) {
		hit := false
		for _, pid := range pids {
			if pid > 1 && unix.Kill(pid, unix.SIGKILL) == nil {
				hit = true
			}
		}
		return hit, nil
	}
	first := func(id string) int {
		_, pid, _ := (shim.Runtime{Root: "/run/zos/runc", ID: id, Cgroup: "/sys/fs/cgroup/zos/" + p.key}).State(context.Background())
		return pid
	}
	// of calls what finds the victims until there are some: they come a moment later.
	of := func(find func() []int) (bool, error) {
		for range 500 {
			if pids := find(); len(pids) > 0 {
				return kill(pids...)
			}
			if f.gone() {
				break
			}
			time.Sleep(time.Millisecond)
		}
		return false, nil
	}
	switch f.cycle.Fault {
	case Daemon:
		return kill(f.process.Process.Pid)
	case Replace:
		return true, nil // by cycle, when its Ensure has come back
	case Shim:
		return of(func() []int {
			return processes(func(_ int, cmd string) bool {
				return strings.Contains(cmd, p.run) && strings.Contains(cmd, "zos-shim")
			})
		})
	case Runc:
		return of(func() []int {
			return processes(func(pid int, cmd string) bool {
				return strings.HasPrefix(cmd, "/bin/runc ") && strings.Contains(cmd, p.key)
			})
		})
	case Init, Monitor:
		return of(func() []int {
			if pid := first(p.key); pid > 0 {
				return []int{pid}
			}
			return nil
		})
	case FileServer:
		return of(func() []int {
			if pid := first(p.key + ".fs"); pid > 0 {
				return []int{pid}
			}
			return nil
		})
	case Agent:
		return true, f.panicGuest()
	case Full:
		return true, f.fillDisk()
	case Clock:
		return true, f.jump(f.cycle.Jump)
	}
	return true, nil
}

// gone tells whether what the fault would strike has no more to come.
func (f *fault) gone() bool {
	st, ok := f.place.status()
	return ok && f.cycle.Moment != Running && st.State == shim.Running
}

const filler = dataDir + "/filler"

// fillDisk leaves no byte of the data disk free, for a while: Ensure, Observe and
// Remove must cope, and say what is the matter.
func (f *fault) fillDisk() error {
	file, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	size := int64(0)
	for step := int64(dataSize); step >= 4096; {
		if err := unix.Fallocate(int(file.Fd()), 0, size, step); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				return err
			}
			step /= 2
			continue
		}
		size += step
	}
	time.Sleep(time.Duration(100+f.cycle.Code*5) * time.Millisecond)
	return os.Remove(filler)
}

// jump moves the node's clock.
func (f *fault) jump(by time.Duration) error {
	var tv unix.Timeval
	if err := unix.Gettimeofday(&tv); err != nil {
		return err
	}
	tv.Sec += int64(by / time.Second)
	f.jumped += by
	return unix.Settimeofday(&tv)
}

// panicGuest ends the guest's first process, its agent, by its own kernel: a program in
// the guest that has every right can't do more.
func (f *fault) panicGuest() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := shim.Dial(ctx, f.place.run)
	if err != nil {
		return err
	}
	c, err := control.Dial(ctx, conn, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/bin/payload", "panic"}}})
	if err != nil {
		return err
	}
	defer c.Close()
	var said bytes.Buffer
	for {
		typ, b, err := c.Read()
		if err != nil || typ == control.FrameExit || typ == control.FrameError {
			if typ == control.FrameExit {
				return fmt.Errorf("the guest lives on: %s", said.String())
			}
			return nil
		}
		said.Write(b)
	}
}

// undo gives the node its time back.
func (f *fault) undo() {
	if f.watched {
		<-f.done
	}
	if f.jumped != 0 {
		must(f.t, f.jump(-f.jumped))
	}
}

// dump shows what is known of a cycle that failed.
func (r *run) dump(c Cycle, w workload.Desired) {
	p := placeOf(w.ID)
	r.t.Logf("%v", c)
	for _, f := range []string{p.run + "/status.json", p.run + "/runc.log", p.run + "/fs-runc.log", p.run + "/shim.err", p.data + "/final.json", p.data + "/container.json", p.runc + "/state.json"} {
		if b, err := os.ReadFile(f); err == nil {
			r.t.Logf("%s: %.2000s", f, b)
		}
	}
	recs, _, _ := logs.NewReader(p.data+"/log").Read(1, 1000)
	for _, rec := range recs[max(0, len(recs)-40):] {
		r.t.Logf("log %v: %s", rec.Stream, rec.Data)
	}
	if b, err := os.ReadFile(nodeLog); err == nil {
		r.t.Logf("the daemon's log ends with:\n%s", b[max(0, len(b)-4000):])
	}
	for _, pid := range processes(func(int, string) bool { return true }) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		ref, _ := process.Of(pid)
		r.t.Logf("process %v: %.200s", ref, strings.ReplaceAll(string(b), "\x00", " "))
	}
}
