package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/linux/reap"
	"github.com/zero-os/zos/workload/logs"
)

// shim is one run of a shim.
type shim struct {
	dir     string
	spec    Spec
	runtime Runtime
	ring    *logs.Writer
	pumps   []*pump
	status  Status
}

// running is the container's first process.
type running struct {
	handle *process.Handle
	child  bool // of this process, so that its exit code comes here
}

// Run is the shim of the directory dir. It returns when the container is over by
// its policy, or has been ended because ctx was; it does not outlive a Run that
// returned nil. The process must have no children of its own, and have inherited
// the directory's lock as file descriptor lockFD.
func Run(ctx context.Context, dir string, lockFD uintptr) error {
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
	s := &shim{dir: dir, spec: spec, runtime: Runtime{Runc: spec.Runc, Root: spec.RuncRoot, ID: spec.ID, Cgroup: spec.Cgroup}}
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
	if err := s.openStdio(); err != nil {
		return err
	}
	defer s.closeStdio()
	return s.keep(ctx)
}

func (s *shim) openStdio() error {
	ring, err := logs.Open(s.spec.LogDir, s.spec.LogBound)
	if errors.Is(err, unix.ENOSPC) {
		// A full data disk costs the logs on it, not the workload.
		ring, err = logs.Open(filepath.Join(s.dir, "log"), s.spec.LogBound)
	}
	if err != nil {
		return err
	}
	s.ring = ring
	for _, std := range []struct {
		name   string
		stream logs.Stream
	}{{"stdout", logs.Stdout}, {"stderr", logs.Stderr}} {
		p, err := startPump(filepath.Join(s.dir, std.name), s.spec.UID, s.spec.GID, std.stream, ring, s.spec.LogRate)
		if err != nil {
			s.closeStdio()
			return err
		}
		s.pumps = append(s.pumps, p)
	}
	return nil
}

func (s *shim) closeStdio() {
	for _, p := range s.pumps {
		p.close()
	}
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

// adopt finds the container that an earlier shim of this directory left. If that
// has ended meanwhile, it notes how; what is left of it is cleared away.
func (s *shim) adopt(ctx context.Context) (c *running, ended bool, err error) {
	status, pid, err := s.runtime.state(ctx)
	if err != nil {
		return nil, false, err
	}
	known := s.status.Process
	if status == "running" {
		ref, err := process.Of(pid)
		if err == nil && (known.IsZero() || known == ref) {
			if c, err := s.take(ctx, ref, false); err == nil {
				return c, false, nil
			}
		}
	}
	if s.status.State == Running && !known.IsZero() && !known.Alive() {
		s.ended(s.orphanExit(known))
		ended = true
	}
	return nil, ended, s.clean()
}

// start makes runc start the container. It returns nil if that failed: then nothing
// is left of it, and the status says why. An error is one of the shim's own.
func (s *shim) start(ctx context.Context) (*running, error) {
	s.status.Process = process.Ref{}
	s.status.Started = time.Now()
	if err := s.set(Starting); err != nil {
		return nil, err
	}
	c, err := s.tryStart(ctx)
	if err == nil {
		return c, nil
	}
	s.status.Reason, s.status.Detail = ReasonStart, oneLine(err.Error())
	if full(s.spec.Upper) {
		s.status.Reason = ReasonDiskFull
	}
	return nil, s.clean()
}

func (s *shim) tryStart(ctx context.Context) (*running, error) {
	var ends []*os.File
	defer func() {
		for _, f := range ends {
			f.Close()
		}
	}()
	for _, p := range s.pumps {
		f, err := p.containerEnd()
		if err != nil {
			return nil, err
		}
		ends = append(ends, f)
	}
	pid, err := s.runtime.start(ctx, s.dir, ends[0], ends[1])
	if err != nil {
		return nil, err
	}
	ref, err := process.Of(pid)
	if err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	return s.take(ctx, ref, true)
}

// take makes ref the container that runs, once its confinement is proven.
func (s *shim) take(ctx context.Context, ref process.Ref, child bool) (*running, error) {
	h, err := ref.Open()
	if err != nil {
		return nil, err
	}
	if err := checkSecurity(ctx, ref, s.spec.NoNewPrivs); err != nil {
		h.Close()
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.spec.Cgroup, "cpu.max"), []byte(s.spec.CPUMax), 0); err != nil && ref.Alive() {
		h.Close()
		return nil, fmt.Errorf("limit the container's processor time: %w", err)
	}
	s.status.Process = ref
	if err := s.set(Running); err != nil {
		h.Close()
		return nil, err
	}
	return &running{handle: h, child: child}, nil
}

// wait returns when the container has ended and is cleared away. It ends it when
// ctx ends.
func (s *shim) wait(ctx context.Context, c *running) error {
	defer c.handle.Close()
	if err := c.handle.Wait(ctx); err != nil {
		if ctx.Err() == nil {
			return err
		}
		if err := s.set(Stopping); err != nil {
			return err
		}
		_ = c.handle.Signal(unix.SIGTERM)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.spec.Grace)
		err := c.handle.Wait(grace)
		cancel()
		if err != nil {
			if err := s.kill(c); err != nil {
				return err
			}
		}
	}
	exit := process.Exit{Code: -1}
	if c.child {
		var ws unix.WaitStatus
		for {
			_, err := unix.Wait4(c.handle.Ref().PID, &ws, 0, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err == nil {
				exit = process.ExitOf(ws)
			}
			break
		}
	} else {
		exit = s.orphanExit(c.handle.Ref())
	}
	s.ended(exit)
	return s.clean()
}

// kill ends the container by force.
func (s *shim) kill(c *running) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := cgroup.Group(s.spec.Cgroup).Kill(ctx); err != nil {
		return err
	}
	_ = c.handle.Signal(unix.SIGKILL) // in case that it was in no cgroup
	return c.handle.Wait(ctx)
}

// orphanExit asks process 1's records, which may come a moment after the end. The
// code is -1 if it isn't known.
func (s *shim) orphanExit(ref process.Ref) process.Exit {
	for range 50 {
		e, err := reap.Read(s.spec.Exits, ref.PID, ref.Start)
		if err == nil {
			if e.Signal != 0 {
				return process.Exit{Code: 128 + e.Signal, Signal: e.Signal}
			}
			return process.Exit{Code: e.Code}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return process.Exit{Code: -1}
}

// ended notes how the container ended and why, while its cgroup is still there.
func (s *shim) ended(e process.Exit) {
	s.status.Exit = e
	s.status.Reason, s.status.Detail = ReasonExited, e.String()
	switch {
	case e.Code == -1:
		s.status.Detail = "ended while no shim watched; exit code unknown"
	case e.Signal == int(unix.SIGKILL) && cgroup.Group(s.spec.Cgroup).Event("memory.events", "oom_kill") > 0:
		s.status.Reason, s.status.Detail = ReasonOOM, "killed for using more than its memory limit"
	case e.Code != 0 && full(s.spec.Upper):
		s.status.Reason, s.status.Detail = ReasonDiskFull, e.String()+"; it had used up its disk limit"
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
	err := s.runtime.Clean(ctx)
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
