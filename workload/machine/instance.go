package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/shim"
)

// Times that things may take.
const (
	controlLimit = 10 * time.Second // a command of QMP, a short request to the agent
	offLimit     = 20 * time.Second // from the end of the program to that of the machine
	killLimit    = 30 * time.Second
	// stalled is how long a program may leave its input unread while more comes; nobody
	// notices meanwhile that who asked has gone.
	stalled = 10 * time.Minute
	// maxVisits bounds what people do in a guest at a time, so that there is always room
	// for its health, its end and its figures.
	maxVisits = guest.MaxStreams - 4
)

// patient is a connection to which each write has a limit.
type patient struct {
	net.Conn
	limit time.Duration
}

// Write implements net.Conn.
func (p patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// instance is one run of a machine.
type instance struct {
	engine *engine
	spec   shim.Spec
	config Config
	child  bool            // its processes are this one's children
	vm     *process.Handle // the monitor
	files  *process.Handle // the file server; nil: none

	qmp     vmm.Machine
	console *console

	ctx    context.Context // of all that watches
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	over  chan struct{} // closed when ended is set
	ended shim.Ended

	stirred chan struct{} // has room for one: the machine was paused, or goes on

	told   chan struct{} // closed when the agent told how the program ended
	silent chan struct{} // closed when the agent has been silent for too long

	visits chan struct{} // has room for maxVisits

	mu      sync.Mutex
	session *guest.Session
	facts   facts
}

func newInstance(e *engine, s shim.Spec, c Config, child bool) *instance {
	ctx, cancel := context.WithCancel(context.Background())
	return &instance{
		engine: e, spec: s, config: c, child: child, ctx: ctx, cancel: cancel,
		over: make(chan struct{}), stirred: make(chan struct{}, 1), told: make(chan struct{}), silent: make(chan struct{}), visits: make(chan struct{}, maxVisits),
		facts: facts{agent: c.Agent},
	}
}

// take connects with what runs, and begins to watch it.
func (i *instance) take(ctx context.Context, adopted bool) error {
	limit, connect := i.config.Patience, i.begin
	if adopted {
		// As after any session that broke: QEMU may still be about to let go of the
		// connection of the shim that died, and the new one with it.
		limit, connect = i.config.Silence, i.again
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := dial(limited, filepath.Join(i.engine.dir, qmpSocket))
	if err != nil {
		return fmt.Errorf("connect to the machine's monitor: %w", err)
	}
	if i.qmp, err = i.engine.monitor.Attach(limited, conn, i.event); err != nil {
		return i.early(err)
	}
	i.note(func(f *facts) { f.begun = true })
	i.stir() // one that is taken over may be waiting
	i.task(i.stalls)
	if i.config.Console {
		c, err := dial(limited, filepath.Join(i.engine.dir, consSocket))
		if err != nil {
			return fmt.Errorf("connect to the machine's console: %w", err)
		}
		i.console = newConsole(c, i.engine.ring)
		i.task(func() { i.console.read() })
	}
	if i.config.Agent {
		out, err := connect(limited)
		if err != nil {
			return i.early(err)
		}
		i.task(func() { i.follow(out) })
		i.task(i.listen)
	}
	i.task(i.watch)
	return nil
}

// early adds to an error during a start how the monitor ended, if it has.
func (i *instance) early(err error) error {
	if i.vm.Ref().Alive() {
		return err
	}
	return fmt.Errorf("%w; the monitor has ended: see its log", err)
}

func (i *instance) task(f func()) {
	i.tasks.Add(1)
	go func() { defer i.tasks.Done(); f() }()
}

func (i *instance) note(f func(*facts)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f(&i.facts)
}

// event hears what QEMU says.
func (i *instance) event(e vmm.Event) {
	switch e.Kind {
	case vmm.EventPanic:
		i.note(func(f *facts) { f.panicked = true })
	case vmm.EventDisk, vmm.EventPaused, vmm.EventResumed:
		i.stir()
	}
}

// Process implements shim.Instance.
func (i *instance) Process() process.Ref { return i.vm.Ref() }

// Wait implements shim.Instance.
func (i *instance) Wait(ctx context.Context) (shim.Ended, error) {
	select {
	case <-i.over:
		return i.ended, nil
	case <-ctx.Done():
		return shim.Ended{}, context.Cause(ctx)
	}
}

// Stop implements shim.Instance: the agent ends the program; a machine that has none,
// or whose agent does not answer, has its power button pressed.
func (i *instance) Stop(ctx context.Context, sig unix.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, controlLimit)
	defer cancel()
	if i.config.Agent {
		// VerbSignal, not VerbStop: it is the shim that counts the grace.
		_, err := i.ask(ctx, control.Request{Verb: control.VerbSignal, Signal: int(sig)}, nil)
		if err == nil || i.hasEnded() {
			return nil
		}
	}
	return i.qmp.Stop(ctx)
}

func (i *instance) hasEnded() bool {
	select {
	case <-i.told:
		return true
	case <-i.over:
		return true
	default:
		return false
	}
}

// Signal implements shim.Instance.
func (i *instance) Signal(ctx context.Context, sig unix.Signal) error {
	if !i.config.Agent {
		return i.unsupported(control.VerbSignal)
	}
	_, err := i.ask(ctx, control.Request{Verb: control.VerbSignal, Signal: int(sig)}, nil)
	return err
}

// Kill implements shim.Instance. Disks are written out first, if the monitor is still
// able to.
func (i *instance) Kill(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	if i.qmp.Kill(limited) == nil {
		select { // watch alone waits for the process
		case <-i.over:
		case <-limited.Done():
		}
	}
	cancel()
	if err := i.force(ctx); err != nil {
		return err
	}
	select {
	case <-i.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// force ends all processes.
func (i *instance) force(ctx context.Context) error {
	if err := cgroup.Group(i.spec.Cgroup).Kill(ctx); err != nil {
		return err
	}
	for _, h := range []*process.Handle{i.vm, i.files} {
		if h != nil {
			_ = h.Signal(unix.SIGKILL) // in case that it was in no cgroup
		}
	}
	return nil
}

// Probe implements shim.Instance.
func (i *instance) Probe(ctx context.Context, p control.Probe) error {
	if Stalled(i.engine.dir) {
		return nil // it is known not to be ready, and not ended for want of room
	}
	if !i.config.Agent {
		return i.probeOutside(ctx, p)
	}
	code, err := i.ask(ctx, control.Request{Verb: control.VerbProbe, Probe: &p}, nil)
	if err == nil && code != 0 {
		err = fmt.Errorf("the check by %s did not pass", p.Kind)
	}
	return err
}

// Resize implements shim.Instance. A guest can be given less memory than it began
// with, and that back; more needs a new start.
func (i *instance) Resize(ctx context.Context, l control.Limits) (bool, error) {
	began := i.config.Memory
	if l.Memory > i.spec.Limits.Memory || i.spec.Limits.Memory-l.Memory >= began {
		return false, nil
	}
	if to := began - (i.spec.Limits.Memory - l.Memory); to >= vmm.MinMemory {
		limited, cancel := context.WithTimeout(ctx, controlLimit)
		defer cancel()
		if err := i.qmp.Resize(limited, to); err != nil {
			return false, err
		}
	} else {
		return false, nil
	}
	s := i.spec
	s.Limits.CPU = l.CPU
	return true, setCPU(s)
}

// Stats implements shim.Instance. Processor time is counted by the node; the rest is
// what the guest says of itself, where it has an agent.
func (i *instance) Stats(ctx context.Context) (control.Stats, error) {
	var st control.Stats
	if i.config.Agent {
		limited, cancel := context.WithTimeout(ctx, controlLimit)
		defer cancel()
		if _, err := i.ask(limited, control.Request{Verb: control.VerbStatus}, &st); err != nil {
			return control.Stats{}, err
		}
	}
	g := cgroup.Group(i.spec.Cgroup)
	st.CPUMicros, st.Throttled = g.Event("cpu.stat", "usage_usec"), g.Event("cpu.stat", "throttled_usec")
	if !i.config.Agent {
		st.MemoryLimit = i.spec.Limits.Memory
		for _, part := range []string{"anon", "shmem"} {
			st.Memory += g.Event("memory.stat", part)
		}
		st.OOMKills = g.Event("memory.events", "oom_kill")
	}
	st.NetReceived, st.NetSent = i.traffic()
	return st, nil
}

// traffic is what the guest has received and sent: what went through the devices that
// its taps are bridged with, in the namespace that all of its taps are in.
func (i *instance) traffic() (received, sent uint64) {
	for _, f := range i.config.Files {
		if f.Kind != FileTap {
			continue
		}
		ns, err := netns.Open(f.Path)
		if err != nil {
			return 0, 0
		}
		defer ns.Close()
		_ = netns.Do(int(ns.Fd()), func() error {
			received, sent = shim.Traffic("/proc/thread-self/net/dev")
			return nil
		})
		return received, sent
	}
	return 0, 0
}

// Serve implements shim.Instance.
func (i *instance) Serve(ctx context.Context, c *control.Conn, r control.Request) error {
	if r.Verb == control.VerbConsole {
		if i.console == nil {
			return i.unsupported(r.Verb)
		}
		return i.console.attach(ctx, c)
	}
	if !i.config.Agent {
		return i.unsupported(r.Verb)
	}
	select {
	case i.visits <- struct{}{}:
		defer func() { <-i.visits }()
	default:
		return problem.New("node-busy", "%d programs and copies are under way in this workload", maxVisits).WithFix("wait until one of them has ended")
	}
	s, err := i.agent()
	if err != nil {
		return err
	}
	a, err := open(ctx, s, r)
	if err != nil {
		return err
	}
	// Byte by byte: whoever asked reads frames of a hostile guest as carefully.
	defer a.Close()
	stop := context.AfterFunc(ctx, func() { a.Close(); c.Close() })
	defer stop()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = io.Copy(patient{a.Raw(), stalled}, c.Raw())
		a.Close() // who asked has gone, and the program with it
	}()
	_, _ = io.Copy(c.Raw(), a.Raw())
	c.Close()
	<-asked
	return nil
}

// Release implements shim.Instance.
func (i *instance) Release() {
	i.cancel()
	if i.qmp != nil {
		i.qmp.Close()
	}
	if i.console != nil {
		i.console.close()
	}
	i.setSession(nil)
	i.tasks.Wait()
	for _, h := range []*process.Handle{i.vm, i.files} {
		if h != nil {
			h.Close()
		}
	}
}

// unsupported refuses what this machine can't be asked for.
func (i *instance) unsupported(verb string) error {
	if i.config.Agent {
		return problem.New(shim.CodeUnsupported, "a container has no %s, in a micro-VM either", verb)
	}
	return problem.New(shim.CodeUnsupported, "a machine has no %s: nothing inside it answers the node; it has SSH in its network, and zos console", verb)
}

// errNoAgent says that the guest's agent is not connected now.
var errNoAgent = errors.New("the guest's agent does not answer")

// agent is the present session.
func (i *instance) agent() (*guest.Session, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.session == nil {
		return nil, problem.New(shim.CodeNotRunning, "%w", errNoAgent)
	}
	return i.session, nil
}

func (i *instance) setSession(s *guest.Session) {
	i.mu.Lock()
	old := i.session
	i.session = s
	i.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

// open begins a request that frames follow.
func open(ctx context.Context, s *guest.Session, r control.Request) (*control.Conn, error) {
	conn, err := s.Stream()
	if err != nil {
		return nil, err
	}
	return control.Dial(ctx, conn, r)
}

// ask sends a request that one frame answers.
func (i *instance) ask(ctx context.Context, r control.Request, v any) (int, error) {
	s, err := i.agent()
	if err != nil {
		return 0, err
	}
	conn, err := s.Stream()
	if err != nil {
		return 0, err
	}
	return control.Ask(ctx, conn, r, v)
}
