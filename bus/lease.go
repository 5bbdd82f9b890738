package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/zero-os/zos/problem"
)

// stream is a request being answered, on the node's side. Its lease ends it
// unless the asker renews; each renewal judges its rights again.
type stream struct {
	node   *Node
	out    *answer
	query  Query
	ctx    context.Context
	cancel context.CancelCauseFunc
	duplex *duplexEnd // nil for what only answers

	mu       sync.Mutex
	lease    *time.Timer   // nil for a call, which ends by itself
	received uint64        // chunks that the asker has read
	room     chan struct{} // closed and replaced at each renewal
}

var errLeft = errors.New("the asker left")

func newStream(ctx context.Context, n *Node, a *answer, q Query, session *Session, follow bool) *stream {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{node: n, out: a, query: q, ctx: ctx, cancel: cancel, room: make(chan struct{})}
	if follow {
		s.lease = time.AfterFunc(s.leaseFor(session), s.lapsed)
	}
	return s
}

func (s *stream) lapsed() {
	s.cancel(problem.New("lease-expired", "%s: the stream was not renewed", s.query.Method))
}

// leaseFor is the lease that a request earns: never past the end of the session
// that signed it.
func (s *stream) leaseFor(session *Session) time.Duration {
	d := s.node.lease
	if session != nil {
		d = min(d, max(0, time.Unix(int64(session.Expiry), 0).Sub(s.node.cfg.Now())))
	}
	return d
}

// run answers with the handler until it returns or the stream ends. ctx is the
// daemon's; the handler gets the stream's.
func (s *stream) run(ctx context.Context, h StreamHandler) {
	defer s.lease.Stop()
	// An empty chunk at once: the asker learns that the stream stands, although
	// there may be nothing to say for a long time.
	if !s.out.send(ctx, Reply{}, nil) {
		return
	}
	err := h(s.ctx, s.query, s.send)
	if cause := context.Cause(s.ctx); cause != nil {
		if errors.Is(cause, errLeft) {
			return
		}
		if ctx.Err() != nil {
			cause = problem.New("node-stopping", "%s: the node's daemon ends", s.query.Method)
		}
		err = cause
	}
	s.out.finish(ctx, nil, err)
}

// send is what the handler sends with. It waits for room in the window.
func (s *stream) send(body []byte) error {
	if len(body) == 0 || len(body) > MaxChunk {
		return fmt.Errorf("send on stream: chunk of %d bytes, want 1 to %d", len(body), MaxChunk)
	}
	for {
		s.mu.Lock()
		room := s.room
		received := s.received
		s.mu.Unlock()
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if s.out.sent() < received+Window {
			break
		}
		select {
		case <-room:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	if err := s.out.chunk(s.ctx, Reply{}, body); err != nil {
		return fmt.Errorf("send on stream: %w", err)
	}
	return nil
}

// renewed prolongs the lease, makes room, and answers with an empty chunk, by
// which the asker knows that the node lives.
func (s *stream) renewed(session *Session, received uint64) {
	s.mu.Lock()
	s.lease.Reset(s.leaseFor(session))
	if sent := s.out.sent(); received > s.received && received <= sent {
		s.received = received
	}
	close(s.room)
	s.room = make(chan struct{})
	s.mu.Unlock()
	s.out.send(s.ctx, Reply{}, nil)
}
