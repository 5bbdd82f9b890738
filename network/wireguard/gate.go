package wireguard

import (
	"sync/atomic"
	"time"
)

// gate bounds how many packets are inside wireguard-go in one direction.
//
// wireguard-go gives every packet a buffer of 64 KiB, and its queues hold a
// thousand batches each: a fast sender before a slow processor makes it grow
// without bound (its limit, PreallocatedBuffersPerPool, is a constant and off,
// except on phones). So packets wait where they came from, in the kernel's
// queues, which are bounded and drop as a network does.
//
// What comes out is not quite what went in: packets without a peer, with a
// wrong tag or that wait for a handshake never do. Therefore the gate opens by
// itself when nothing has come out for a while: patience.
type gate struct {
	limit    int64
	patience time.Duration
	stuck    func() // called when it opens by itself; nil: nothing to do
	inside   atomic.Int64
	moved    chan struct{} // one token: something has come out
	done     <-chan struct{}
}

func newGate(limit int64, patience time.Duration, done <-chan struct{}) *gate {
	return &gate{limit: limit, patience: patience, moved: make(chan struct{}, 1), done: done}
}

// wait returns when there is room.
func (g *gate) wait() {
	if g.inside.Load() < g.limit {
		return
	}
	timer := time.NewTimer(g.patience)
	defer timer.Stop()
	for {
		select {
		case <-g.moved:
			if g.inside.Load() < g.limit {
				g.wake() // another may be waiting too
				return
			}
			timer.Reset(g.patience)
		case <-timer.C:
			g.inside.Store(0)
			if g.stuck != nil {
				g.stuck()
			}
			return
		case <-g.done:
			return
		}
	}
}

func (g *gate) enter(n int) { g.inside.Add(int64(n)) }

func (g *gate) leave(n int) {
	if n == 0 {
		return
	}
	if now := g.inside.Add(-int64(n)); now < 0 { // after it opened by itself
		g.inside.CompareAndSwap(now, 0)
	}
	g.wake()
}

func (g *gate) wake() {
	select {
	case g.moved <- struct{}{}:
	default:
	}
}
