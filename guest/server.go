package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/hashicorp/yamux"
)

// Handler answers the one request of a connection, which is closed when it returns.
// The end of ctx means that the session is gone and conn with it.
type Handler func(ctx context.Context, conn net.Conn)

// Server is the agent's side of the conversation.
type Server struct {
	Handler Handler
}

// Serve answers requests on one byte stream, session after session, until the
// stream ends, and returns why. It owns rw, which Close must unblock. When it returns, all
// handlers have.
func (s *Server) Serve(ctx context.Context, rw io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = rw.Close() })
	defer stop()
	w := &writer{rw: rw, jobs: make(chan job), done: make(chan struct{})}
	var writing sync.WaitGroup
	writing.Go(w.run)
	defer writing.Wait()
	defer func() { _ = rw.Close() }()
	defer close(w.done)

	dec := newDecoder(rw)
	slots := make(chan struct{}, 2*MaxStreams) // of all sessions: handlers may outlive theirs a little
	var sessions sync.WaitGroup
	defer sessions.Wait()
	var current *guestConn
	end := func() {
		if current != nil {
			_ = current.Close()
			current = nil
		}
	}
	defer end()
	for {
		data, m, err := dec.next()
		switch {
		case err != nil:
			return fmt.Errorf("serve node: %w", err)
		case m != nil && m.kind == markHello:
			end()
			current = newGuestConn(w)
			// Before anything of yamux: the same writer keeps the order.
			w.begin(current, mark{markWelcome, m.nonce}.bytes())
			conn := current
			sessions.Go(func() { s.session(ctx, conn, slots) })
		case m != nil:
			end() // a stream that was cut off; the node will begin anew
		case current != nil:
			current.deliver(data)
		}
	}
}

// session runs yamux on conn to its end.
func (s *Server) session(ctx context.Context, conn *guestConn, slots chan struct{}) {
	defer func() { _ = conn.Close() }()
	mux, err := yamux.Server(conn, config())
	if err != nil {
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = mux.Close() }()
	for {
		c, err := mux.AcceptStream()
		if err != nil {
			return
		}
		// The node counts too, and opens no more than there are; but it sees a stream end
		// before the handler here has.
		select {
		case slots <- struct{}{}:
		case <-mux.CloseChan():
			_ = c.Close()
			return
		}
		running.Go(func() {
			defer func() { <-slots }()
			defer func() { _ = c.Close() }()
			s.Handler(ctx, c)
		})
	}
}

// writer is the one that writes to the stream. A port without a reader lets it wait
// for as long as that lasts, so nobody else may.
type writer struct {
	rw   io.Writer
	jobs chan job
	done chan struct{}
}

type job struct {
	of     *guestConn
	begins bool // of's session, with these bytes
	b      []byte
	sent   chan<- struct{}
}

func (w *writer) run() {
	var current *guestConn
	for {
		select {
		case <-w.done:
			return
		case j := <-w.jobs:
			if j.begins {
				current = j.of
			}
			// A session that has ended may still be at it, and must not write into
			// the next. An error shows in Serve's read, or with the next session.
			if j.of == current {
				_, _ = w.rw.Write(j.b)
			}
			close(j.sent)
		}
	}
}

// begin queues the first bytes of a session without waiting until they are written.
func (w *writer) begin(c *guestConn, b []byte) {
	select {
	case w.jobs <- job{c, true, b, make(chan struct{})}:
	case <-w.done:
	}
}

// guestConn is one session's part of the stream, below yamux.
type guestConn struct {
	w      *writer
	pr     *io.PipeReader
	pw     *io.PipeWriter
	closed chan struct{}
	once   sync.Once
}

func newGuestConn(w *writer) *guestConn {
	pr, pw := io.Pipe()
	return &guestConn{w: w, pr: pr, pw: pw, closed: make(chan struct{})}
}

var errEnded = errors.New("the session has ended")

// deliver hands what came to yamux, and drops it once the session has ended.
func (c *guestConn) deliver(b []byte) { _, _ = c.pw.Write(b) }

func (c *guestConn) Read(p []byte) (int, error) { return c.pr.Read(p) }

func (c *guestConn) Write(p []byte) (int, error) {
	sent := make(chan struct{})
	select { // the writer keeps the bytes beyond this call, so it gets a copy
	case c.w.jobs <- job{c, false, stuff(nil, p), sent}:
	case <-c.closed:
		return 0, errEnded
	case <-c.w.done:
		return 0, errEnded
	}
	select {
	case <-sent:
		return len(p), nil
	case <-c.closed:
		return 0, errEnded
	case <-c.w.done:
		return 0, errEnded
	}
}

func (c *guestConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		_ = c.pr.CloseWithError(errEnded)
		_ = c.pw.CloseWithError(errEnded)
	})
	return nil
}
