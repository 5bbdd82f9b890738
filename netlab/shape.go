package netlab

import (
	"container/heap"
	"time"
)

// Shape is how a link treats frames. The zero value is a perfect link.
type Shape struct {
	Loss    float64       // share of frames that vanish, 0 to 1
	Delay   time.Duration // that every frame takes
	Jitter  time.Duration // further delay, uniformly random; order is kept
	Reorder float64       // share of frames that later ones overtake, 0 to 1
	// Rate is in bit/s, 0: no limit. Frames queue for at most Queue bytes
	// (0: 256 KiB) and vanish beyond.
	Rate  int64
	Queue int
	// MTU makes a hole: larger IP packets vanish without a word. 0: none.
	MTU int
	Cut bool // nothing passes
	// Drop, if set, makes the frames vanish for which it returns true.
	Drop func(Packet) bool
}

const defaultQueue = 256 << 10

// overtaken is how much later than its time a reordered frame arrives, at
// least; frames sent meanwhile overtake it.
const overtaken = 5 * time.Millisecond

// shaped is one direction of a link or card.
type shaped struct {
	Shape
	busy time.Time // until when frames that are queued occupy it
}

// pass returns how long the packet takes, or false when it vanishes.
func (s *shaped) pass(p Packet, now time.Time, random func() float64) (delay time.Duration, late, ok bool) {
	switch {
	case s.Cut,
		s.MTU > 0 && p.IPLen > s.MTU,
		s.Loss > 0 && random() < s.Loss,
		s.Drop != nil && s.Drop(p):
		return 0, false, false
	}
	delay = s.Delay
	if s.Jitter > 0 {
		delay += time.Duration(random() * float64(s.Jitter))
	}
	if s.Rate > 0 {
		queue := s.Queue
		if queue == 0 {
			queue = defaultQueue
		}
		if s.busy.Before(now) {
			s.busy = now
		}
		if int64(s.busy.Sub(now).Seconds()*float64(s.Rate)/8) > int64(queue) {
			return 0, false, false
		}
		s.busy = s.busy.Add(time.Duration(float64(len(p.Frame)*8) / float64(s.Rate) * float64(time.Second)))
		delay += s.busy.Sub(now)
	}
	if s.Reorder > 0 && random() < s.Reorder {
		return delay + max(s.Delay+s.Jitter, overtaken), true, true
	}
	return delay, false, true
}

// due is a frame that arrives later.
type due struct {
	at    time.Time
	seq   uint64 // keeps the order of frames that are due together
	to    *port
	frame []byte
	lane  *lane // nil if it may be overtaken
}

type dues []due

func (d dues) Len() int { return len(d) }
func (d dues) Less(i, j int) bool {
	if d[i].at.Equal(d[j].at) {
		return d[i].seq < d[j].seq
	}
	return d[i].at.Before(d[j].at)
}
func (d dues) Swap(i, j int) { d[i], d[j] = d[j], d[i] }
func (d *dues) Push(x any)   { *d = append(*d, x.(due)) }
func (d *dues) Pop() any {
	old := *d
	x := old[len(old)-1]
	old[len(old)-1] = due{}
	*d = old[:len(old)-1]
	return x
}

// clockwork delivers what is due until the segment closes.
func (s *Segment) clockwork() {
	defer s.lab.work.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		wait := time.Hour
		var ready []due
		now := time.Now()
		for len(s.queue) > 0 {
			if in := s.queue[0].at.Sub(now); in > 0 {
				wait = in
				break
			}
			ready = append(ready, heap.Pop(&s.queue).(due))
		}
		s.mu.Unlock()
		for _, d := range ready {
			d.to.write(d.frame)
		}
		if len(ready) > 0 {
			s.mu.Lock()
			for _, d := range ready {
				if d.lane != nil {
					d.lane.waiting--
				}
			}
			s.mu.Unlock()
			continue
		}
		timer.Reset(wait)
		select {
		case <-s.done:
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}
