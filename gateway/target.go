package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/health"
	"github.com/zero-os/zos/spec/plan"
)

// Target is a route that is served, for a Terminator. It lives on under its ID
// when a configuration changes what it says.
type Target struct {
	s     *Server
	route atomic.Pointer[Route]
	// ups are the backends of the route now, in its order.
	ups atomic.Pointer[[]*upstream]

	contract *contract
	now      atomic.Int64 // connections or flows
	total    atomic.Uint64
	in, out  atomic.Uint64 // of those that have ended
	failures atomic.Uint64
	requests atomic.Uint64 // of mode terminate
	errors   atomic.Uint64 // of those, answered with 500 and more
	turn     atomic.Uint32 // where the search for a backend begins

	mu    sync.Mutex
	all   map[string]*upstream // by address and port: those of ups, and those that drain
	front links                // connections that a Terminator has
	drain *drain               // nil: not removed
	done  chan struct{}        // closed when it is removed
	over  bool                 // the drain has ended
}

// contract counts the connections of all routes of one.
type contract struct {
	id  canon.Hash
	now atomic.Int64
}

// drain is the end of a route or backend that was removed, unless it comes back.
type drain struct{ timer *time.Timer }

// upstream is a backend of a route.
type upstream struct {
	t       *Target
	backend Backend
	n       atomic.Int32 // connections and flows, also those being made
	health  *health.State
	lonely  bool

	// Under Target.mu.
	conns links
	drain *drain // nil: not removed
	dead  bool   // its drain is over

	// See Choice.Failing; nil until it is asked for.
	failing context.Context
	fail    context.CancelFunc
	unlink  func() bool
}

// session is what is cut when a route or backend is removed, and when nothing
// has moved for too long.
type session interface {
	// cut ends it soon, without waiting, for a reason that is an outcome.
	cut(outcome string)
	// bytes returns what came from and went to the client, as far as Record
	// hasn't been told yet.
	bytes() (in, out uint64)
	// blocked tells whether bytes wait for an end that takes none.
	blocked() bool
}

// link is a session's place in a list.
type link struct {
	s          session
	prev, next *link
	in         *links
	moved      uint64    // as the sweep last saw it
	since      time.Time // when it became that; zero: not swept yet
}

// links is a list of sessions.
type links struct{ first *link }

func (l *links) add(x *link) {
	x.in, x.next = l, l.first
	if l.first != nil {
		l.first.prev = x
	}
	l.first = x
}

func (x *link) remove() {
	if x.in == nil {
		return
	}
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		x.in.first = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	}
	x.in, x.prev, x.next = nil, nil, nil
}

func (l *links) cut(outcome string) {
	for x := l.first; x != nil; x = x.next {
		x.s.cut(outcome)
	}
}

// Route returns what the configuration says of it now.
func (t *Target) Route() Route { return *t.route.Load() }

// Draining is closed when the configuration has the route no longer.
func (t *Target) Draining() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.done
}

// Record counts the bytes of r, and r itself if it is a request, and logs it with
// the route's ID, contract and workload; all else is the caller's.
func (t *Target) Record(r Record) {
	t.in.Add(r.In)
	t.out.Add(r.Out)
	if r.Method != "" {
		t.requests.Add(1)
		if r.Status >= 500 {
			t.errors.Add(1)
		}
		if r.Outcome == OutcomeNoBackend {
			t.failures.Add(1)
		}
	}
	t.log(r)
}

func (t *Target) log(r Record) {
	route := t.route.Load()
	r.Route, r.Contract, r.Workload = route.ID, route.Contract, route.Workload
	t.s.o.Access.Add(r)
}

// same tells whether connections of t are allowed by another version of it.
func (t *Target) same(r *Route) bool {
	o := t.route.Load()
	return o.Mode == r.Mode && o.Network == r.Network && o.Contract == r.Contract && o.Workload == r.Workload &&
		o.Host == r.Host && (o.Port == r.Port || o.byName())
}

// update makes a new version of the route the current one. Backends that it
// doesn't have are drained. r has no Problem.
func (t *Target) update(r *Route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.drain != nil { // it comes back
		t.drain.timer.Stop()
		t.drain, t.done, t.over = nil, make(chan struct{}), false
	}
	old := t.route.Load()
	if old != nil && t.ups.Load() != nil && len(*t.ups.Load()) > 0 && old.equal(*r) {
		t.route.Store(r) // the same, in memory that others are in
		return
	}
	t.route.Store(r)
	lonely := len(r.Backends) == 1
	ups := make([]*upstream, 0, len(r.Backends))
	keep := make(map[*upstream]bool, len(r.Backends))
	for _, b := range r.Backends {
		u := t.find(b)
		if u == nil {
			u = &upstream{t: t, backend: b}
			if t.all == nil {
				t.all = map[string]*upstream{}
			}
			t.all[b.Name+" "+b.Addr.String()] = u
		}
		if u.drain != nil {
			u.drain.timer.Stop()
			u.drain, u.dead = nil, false
		}
		watch := t.s.health.Watch(healthKey(r, b), lonely)
		if u.health != nil {
			t.s.health.Release(u.health, u.lonely)
		}
		if u.health != watch {
			u.failed() // that was by another check
		}
		u.health, u.lonely = watch, lonely
		ups, keep[u] = append(ups, u), true
	}
	t.ups.Store(&ups)
	for _, u := range t.all {
		if !keep[u] {
			t.retire(u)
		}
	}
}

func (t *Target) find(b Backend) *upstream { return t.all[b.Name+" "+b.Addr.String()] }

func healthKey(r *Route, b Backend) health.Key {
	k := health.Key{Network: r.Network, Addr: b.Addr, Check: r.Check}
	switch r.Check {
	case "":
		k.Check = plan.CheckNone
	case plan.CheckHTTP:
		k.Path, k.Host, k.TLS, k.Proxy = r.Path, r.Host, r.Mode == plan.ModePassthrough, r.Proxy
	}
	return k
}

// retire drains a backend. Under mu.
func (t *Target) retire(u *upstream) {
	if u.drain != nil || u.dead {
		return
	}
	u.failed()
	if u.health != nil {
		t.s.health.Release(u.health, u.lonely)
		u.health = nil
	}
	if u.conns.first == nil && u.n.Load() == 0 {
		u.dead = true
		delete(t.all, u.backend.Name+" "+u.backend.Addr.String())
		return
	}
	d := &drain{}
	u.drain = d
	d.timer = time.AfterFunc(t.s.o.Drain, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if u.drain != d {
			return
		}
		u.dead = true
		u.conns.cut(OutcomeDrained)
		delete(t.all, u.backend.Name+" "+u.backend.Addr.String())
	})
}

// remove drains the route, and calls over later unless it comes back. It returns
// false if there is nothing to drain.
func (t *Target) remove(over func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.drain != nil {
		return false
	}
	none := []*upstream{}
	t.ups.Store(&none)
	for _, u := range t.all {
		t.retire(u)
	}
	close(t.done)
	if t.now.Load() == 0 && len(t.all) == 0 {
		// A connection that is just being made finds no backend any more.
		t.over = true
		return false
	}
	d := &drain{}
	t.drain = d
	d.timer = time.AfterFunc(t.s.o.Drain, func() {
		t.mu.Lock()
		gone := t.drain == d
		if gone {
			t.over = true
			t.front.cut(OutcomeDrained)
			for _, u := range t.all {
				u.dead = true
				u.conns.cut(OutcomeDrained)
			}
		}
		t.mu.Unlock()
		if gone {
			over()
		}
	})
	return true
}

// cutAll ends everything, and stops what waits to.
func (t *Target) cutAll(outcome string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.drain != nil {
		t.drain.timer.Stop()
	}
	t.over = true
	t.front.cut(outcome)
	for _, u := range t.all {
		u.dead = true
		if u.drain != nil {
			u.drain.timer.Stop()
		}
		if u.health != nil {
			t.s.health.Release(u.health, u.lonely)
			u.health = nil
		}
		u.conns.cut(outcome)
	}
}

// admit counts a connection or flow, or returns false if the route or its contract has enough.
func (t *Target) admit(most int) bool {
	if t.now.Add(1) > int64(most) {
		t.now.Add(-1)
		t.failures.Add(1)
		return false
	}
	if t.contract.now.Add(1) > int64(t.s.o.PerContract) {
		t.contract.now.Add(-1)
		t.now.Add(-1)
		t.failures.Add(1)
		return false
	}
	t.total.Add(1)
	return true
}

func (t *Target) leave() {
	t.contract.now.Add(-1)
	t.now.Add(-1)
}

// sweep cuts what has stood still for too long.
func (t *Target) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.route.Load().Mode == plan.ModeTerminate {
		return // the Terminator's timeouts hold
	}
	sweep := func(l *links) {
		for x := l.first; x != nil; x = x.next {
			in, sent := x.s.bytes()
			moved := in + sent
			switch still := now.Sub(x.since); {
			case x.since.IsZero() || moved != x.moved:
				x.moved, x.since = moved, now
			case still >= t.s.o.Idle:
				x.s.cut(OutcomeIdle)
			case x.s.blocked() && still >= t.s.o.Stall:
				x.s.cut(OutcomeStalled)
			}
		}
	}
	for _, u := range t.all {
		sweep(&u.conns)
	}
}

// status shows the route.
func (t *Target) status(out *RouteStatus) {
	out.Conns, out.Total, out.Failures = int(t.now.Load()), t.total.Load(), t.failures.Load()
	out.In, out.Out = t.in.Load(), t.out.Load()
	out.Requests, out.Errors = t.requests.Load(), t.errors.Load()
	t.mu.Lock()
	for _, u := range t.all {
		for x := u.conns.first; x != nil; x = x.next {
			in, sent := x.s.bytes()
			out.In, out.Out = out.In+in, out.Out+sent
		}
	}
	t.mu.Unlock()
	for _, u := range *t.ups.Load() {
		b := BackendStatus{Name: u.backend.Name, Addr: u.backend.Addr, Conns: int(u.n.Load())}
		t.mu.Lock()
		if u.health != nil {
			r := u.health.Report()
			b.Healthy, b.Checked, b.Since, b.Error = r.Healthy, r.Checked, r.Since, r.Error
		}
		t.mu.Unlock()
		out.Backends = append(out.Backends, b)
	}
}

// join puts a session that was counted under its backend, unless that is gone.
func (u *upstream) join(x *link) bool {
	u.t.mu.Lock()
	defer u.t.mu.Unlock()
	if u.dead {
		return false
	}
	u.conns.add(x)
	return true
}

func (u *upstream) leave(x *link) {
	u.t.mu.Lock()
	x.remove()
	u.t.mu.Unlock()
	u.n.Add(-1)
}
