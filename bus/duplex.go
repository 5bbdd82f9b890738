package bus

import (
	"context"
	"crypto/cipher"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Duplex is a stream of messages both ways between an asker and a handler of a
// node: whole, in order, once each, over every loss and reconnection within the
// lease. A Send that returned is on its way, not yet there: a protocol that must
// know asks for an answer.
//
// One goroutine may send while another receives.
type Duplex struct {
	method   string
	request  canon.Hash
	in, out  cipher.AEAD // of the directions, from this side
	transmit func(b []byte, lost bool) error
	heard    func(frame)   // gets every frame that verified
	refuse   func(error)   // gets what did not
	kick     chan struct{} // holds one: there is something to send

	mu    sync.Mutex
	flow  *flow
	count uint64        // frames sent: the nonce
	moved chan struct{} // closed and replaced when the flow has changed
	err   error         // why it ended; set before done is closed
	over  bool
}

func newDuplex(method string, request canon.Hash, in, out cipher.AEAD) *Duplex {
	return &Duplex{
		method: method, request: request, in: in, out: out, flow: newFlow(),
		kick: make(chan struct{}, 1), moved: make(chan struct{}),
		heard: func(frame) {}, refuse: func(error) {},
	}
}

// Send sends one message of 1 to MaxDuplex bytes, which the caller may use again
// afterwards. It waits while the other side has DuplexWindow messages to read.
func (d *Duplex) Send(ctx context.Context, message []byte) error {
	if len(message) == 0 || len(message) > MaxDuplex {
		return fmt.Errorf("send on %s: message of %d bytes, want 1 to %d", d.method, len(message), MaxDuplex)
	}
	for {
		d.mu.Lock()
		if d.over {
			err := d.why()
			d.mu.Unlock()
			return err
		}
		if d.flow.hasRoom(time.Now()) {
			d.flow.put(frame{Data: append([]byte(nil), message...)})
			d.mu.Unlock()
			d.wake()
			return nil
		}
		moved := d.moved
		d.mu.Unlock()
		d.wake()
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Receive returns the next message. After the last one of a node it returns
// io.EOF, or what the node says went wrong; "stream-lost" when the other side fell
// silent.
func (d *Duplex) Receive(ctx context.Context) ([]byte, error) {
	for {
		d.mu.Lock()
		b, ok := d.flow.read(time.Now())
		if ok {
			due := !d.flow.tellBy.IsZero()
			d.mu.Unlock()
			if due {
				d.wake()
			}
			return b, nil
		}
		if d.over {
			err := d.why()
			d.mu.Unlock()
			return nil, err
		}
		moved := d.moved
		d.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// why is the reason of the end; d is locked.
func (d *Duplex) why() error {
	if d.err != nil {
		return d.err
	}
	return io.EOF
}

func (d *Duplex) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// change tells who waits that the flow has changed; d is locked.
func (d *Duplex) change() {
	close(d.moved)
	d.moved = make(chan struct{})
}

// step takes one thing that the bus brought. An error ends the stream.
func (d *Duplex) step(data []byte) error {
	f, err := openFrame(d.in, data)
	if err != nil {
		d.refuse(err) // anyone can send bytes; they end nothing
		return nil
	}
	d.mu.Lock()
	err = d.flow.take(f, time.Now())
	d.change()
	d.mu.Unlock()
	if err == nil {
		d.heard(f)
	}
	return err
}

// flush sends what is due, and returns when there may be more.
func (d *Duplex) flush(beat uint64) time.Duration {
	d.mu.Lock()
	out, next := d.flow.due(time.Now())
	lost := d.flow.lost
	d.mu.Unlock()
	for _, f := range out {
		f.Beat = beat
		d.post(f, lost)
	}
	return next
}

// say sends a frame beside the flow: a renewal, its answer, a farewell.
func (d *Duplex) say(f frame, lost bool) {
	d.mu.Lock()
	d.flow.mark(&f)
	d.mu.Unlock()
	d.post(f, lost)
}

// post seals and sends a frame, and takes no note of failure: what matters is
// sent again.
func (d *Duplex) post(f frame, lost bool) {
	d.mu.Lock()
	count := d.count
	d.count++
	d.mu.Unlock()
	b, err := sealFrame(d.out, d.request, count, f)
	if err == nil {
		err = d.transmit(b, lost)
	}
	if err != nil {
		d.refuse(err)
	}
}

// finish makes every Send and Receive return err, or io.EOF for none; what came
// before can still be read. Only the first one counts.
func (d *Duplex) finish(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return
	}
	d.err, d.over = err, true
	d.change()
}

// lostStream is the error for a side that fell silent.
func lostStream(method string, patience time.Duration) error {
	return problem.New("stream-lost", "%s: nothing came for %s", method, patience).WithFix("ask again")
}
