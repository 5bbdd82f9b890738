package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// DuplexHandler answers with a stream both ways until it returns or ctx ends:
// because the asker left, lost the right, or let the lease lapse. What it sent
// before it returns still arrives.
type DuplexHandler func(ctx context.Context, q Query, d *Duplex) error

const (
	maxDuplexes    = 32 // duplex streams of one node at once
	maxPerContract = 12 // of them for one contract, however many accounts its group has
	lingerFor      = 5 * time.Second
)

// HandleDuplex answers a method with a duplex stream: one of MethodExec,
// MethodConsole, MethodGet and MethodPut.
func (n *Node) HandleDuplex(method string, h DuplexHandler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.duplexes[method] = h
}

// decodeAct reads the parameters of a method that acts on a workload.
func decodeAct(params []byte, duplex bool) (Act, error) {
	var a Act
	if err := canon.UnmarshalLimit(params, MaxParams, &a); err != nil {
		return Act{}, problem.New("request-invalid", "decode the parameters: %w", err)
	}
	want := 0
	if duplex {
		want = secretSize
	}
	if len(a.Secret) != want {
		return Act{}, problem.New("request-invalid", "decode the parameters: a secret of %d bytes, want %d", len(a.Secret), want)
	}
	return a, nil
}

// duplexEnd is the node's end of one duplex stream.
type duplexEnd struct {
	*Duplex
	stream  *stream
	handler DuplexHandler
	secret  []byte       // the asker's
	frames  chan message // what the bus brought for it; what does not fit is sent again

	beat    uint64    // the number of the lease
	renewed time.Time // when it was last renewed
	left    bool      // the asker wants no more

	way    sync.Mutex
	via    message // what brought the last frame that verified: the way back
	opened []byte  // the first reply, until the asker was heard
}

// frame hands a frame to its stream. Here only memory and time are guarded: every
// stream has a queue of its own, so that a flood of one holds up no other.
func (n *Node) frame(id canon.Hash, m message) {
	n.mu.Lock()
	s := n.open[id]
	n.mu.Unlock()
	if s == nil || s.duplex == nil {
		n.refuse(problem.New("stream-unknown", "frame: there is no such stream"))
		return
	}
	select {
	case s.duplex.frames <- m:
	default:
		n.refuse(problem.New("node-busy", "frame: the queue of its stream is full"))
	}
}

// greetAgain repeats the first reply to an asker who repeats his request: it was
// lost. Who replays the request gets it sealed to the first asker.
func (e *duplexEnd) greetAgain(m message) {
	e.way.Lock()
	opened := e.opened
	e.way.Unlock()
	if opened != nil {
		if err := m.respond(opened); err != nil {
			e.stream.node.log.Debug("bus reply", "error", err)
		}
	}
}

// open makes the keys of the stream and tells the asker the node's half.
func (e *duplexEnd) open(ctx context.Context) error {
	s := e.stream
	n := s.node
	mine := make([]byte, secretSize)
	rand.Read(mine)
	keys, err := deriveFrames(n.cfg.Grid, n.cfg.Slot, n.cfg.Epoch, s.out.request, e.secret, mine)
	if err != nil {
		return err
	}
	e.Duplex = newDuplex(s.query.Method, s.out.request, keys.up, keys.down)
	e.refuse, e.heard, e.transmit = n.refuse, e.listen, e.respond
	s.out.keep = true
	if err := s.out.chunk(ctx, Reply{}, mine); err != nil {
		return err
	}
	e.way.Lock()
	e.opened = s.out.kept
	e.way.Unlock()
	return nil
}

// respond sends over the link that brought the last word of the asker; when that
// seems not to arrive, over all of them.
func (e *duplexEnd) respond(b []byte, lost bool) error {
	e.way.Lock()
	via := e.via
	e.way.Unlock()
	if lost && via.reply != "" {
		return e.stream.node.cfg.Conn.Publish(via.reply, b)
	}
	return via.respond(b)
}

// listen hears a frame of the asker.
func (e *duplexEnd) listen(f frame) {
	s := e.stream
	if f.Last {
		e.left = true
		s.cancel(errLeft)
		return
	}
	// Only the present beat can be renewed, and the asker learns it from us, once it
	// began: so nobody keeps renewals for later. A beat lasts a moment at least, so
	// that an asker can't make us judge without end.
	if !f.Renew || f.Beat != e.beat || s.ctx.Err() != nil || time.Since(e.renewed) < s.node.lease/8 {
		return
	}
	if err := s.node.allowed(s.ctx, s.query); err != nil {
		s.node.refuse(err)
		s.cancel(err)
		return
	}
	s.lease.Reset(s.leaseFor(nil))
	e.beat++
	e.renewed = time.Now()
	e.say(frame{Beat: e.beat}, false)
}

// run answers with the handler, until it returned and the asker has what it sent.
// ctx is the daemon's; the handler gets the stream's.
func (e *duplexEnd) run(ctx context.Context) {
	s := e.stream
	defer s.lease.Stop()
	if err := e.open(ctx); err != nil {
		s.node.log.Debug("bus stream not opened", "error", err)
		return
	}
	e.beat, e.renewed = 1, time.Now()
	returned := make(chan error, 1)
	go func() { returned <- e.handler(s.ctx, s.query, e.Duplex) }()
	ended := s.ctx.Done()
	var linger <-chan time.Time
	for {
		next := time.Hour
		if !e.left {
			next = e.flush(e.beat)
		}
		e.Duplex.mu.Lock()
		empty := e.flow.empty()
		e.Duplex.mu.Unlock()
		if linger != nil && (empty || e.left) {
			return
		}
		timer := time.NewTimer(next)
		select {
		case m := <-e.frames:
			e.take(m)
		case <-e.kick:
		case <-timer.C:
		case <-ended:
			ended = nil
			e.finish(e.cause(ctx))
		case err := <-returned:
			if cause := e.cause(ctx); cause != nil {
				err = cause
			}
			e.finish(err)
			last := frame{Last: true}
			if err != nil {
				last.Code, last.Message = told(err)
			}
			e.Duplex.mu.Lock()
			e.flow.put(last)
			e.Duplex.mu.Unlock()
			linger = time.After(lingerFor)
			if ctx.Err() != nil {
				linger = time.After(time.Second)
			}
		case <-linger:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// take opens what the bus brought and remembers the way back.
func (e *duplexEnd) take(m message) {
	heard := e.heard
	e.heard = func(f frame) {
		e.way.Lock()
		e.via, e.opened = m, nil
		e.way.Unlock()
		heard(f)
	}
	err := e.step(m.data)
	e.heard = heard
	if err != nil {
		e.stream.node.refuse(err)
		e.stream.cancel(err)
	}
}

// cause is why the stream ended before its handler returned; nil: it did not.
func (e *duplexEnd) cause(ctx context.Context) error {
	cause := context.Cause(e.stream.ctx)
	if cause != nil && ctx.Err() != nil && !errors.Is(cause, errLeft) {
		return problem.New("node-stopping", "%s: the node's daemon ends", e.stream.query.Method)
	}
	return cause
}
