package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/logs"
)

// shim is one run of a shim.
type shim struct {
	dir    string
	spec   Spec
	ring   *logs.Writer
	engine Engine
	status Status
	asks   chan ask

	mu    sync.Mutex // of what follows, which requests see
	shown Status
	upper string   // the spec's
	live  Instance // nil if none runs
	// use counts who asks live for something; usable ends, by unused, with it.
	use    *sync.WaitGroup
	usable context.Context
	unused context.CancelFunc
}

// Run is the shim of the directory dir. It returns when the workload is over by
// its policy, or has been ended because ctx was; it does not outlive a Run that
// returned nil. The process must have no children of its own, and have inherited
// the directory's lock as file descriptor lockFD.
func Run(ctx context.Context, dir string, lockFD uintptr, engines Engines) error {
	held, err := inheritLock(dir, lockFD)
	if err != nil {
		return err
	}
	defer held.Close()
	spec, err := ReadSpec(dir)
	if err != nil {
		return fmt.Errorf("read shim spec: %w", err)
	}
	if err := process.BecomeSubreaper(); err != nil {
		return err
	}
	self, err := process.Of(os.Getpid())
	if err != nil {
		return err
	}
	s := &shim{dir: dir, spec: spec, asks: make(chan ask)}
	// What an earlier shim wrote holds, by whatever plan it went: the directory is made
	// anew for each start from outside.
	if old, err := ReadStatus(dir); err == nil {
		s.status = old
	}
	s.status.Plan, s.status.Shim = spec.Plan, self
	if s.status.State == "" {
		s.status.State = Starting
	}
	if err := s.set(s.status.State); err != nil { // so that everyone knows whom to signal
		return err
	}
	if err := s.open(ctx, engines); err != nil {
		return err
	}
	defer s.close()
	ctx, cancel := context.WithCancel(ctx)
	served := s.serve(ctx)
	err = s.keep(ctx)
	cancel()
	return errors.Join(err, <-served)
}

// open makes the log ring and the engine.
func (s *shim) open(ctx context.Context, engines Engines) error {
	name := s.spec.Engine
	if name == "" {
		name = EngineRunc
	}
	opener, ok := engines[name]
	if !ok {
		return fmt.Errorf("this shim has no engine %q", name)
	}
	ring, err := logs.Open(s.spec.LogDir, s.spec.LogBound)
	if errors.Is(err, unix.ENOSPC) {
		// A full data disk costs the logs on it, not the workload.
		ring, err = logs.Open(filepath.Join(s.dir, "log"), s.spec.LogBound)
	}
	if err != nil {
		return err
	}
	s.ring = ring
	s.engine, err = opener(ctx, Host{Dir: s.dir, Ring: ring}, s.spec)
	if err != nil {
		return errors.Join(err, ring.Close())
	}
	return nil
}

func (s *shim) close() {
	_ = s.engine.Close()
	_ = s.ring.Close()
}

// keep runs instances until the workload's policy or ctx ends it.
func (s *shim) keep(ctx context.Context) error {
	switch s.status.State { // an earlier shim found so
	case Over:
		if err := s.clean(); err != nil {
			return err
		}
		return s.over(ctx)
	case Exhausted:
		if err := s.clean(); err != nil {
			return err
		}
		if !s.pause(ctx, nil) {
			return s.stopped()
		}
		s.status.Failures, s.status.State = 0, Starting
	}
	c, ended, err := s.adopt(ctx)
	for err == nil {
		if c == nil && !ended {
			if c, err = s.start(ctx); err != nil {
				// The shim's own trouble, such as a cgroup that won't empty: tried again too.
				s.status.Reason, s.status.Detail = ReasonStart, oneLine(err.Error())
			}
		}
		if c != nil {
			if err = s.watch(ctx, c); err != nil {
				break
			}
		}
		if ctx.Err() != nil {
			return s.stopped()
		}
		o, lasted := outcomeOf(s.status.Reason, s.status.Exit.Code), time.Since(s.status.Started)
		s.status.Failures = countFailures(s.status.Failures, o, lasted, s.spec.Backoff.Reset)
		var pause time.Duration
		switch decide(s.life(), o, s.status.Failures) {
		case over:
			s.remark("%s", s.status.Detail)
			return s.over(ctx)
		case atOnce:
			s.status.Pauses, pause = 0, 0
			err = s.set(Starting)
		case exhausted:
			s.remark("%s; %d starts in a row failed: it is not started again", s.status.Detail, s.status.Failures)
			if err = s.set(Exhausted); err != nil {
				break
			}
			if !s.pause(ctx, nil) {
				return s.stopped()
			}
			s.status.Failures, s.status.Pauses = 0, 0
		case again:
			s.status.Pauses, pause = s.spec.Backoff.Failed(s.status.Pauses, lasted)
			s.status.NextTry = time.Now().Add(pause)
			if err = s.set(Waiting); err != nil {
				break
			}
			s.remark("%s; next start in %s", s.status.Detail, pause.Round(time.Millisecond))
			timer := time.NewTimer(pause)
			goOn := s.pause(ctx, timer.C)
			timer.Stop()
			if !goOn {
				return s.stopped()
			}
		}
		s.status.Restarts++
		c, ended = nil, false
	}
	return err
}

// pause waits for c, or a restart by hand; false says that ctx ended. It answers
// what else is asked for meanwhile.
func (s *shim) pause(ctx context.Context, c <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-c:
			return true
		case a := <-s.asks:
			if a.what == askReload {
				_, err := s.reload(ctx, nil)
				a.done <- answer{err: err}
				continue
			}
			a.done <- answer{}
			s.remark("started again by hand")
			return true
		}
	}
}

// adopt finds the instance that an earlier shim of this directory left. If that
// has ended meanwhile or can't be taken over, it notes how it ended; what is left of it
// is cleared away.
func (s *shim) adopt(ctx context.Context) (c Instance, ended bool, err error) {
	known, was := s.status.Process, s.status.State
	c, err = s.engine.Adopt(ctx, s.spec, known)
	if err != nil {
		return nil, false, err
	}
	if c != nil {
		if s.status.Ran.Before(s.status.Started) || s.status.Ran.IsZero() {
			s.status.Ran = time.Now() // its predecessor died before it could say so
		}
		return c, false, s.runs(c, was == Ending && s.status.Cause != "")
	}
	if (was != Running && was != Ending) || known.IsZero() {
		return nil, false, s.clean()
	}
	// One that is there and can't be taken over is ended, which is an end like any other.
	if known.Alive() {
		if err := s.clean(); err != nil {
			return nil, false, err
		}
	}
	s.ended(s.engine.Missed(ctx, s.spec, known))
	return nil, true, s.clean()
}

// start makes the engine start an instance. It returns nil if that failed: then nothing
// is left of it, and the status says why. An error is one of the shim's own.
func (s *shim) start(ctx context.Context) (Instance, error) {
	s.status.Process, s.status.Cause = process.Ref{}, ""
	s.status.Started = time.Now()
	s.status.Checked, s.status.Healthy = false, false
	if err := s.set(Starting); err != nil {
		return nil, err
	}
	c, err := s.engine.Start(ctx, s.spec)
	if err == nil {
		s.status.Ran = time.Now()
		if err = s.runs(c, false); err == nil {
			return c, nil
		}
	}
	s.status.Reason, s.status.Detail, s.status.Exit = ReasonStart, oneLine(err.Error()), process.Exit{}
	if full(s.spec.Upper) {
		s.status.Detail += "; its disk is full"
	}
	return nil, s.clean()
}

// runs notes that c does, or is being ended still.
func (s *shim) runs(c Instance, ending bool) error {
	s.status.Process = c.Process()
	state := Running
	if ending {
		state = Ending
	} else {
		s.status.Cause = ""
	}
	s.status.Checked = s.spec.Life.Health != nil
	s.offer(c) // first: who reads that it runs may ask for something
	if err := s.set(state); err != nil {
		s.withdraw()
		c.Release()
		return err
	}
	return nil
}

// ended notes how the instance ended and why. What its shim ended it for comes
// before what the kernel says of its end, except that it ran out of memory.
func (s *shim) ended(e Ended) {
	cause := s.status.Cause
	s.status.Cause, s.status.Healthy = "", false
	s.status.Exit, s.status.Reason, s.status.Detail = e.Exit, e.Reason, e.Detail
	if s.status.Detail == "" {
		s.status.Detail = e.Exit.String()
	}
	switch {
	case e.Reason != "":
	case cause != "":
		s.status.Reason, s.status.Detail = cause, causes[cause]+"; "+s.status.Detail
	case e.Exit.Signal != 0:
		s.status.Reason = ReasonSignal
	default:
		s.status.Reason = ReasonExited
	}
	if (s.status.Reason == ReasonExited || s.status.Reason == ReasonSignal) && e.Exit.Code > 0 && full(s.spec.Upper) {
		s.status.Reason, s.status.Detail = ReasonDiskFull, s.status.Detail+"; it had used up its disk limit"
	}
}

// causes are for what a shim ends an instance, in words.
var causes = map[string]string{
	ReasonUnhealthy: "its health check failed too often",
	ReasonDeadline:  "it ran for longer than it may",
	ReasonRestart:   "somebody asked for a restart",
}

// full tells whether the file system of path has less than 1 % free.
func full(path string) bool {
	var st unix.Statfs_t
	if path == "" || unix.Statfs(path, &st) != nil {
		return false
	}
	return st.Bavail < st.Blocks/100 || st.Ffree == 0
}

// clean removes what is left of a container that ended or never came to be,
// orphans that fell to this process included.
func (s *shim) clean() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := s.engine.Clean(ctx)
	pids, cerr := process.Children()
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
		for {
			if n, werr := unix.Wait4(pid, nil, unix.WNOHANG, nil); n != 0 || werr != nil && !errors.Is(werr, unix.EINTR) {
				break
			}
			if ctx.Err() != nil {
				return errors.Join(err, cerr, fmt.Errorf("end process %d that the workload left: the kernel has not ended it in a minute", pid))
			}
			time.Sleep(time.Millisecond)
		}
	}
	return errors.Join(err, cerr)
}

// finalPause is from one attempt to write the last status to the next.
const finalPause = 500 * time.Millisecond

// over records a workload that its policy does not start again: in memory, where who
// looks finds it, and then for after a reboot, as soon as the disk has room for it.
func (s *shim) over(ctx context.Context) error {
	if err := s.set(Over); err != nil || s.spec.Final == "" {
		return err
	}
	for told := false; ; {
		err := WriteJSON(s.spec.Final, s.status)
		if err == nil {
			return nil
		}
		if !told {
			s.remark("how it ended can't be written to the node's disk yet: %v", err)
			told = true
		}
		timer := time.NewTimer(finalPause)
		select {
		case <-ctx.Done():
		case <-timer.C:
			continue
		case a := <-s.asks:
			a.done <- answer{err: problem.New(CodeNotRunning, "the workload has ended")}
			continue
		}
		timer.Stop()
		return nil
	}
}

func (s *shim) stopped() error {
	err := s.clean()
	return errors.Join(err, s.set(Stopped))
}

func (s *shim) set(state State) error {
	s.status.State = state
	s.mu.Lock()
	s.shown, s.upper = s.status, s.spec.Upper
	s.mu.Unlock()
	return WriteJSON(filepath.Join(s.dir, statusFile), s.status)
}

// remark puts a line of the shim's own into the log ring.
func (s *shim) remark(format string, args ...any) {
	_ = s.ring.Write(logs.Node, fmt.Appendf(nil, format+"\n", args...))
}
