package path

import (
	"container/heap"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// world is two machines with a model of what lies between them, in time of its
// own.
type world struct {
	t      testing.TB
	now    time.Time
	queue  queue
	order  int
	a, b   *side
	cut    bool // direct packets are lost, both ways
	oneWay bool // direct packets from a to b are lost
	hole   bool // large direct packets from a to b are lost
	pings  int
}

// nat is how a site's router translates.
type nat struct {
	none      bool
	symmetric bool // a new outside port for every destination
	open      bool // lets in from anywhere, once there is a mapping
	outside   netip.Addr

	ports map[netip.AddrPort]uint16 // by destination; the zero one for all if not symmetric
	sent  map[[2]netip.AddrPort]bool
}

type side struct {
	w      *world
	peer   *side
	m      *Machine
	inside netip.AddrPort
	nat    *nat
	told   []Candidate
	number uint64
	path   netip.AddrPort
	paths  []time.Time // when the path changed
	blind  bool        // its relay servers don't observe
}

type event struct {
	at    time.Time
	order int
	do    func()
}
type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].order < q[j].order
	}
	return q[i].at.Before(q[j].at)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	o := *q
	x := o[len(o)-1]
	*q = o[:len(o)-1]
	return x
}

const (
	directDelay = 10 * time.Millisecond
	relayDelay  = 40 * time.Millisecond
)

func newWorld(t testing.TB, a, b *nat) *world {
	w := &world{t: t, now: time.Unix(1_800_000_000, 0)}
	mk := func(inside, outside string, n *nat) *side {
		n.outside = netip.MustParseAddr(outside)
		n.ports, n.sent = map[netip.AddrPort]uint16{}, map[[2]netip.AddrPort]bool{}
		s := &side{w: w, m: NewMachine(Timing{}), inside: netip.MustParseAddrPort(inside), nat: n}
		if n.none {
			s.inside = netip.AddrPortFrom(n.outside, s.inside.Port())
		}
		return s
	}
	w.a = mk("192.168.1.2:1000", "198.51.100.1", a)
	w.b = mk("10.0.0.2:2000", "203.0.113.1", b)
	w.a.peer, w.b.peer = w.b, w.a
	return w
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{at: w.now.Add(d), order: w.order, do: do})
}

// run plays d of the world's time.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for {
		next := end
		if len(w.queue) > 0 && w.queue[0].at.Before(next) {
			next = w.queue[0].at
		}
		for _, s := range []*side{w.a, w.b} {
			if n := s.m.Next(); !n.IsZero() && n.Before(next) {
				next = n
			}
		}
		if !next.Before(end) {
			w.now = end
			return
		}
		if next.After(w.now) {
			w.now = next
		}
		for len(w.queue) > 0 && !w.queue[0].at.After(w.now) {
			heap.Pop(&w.queue).(event).do()
		}
		for _, s := range []*side{w.a, w.b} {
			s.do(s.m.Tick(w.now))
		}
	}
}

// until runs until ok, at most d, and tells how long it took.
func (w *world) until(what string, d time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	begin := w.now
	for w.now.Sub(begin) < d {
		if ok() {
			return w.now.Sub(begin)
		}
		w.run(time.Millisecond)
	}
	w.t.Fatalf("%s: not after %v", what, d)
	return 0
}

// translate gives the outside source address of a packet to dst.
func (s *side) translate(dst netip.AddrPort) netip.AddrPort {
	if s.nat.none {
		return s.inside
	}
	key := netip.AddrPort{}
	if s.nat.symmetric {
		key = dst
	}
	p, ok := s.nat.ports[key]
	if !ok {
		p = uint16(40000 + 7*len(s.nat.ports))
		s.nat.ports[key] = p
	}
	return netip.AddrPortFrom(s.nat.outside, p)
}

// send carries a ping or pong directly.
func (s *side) send(to netip.AddrPort, full bool, deliver func(from netip.AddrPort)) {
	from := s.translate(to)
	s.nat.sent[[2]netip.AddrPort{from, to}] = true
	o := s.peer
	s.w.after(directDelay, func() {
		if s.w.cut || (s.w.oneWay || s.w.hole && full) && s == s.w.a || !o.admits(from, to) {
			return
		}
		deliver(from)
	})
}

// admits tells whether a packet from an outside address reaches s at to.
func (s *side) admits(from, to netip.AddrPort) bool {
	if s.nat.none {
		// A host's own filter: answers only.
		return to == s.inside && s.nat.sent[[2]netip.AddrPort{to, from}]
	}
	if to.Addr() != s.nat.outside {
		return false
	}
	for _, p := range s.nat.ports {
		if p == to.Port() {
			return s.nat.open || s.nat.sent[[2]netip.AddrPort{to, from}]
		}
	}
	return false
}

func (s *side) candidates() []Candidate {
	cs := []Candidate{{KindOf(s.inside.Addr()), s.inside}}
	if !s.blind && !s.nat.none {
		cs = append(cs, Candidate{Observed, s.translate(netip.MustParseAddrPort("192.0.2.1:443"))})
	}
	return Normal(cs)
}

func (s *side) tell(relay, punch bool) {
	s.number++
	t := Tell{Number: s.number, Relay: relay, Punch: punch, Candidates: s.candidates()}
	s.told = t.Candidates
	s.w.after(relayDelay, func() { s.peer.do(s.peer.m.Told(s.w.now, t)) })
}

func (s *side) do(effects []Effect) {
	for _, e := range effects {
		switch e.Op {
		case OpPing:
			s.w.pings++
			s.send(e.Addr, e.Full, func(from netip.AddrPort) { s.peer.do(s.peer.m.Ping(s.w.now, from, e.ID, e.Full)) })
		case OpPong:
			s.send(e.Addr, e.Full, func(from netip.AddrPort) { s.peer.do(s.peer.m.Pong(s.w.now, from, e.ID)) })
		case OpPath:
			s.path = e.Addr
			s.paths = append(s.paths, s.w.now)
		case OpTell:
			s.tell(e.Relay, e.Punch)
		case OpObserve:
			if cs := s.candidates(); !slices.Equal(cs, s.told) {
				s.do(s.m.Announce(s.w.now))
			}
		}
	}
}

// carry puts a behind another router, with other addresses: what was open is
// closed. The machine is not told.
func (w *world) carry() {
	w.a.inside = netip.MustParseAddrPort("192.168.77.9:1000")
	w.a.nat.outside = netip.MustParseAddr("198.51.100.99")
	clear(w.a.nat.ports)
	clear(w.a.nat.sent)
}

// meet is the exchange of keys, which carries the first addresses.
func (w *world) meet() {
	w.a.tell(false, false)
	w.b.tell(false, false)
}

func (w *world) direct() bool { return w.a.path.IsValid() && w.b.path.IsValid() }
func (w *world) relay() bool  { return !w.a.path.IsValid() && !w.b.path.IsValid() }
