package netlab

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Segment is a link: everyone on it is a neighbour of everyone. It learns
// hardware addresses as a switch does.
type Segment struct {
	lab      *Lab
	name     string
	prefixes []netip.Prefix

	mu      sync.Mutex
	ports   map[*port]struct{}
	learned map[[6]byte]*port
	shape   shaped
	taps    []func(Packet)
	middle  func([]byte) [][]byte
	given   map[netip.Prefix]netip.Addr // last address given out
	used    map[netip.Addr]bool
	sites   []siteRoute
	random  *rand.Rand

	queue dues
	seq   uint64
	lanes map[[2]*port]*lane
	wake  chan struct{}
	done  chan struct{}
}

// siteRoute is how a routed site's prefix is reached from the segment.
type siteRoute struct {
	prefix netip.Prefix
	via    netip.Addr
}

// lane is what goes from one port to another in order.
type lane struct {
	last    time.Time // when the last of them is due
	waiting int       // how many are not delivered yet, due or not
}

// port is where something is plugged in.
type port struct {
	name    string
	write   func([]byte) // must not block
	in, out shaped       // towards the segment, and from it
}

// Segment makes a link. Hosts on it get addresses from its prefixes, the first
// being number 10 of each.
func (l *Lab) Segment(name string, prefixes ...string) *Segment {
	l.tb.Helper()
	s := &Segment{
		lab: l, name: name, ports: map[*port]struct{}{}, learned: map[[6]byte]*port{},
		given: map[netip.Prefix]netip.Addr{}, used: map[netip.Addr]bool{}, lanes: map[[2]*port]*lane{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	for _, p := range prefixes {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			l.tb.Fatalf("netlab: segment %s: %v", name, err)
		}
		s.prefixes = append(s.prefixes, prefix.Masked())
	}
	l.mu.Lock()
	l.seeds++
	s.random = rand.New(rand.NewPCG(l.seed, l.seeds))
	l.segments = append(l.segments, s)
	l.mu.Unlock()
	l.work.Add(1)
	go s.clockwork()
	return s
}

// Name is what the segment is called in captures.
func (s *Segment) Name() string { return s.name }

// Shape sets how the whole link treats frames, from now on.
func (s *Segment) Shape(sh Shape) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shape.Shape = sh
}

// Tap calls f with every frame that is offered to the link, before anything is
// lost, one at a time and in order. f must be quick and must not call back.
func (s *Segment) Tap(f func(Packet)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taps = append(s.taps, f)
}

// Middle puts somebody on the link who sees every frame after the taps, and
// says which frames pass in its stead: none, it, others. nil removes them. f
// gets a copy, is called one at a time, and must not call back.
func (s *Segment) Middle(f func(frame []byte) [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.middle = f
}

// Inject sends a frame to everyone for whom its destination is, as if by a
// card that is on the link and nowhere else. Taps see it.
func (s *Segment) Inject(frame []byte) {
	s.offer(&port{name: "injected"}, append([]byte(nil), frame...))
}

func (s *Segment) plug(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports[p] = struct{}{}
}

func (s *Segment) unplug(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, p)
	for mac, q := range s.learned {
		if q == p {
			delete(s.learned, mac)
		}
	}
	for pair := range s.lanes {
		if pair[0] == p || pair[1] == p {
			delete(s.lanes, pair)
		}
	}
}

// offer takes a frame from a port. The frame is not used again by the caller.
func (s *Segment) offer(from *port, frame []byte) {
	if len(frame) < etherHeader {
		return
	}
	now := time.Now()
	var instantly []due
	s.mu.Lock()
	p := Packet{Segment: s.name, From: from.name, Time: now, Frame: frame}
	p.Flow, p.IPLen = Dissect(frame)
	for _, tap := range s.taps {
		tap(p)
	}
	passing := [][]byte{frame}
	if s.middle != nil {
		passing = s.middle(append([]byte(nil), frame...))
	}
	for _, f := range passing {
		if len(f) < etherHeader {
			continue
		}
		p.Frame = f
		if s.middle != nil {
			p.Flow, p.IPLen = Dissect(f)
		}
		instantly = s.forward(from, p, now, instantly)
	}
	s.mu.Unlock()
	for _, d := range instantly {
		d.to.write(d.frame)
	}
}

// forward decides where a packet goes and when. It appends what arrives at
// once, and queues the rest.
func (s *Segment) forward(from *port, p Packet, now time.Time, instantly []due) []due {
	if src := [6]byte(p.Frame[6:12]); src[0]&1 == 0 {
		if _, plugged := s.ports[from]; plugged {
			s.learned[src] = from
		}
	}
	delay, late, ok := from.in.pass(p, now, s.random.Float64)
	if !ok {
		return instantly
	}
	d, l, ok := s.shape.pass(p, now, s.random.Float64)
	if !ok {
		return instantly
	}
	delay, late = delay+d, late || l
	send := func(to *port) {
		d, l, ok := to.out.pass(p, now, s.random.Float64)
		if !ok {
			return
		}
		at, pair := now.Add(delay+d), [2]*port{from, to}
		var in *lane // nil for a frame that others may overtake
		if !late && !l {
			if in = s.lanes[pair]; in == nil {
				in = &lane{}
				s.lanes[pair] = in
			}
			if at.Before(in.last) {
				at = in.last
			}
		}
		if !at.After(now) && (in == nil || in.waiting == 0) {
			instantly = append(instantly, due{to: to, frame: p.Frame})
			return
		}
		if in != nil {
			in.last = at
			in.waiting++
		}
		s.seq++
		heap.Push(&s.queue, due{at: at, seq: s.seq, to: to, frame: p.Frame, lane: in})
		if s.queue[0].seq == s.seq {
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	}
	dst := [6]byte(p.Frame[0:6])
	if to := s.learned[dst]; to != nil && dst[0]&1 == 0 {
		if to != from {
			send(to)
		}
		return instantly
	}
	for to := range s.ports {
		if to != from {
			send(to)
		}
	}
	return instantly
}

// address gives out a free address of a prefix.
func (s *Segment) address(prefix netip.Prefix) netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.given[prefix]
	if !ok {
		a = prefix.Addr()
		for range 9 {
			a = a.Next()
		}
	}
	for {
		a = a.Next()
		if !prefix.Contains(a) {
			s.lab.tb.Fatalf("netlab: segment %s has no free address in %s", s.name, prefix)
		}
		if !s.used[a] {
			s.given[prefix] = a
			s.used[a] = true
			return a
		}
	}
}
