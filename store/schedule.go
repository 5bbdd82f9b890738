package store

import (
	"context"
	"sync"
	"sync/atomic"
)

// Priority orders requests to the hubs.
type Priority int32

// Somebody waits for Demand; nobody waits for Bulk.
const (
	Bulk Priority = iota
	Demand
)

// lane is the priority of one piece of work. It can rise while the work waits.
type lane struct{ p atomic.Int32 }

func newLane(p Priority) *lane {
	l := &lane{}
	l.p.Store(int32(p))
	return l
}

func (l *lane) priority() Priority { return Priority(l.p.Load()) }

// scheduler hands out slots for requests. A demand goes before bulk work and
// always finds a few slots that bulk work may not take; while demands are under
// way, bulk work keeps one slot only, since it shares the link with them.
type scheduler struct {
	mu      sync.Mutex
	total   int
	demands int // slots held by demands
	bulks   int // slots held by bulk work
	waiting []*waiter
}

type waiter struct {
	lane  *lane
	ready chan Priority // capacity 1: as what it was let in
}

func (s *scheduler) bulkLimit() int {
	if s.demands > 0 {
		return 1
	}
	return max(1, s.total-max(1, s.total/4))
}

// acquire waits for a slot. The caller gives what it got to release.
func (s *scheduler) acquire(ctx context.Context, l *lane) (Priority, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	w := &waiter{lane: l, ready: make(chan Priority, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.admit()
	s.mu.Unlock()
	select {
	case p := <-w.ready:
		return p, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, x := range s.waiting {
		if x == w {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			return 0, ctx.Err()
		}
	}
	s.free(<-w.ready) // let in at the last moment
	return 0, ctx.Err()
}

func (s *scheduler) release(p Priority) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free(p)
}

func (s *scheduler) free(p Priority) {
	if p == Demand {
		s.demands--
	} else {
		s.bulks--
	}
	s.admit()
}

// raise makes waiting work urgent.
func (s *scheduler) raise(l *lane) {
	l.p.Store(int32(Demand))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admit()
}

// admit lets in whoever may, demands first, each kind in the order of arrival.
func (s *scheduler) admit() {
	for _, p := range []Priority{Demand, Bulk} {
		kept := s.waiting[:0]
		for _, w := range s.waiting {
			if w.lane.priority() != p || !s.room(p) {
				kept = append(kept, w)
				continue
			}
			if p == Demand {
				s.demands++
			} else {
				s.bulks++
			}
			w.ready <- p
		}
		clear(s.waiting[len(kept):])
		s.waiting = kept
	}
}

func (s *scheduler) room(p Priority) bool {
	if s.demands+s.bulks >= s.total {
		return false
	}
	return p == Demand || s.bulks < s.bulkLimit()
}
