package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/health"
)

// Server serves one Config at a time.
type Server struct {
	o       Options
	ctx     context.Context // ends with Run
	cancel  context.CancelFunc
	work    sync.WaitGroup // accept loops, connections and flows
	mover   *mover
	health  *health.Checker
	clients clients
	pending pending
	table   atomic.Pointer[table]

	datagrams sync.Pool // of *[maxDatagram]byte

	conns, flows           atomic.Int64
	unknown, junk, refused atomic.Uint64

	mu        sync.Mutex
	state     int // one of the constants below
	config    Config
	targets   map[string]*Target // by ID
	leaving   map[*Target]struct{}
	contracts map[canon.Hash]*contract
	listeners map[place]*listener
}

const (
	notRun = iota
	running
	stopped
)

// New makes a Server, which serves nothing yet. Options.Dialer must be set.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{o: o, targets: map[string]*Target{}, leaving: map[*Target]struct{}{}, contracts: map[canon.Hash]*contract{}, listeners: map[place]*listener{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mover = newMover(min(512, max(8, openFiles()/32)))
	s.datagrams.New = func() any { return new([maxDatagram]byte) }
	s.clients.most = o.PerClient
	s.pending.most = o.Pending
	s.table.Store(&table{})
	s.health = health.New(health.Options{Dial: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return o.Dialer.Dial(ctx, network, "tcp", to)
	}})
	return s
}

// Apply replaces the configuration. It is safe to call at any time, before Run
// too. A configuration that is invalid (gateway-config-invalid) changes nothing.
// An address that can't be listened at is the Problem of its routes in Status,
// and is tried again; it fails nothing. Connections that the new configuration
// still allows (the route's ID, mode and network, and the backend) live on,
// others are drained. The Config is the Server's from then on.
func (s *Server) Apply(c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = c
	if s.state == running {
		s.apply()
	}
	return nil
}

// apply makes the configuration the one that is served. Under mu.
func (s *Server) apply() {
	if s.o.Terminator != nil {
		s.o.Terminator.Update(s.config)
	}
	routes := claims(s.config, s.o.Terminator != nil)
	t := &table{routes: routes, names: map[netip.Addr]map[string]*Target{}, ports: map[place]*Target{}}
	targets := make(map[string]*Target, len(routes))
	for i := range routes {
		r := &routes[i]
		if r.problem != "" {
			continue
		}
		target := s.targets[r.route.ID]
		if target == nil || !target.same(r.route) {
			target = s.back(r.route)
		}
		target.update(r.route)
		r.target, targets[r.route.ID] = target, target
		for _, p := range r.places {
			if r.route.byName() {
				t.ports[p] = nil
			} else {
				t.ports[p] = target
			}
		}
		if r.route.byName() {
			for _, a := range r.route.Addresses {
				if t.names[a] == nil {
					t.names[a] = map[string]*Target{}
				}
				t.names[a][r.route.Host] = target
			}
		}
	}
	old := s.targets
	s.targets = targets
	s.table.Store(t)
	s.listen(t)
	for id, target := range old {
		if targets[id] != target {
			if target.remove(func() { s.gone(target) }) {
				s.leaving[target] = struct{}{}
			}
		}
	}
	s.forget()
}

// back returns a target for a route: one of the same that is draining, or a new one.
func (s *Server) back(r *Route) *Target {
	for t := range s.leaving {
		if t.route.Load().ID == r.ID && t.same(r) {
			delete(s.leaving, t)
			return t
		}
	}
	c := s.contracts[r.Contract]
	if c == nil {
		c = &contract{id: r.Contract}
		s.contracts[r.Contract] = c
	}
	t := &Target{s: s, contract: c, done: make(chan struct{})}
	t.ups.Store(&[]*upstream{})
	return t
}

// gone takes note that a target has drained.
func (s *Server) gone(t *Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leaving, t)
	s.forget()
}

// forget drops the counters of contracts that have no route.
func (s *Server) forget() {
	if len(s.contracts) == 0 {
		return
	}
	used := make(map[*contract]bool, len(s.contracts))
	for _, t := range s.targets {
		used[t.contract] = true
	}
	for t := range s.leaving {
		used[t.contract] = true
	}
	for id, c := range s.contracts {
		if !used[c] {
			delete(s.contracts, id)
		}
	}
}

// Run serves until ctx ends, then closes everything and returns nil. It is called
// once.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.state != notRun {
		s.mu.Unlock()
		return errors.New("a gateway runs once")
	}
	s.state = running
	s.apply()
	s.mu.Unlock()
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	sweep := time.NewTicker(max(time.Millisecond, min(s.o.Idle, s.o.Stall, s.o.FlowIdle/4, time.Minute)/4))
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			s.stop()
			return nil
		case <-retry.C:
			s.mu.Lock()
			s.listen(s.table.Load())
			s.mu.Unlock()
		case now := <-sweep.C:
			s.sweep(now)
		}
	}
}

func (s *Server) sweep(now time.Time) {
	for _, t := range s.everyTarget() {
		t.sweep(now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		if l.flows != nil {
			l.flows.sweep(now)
		}
	}
}

func (s *Server) everyTarget() []*Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Target, 0, len(s.targets)+len(s.leaving))
	for _, t := range s.targets {
		all = append(all, t)
	}
	for t := range s.leaving {
		all = append(all, t)
	}
	return all
}

func (s *Server) stop() {
	s.mu.Lock()
	s.state = stopped
	for p, l := range s.listeners {
		l.close()
		delete(s.listeners, p)
	}
	s.mu.Unlock()
	s.cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); s.work.Wait() }()
	for {
		s.pending.closeAll()
		for _, t := range s.everyTarget() {
			t.cutAll(OutcomeStopped)
		}
		// What was between two lists at that moment is in one of them soon.
		select {
		case <-ended:
			s.health.Close()
			s.mover.pipes.close()
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Status says how everything is.
func (s *Server) Status() Status {
	out := Status{Conns: int(s.conns.Load()), Flows: int(s.flows.Load()), Unknown: s.unknown.Load(), Junk: s.junk.Load(),
		Refused: s.refused.Load(), LogLost: s.o.Access.Lost()}
	s.mu.Lock()
	failed := map[place]string{}
	for p, l := range s.listeners {
		if l.err != nil {
			failed[p] = "it can't listen at " + p.String() + ": " + l.err.Error()
		}
	}
	s.mu.Unlock()
	t := s.table.Load()
	out.Routes = make([]RouteStatus, len(t.routes))
	for i, r := range t.routes {
		st := &out.Routes[i]
		*st = RouteStatus{ID: r.route.ID, Contract: r.route.Contract, Workload: r.route.Workload, Problem: r.problem}
		for _, p := range r.places {
			if st.Problem == "" {
				st.Problem = failed[p]
			}
		}
		if r.target != nil {
			r.target.status(st)
		}
	}
	return out
}
