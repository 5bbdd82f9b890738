package wire

import "sync"

// Bounds of a Queue in bytes.
const (
	MaxControl = 256 << 10 // frames that must not be lost
	keepIdle   = 16 << 10  // buffer that an empty queue keeps
)

// Queue is the frames that wait to be written to one connection. Packets over
// its limit push out the oldest ones, as in a network; control frames are never
// dropped. Pushing never waits and, in the long run, allocates nothing.
type Queue struct {
	limit   int
	most    int // of control
	mu      sync.Mutex
	wake    sync.Cond
	control []byte
	packets []byte
	head    int // where the oldest packet begins
	dropped uint64
	waiting bool
	closed  bool
}

// NewQueue makes a queue for limit bytes of packets and most bytes of control
// frames; 0 means MaxControl.
func NewQueue(limit, most int) *Queue {
	if most == 0 {
		most = MaxControl
	}
	q := &Queue{limit: limit, most: most}
	q.wake.L = &q.mu
	return q
}

// Push adds a frame that may be dropped, by it or by a later one.
func (q *Queue) Push(t Type, x, y, z []byte) {
	need := lengthSize + 1 + len(x) + len(y) + len(z)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	for q.head < len(q.packets) && len(q.packets)-q.head+need > q.limit {
		q.head += lengthSize + int(q.packets[q.head])<<8 + int(q.packets[q.head+1])
		q.dropped++
	}
	if need > q.limit {
		q.dropped++
		return
	}
	// Move what waits to the front once more is dropped than waits: each byte
	// moves at most about once.
	if q.head > len(q.packets)-q.head {
		n := copy(q.packets, q.packets[q.head:])
		q.packets, q.head = q.packets[:n], 0
	}
	q.packets = Append(q.packets, t, x, y, z)
	q.signal()
}

// Control adds a frame that is not dropped. False: there is no room; the other
// side does not read, or asks too much, and the connection should end.
func (q *Queue) Control(t Type, x, y, z []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	if len(q.control)+lengthSize+1+len(x)+len(y)+len(z) > q.most {
		return false
	}
	q.control = Append(q.control, t, x, y, z)
	q.signal()
	return true
}

func (q *Queue) signal() {
	if q.waiting {
		q.waiting = false
		q.wake.Signal()
	}
}

// Take waits for frames and returns all that wait, control frames first. spare
// is the slice that Take returned before, for use again; nil at first. False:
// the queue is closed.
func (q *Queue) Take(spare []byte) ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.closed:
			return nil, false
		case len(q.control) > 0:
			out := q.control
			q.control = nil
			return out, true
		case q.head < len(q.packets):
			out := q.packets[q.head:]
			q.packets, q.head = spare[:0], 0
			return out, true
		}
		if cap(q.packets) > keepIdle {
			q.packets = nil
		}
		if cap(spare) > keepIdle {
			spare = nil
		}
		q.head = 0
		q.waiting = true
		q.wake.Wait()
	}
}

// Dropped is how many packets were pushed out.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Close drops what waits and ends Take.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.control, q.packets, q.head = true, nil, nil, 0
	q.wake.Broadcast()
}
