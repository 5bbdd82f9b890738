package path

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Op is what an Effect asks for.
type Op uint8

const (
	OpPing    Op = 1 + iota // send a ping with ID to Addr
	OpPong                  // answer the ping ID to Addr
	OpPath                  // send packets to Addr from now on; the zero Addr: through the relay
	OpTell                  // send a Tell through the relay, with Relay and Punch as they are here
	OpObserve               // ask the relay servers for this node's outside addresses again
)

// Effect is one thing to do, in the order given.
type Effect struct {
	Op    Op
	Addr  netip.AddrPort
	ID    uint64
	Full  bool // the ping is as large as packets get
	Relay bool
	Punch bool
}

// State of a Machine, for people.
type State uint8

const (
	Relay   State = iota // nothing to try: the peer tells no address
	Probing              // on the relay, looking for a direct path
	Direct
)

func (s State) String() string { return [...]string{"relay", "probing", "direct"}[s] }

// Timing of a Machine. Zero fields mean the defaults.
type Timing struct {
	Busy     time.Duration // between pings on a direct path in use; default 1 s
	Idle     time.Duration // on one that rests; routers forget after 25 s and more; default 15 s
	MinRetry time.Duration // first pause between bursts; default 2 s
	MaxRetry time.Duration // longest pause; default 2 min
}

// The rhythm of pings. A burst lasts 1.5 s; a path of 20 ms is given up 1.2 s
// after the first ping that was not answered.
const (
	burstRounds = 5
	burstStep   = 100 * time.Millisecond // doubles with every round
	minRTO      = 300 * time.Millisecond
	maxRTO      = 1500 * time.Millisecond
	maxLost     = 4               // pings in a row without an answer
	stable      = 1 * time.Minute // a path that lasted this long has no past
	firstHold   = 2 * time.Second // how long an address is not taken that failed again
	maxHold     = 1 * time.Minute
	maxLearned  = 8
	maxPending  = 64
)

// target is an address of the peer.
type target struct {
	addr   netip.AddrPort
	kind   Kind
	rtt    time.Duration // 0: never answered
	pinged time.Time
	fails  int       // how often it was given up, while not stable
	hold   time.Time // not to be taken before
}

type pending struct {
	id   uint64
	to   netip.AddrPort
	at   time.Time
	full bool
}

// Machine chooses the path to one peer by one device. It is for one goroutine;
// now never goes back. Its methods return what is to be done.
type Machine struct {
	timing  Timing
	targets []*target
	current *target // nil: the relay
	since   time.Time
	pending []pending
	lastID  uint64
	number  uint64 // of the newest Tell
	out     []Effect

	// Bursts of pings.
	left      int // rounds to come
	step      time.Duration
	all       bool // ping all addresses, not only better ones than the current
	nextRound time.Time
	nextBurst time.Time
	attempt   int

	// Care for the direct path.
	lost      int
	nextKeep  time.Time
	lastPong  time.Time
	busyUntil time.Time
}

// NewMachine makes a machine that is on the relay and knows no address.
func NewMachine(t Timing) *Machine {
	for _, d := range []struct {
		at   *time.Duration
		want time.Duration
	}{{&t.Busy, time.Second}, {&t.Idle, 15 * time.Second}, {&t.MinRetry, 2 * time.Second}, {&t.MaxRetry, 2 * time.Minute}} {
		if *d.at <= 0 {
			*d.at = d.want
		}
	}
	return &Machine{timing: t}
}

// State, address and round trip of the path now.
func (m *Machine) State() (State, netip.AddrPort, time.Duration) {
	switch {
	case m.current != nil:
		return Direct, m.current.addr, m.current.rtt
	case len(m.targets) > 0:
		return Probing, netip.AddrPort{}, 0
	}
	return Relay, netip.AddrPort{}, 0
}

// Next is when Tick is due; zero: not before something happens.
func (m *Machine) Next() time.Time {
	var next time.Time
	for _, at := range []struct {
		on bool
		t  time.Time
	}{{m.current != nil, m.nextKeep}, {m.left > 0, m.nextRound}, {m.left == 0 && m.wants(), m.nextBurst}} {
		if at.on && (next.IsZero() || at.t.Before(next)) {
			next = at.t
		}
	}
	return next
}

// Assume takes a path that an earlier daemon had chosen. It is asked at once
// whether it still is one.
func (m *Machine) Assume(now time.Time, addr netip.AddrPort) []Effect {
	if !Usable(addr) || m.current != nil {
		return m.done()
	}
	m.current, m.since = m.learn(addr), now
	m.lost, m.nextKeep, m.lastPong = 0, now, now
	return m.done()
}

// Tick does what is due.
func (m *Machine) Tick(now time.Time) []Effect {
	if m.current != nil && !now.Before(m.nextKeep) {
		if m.lost >= maxLost {
			m.fall(now)
		} else {
			m.ping(now, m.current, true)
			m.lost++
			m.nextKeep = now.Add(m.rto())
		}
	}
	if m.left == 0 && m.wants() && !now.Before(m.nextBurst) {
		m.emit(Effect{Op: OpObserve})
		m.emit(Effect{Op: OpTell, Punch: true})
		m.burst(now, m.current == nil)
	}
	if m.left > 0 && !now.Before(m.nextRound) {
		m.round(now)
	}
	return m.done()
}

// Told takes what the peer says about itself. A late one is ignored.
func (m *Machine) Told(now time.Time, t Tell) []Effect {
	if t.Number <= m.number {
		return m.done()
	}
	m.number = t.Number
	fresh := m.take(t)
	if t.Relay {
		if m.current != nil {
			m.current = nil
			m.emit(Effect{Op: OpPath})
		}
		m.pending = nil
		for _, g := range m.targets {
			g.rtt = 0
		}
	}
	if t.Relay || fresh {
		m.attempt = 0
	}
	if t.Relay || t.Punch || fresh {
		m.burst(now, true)
		if !now.Before(m.nextRound) {
			m.round(now)
		}
	}
	return m.done()
}

// take replaces what the peer told before; it says whether an address is new.
func (m *Machine) take(t Tell) (fresh bool) {
	var targets []*target
	for _, c := range Normal(t.Candidates) {
		g := m.find(c.Addr)
		if g == nil {
			g = &target{addr: c.Addr}
			fresh = true
		}
		g.kind = c.Kind
		targets = append(targets, g)
	}
	// What was learned is forgotten when the peer has moved; an address in use
	// stays though it is told no more: pings will show whether it is good.
	for _, g := range m.targets {
		told := false
		for _, n := range targets {
			told = told || n == g
		}
		if !told && !t.Relay && (g == m.current || g.kind == learned) {
			g.kind = learned
			targets = append(targets, g)
		}
	}
	m.targets = targets
	return fresh
}

// Ping takes an authentic ping of the peer that came from an address.
func (m *Machine) Ping(now time.Time, from netip.AddrPort, id uint64, full bool) []Effect {
	if !Usable(from) {
		return m.done()
	}
	m.emit(Effect{Op: OpPong, Addr: from, ID: id, Full: full})
	g := m.find(from)
	if g == nil {
		g = m.learn(from)
		if m.nextBurst.IsZero() {
			m.nextBurst = now.Add(m.timing.MinRetry)
		}
	}
	// What let this ping in may let ours out: ask at once, not in the next round.
	if (m.current == nil || g.kind.rank() < m.current.kind.rank()) && now.Sub(g.pinged) >= burstStep/2 {
		m.ping(now, g, false)
	}
	return m.done()
}

// Pong takes an authentic answer that came from an address. It counts only from
// where the ping went.
func (m *Machine) Pong(now time.Time, from netip.AddrPort, id uint64) []Effect {
	for i, p := range m.pending {
		if p.id != id {
			continue
		}
		if p.to != from {
			return m.done()
		}
		m.pending = append(m.pending[:i], m.pending[i+1:]...)
		if g := m.find(from); g != nil {
			m.answered(now, g, max(now.Sub(p.at), 1), p.full)
		}
		break
	}
	return m.done()
}

// answered takes a target's answer. It becomes the path when it has answered a
// full ping, which only those get that answered a small one.
func (m *Machine) answered(now time.Time, g *target, rtt time.Duration, full bool) {
	if g.rtt == 0 {
		g.rtt = rtt
	} else {
		g.rtt = (7*g.rtt + rtt) / 8
	}
	switch {
	case g == m.current:
		m.lost, m.lastPong = 0, now
		if now.Sub(m.since) >= stable {
			g.fails = 0
		}
		m.keep(now)
	case now.Before(g.hold):
		// It answers, but it failed just before: ask again when its time is up.
		if m.current == nil && g.hold.Before(m.nextBurst) {
			m.nextBurst = g.hold
		}
	case m.better(g) && !full:
		m.ping(now, g, true)
	case m.better(g):
		m.current, m.since = g, now
		m.lost, m.lastPong, m.attempt = 0, now, 0
		m.nextBurst = now.Add(m.timing.MinRetry)
		m.nextKeep = now.Add(m.timing.Busy)
		m.emit(Effect{Op: OpPath, Addr: g.addr})
	}
}

// better tells whether g should replace the path: fewer routers in between, or
// clearly faster.
func (m *Machine) better(g *target) bool {
	c := m.current
	if c == nil {
		return true
	}
	if g.kind.rank() != c.kind.rank() {
		return g.kind.rank() < c.kind.rank()
	}
	return c.rtt > 0 && g.rtt < c.rtt*8/10-time.Millisecond
}

// Traffic says that packets went to the peer just now: its path is watched
// closely.
func (m *Machine) Traffic(now time.Time) {
	m.busyUntil = now.Add(2 * m.timing.Busy)
	if m.current != nil && m.lost == 0 {
		m.keep(now)
	}
}

// keep plans the next ping on the path that answered last at lastPong.
func (m *Machine) keep(now time.Time) {
	interval := m.timing.Idle
	if now.Before(m.busyUntil) {
		interval = m.timing.Busy
	}
	m.nextKeep = m.lastPong.Add(interval)
}

// Moved says that this node's own addresses have changed: nothing that was
// found holds any more.
func (m *Machine) Moved(now time.Time) []Effect {
	if m.current != nil {
		m.current = nil
		m.emit(Effect{Op: OpPath})
	}
	m.pending = nil
	told := m.targets[:0]
	for _, g := range m.targets {
		if g.kind != learned {
			g.rtt, g.fails, g.hold = 0, 0, time.Time{}
			told = append(told, g)
		}
	}
	clear(m.targets[len(told):])
	m.targets = told
	m.emit(Effect{Op: OpObserve})
	m.emit(Effect{Op: OpTell, Relay: true, Punch: true})
	m.attempt = 0
	m.burst(now, true)
	return m.done()
}

// Rejoined says that a way to the relay has come or gone: what was told meanwhile
// may be lost. On the relay, it is told again; a direct path needs nothing.
func (m *Machine) Rejoined(now time.Time) []Effect {
	if m.current == nil {
		m.emit(Effect{Op: OpTell, Relay: true, Punch: true})
		m.attempt = 0
		m.burst(now, true)
	}
	return m.done()
}

// Announce says that this node has learned a further address of its own.
func (m *Machine) Announce(now time.Time) []Effect {
	m.emit(Effect{Op: OpTell, Punch: true})
	m.attempt = 0
	m.burst(now, m.current == nil)
	return m.done()
}

// fall returns to the relay because the path is silent.
func (m *Machine) fall(now time.Time) {
	g := m.current
	m.current = nil
	g.rtt = 0
	if g.fails++; g.fails > 1 {
		g.hold = now.Add(min(firstHold<<min(g.fails-2, 10), maxHold))
	}
	m.pending = nil
	m.emit(Effect{Op: OpPath})
	m.emit(Effect{Op: OpTell, Relay: true, Punch: true})
	m.emit(Effect{Op: OpObserve})
	m.attempt = 0
	m.burst(now, true)
}

// wants tells whether there is something to look for.
func (m *Machine) wants() bool {
	for _, g := range m.targets {
		if m.current == nil || g.kind.rank() < m.current.kind.rank() {
			return true
		}
	}
	return false
}

// burst begins a series of rounds. One that has just begun is made longer, so
// that no peer can hurry the rounds.
func (m *Machine) burst(now time.Time, all bool) {
	m.all = all || (m.all && m.left > 0)
	// A round is at least one step after the one before: nextRound stays where
	// that put it.
	if m.left == 0 && m.nextRound.Before(now) {
		m.nextRound = now
	} else if next := now.Add(burstStep); m.nextRound.After(next) {
		m.nextRound = next
	}
	m.left, m.step = burstRounds, burstStep
}

// round pings every address that is worth it, once. Without a direct path it also
// tells again: the peer may have been told before it could read it, and one that
// knows nothing new is not disturbed.
func (m *Machine) round(now time.Time) {
	if m.current == nil {
		m.emit(Effect{Op: OpTell})
	}
	for _, g := range m.targets {
		if g != m.current && (m.all || m.current == nil || g.kind.rank() < m.current.kind.rank()) {
			m.ping(now, g, false)
		}
	}
	m.nextRound = now.Add(m.step)
	m.step *= 2
	if m.left--; m.left == 0 {
		m.all = false
		m.nextBurst = now.Add(min(m.timing.MinRetry<<min(m.attempt, 20), m.timing.MaxRetry))
		m.attempt++
	}
}

func (m *Machine) ping(now time.Time, g *target, full bool) {
	// Drawn, so that only who got the ping can answer it.
	m.lastID = rand.Uint64()
	if len(m.pending) == maxPending {
		m.pending = m.pending[1:]
	}
	m.pending = append(m.pending, pending{m.lastID, g.addr, now, full})
	g.pinged = now
	m.emit(Effect{Op: OpPing, Addr: g.addr, ID: m.lastID, Full: full})
}

func (m *Machine) rto() time.Duration { return min(max(3*m.current.rtt, minRTO), maxRTO) }

func (m *Machine) find(addr netip.AddrPort) *target {
	for _, g := range m.targets {
		if g.addr == addr {
			return g
		}
	}
	return nil
}

// learn adds an address that the peer did not tell; of many the oldest goes.
func (m *Machine) learn(addr netip.AddrPort) *target {
	count, oldest := 0, -1
	for i, g := range m.targets {
		if g.kind == learned && g != m.current {
			if count++; oldest < 0 {
				oldest = i
			}
		}
	}
	if count >= maxLearned {
		m.targets = append(m.targets[:oldest], m.targets[oldest+1:]...)
	}
	g := &target{addr: addr, kind: learned}
	m.targets = append(m.targets, g)
	return g
}

func (m *Machine) emit(e Effect) { m.out = append(m.out, e) }

func (m *Machine) done() []Effect {
	out := m.out
	m.out = nil
	return out
}
