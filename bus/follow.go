package bus

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Stream is an answer that goes on: numbered chunks under a lease that the
// client renews in the background. One goroutine reads it.
type Stream struct {
	s      *sent
	chunks chan []byte
	read   chan struct{} // Next took enough that the node should know
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	taken uint64 // chunks that Next returned, and empty ones
	acked uint64 // taken, as the last renewal told
	err   error  // why it ended; io.EOF for a proper end
}

// Stream opens a stream; it stands, with the right to it confirmed, when this
// returns. ctx bounds the opening only. The caller must Close it.
func (c *Client) Stream(ctx context.Context, a Ask) (*Stream, error) {
	return anew(ctx, c, a, c.stream)
}

func (c *Client) stream(ctx context.Context, a Ask) (*Stream, error) {
	s, err := c.send(ctx, a)
	if err != nil {
		return nil, err
	}
	// The node begins with an empty chunk.
	_, err = s.until(ctx, func(r Reply, b []byte) (bool, error) {
		if r.Last || len(b) > 0 {
			return false, problem.New("reply-invalid", "%s: the node answers it as a call, not as a stream", a.Method)
		}
		return true, nil
	})
	if err != nil {
		s.shut()
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	st := &Stream{
		s:      s,
		chunks: make(chan []byte, Window),
		read:   make(chan struct{}, 1),
		cancel: cancel,
		done:   make(chan struct{}),
		taken:  1, acked: 1,
	}
	go st.run(run)
	return st, nil
}

// Next returns the next chunk, in order and complete. At the end it returns
// io.EOF; otherwise the node's reason, "reply-gap" when the bus lost or
// reordered something, or "stream-lost" when the node fell silent.
func (st *Stream) Next(ctx context.Context) ([]byte, error) {
	select {
	case b, ok := <-st.chunks:
		if !ok {
			st.mu.Lock()
			defer st.mu.Unlock()
			return nil, st.err
		}
		st.mu.Lock()
		st.taken++
		due := st.taken-st.acked >= Window/2
		st.mu.Unlock()
		if due {
			select {
			case st.read <- struct{}{}:
			default:
			}
		}
		return b, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("read %s: %w", st.s.ask.Method, ctx.Err())
	}
}

// Close ends the stream and tells the node so, if it can be told.
func (st *Stream) Close() {
	st.cancel()
	<-st.done
}

// run takes the replies in and renews the lease until the stream ends.
func (st *Stream) run(ctx context.Context) {
	lease := st.s.client.lease
	renew := time.NewTicker(lease / 3)
	defer renew.Stop()
	// A little longer than the lease: a node that ends the stream says why.
	patience := lease + lease/3
	silence := time.NewTimer(patience)
	defer silence.Stop()
	end := func(err error) {
		st.mu.Lock()
		st.err = err
		st.mu.Unlock()
		st.s.shut()
		close(st.chunks)
		close(st.done)
	}
	for {
		select {
		case data := <-st.s.in.ch:
			r, body, ok, err := st.s.take(data)
			if err != nil {
				end(err)
				return
			}
			if !ok {
				continue
			}
			silence.Reset(patience)
			if len(body) == 0 {
				st.mu.Lock()
				st.taken++
				st.mu.Unlock()
			} else {
				select {
				case st.chunks <- body:
				default:
					end(problem.New("reply-invalid", "%s: the node sends more than it was given room for", st.s.ask.Method))
					return
				}
			}
			if r.Last {
				end(io.EOF)
				return
			}
		case <-renew.C:
			st.renewal(ctx, false)
		case <-st.read:
			st.renewal(ctx, false)
		case <-silence.C:
			end(problem.New("stream-lost", "%s: nothing came from node %s for %s; %d replies were refused", st.s.ask.Method, st.s.ask.Slot.Short(), patience, st.s.refused).
				WithFix("ask again"))
			return
		case <-ctx.Done():
			st.renewal(context.WithoutCancel(ctx), true)
			end(fmt.Errorf("read %s: the stream is closed", st.s.ask.Method))
			return
		}
	}
}

// renewal signs and sends one renewal. A failure is no end: the lease lasts for
// three of them.
func (st *Stream) renewal(ctx context.Context, last bool) {
	st.mu.Lock()
	taken := st.taken
	st.acked = taken
	st.mu.Unlock()
	err := st.sendRenewal(ctx, Renewal{Stream: st.s.hash, Received: taken, End: last})
	if err != nil {
		st.s.client.log.Debug("bus stream not renewed", "error", err)
	}
}

func (st *Stream) sendRenewal(ctx context.Context, r Renewal) error {
	c := st.s.client
	ctx, cancel := context.WithTimeout(ctx, c.lease/6)
	defer cancel()
	params, err := canon.Marshal(r)
	if err != nil {
		return err
	}
	s, err := c.sendTo(ctx, Ask{Slot: st.s.ask.Slot, Contract: st.s.ask.Contract, Method: MethodRenew, Params: params}, st.s.to, st.s.p)
	if err != nil {
		return err
	}
	s.shut() // it is answered within the stream
	return nil
}
