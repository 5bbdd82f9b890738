package bus

import (
	"time"

	"github.com/zero-os/zos/problem"
)

// flow is one side's account of a duplex stream: what it sent and the other has
// not received yet, what came early, what waits to be read. It knows no keys, no
// network and no clock; both sides use the same. It never holds more than two
// windows of messages.
type flow struct {
	// What we send.
	next    uint64     // number of the next message
	waiting []outgoing // not yet received by the other side, by rising number
	room    uint64     // the highest number that we may use
	blocked time.Time  // since when something wants to be sent without room; zero: nothing does
	again   time.Duration
	lost    bool // something had to be sent again: the way may be down

	// What we receive.
	got       uint64           // all up to this number are here
	taken     uint64           // all up to this number were read
	early     map[uint64]frame // beyond got+1
	ready     [][]byte         // between taken and got
	end       *frame           // the last one of the other side, once it is its turn
	toldGot   uint64
	toldTaken uint64
	tellBy    time.Time // when the other side must be told; zero: need not be
}

type outgoing struct {
	frame
	at time.Time // when it was sent last; zero: not yet
}

const (
	againFirst = 400 * time.Millisecond // until what was not received is sent again
	againMost  = 3 * time.Second
	againBurst = 4                     // how many at a time
	tellAfter  = 20 * time.Millisecond // an answer may carry it until then
)

func newFlow() *flow {
	return &flow{next: 1, room: DuplexWindow, again: againFirst, early: map[uint64]frame{}}
}

// hasRoom tells whether another message may be put. When not, it notes since when
// one waits.
func (f *flow) hasRoom(now time.Time) bool {
	if f.next <= f.room {
		f.blocked = time.Time{}
		return true
	}
	if f.blocked.IsZero() {
		f.blocked = now
	}
	return false
}

// put numbers a message for sending; the end of a stream needs no room.
func (f *flow) put(m frame) {
	m.Sequence = f.next
	f.next++
	f.waiting = append(f.waiting, outgoing{frame: m})
}

// take accounts for a frame that verified. An error is a breach of the protocol by
// the other side, which ends the stream.
func (f *flow) take(in frame, now time.Time) error {
	if in.Received >= f.next {
		return problem.New("frame-invalid", "stream: the other side received what was not sent")
	}
	n := 0
	for n < len(f.waiting) && f.waiting[n].Sequence <= in.Received {
		n++
	}
	if n > 0 {
		clear(f.waiting[:n])
		f.waiting = f.waiting[n:]
		f.again, f.lost = againFirst, false
	}
	f.room = max(f.room, in.Taken+DuplexWindow)
	if in.Tell {
		f.tell(now)
	}
	if in.Sequence == 0 {
		return nil
	}
	switch {
	case in.Sequence > f.taken+DuplexWindow && !(in.Last && in.Sequence == f.taken+DuplexWindow+1):
		return problem.New("frame-invalid", "stream: the other side sends more than it was given room for")
	case f.end != nil && in.Sequence > f.got:
		return problem.New("frame-invalid", "stream: a message after the end")
	case in.Sequence <= f.got:
		f.tell(now) // it does not know that we have it
		return nil
	case f.tellBy.IsZero():
		f.tellBy = now.Add(tellAfter)
	}
	f.early[in.Sequence] = in
	for {
		m, ok := f.early[f.got+1]
		if !ok || f.end != nil {
			break
		}
		delete(f.early, f.got+1)
		f.got++
		if m.Last {
			f.end = &m
			clear(f.early)
			f.tell(now)
			break
		}
		f.ready = append(f.ready, m.Data)
	}
	if f.got-f.toldGot >= DuplexWindow/4 {
		f.tell(now)
	}
	return nil
}

func (f *flow) tell(now time.Time) { f.tellBy = now }

// read returns the next message, if there is one.
func (f *flow) read(now time.Time) ([]byte, bool) {
	if len(f.ready) == 0 {
		return nil, false
	}
	m := f.ready[0]
	f.ready[0] = nil
	f.ready = f.ready[1:]
	f.taken++
	if f.taken-f.toldTaken >= DuplexWindow/4 {
		f.tell(now)
	}
	return m, true
}

// due returns what is to be sent now, and when to ask again. Every frame tells how
// far we are.
func (f *flow) due(now time.Time) (out []frame, next time.Duration) {
	next = time.Hour
	burst := 0
	for i := range f.waiting {
		w := &f.waiting[i]
		switch {
		case w.at.IsZero():
		case !now.Before(w.at.Add(f.again)) && burst < againBurst:
			burst++
		default:
			continue
		}
		w.at = now
		out = append(out, w.frame)
	}
	if burst > 0 {
		f.again, f.lost = min(2*f.again, againMost), true
	}
	if f.next <= f.room {
		f.blocked = time.Time{}
	}
	if len(f.waiting) == 0 && !f.blocked.IsZero() && !now.Before(f.blocked.Add(f.again)) {
		f.blocked = now
		f.again, f.lost = min(2*f.again, againMost), true
		out = append(out, frame{Tell: true})
	}
	if len(out) == 0 && !f.tellBy.IsZero() && !now.Before(f.tellBy) {
		out = append(out, frame{})
	}
	for i := range out {
		f.mark(&out[i])
	}
	for _, w := range f.waiting {
		next = min(next, w.at.Add(f.again).Sub(now))
	}
	if len(f.waiting) == 0 && !f.blocked.IsZero() {
		next = min(next, f.blocked.Add(f.again).Sub(now))
	}
	if !f.tellBy.IsZero() {
		next = min(next, f.tellBy.Sub(now))
	}
	return out, max(next, time.Millisecond)
}

// mark writes into a frame how far we are.
func (f *flow) mark(out *frame) {
	out.Received, out.Taken = f.got, f.taken
	f.toldGot, f.toldTaken, f.tellBy = f.got, f.taken, time.Time{}
}

// empty tells whether the other side has everything.
func (f *flow) empty() bool { return len(f.waiting) == 0 }
