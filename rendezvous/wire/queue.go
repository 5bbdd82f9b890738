package wire

import (
	"io"
	"sync"
)

// Bounds of a Queue in bytes. A chunk holds many frames.
const (
	MaxControl = 256 << 10 // frames that must not be lost
	chunk      = 66 << 10  // of the buffers that queues share: four TLS records with their heads
)

// Buffers lends memory to the queues of one server or client: an empty queue
// holds none.
type Buffers struct{ pool sync.Pool }

func (b *Buffers) get() []byte {
	if p, ok := b.pool.Get().(*[chunk]byte); ok {
		return p[:0]
	}
	return make([]byte, 0, chunk)
}

func (b *Buffers) put(s []byte) {
	if cap(s) == chunk {
		b.pool.Put((*[chunk]byte)(s[:chunk]))
	}
}

// Queue is the frames that wait to be written to one connection. Packets over
// its limit push out the oldest ones, as in a network; control frames are never
// dropped. Pushing never waits and, in the long run, allocates nothing.
type Queue struct {
	limit   int
	most    int // of control
	buffers *Buffers
	mu      sync.Mutex
	wake    sync.Cond
	control []byte
	packets [][]byte // whole frames, in chunks; the first one may have been begun
	head    int      // where the oldest packet begins in the first chunk
	size    int      // bytes of all that wait
	dropped uint64
	waiting bool
	closed  bool
}

// NewQueue makes a queue for limit bytes of packets and most bytes of control
// frames; 0 means MaxControl.
func NewQueue(limit, most int, buffers *Buffers) *Queue {
	if most == 0 {
		most = MaxControl
	}
	q := &Queue{limit: limit, most: most, buffers: buffers}
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
	if need > min(q.limit, MaxFrame) {
		q.dropped++
		return
	}
	for q.size+need > q.limit {
		q.drop()
	}
	last := len(q.packets) - 1
	if last < 0 || cap(q.packets[last])-len(q.packets[last]) < need {
		q.packets = append(q.packets, q.buffers.get())
		last++
	}
	q.packets[last] = Append(q.packets[last], t, x, y, z)
	q.size += need
	q.signal()
}

// drop takes the oldest packet out.
func (q *Queue) drop() {
	first := q.packets[0]
	n := lengthSize + int(first[q.head])<<8 + int(first[q.head+1])
	q.head += n
	q.size -= n
	q.dropped++
	if q.head == len(first) {
		q.shift()
		q.buffers.put(first)
	}
}

// shift takes the first chunk out.
func (q *Queue) shift() {
	copy(q.packets, q.packets[1:]) // few: the limit has few chunks
	q.packets[len(q.packets)-1] = nil
	q.packets = q.packets[:len(q.packets)-1]
	q.head = 0
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

// Batch is frames to be written together. Give it back with Queue.Done.
type Batch struct {
	B     []byte
	whole []byte // the chunk that is lent
}

// Take waits for frames and returns some, control frames first. False: the queue
// is closed.
func (q *Queue) Take() (Batch, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.closed:
			return Batch{}, false
		case len(q.control) > 0:
			out := q.control
			q.control = nil
			return Batch{B: out}, true
		case len(q.packets) > 0:
			first := q.packets[0]
			out := first[q.head:]
			q.size -= len(out)
			q.shift()
			return Batch{out, first}, true
		}
		q.waiting = true
		q.wake.Wait()
	}
}

// Done gives a batch back; its bytes are not used after it.
func (q *Queue) Done(b Batch) { q.buffers.put(b.whole) }

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
	for _, p := range q.packets {
		q.buffers.put(p)
	}
	q.closed, q.control, q.packets, q.head, q.size = true, nil, nil, 0, 0
	q.wake.Broadcast()
}

// Drain writes what waits, and what comes, to a TLS connection over a Conn,
// until the queue is closed or writing fails. It closes neither.
func (q *Queue) Drain(tls io.Writer, under *Conn) error {
	var b Batch
	write := func() error {
		_, err := tls.Write(b.B)
		return err
	}
	for {
		var ok bool
		if b, ok = q.Take(); !ok {
			return nil
		}
		err := under.batch(write)
		q.Done(b)
		if err != nil {
			return err
		}
	}
}
