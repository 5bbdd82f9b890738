package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/workload/logs"
)

// shim is one run of a shim.
type shim struct {
	dir    string
	spec   Spec
	ring   *logs.Writer
	engine Engine
	status Status
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
	s := &shim{dir: dir, spec: spec}
	if old, err := ReadStatus(dir); err == nil && old.Plan == spec.Plan {
		s.status = old // keeps the count of restarts and the last exit
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
	return s.keep(ctx)
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

// keep runs the container again and again until its policy or ctx ends it.
func (s *shim) keep(ctx context.Context) error {
	c, ended, err := s.adopt(ctx)
	for failed := 0; err == nil; {
		if c == nil && !ended {
			if c, err = s.start(ctx); err != nil {
				// The shim's own trouble, such as a cgroup that won't empty: tried again too.
				s.status.Reason, s.status.Detail = ReasonStart, oneLine(err.Error())
			}
		}
		if c != nil {
			if err = s.wait(ctx, c); err != nil {
				break
			}
			ended = true
		}
		if ctx.Err() != nil {
			return s.stopped()
		}
		// A container that could not start is tried again whatever its policy says.
		if ended && !again(s.spec.Restart, s.status.Exit.Code) {
			return s.over()
		}
		var pause time.Duration
		failed, pause = s.spec.Backoff.Failed(failed, time.Since(s.status.Started))
		s.status.NextTry = time.Now().Add(pause)
		if err = s.set(Waiting); err != nil {
			break
		}
		s.remark("%s; next start in %s", s.status.Detail, pause.Round(time.Millisecond))
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return s.stopped()
		case <-timer.C:
		}
		s.status.Restarts++
		c, ended = nil, false
	}
	return err
}

// adopt finds the instance that an earlier shim of this directory left. If that
// has ended meanwhile, it notes how; what is left of it is cleared away.
func (s *shim) adopt(ctx context.Context) (c Instance, ended bool, err error) {
	known := s.status.Process
	c, err = s.engine.Adopt(ctx, s.spec, known)
	if err != nil {
		return nil, false, err
	}
	if c != nil {
		if err := s.runs(c); err != nil {
			return nil, false, err
		}
		return c, false, nil
	}
	if s.status.State == Running && !known.IsZero() && !known.Alive() {
		s.ended(s.engine.Missed(ctx, s.spec, known))
		ended = true
	}
	return nil, ended, s.clean()
}

// start makes the engine start an instance. It returns nil if that failed: then nothing
// is left of it, and the status says why. An error is one of the shim's own.
func (s *shim) start(ctx context.Context) (Instance, error) {
	s.status.Process = process.Ref{}
	s.status.Started = time.Now()
	if err := s.set(Starting); err != nil {
		return nil, err
	}
	c, err := s.engine.Start(ctx, s.spec)
	if err == nil {
		if err = s.runs(c); err == nil {
			return c, nil
		}
	}
	s.status.Reason, s.status.Detail = ReasonStart, oneLine(err.Error())
	if full(s.spec.Upper) {
		s.status.Reason = ReasonDiskFull
	}
	return nil, s.clean()
}

// runs notes that c does.
func (s *shim) runs(c Instance) error {
	s.status.Process = c.Process()
	if err := s.set(Running); err != nil {
		c.Release()
		return err
	}
	return nil
}

// wait returns when the instance has ended and is cleared away. It ends it when
// ctx ends.
func (s *shim) wait(ctx context.Context, c Instance) error {
	defer c.Release()
	e, err := c.Wait(ctx)
	if err != nil {
		if ctx.Err() == nil {
			return err
		}
		if err := s.set(Stopping); err != nil {
			return err
		}
		if e, err = s.end(context.WithoutCancel(ctx), c); err != nil {
			return err
		}
	}
	s.ended(e)
	return s.clean()
}

// end ends the instance: gracefully, and by force after the grace.
func (s *shim) end(ctx context.Context, c Instance) (Ended, error) {
	_ = c.Stop(ctx, unix.SIGTERM)
	grace, cancel := context.WithTimeout(ctx, s.spec.Grace)
	e, err := c.Wait(grace)
	cancel()
	if err == nil {
		return e, nil
	}
	ctx, cancel = context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.Kill(ctx); err != nil {
		return Ended{}, err
	}
	return c.Wait(ctx)
}

// ended notes how the instance ended and why.
func (s *shim) ended(e Ended) {
	s.status.Exit, s.status.Reason, s.status.Detail = e.Exit, e.Reason, e.Detail
	if e.Reason == "" {
		s.status.Reason = ReasonExited
		if e.Exit.Code != 0 && e.Exit.Code != -1 && full(s.spec.Upper) {
			s.status.Reason, e.Detail = ReasonDiskFull, e.Exit.String()+"; it had used up its disk limit"
		}
	}
	if s.status.Detail = e.Detail; e.Detail == "" {
		s.status.Detail = e.Exit.String()
	}
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
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
	return errors.Join(err, cerr)
}

// over records a container that its policy does not start again.
func (s *shim) over() error {
	s.remark("%s", s.status.Detail)
	s.status.State = Over
	if s.spec.Final != "" {
		if err := WriteJSON(s.spec.Final, s.status); err != nil {
			return err
		}
	}
	return s.set(Over)
}

func (s *shim) stopped() error {
	err := s.clean()
	return errors.Join(err, s.set(Stopped))
}

func (s *shim) set(state State) error {
	s.status.State = state
	return WriteJSON(filepath.Join(s.dir, statusFile), s.status)
}

// remark puts a line of the shim's own into the log ring.
func (s *shim) remark(format string, args ...any) {
	_ = s.ring.Write(logs.Node, fmt.Appendf(nil, format+"\n", args...))
}
