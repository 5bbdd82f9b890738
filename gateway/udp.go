package gateway

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a flow whose backend isn't connected to yet, and of the table when
// it is full.
const (
	maxDatagram  = 64 << 10
	waitingCount = 8        // datagrams
	waitingBytes = 16 << 10 // of them
	giveWay      = time.Second
	unanswered   = 15 * time.Second
)

// flows are the clients of one UDP port. Sources of datagrams can be forged, so
// a flow that the backend has answered is kept, and of those that it hasn't
// the oldest gives way when there are too many, but no sooner than after
// giveWay: that bounds how many are made a second.
type flows struct {
	l *listener
	c *net.UDPConn

	mu     sync.Mutex
	table  map[netip.AddrPort]*flow
	per    map[netip.Addr]int // flows of a client
	first  *flow              // without an answer, the oldest
	last   *flow
	closed bool
}

// flow is what one source address and port sends, and is sent.
type flow struct {
	f      *flows
	t      *Target
	u      *upstream
	from   netip.AddrPort
	client netip.Addr
	began  time.Time
	link   link

	in, out atomic.Uint64
	end     atomic.Pointer[string]
	socket  atomic.Pointer[net.Conn] // to the backend

	// Under flows.mu.
	conn       net.Conn // nil: being dialled
	waiting    [][]byte
	prev, next *flow // in the list of those without an answer
	listed     bool
	moved      uint64
	since      time.Time
}

func newFlows(l *listener, c *net.UDPConn) *flows {
	return &flows{l: l, c: c, table: map[netip.AddrPort]*flow{}, per: map[netip.Addr]int{}}
}

// serve takes datagrams until the socket is closed.
func (f *flows) serve() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := f.c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-f.l.s.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond): // out of memory; nothing else is known
			}
			continue
		}
		f.take(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}

// take forwards a datagram, or keeps it until the backend is connected to.
func (f *flows) take(b []byte, from netip.AddrPort) {
	f.mu.Lock()
	x := f.table[from]
	if x != nil && x.end.Load() != nil {
		x = nil // it is on its way out of the table, and makes room for a new one
	}
	if x == nil {
		if x = f.begin(from); x == nil {
			f.mu.Unlock()
			return
		}
	}
	if x.conn == nil {
		if len(x.waiting) < waitingCount && x.size()+len(b) <= max(waitingBytes, len(b)) {
			x.waiting = append(x.waiting, append([]byte(nil), b...))
		}
		f.mu.Unlock()
		return
	}
	conn := x.conn
	f.mu.Unlock()
	x.write(conn, b)
}

func (x *flow) size() (n int) {
	for _, b := range x.waiting {
		n += len(b)
	}
	return n
}

// write sends a datagram to the backend, and never waits: a socket that is full
// loses it, as networks do.
func (x *flow) write(conn net.Conn, b []byte) {
	var err error
	if c, ok := conn.(*net.UDPConn); ok {
		var raw syscall.RawConn
		if raw, err = c.SyscallConn(); err == nil {
			werr := raw.Write(func(fd uintptr) bool { _, err = send(int(fd), b); return true })
			err = errors.Join(werr, err)
		}
	} else {
		_, err = conn.Write(b)
	}
	if err != nil {
		x.failed(err)
		return
	}
	x.in.Add(uint64(len(b)))
}

// failed ends a flow whose backend can't be reached, so that the next datagram
// begins one with another.
func (x *flow) failed(err error) {
	if backendFault(err) {
		x.u.t.mu.Lock()
		h := x.u.health
		x.u.t.mu.Unlock()
		if h != nil {
			h.Failed(err)
		}
		x.cut(OutcomeReset)
	}
}

// begin makes a flow, or returns nil if a bound forbids it. Under mu.
func (f *flows) begin(from netip.AddrPort) *flow {
	s, t := f.l.s, f.l.target.Load()
	client := clientOf(from.Addr())
	if f.closed || t == nil || f.per[client] >= s.o.ClientFlows {
		return nil
	}
	if len(f.table) >= s.o.Flows || s.flows.Load() >= int64(s.o.AllFlows) {
		if f.first == nil || time.Since(f.first.began) < giveWay {
			t.failures.Add(1)
			return nil
		}
		old := f.first
		old.cut(OutcomeLimit)
		old.unlist()
		delete(f.table, old.from)
	}
	if !t.admit(s.o.Flows * 2) { // those that give way are still counted for a moment
		return nil
	}
	s.flows.Add(1)
	now := time.Now()
	x := &flow{f: f, t: t, from: from, client: client, began: now, since: now}
	x.link.s = x
	f.table[from] = x
	f.per[client]++
	x.list()
	s.work.Go(x.serve)
	return x
}

// serve connects the flow to a backend and carries its answers.
func (x *flow) serve() {
	defer x.leave()
	u, conn, err := x.t.connect(x.t.s.ctx, "udp")
	if err != nil {
		none := OutcomeNoBackend
		x.end.CompareAndSwap(nil, &none)
		return
	}
	defer conn.Close()
	if !u.join(&x.link) {
		u.n.Add(-1)
		x.cut(OutcomeDrained)
		return
	}
	defer u.leave(&x.link)
	x.socket.Store(&conn)
	if x.end.Load() != nil {
		return
	}
	x.connected(u, conn)
	x.answers(conn)
}

// connected sends what waited. The first datagram has the PROXY header before it.
func (x *flow) connected(u *upstream, conn net.Conn) {
	f := x.f
	f.mu.Lock()
	x.u = u
	waiting := x.waiting
	x.waiting = nil
	if version := x.t.route.Load().Proxy; version != 0 && len(waiting) > 0 {
		waiting[0] = append(proxyHeader(version, true, x.from, f.l.place.at), waiting[0]...)
	}
	// Under the lock, so that none that comes now overtakes them.
	for _, b := range waiting {
		x.write(conn, b)
	}
	x.conn = conn
	f.mu.Unlock()
}

// answers carries datagrams to the client until the flow ends. A buffer is held
// only while there are some.
func (x *flow) answers(conn net.Conn) {
	c, ok := conn.(*net.UDPConn)
	if !ok {
		buf := make([]byte, maxDatagram)
		for x.end.Load() == nil {
			n, err := conn.Read(buf)
			if !x.answer(buf[:max(n, 0)], err) {
				return
			}
		}
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	buffers := &x.t.s.datagrams
	for x.end.Load() == nil {
		more := true
		err := raw.Read(func(fd uintptr) bool {
			buf := buffers.Get().(*[maxDatagram]byte)
			defer buffers.Put(buf)
			for range 64 { // then others have a turn
				n, err := receive(int(fd), buf[:], 0)
				if err == unix.EAGAIN {
					return false
				}
				if more = x.answer(buf[:n], err); !more {
					return true
				}
			}
			return true
		})
		if err != nil || !more {
			return
		}
	}
}

// answer carries one, and returns false when the flow has ended.
func (x *flow) answer(b []byte, err error) bool {
	if err != nil {
		x.failed(err)
		return x.end.Load() == nil && !errors.Is(err, net.ErrClosed) && !backendFault(err)
	}
	if x.out.Load() == 0 {
		x.f.mu.Lock()
		x.unlist()
		x.f.mu.Unlock()
	}
	// A client's route that is gone, or a full socket: lost, as networks do.
	if _, err := x.f.c.WriteToUDPAddrPort(b, x.from); err == nil {
		x.out.Add(uint64(len(b)))
	}
	return x.end.Load() == nil
}

// leave takes the flow out of the table and accounts.
func (x *flow) leave() {
	f := x.f
	f.mu.Lock()
	if f.table[x.from] == x {
		delete(f.table, x.from)
	}
	if f.per[x.client]--; f.per[x.client] == 0 {
		delete(f.per, x.client)
	}
	x.unlist()
	f.mu.Unlock()
	f.l.s.flows.Add(-1)
	x.t.leave()
	outcome, backend := OutcomeOK, ""
	if o := x.end.Load(); o != nil {
		outcome = *o
	}
	if x.u != nil {
		backend = x.u.backend.Name
	}
	x.t.Record(Record{Time: x.began, Client: x.from, Backend: backend, In: x.in.Load(), Out: x.out.Load(), Duration: time.Since(x.began), Outcome: outcome})
}

func (x *flow) cut(outcome string) {
	if x.end.CompareAndSwap(nil, &outcome) {
		if c := x.socket.Load(); c != nil {
			_ = (*c).SetReadDeadline(time.Unix(1, 0))
		}
	}
}

func (x *flow) bytes() (in, out uint64) { return x.in.Load(), x.out.Load() }

func (x *flow) blocked() bool { return false }

// list and unlist keep those without an answer, oldest first. Under flows.mu.
func (x *flow) list() {
	x.listed, x.prev = true, x.f.last
	if x.prev != nil {
		x.prev.next = x
	} else {
		x.f.first = x
	}
	x.f.last = x
}

func (x *flow) unlist() {
	if !x.listed {
		return
	}
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		x.f.first = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	} else {
		x.f.last = x.prev
	}
	x.listed, x.prev, x.next = false, nil, nil
}

// sweep ends flows in which nothing has moved for long.
func (f *flows) sweep(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.table {
		idle := f.l.s.o.FlowIdle
		if x.listed {
			idle = min(idle, unanswered)
		}
		if in, out := x.bytes(); in+out != x.moved {
			x.moved, x.since = in+out, now
		} else if now.Sub(x.since) >= idle {
			x.cut(OutcomeOK)
		}
	}
}

// close ends all flows.
func (f *flows) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	_ = f.c.Close()
	for _, x := range f.table {
		x.cut(OutcomeStopped)
	}
}
