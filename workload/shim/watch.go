package shim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
)

// ask is something that only the goroutine of Run may do.
type ask struct {
	what  askFor
	grace time.Duration // of a restart; 0: the plan's
	done  chan<- answer // has room for one
}

type askFor int

const (
	askRestart askFor = iota
	askReload         // read the spec again
)

type answer struct {
	live bool // a changed spec is in force without a new start
	err  error
}

// killLimit is how long the kernel may take to end what was killed.
const killLimit = time.Minute

// life is the spec's, which a reload may have replaced.
func (s *shim) life() Life { return s.spec.Life }

// watch returns when the instance has ended and is cleared away. It ends it itself
// when ctx ends, its deadline passes, its health check fails, or somebody asks.
func (s *shim) watch(ctx context.Context, c Instance) error {
	defer c.Release()
	gone := make(chan Ended, 1)
	failed := make(chan error, 1)
	waiting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	all.Add(1)
	go func() {
		defer all.Done()
		if e, err := c.Wait(waiting); err != nil {
			failed <- err
		} else {
			gone <- e
		}
	}()
	defer func() { cancel(); all.Wait() }()

	// From here on it waits, perhaps for weeks; a start has read configurations.
	letGo()
	checks := &checker{ctx: s.usable, c: c, timer: time.NewTimer(0), done: make(chan error, 1), state: judgement{healthy: s.status.Healthy}}
	e, err := s.attend(ctx, checks, c, gone, failed)
	s.unused()
	checks.close()
	s.withdraw()
	if err != nil {
		return err
	}
	s.ended(e)
	return s.clean()
}

// attend waits for the end of c, or for a reason to end it.
func (s *shim) attend(ctx context.Context, checks *checker, c Instance, gone <-chan Ended, failed <-chan error) (Ended, error) {
	grace := s.life().Grace
	deadline := time.NewTimer(time.Hour)
	defer deadline.Stop()
	for cause := s.status.Cause; cause == ""; {
		checks.plan(s.life().Health)
		var late <-chan time.Time
		if d := s.life().Deadline; d > 0 {
			deadline.Reset(time.Until(s.status.Ran.Add(d)))
			late = deadline.C
		}
		select {
		case e := <-gone:
			return e, nil
		case err := <-failed:
			return Ended{}, err
		case <-ctx.Done():
			if err := s.set(Stopping); err != nil {
				return Ended{}, err
			}
			return s.end(ctx, c, s.life().Grace, gone, failed)
		case <-late:
			cause = ReasonDeadline
		case <-checks.due():
			checks.begin()
		case err := <-checks.done:
			sick, serr := s.health(checks.judge(err, time.Since(s.status.Ran)), err)
			if serr != nil {
				return Ended{}, serr
			}
			if sick {
				cause = ReasonUnhealthy
			}
		case a := <-s.asks:
			if a.what == askReload {
				live, err := s.reload(ctx, c)
				a.done <- answer{live: live, err: err}
				grace = s.life().Grace
				continue
			}
			a.done <- answer{}
			if cause = ReasonRestart; a.grace > 0 {
				grace = a.grace
			}
		}
		s.status.Cause = cause
	}
	// Written down first: whoever comes after this shim goes on with it.
	s.remark("ending it: %s", causes[s.status.Cause])
	if err := s.set(Ending); err != nil {
		return Ended{}, err
	}
	return s.end(ctx, c, grace, gone, failed)
}

// health notes what the last check said. It returns true if c is to be ended for it.
func (s *shim) health(j judgement, err error) (bool, error) {
	if s.life().Health == nil {
		return false, nil
	}
	if j.healthy != s.status.Healthy {
		if j.healthy {
			s.remark("healthy")
		} else {
			s.remark("unhealthy: %s", oneLine(err.Error()))
		}
	}
	if j.healthy != s.status.Healthy || !s.status.Checked {
		s.status.Checked, s.status.Healthy = true, j.healthy
		if err := s.set(Running); err != nil {
			return false, err
		}
	}
	return j.sick && s.life().Restart != "never", nil
}

// end ends the instance: gracefully, and by force after the grace.
func (s *shim) end(ctx context.Context, c Instance, grace time.Duration, gone <-chan Ended, failed <-chan error) (Ended, error) {
	ctx = context.WithoutCancel(ctx)
	sig := unix.Signal(s.life().Signal)
	if sig == 0 {
		sig = unix.SIGTERM
	}
	polite, cancel := context.WithTimeout(ctx, max(grace, time.Millisecond))
	defer cancel()
	asked := make(chan struct{})
	go func() { // a machine's guest may take its time to answer
		defer close(asked)
		_ = c.Stop(polite, sig)
	}()
	defer func() { cancel(); <-asked }()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for killed := false; ; {
		select {
		case e := <-gone:
			return e, nil
		case err := <-failed:
			return Ended{}, err
		case <-timer.C:
			if killed {
				return Ended{}, fmt.Errorf("end the workload: it is still there %s after it was killed", killLimit)
			}
			killed = true
			forced, cancel := context.WithTimeout(ctx, killLimit)
			err := c.Kill(forced)
			cancel()
			if err != nil {
				return Ended{}, err
			}
			timer.Reset(killLimit)
		case a := <-s.asks:
			a.done <- answer{err: notRunning("it is being ended")}
		}
	}
}

// reload reads the spec again. live is true if what runs is by it now.
func (s *shim) reload(ctx context.Context, c Instance) (live bool, err error) {
	next, err := ReadSpec(s.dir)
	if err != nil {
		return false, err
	}
	if next.ID != s.spec.ID || next.Engine != s.spec.Engine || next.UID != s.spec.UID {
		return false, fmt.Errorf("reload: the spec is another workload's")
	}
	live = true
	if c != nil {
		if live, err = c.Resize(ctx, next.Limits); err != nil || !live {
			return false, err
		}
	}
	if (s.spec.Life.Health == nil) != (next.Life.Health == nil) {
		s.status.Checked, s.status.Healthy = next.Life.Health != nil, false
	}
	s.spec, s.status.Plan = next, next.Plan
	return true, s.set(s.status.State)
}

// offer lets requests reach c until withdraw.
func (s *shim) offer(c Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usable, s.unused = context.WithCancel(context.Background())
	s.live, s.use = c, new(sync.WaitGroup)
}

// withdraw lets no more requests reach what offer did, and waits for those that have.
func (s *shim) withdraw() {
	s.mu.Lock()
	s.live = nil
	s.unused()
	use := s.use
	s.mu.Unlock()
	use.Wait()
}

// borrow returns what runs, a context that ends with it, and what to call
// afterwards.
func (s *shim) borrow() (Instance, context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return nil, nil, nil, notRunning("it is " + string(s.shown.State))
	}
	s.use.Add(1)
	return s.live, s.usable, s.use.Done, nil
}

// checker makes the health checks of one instance, one at a time.
type checker struct {
	ctx     context.Context
	c       Instance
	h       *Health
	timer   *time.Timer
	done    chan error
	busy    bool
	state   judgement
	running sync.WaitGroup
}

// plan makes h the check, nil for none. A changed one begins at once.
func (k *checker) plan(h *Health) {
	if k.h != h {
		k.h = h
		k.timer.Reset(0)
	}
}

// due fires when it is time for a check.
func (k *checker) due() <-chan time.Time {
	if k.h == nil || k.busy {
		return nil
	}
	return k.timer.C
}

func (k *checker) begin() {
	k.busy = true
	p := k.h.Probe
	k.running.Add(1)
	go func() {
		defer k.running.Done()
		k.done <- probe(k.ctx, k.c, p)
	}()
}

// judge counts the check that has just ended, and arms the next.
func (k *checker) judge(err error, since time.Duration) judgement {
	k.busy = false
	if k.h == nil {
		return judgement{}
	}
	k.state = k.h.judge(k.state, err == nil, since)
	k.timer.Reset(k.h.Interval)
	return k.state
}

// close waits for a check that is under way, whose context has ended.
func (k *checker) close() {
	k.timer.Stop()
	k.running.Wait()
}

// probe tries a check once, within its timeout.
func probe(ctx context.Context, c Instance, p control.Probe) error {
	limit := time.Duration(p.Timeout) * time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	return c.Probe(ctx, p)
}
