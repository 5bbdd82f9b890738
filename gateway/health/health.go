package health

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/spec/plan"
)

// Key is what is watched. Routes that agree in it share one State.
type Key struct {
	Network string
	Addr    netip.AddrPort
	Check   string // one of the plan's Check constants
	Path    string // of an http check
	Host    string // its Host header, and server name with TLS; "": the address
	TLS     bool   // an http check over TLS, by whatever certificate
	Proxy   int    // version of the PROXY protocol that an http check begins with; 0: none
}

// Options of a Checker. Zero values are the defaults that stand beside them.
type Options struct {
	// Dial connects by TCP to an address of a network, and returns when ctx ends.
	Dial     func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	Interval time.Duration // 400 ms between checks of a backend
	Timeout  time.Duration // 1 s for a check
	Again    time.Duration // 400 ms after which a check that hangs is tried a second time beside the first
	Lonely   time.Duration // 4 s between checks of a backend without an alternative
	Penalty  time.Duration // 2 s for which one without a check counts as failed
	Rate     int           // 1000 checks a second in all
	AtOnce   int           // 1024 checks at a time
}

// Checker watches backends.
type Checker struct {
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	states map[Key]*State
	load   float64 // checks per second that the states would like
	atOnce int
	closed bool
}

// New makes a Checker; Close ends it.
func New(o Options) *Checker {
	def := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	def(&o.Interval, 400*time.Millisecond)
	def(&o.Timeout, time.Second)
	def(&o.Again, 400*time.Millisecond)
	def(&o.Lonely, 4*time.Second)
	def(&o.Penalty, 2*time.Second)
	if o.Rate == 0 {
		o.Rate = 1000
	}
	if o.AtOnce == 0 {
		o.AtOnce = 1024
	}
	c := &Checker{o: o, states: map[Key]*State{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends all checks and waits for them.
func (c *Checker) Close() {
	c.mu.Lock()
	c.closed = true
	c.cancel()
	for _, s := range c.states {
		s.stop()
	}
	c.mu.Unlock()
	c.work.Wait()
}

// Watch begins to watch a backend, or shares the watch that there is. Lonely
// says that there is no other to choose instead, so that it is only for people
// to see. Each Watch is ended by a Release with the same arguments.
func (c *Checker) Watch(k Key, lonely bool) *State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.states[k]
	if s == nil {
		s = &State{c: c, key: k, since: time.Now()}
		s.healthy.Store(true)
		c.states[k] = s
	}
	c.load -= s.wish()
	s.users++
	if !lonely {
		s.keen++
	}
	c.load += s.wish()
	if k.Check != plan.CheckNone && !c.closed && (s.users == 1 || !lonely && s.keen == 1) {
		s.stop()
		s.timer = time.AfterFunc(s.soon(), s.check)
	}
	return s
}

// Release ends a Watch.
func (c *Checker) Release(s *State, lonely bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.load -= s.wish()
	s.users--
	if !lonely {
		s.keen--
	}
	c.load += s.wish()
	if s.users == 0 {
		s.stop()
		delete(c.states, s.key)
	}
}

// Watched is how many backends are watched.
func (c *Checker) Watched() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.states)
}

// State is what is known of a backend.
type State struct {
	c       *Checker
	key     Key
	healthy atomic.Bool

	// Under Checker.mu.
	users, keen int
	timer       *time.Timer

	mu      sync.Mutex
	checked bool
	since   time.Time
	err     string
	until   time.Time // of a penalty, without a check
	failing context.Context
	fail    context.CancelFunc
}

// wish is how many checks a second a state would like. Under Checker.mu.
func (s *State) wish() float64 {
	switch {
	case s.users == 0 || s.key.Check == plan.CheckNone:
		return 0
	case s.keen > 0:
		return 1 / s.c.o.Interval.Seconds()
	}
	return 1 / s.c.o.Lonely.Seconds()
}

// pause is the time between two checks of s. Under Checker.mu.
func (s *State) pause() time.Duration {
	d := s.c.o.Interval
	if s.keen == 0 {
		d = s.c.o.Lonely
	}
	if over := s.c.load / float64(s.c.o.Rate); over > 1 {
		d = time.Duration(float64(d) * over)
	}
	return d
}

// soon is when a state is checked first: at once, or spread over a pause where
// many come together or nobody waits for it. Under Checker.mu.
func (s *State) soon() time.Duration {
	d := s.pause()
	if s.keen > 0 {
		d -= s.c.o.Interval
	}
	return time.Duration(rand.Float64() * float64(d))
}

func (s *State) stop() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// check runs in a goroutine of its timer. The next one begins a pause after this
// one began, or when it has ended if that is later.
func (s *State) check() {
	c := s.c
	c.mu.Lock()
	if c.closed || s.users == 0 {
		c.mu.Unlock()
		return
	}
	began, full := time.Now(), c.atOnce >= c.o.AtOnce
	if !full {
		c.atOnce++
		c.work.Add(1)
	}
	c.mu.Unlock()
	if !full {
		s.set(c.attempt(s.key), true)
		defer c.work.Done()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !full {
		c.atOnce--
	}
	if !c.closed && s.users > 0 {
		s.timer = time.AfterFunc(max(0, s.pause()-time.Since(began)), s.check)
	}
}

// set notes the result of a check, or of a connection.
func (s *State) set(err error, checked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.checked = s.checked || checked
	if was := s.healthy.Load(); was != (err == nil) {
		s.since = now
		s.healthy.Store(err == nil)
	}
	if err != nil {
		s.err = short(err)
		s.until = now.Add(s.c.o.Penalty)
		if s.fail != nil {
			s.fail()
		}
	} else if s.failing != nil && s.failing.Err() != nil {
		s.failing, s.fail = nil, nil
	}
}

// Failing returns a context that ends when the backend is found to have failed:
// it has ended already while that stands.
func (s *State) Failing() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing == nil {
		s.failing, s.fail = context.WithCancel(context.Background())
		if !s.healthy.Load() {
			s.fail()
		}
	}
	return s.failing
}

// Failed notes that a connection to the backend could not be made. It counts as
// failed until a check succeeds, or for the Penalty if it isn't checked.
func (s *State) Failed(err error) { s.set(err, false) }

// Worked notes that a connection was made.
func (s *State) Worked() {
	if s.key.Check == plan.CheckNone && !s.healthy.Load() {
		s.set(nil, false)
	}
}

// Healthy tells whether the backend should be chosen.
func (s *State) Healthy() bool {
	if s.healthy.Load() {
		return true
	}
	if s.key.Check != plan.CheckNone {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !time.Now().Before(s.until)
}

// Report is a State to show.
type Report struct {
	Healthy, Checked bool
	Since            time.Time // of the present state
	Error            string    // the last
}

// Report returns what is known.
func (s *State) Report() Report {
	healthy := s.Healthy()
	s.mu.Lock()
	defer s.mu.Unlock()
	return Report{healthy, s.checked, s.since, s.err}
}

// short bounds an error's text, part of which a backend may have written.
func short(err error) string {
	const most = 200
	text := err.Error()
	if len(text) > most {
		text = text[:most]
	}
	return text
}
