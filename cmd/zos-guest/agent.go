package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/clock"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/control"
)

// lingers is how long an ended workload waits for a node that wants to know how.
const lingers = 10 * time.Minute

// agent is process 1.
type agent struct {
	modules modules
	reaper  *reaper
	out     *output
	over    chan struct{} // closed when the node knows how it ended

	mu       sync.Mutex
	boot     *control.Boot // nil until the node has said what to run
	program  *process      // nil until it runs
	started  time.Time
	sender   context.CancelFunc // ends the present stream of output
	overOnce sync.Once
	visits   atomic.Uint64 // processes beside the program so far
}

// run is process 1's life: until the workload has ended and the node knows.
func run() error {
	initrd, err := mountBasics()
	if err != nil {
		return err
	}
	p, err := openPort()
	if err != nil {
		return err
	}
	a := &agent{modules: modules{initrd}, reaper: newReaper(), out: newOutput(), over: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		s := guest.Server{Handler: func(ctx context.Context, conn net.Conn) { control.ServeConn(ctx, conn, a.handle) }}
		failed <- s.Serve(ctx, p)
	}()
	go a.linger(ctx)
	select {
	case err := <-failed:
		return err
	case <-a.over:
		return nil
	}
}

// linger powers off when nobody comes to hear how the workload ended.
func (a *agent) linger(ctx context.Context) {
	if a.out.wait(ctx) == nil {
		time.Sleep(lingers)
		a.finish()
	}
}

func (a *agent) finish() { a.overOnce.Do(func() { close(a.over) }) }

// handle answers one request of the node's.
func (a *agent) handle(ctx context.Context, c *control.Conn, r control.Request) error {
	switch r.Verb {
	case control.VerbBoot:
		return a.bootVerb(ctx, c, *r.Boot)
	case control.VerbAttach:
		return a.attach(ctx, c)
	case control.VerbStop:
		return a.stop(ctx, c, unix.Signal(r.Signal), time.Duration(r.Grace)*time.Millisecond)
	case control.VerbSignal:
		p, err := a.running()
		if err != nil {
			return err
		}
		if err := p.signal(unix.Signal(r.Signal)); err != nil {
			return fmt.Errorf("send signal %d: %w", r.Signal, err)
		}
		return c.Exit(0)
	case control.VerbClock:
		if err := clock.Step(time.Unix(0, r.Time)); err != nil {
			return err
		}
		return c.Exit(0)
	case control.VerbStatus:
		return c.Result(a.stats())
	case control.VerbExec, control.VerbGet, control.VerbPut:
		if _, err := a.running(); err != nil {
			return err
		}
		if r.Verb == control.VerbExec {
			return a.exec(ctx, c, *r.Exec)
		}
		return a.copyFiles(ctx, c, tarJob{Path: r.Path, Unpack: r.Verb == control.VerbPut})
	case control.VerbProbe:
		return a.probe(ctx, c, *r.Probe)
	case control.VerbResize:
		return a.resize(c, *r.Limits)
	}
	return fmt.Errorf("a guest's agent doesn't know the verb %s", r.Verb)
}

// running is the program, or why there is none.
func (a *agent) running() (process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.program == nil {
		return process{}, problem.New("not-running", "the workload does not run")
	}
	return *a.program, nil
}

// bootVerb starts the workload, once in a guest's life.
func (a *agent) bootVerb(ctx context.Context, c *control.Conn, b control.Boot) error {
	a.mu.Lock()
	if a.boot != nil {
		a.mu.Unlock()
		return errors.New("this guest has been told what to run already")
	}
	a.boot = &b
	a.mu.Unlock()
	if err := a.start(b); err != nil {
		a.out.end(0, problem.New("start-failed", "start the workload in its guest: %w", err))
	}
	return a.attach(ctx, c)
}

// attach streams the output. Its first frame is an empty one: the program runs.
func (a *agent) attach(ctx context.Context, c *control.Conn) error {
	a.mu.Lock()
	if a.boot == nil {
		a.mu.Unlock()
		return problem.New("not-running", "this guest has not been told yet what to run")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if a.sender != nil {
		a.sender()
	}
	a.sender = cancel
	runs := a.program != nil
	a.mu.Unlock()
	if runs {
		if err := c.Write(control.FrameStdout, nil); err != nil {
			return err
		}
	}
	// The node closes when it has heard enough.
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		drain(c)
		cancel()
	}()
	if err := a.out.send(ctx, c); err != nil {
		return errDisplaced // or the connection is gone, and nobody hears this
	}
	<-closed
	a.finish()
	return nil
}

// start makes the workload's world and runs its program in it.
func (a *agent) start(b control.Boot) error {
	if b.Time != 0 {
		if err := clock.Step(time.Unix(0, b.Time)); err != nil {
			return err
		}
	}
	// Not worth a workload's start, if they fail.
	if err := a.modules.load(guest.GroupMachine); err != nil {
		fmt.Printf("zos-guest: %v\n", err)
	}
	if hasDevice(virtioNet) {
		if err := a.modules.load(guest.GroupNet); err != nil {
			return err
		}
	}
	if err := configure(b.Interfaces); err != nil {
		return err
	}
	if err := a.mountRoot(b.Root, b.Privileged); err != nil {
		return err
	}
	binds, err := writeFiles(b)
	if err != nil {
		return err
	}
	group, err := openGroup(b.PIDs)
	if err != nil {
		return err
	}
	defer group.Close()
	o := a.order(b.Args, nil, "", nil)
	o.New = &newRoot{Hostname: b.Hostname, Binds: binds}
	p, err := a.startProgram(o, group)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.program, a.started = &p, time.Now()
	a.mu.Unlock()
	go func() {
		ws := <-p.ended
		a.mu.Lock()
		a.program = nil
		_ = unix.Close(p.pidfd)
		a.mu.Unlock()
		a.out.end(exitCode(ws), nil)
	}()
	return nil
}

// order is one for a process of the workload; what is empty is the workload's own.
func (a *agent) order(args, env []string, workDir string, user *control.User) order {
	b := a.boot
	o := order{
		Args: args, Env: append(append([]string(nil), b.Env...), env...), WorkDir: b.WorkDir, User: b.User,
		NoNewPrivs: b.NoNewPrivs, Privileged: b.Privileged,
	}
	if workDir != "" {
		o.WorkDir = workDir
	}
	if user != nil {
		o.User = *user
	}
	return o
}

// stop ends the workload: the signal first, SIGKILL after grace.
func (a *agent) stop(ctx context.Context, c *control.Conn, s unix.Signal, grace time.Duration) error {
	p, err := a.running()
	if err == nil {
		_ = p.signal(s) // it may be ending
		waiting, cancel := context.WithTimeout(ctx, grace)
		err = a.out.wait(waiting)
		cancel()
		if err != nil {
			_ = p.signal(unix.SIGKILL)
			err = a.out.wait(ctx)
		}
		if err != nil {
			return err
		}
		unix.Sync()
		return c.Exit(0)
	}
	// Nothing runs: there is nobody whose end the node would wait for.
	unix.Sync()
	err = c.Exit(0)
	a.mu.Lock()
	told := a.sender != nil // somebody hears how it ended, and ends the machine by that
	a.mu.Unlock()
	if !told {
		drain(c)
		a.finish()
	}
	return err
}

// openGroup makes the cgroup of the workload.
func openGroup(pids uint64) (*os.File, error) {
	// Not every kernel has each of them.
	for _, name := range []string{"memory", "pids", "cpu", "io"} {
		_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+name), 0)
	}
	if err := os.Mkdir(groupDir, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	if pids > 0 {
		if err := os.WriteFile(groupDir+"/pids.max", fmt.Append(nil, pids), 0); err != nil {
			return nil, fmt.Errorf("limit processes: %w", err)
		}
	}
	// Out of memory ends the whole workload, not a part of it that the rest waits for.
	if err := os.WriteFile(groupDir+"/memory.oom.group", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("prepare for being out of memory: %w", err)
	}
	g, err := os.Open(groupDir)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return g, nil
}
