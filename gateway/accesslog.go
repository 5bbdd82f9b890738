package gateway

import (
	"context"
	"sync"
	"time"
)

// Bounds of an AccessLog.
const (
	logRecords  = 16384 // in all
	logLinger   = 50 * time.Millisecond
	logPerRoute = 2048 // of one route, so that a busy one doesn't take the room of the others
)

// AccessLog takes records from a Server without ever blocking it, and gives them
// in batches to whoever sends them on. It drops the newest when it is full, and
// the next record of that route says how many. The zero value is ready.
type AccessLog struct {
	mu    sync.Mutex
	queue []Record
	of    map[string]logCount // by route; no entry is empty
	lost  uint64
	off   bool
	some  chan struct{} // closed when queue has something, nil if nobody waits
}

type logCount struct {
	queued int
	lost   uint64
}

// Add appends a record, or drops it.
func (l *AccessLog) Add(r Record) {
	if l.off {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]logCount{}
	}
	n, known := l.of[r.Route]
	if len(l.queue) >= logRecords || n.queued >= logPerRoute {
		l.lost++
		// A flood over many routes grows no table: a route without a queued record
		// is counted in the sum alone.
		if known {
			n.lost++
			l.of[r.Route] = n
		}
		return
	}
	r.Lost = n.lost
	l.of[r.Route] = logCount{queued: n.queued + 1}
	l.queue = append(l.queue, r)
	if l.some != nil {
		close(l.some)
		l.some = nil
	}
}

// Take waits for records and returns the oldest, at most limit (1 or more) of
// them, within 50 ms of the first. It fails when ctx ends and there are none.
func (l *AccessLog) Take(ctx context.Context, limit int) ([]Record, error) {
	for {
		l.mu.Lock()
		if len(l.queue) > 0 {
			out := l.take(max(1, limit))
			l.mu.Unlock()
			return out, nil
		}
		if l.some == nil {
			l.some = make(chan struct{})
		}
		some := l.some
		l.mu.Unlock()
		select {
		case <-some:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// The first of many: woken for each, the reader would take a part of the
		// time of connections.
		select {
		case <-time.After(logLinger):
		case <-ctx.Done():
		}
	}
}

func (l *AccessLog) take(limit int) []Record {
	n := min(limit, len(l.queue))
	out := append([]Record(nil), l.queue[:n]...)
	rest := copy(l.queue, l.queue[n:])
	clear(l.queue[rest:])
	l.queue = l.queue[:rest]
	if rest == 0 {
		l.queue = nil // what a burst took is given back
	}
	for _, r := range out {
		c := l.of[r.Route]
		c.queued--
		if c.queued == 0 && c.lost == 0 {
			delete(l.of, r.Route)
		} else {
			l.of[r.Route] = c
		}
	}
	return out
}

// Lost is how many records were dropped since the start.
func (l *AccessLog) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}
