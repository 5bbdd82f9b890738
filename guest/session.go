package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/zero-os/zos/workload/control"
)

// MaxStreams is how many requests of one Session can be open at a time, those that
// the guest has not let go of included. Each buffers at most 256 KiB.
const MaxStreams = 16

// Session is the node's side of a conversation with one guest. It may be used by
// several goroutines.
type Session struct {
	mux  *yamux.Session
	conn *hostConn
	open sync.Mutex // while a stream is counted and opened
}

// Connect begins a session on a byte stream to a guest's agent and waits until the
// agent has answered: it is ready then. It may be called on a stream that was used
// before, by another process, and has leftovers in it. It owns rw from now on, and
// closes it when it fails. The end of ctx ends the waiting, not the session.
func Connect(ctx context.Context, rw io.ReadWriteCloser) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { _ = rw.Close() })
	c := &hostConn{rw: rw, dec: newDecoder(rw)}
	err := c.begin(newNonce())
	if !stop() {
		return nil, fmt.Errorf("connect to guest: no answer: %w", context.Cause(ctx))
	}
	if err != nil {
		_ = rw.Close()
		return nil, fmt.Errorf("connect to guest: %w", err)
	}
	mux, err := yamux.Client(c, config())
	if err != nil {
		_ = rw.Close()
		return nil, fmt.Errorf("connect to guest: %w", err)
	}
	return &Session{mux: mux, conn: c}, nil
}

// config is yamux's on both sides.
func config() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	c.EnableKeepAlive = false // a paused guest is no dead one
	c.AcceptBacklog = 2 * MaxStreams
	c.MaxStreamWindowSize = window
	c.StreamOpenTimeout = 0 // a stream's user has a deadline of its own
	// Of a stream that the guest does not let go.
	c.StreamCloseTimeout = 5 * time.Second
	return c
}

// Stream opens a connection for one request of package control.
func (s *Session) Stream() (net.Conn, error) {
	s.open.Lock()
	defer s.open.Unlock()
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("ask guest: %w", err)
	}
	if s.mux.NumStreams() >= MaxStreams {
		return nil, fmt.Errorf("ask guest: %d requests are open already", MaxStreams)
	}
	c, err := s.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("ask guest: %w", err)
	}
	return c, nil
}

// Open sends a request and returns its connection. The end of ctx ends the sending,
// not the connection.
func (s *Session) Open(ctx context.Context, r control.Request) (*control.Conn, error) {
	raw, err := s.Stream()
	if err != nil {
		return nil, err
	}
	c, err := control.Dial(ctx, raw, r)
	if err != nil {
		if e := s.Err(); e != nil {
			err = e
		}
		return nil, fmt.Errorf("ask guest: %w", err)
	}
	return c, nil
}

// Done is closed when the session has ended: the guest or the stream is gone, or
// the guest broke the protocol. Err says which.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Err is nil while the session lasts.
func (s *Session) Err() error {
	select {
	case <-s.mux.CloseChan():
	default:
		return nil
	}
	if err := s.conn.failure(); err != nil {
		return err
	}
	return errors.New("the session has ended")
}

// Close ends the session and closes the stream. The workload runs on.
func (s *Session) Close() error { return s.mux.Close() }

// hostConn is the stuffed and guarded stream below yamux.
type hostConn struct {
	rw      io.ReadWriteCloser
	dec     *decoder
	guard   guard
	pending []byte
	out     []byte // of Write, which yamux calls one at a time

	mu  sync.Mutex
	err error
}

// begin says hello and reads until the guest has answered with the same number.
func (c *hostConn) begin(nonce string) error {
	if _, err := c.rw.Write(mark{markHello, nonce}.bytes()); err != nil {
		return err
	}
	for {
		_, m, err := c.dec.next()
		if err != nil {
			return err
		}
		if m != nil && *m == (mark{markWelcome, nonce}) {
			return nil
		}
	}
}

func (c *hostConn) Read(p []byte) (int, error) {
	if len(c.pending) == 0 {
		data, m, err := c.dec.next()
		if err == nil && m != nil {
			err = fmt.Errorf("%w: %w", errGuard, m.err())
		}
		if err == nil {
			err = c.guard.check(data)
		}
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return 0, err
		}
		c.pending = data
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

func (c *hostConn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *hostConn) Write(p []byte) (int, error) {
	c.out = stuff(c.out[:0], p)
	if _, err := c.rw.Write(c.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *hostConn) Close() error { return c.rw.Close() }
