package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/gateway/hello"
	"github.com/zero-os/zos/spec/plan"
)

// listener is a public socket, or that it couldn't be opened.
type listener struct {
	s      *Server
	place  place
	target atomic.Pointer[Target] // nil: by name
	tcp    *net.TCPListener
	flows  *flows // of UDP
	err    error
}

// listen opens what a table wants and isn't open, and closes what it doesn't
// want. Under Server.mu.
func (s *Server) listen(t *table) {
	if s.state != running {
		return
	}
	for p, l := range s.listeners {
		if _, wanted := t.ports[p]; !wanted {
			l.close()
			delete(s.listeners, p)
		}
	}
	for p, target := range t.ports {
		l := s.listeners[p]
		if l == nil {
			l = &listener{s: s, place: p}
			s.listeners[p] = l
		}
		l.target.Store(target)
		if l.tcp == nil && l.flows == nil {
			was := l.err
			if l.open(); l.err != nil && was == nil {
				s.o.Log.Warn("can't listen at a public address, trying again", "at", p.String(), "error", l.err)
			}
		}
	}
}

func (l *listener) open() {
	if l.place.udp {
		var c *net.UDPConn
		if c, l.err = l.s.o.Listener.ListenUDP(l.place.at); l.err == nil {
			l.flows = newFlows(l, c)
			l.s.work.Go(l.flows.serve)
		}
		return
	}
	if l.tcp, l.err = l.s.o.Listener.ListenTCP(l.place.at); l.err == nil {
		tcp := l.tcp
		l.s.work.Go(func() { l.accept(tcp) })
	} else {
		l.tcp = nil
	}
}

func (l *listener) close() {
	if l.tcp != nil {
		_ = l.tcp.Close()
	}
	if l.flows != nil {
		l.flows.close()
	}
}

// accept takes connections until the listener is closed. When the process is
// out of files it waits for a moment: those that wait in the kernel are bounded there.
func (l *listener) accept(tcp *net.TCPListener) {
	for {
		c, err := tcp.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, unix.ECONNABORTED):
		case err != nil:
			select {
			case <-time.After(50 * time.Millisecond):
			case <-l.s.ctx.Done():
				return
			}
		default:
			l.s.enter(l, c)
		}
	}
}

// enter counts a new connection and serves it, or resets it.
func (s *Server) enter(l *listener, c *net.TCPConn) {
	from := addrPort(c.RemoteAddr())
	client := clientOf(from.Addr())
	if s.conns.Add(1) > int64(s.o.Conns) {
		s.conns.Add(-1)
		s.refused.Add(1)
		abort(c)
		return
	}
	if !s.clients.enter(client) {
		s.conns.Add(-1)
		s.refused.Add(1)
		abort(c)
		return
	}
	s.work.Go(func() {
		switch t := l.target.Load(); {
		case t != nil:
			s.forward(t, c, from, client, false)
		case l.place.at.Port() == portHTTP:
			s.plain(l, c, client)
		default:
			s.named(l, c, from, client)
		}
	})
}

// depart counts a connection as gone.
func (s *Server) depart(client netip.Addr) {
	s.clients.leave(client)
	s.conns.Add(-1)
}

// named serves a connection whose client says in its ClientHello what it wants.
func (s *Server) named(l *listener, c *net.TCPConn, from netip.AddrPort, client netip.Addr) {
	w, evicted := s.pending.add(c)
	if evicted {
		s.refused.Add(1)
	}
	h, err := s.peek(c)
	if !s.pending.remove(w) {
		s.depart(client)
		return
	}
	var t *Target
	switch {
	case err != nil:
		s.junk.Add(1)
		abort(c)
		s.depart(client)
		return
	case h.Name != "":
		t = s.table.Load().lookup(l.place.at.Addr(), h.Name)
	}
	switch {
	case t == nil:
		s.unknown.Add(1)
		s.alert(c, alertUnrecognizedName)
		s.depart(client)
	case t.route.Load().Mode == plan.ModeTerminate:
		s.terminate(l, t, c, h, from, client)
	default:
		s.forward(t, c, from, client, true)
	}
}

// peek waits for a ClientHello and reads it without taking it off the socket: a
// client that is slow costs no buffer, and what is forwarded later is what came.
func (s *Server) peek(c *net.TCPConn) (hello.Hello, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return hello.Hello{}, err
	}
	if err := c.SetReadDeadline(time.Now().Add(s.o.HelloTimeout)); err != nil {
		return hello.Hello{}, err
	}
	var h hello.Hello
	result := hello.ErrShort
	err = raw.Read(func(fd uintptr) bool {
		buf := s.mover.buffers.Get().(*[copySize]byte)
		defer s.mover.buffers.Put(buf)
		n, err := receive(int(fd), buf[:hello.MaxSize], unix.MSG_PEEK)
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil:
			result = err
			return true
		case n == 0:
			result = hello.ErrJunk
			return true
		}
		h, result = hello.Parse(buf[:n])
		return !errors.Is(result, hello.ErrShort)
	})
	if err == nil {
		err = result
	}
	if err != nil {
		return hello.Hello{}, err
	}
	return h, c.SetReadDeadline(time.Time{})
}

// Alerts, RFC 8446 §6.
const (
	alertUnrecognizedName = 112
	alertInternal         = 80
)

// alert tells a TLS client why, and closes. What it sent is read first: closed over unread
// bytes, the kernel would send a reset that overtakes the alert.
func (s *Server) alert(c *net.TCPConn, description byte) {
	w, _ := s.pending.add(c)
	defer s.pending.remove(w)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(alertLinger))
	if _, err := c.Write([]byte{21, 3, 3, 0, 2, 2, description}); err != nil {
		return
	}
	_ = c.CloseWrite()
	buf := make([]byte, 1024)
	for left := 2 * hello.MaxSize; left > 0; {
		n, err := c.Read(buf)
		if left -= n; err != nil {
			return
		}
	}
}

// alertLinger is how long a client may take to read an alert.
const alertLinger = time.Second

// terminate hands a connection to the Terminator.
func (s *Server) terminate(l *listener, t *Target, c *net.TCPConn, h hello.Hello, from netip.AddrPort, client netip.Addr) {
	defer s.depart(client)
	if !t.admit(s.o.PerRoute) {
		s.alert(c, alertInternal)
		t.log(Record{Time: time.Now(), Client: from, Outcome: OutcomeLimit})
		return
	}
	defer t.leave()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	x := &terminated{c: c, cancel: cancel}
	x.link.s = x
	t.mu.Lock()
	over := t.over
	if !over {
		t.front.add(&x.link)
	}
	t.mu.Unlock()
	if over {
		abort(c)
		return
	}
	defer func() {
		t.mu.Lock()
		x.link.remove()
		t.mu.Unlock()
		_ = c.Close()
	}()
	s.o.Terminator.ServeTLS(ctx, c, h, t, names{s, l.place.at.Addr()})
}

// plain hands a connection to port 80 to the Terminator.
func (s *Server) plain(l *listener, c *net.TCPConn, client netip.Addr) {
	defer s.depart(client)
	defer c.Close()
	s.o.Terminator.ServePlain(s.ctx, c, names{s, l.place.at.Addr()})
}

// names are those at one address, whatever the configuration is at the time.
type names struct {
	s  *Server
	at netip.Addr
}

func (n names) Lookup(host string) *Target { return n.s.table.Load().lookup(n.at, host) }
