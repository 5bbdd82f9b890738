package gateway

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// conn is a client's connection that is forwarded to a backend's.
type conn struct {
	t       *Target
	u       *upstream
	link    link
	client  *net.TCPConn
	backend net.Conn
	from    netip.AddrPort
	began   time.Time
	entered netip.Addr // in the table of clients

	in, out  atomic.Uint64
	inBlock  atomic.Bool
	outBlock atomic.Bool
	running  atomic.Int32           // directions
	outcome  atomic.Pointer[string] // the first reason for its end
}

// forward serves a counted connection of a client: it connects to a backend and
// moves bytes. It returns when those of the client have ended; the connection is
// left by the last direction to end.
func (s *Server) forward(t *Target, client *net.TCPConn, from netip.AddrPort, entered netip.Addr, tls bool) {
	x := &conn{t: t, client: client, from: from, began: time.Now(), entered: entered}
	x.link.s = x
	if !t.admit(s.o.PerRoute) {
		x.refuse(OutcomeLimit, tls)
		return
	}
	u, backend, err := t.connect(s.ctx, "tcp")
	if err != nil {
		t.leave()
		x.refuse(OutcomeNoBackend, tls)
		return
	}
	x.u, x.backend = u, backend
	if version := t.route.Load().Proxy; version != 0 {
		// It fits into an empty socket buffer: this doesn't wait.
		_ = backend.SetWriteDeadline(time.Now().Add(s.o.DialTimeout))
		_, err = backend.Write(proxyHeader(version, false, from, addrPort(client.LocalAddr())))
		_ = backend.SetWriteDeadline(time.Time{})
	}
	x.running.Store(2)
	if err == nil && !u.join(&x.link) {
		x.end(OutcomeDrained)
	}
	if err != nil {
		x.end(OutcomeReset)
	}
	s.work.Add(1)
	go func() { defer s.work.Done(); x.direct(backend, client, &x.out, &x.outBlock) }()
	x.direct(client, backend, &x.in, &x.inBlock)
}

// direct moves one direction, and leaves when it is the last.
func (x *conn) direct(src, dst net.Conn, n *atomic.Uint64, blocked *atomic.Bool) {
	if err := x.t.s.move(dst, src, n, blocked); err != nil {
		// Nothing can be put right any more: the other direction ends too.
		x.end(OutcomeReset)
	} else if half, ok := dst.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			x.end(OutcomeReset)
		}
	}
	if x.running.Add(-1) == 0 {
		x.leave()
	}
}

// cut ends the connection for a reason.
func (x *conn) cut(outcome string) { x.end(outcome) }

// end has both directions return. The sockets stay open until they have, since
// they are used by their numbers.
func (x *conn) end(outcome string) {
	if x.outcome.CompareAndSwap(nil, &outcome) {
		past := time.Unix(1, 0)
		_ = x.client.SetDeadline(past)
		_ = x.backend.SetDeadline(past)
	}
}

func (x *conn) bytes() (in, out uint64) { return x.in.Load(), x.out.Load() }
func (x *conn) blocked() bool           { return x.inBlock.Load() || x.outBlock.Load() }

// leave closes and accounts.
func (x *conn) leave() {
	outcome := OutcomeOK
	if o := x.outcome.Load(); o != nil {
		outcome = *o
	}
	if outcome == OutcomeReset || outcome == OutcomeStalled {
		abort(x.client)
		abort(x.backend)
	} else {
		_ = x.client.Close()
		_ = x.backend.Close()
	}
	x.u.leave(&x.link)
	x.t.leave()
	x.t.s.depart(x.entered)
	x.t.Record(Record{Time: x.began, Client: x.from, Backend: x.u.backend.Name, In: x.in.Load(), Out: x.out.Load(),
		Duration: time.Since(x.began), Outcome: outcome})
}

// refuse ends a connection that no backend has.
func (x *conn) refuse(outcome string, tls bool) {
	if tls {
		x.t.s.alert(x.client, alertInternal)
	} else {
		abort(x.client)
	}
	x.t.s.depart(x.entered)
	x.t.log(Record{Time: x.began, Client: x.from, Duration: time.Since(x.began), Outcome: outcome})
}

// terminated is a client's connection that the Terminator has.
type terminated struct {
	link   link
	c      *net.TCPConn
	cancel context.CancelFunc
}

func (x *terminated) cut(string) {
	x.cancel()
	_ = x.c.SetDeadline(time.Unix(1, 0))
}

func (x *terminated) bytes() (in, out uint64) { return 0, 0 }
func (x *terminated) blocked() bool           { return false }

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	return netip.AddrPort{}
}
