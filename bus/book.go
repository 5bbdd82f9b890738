package bus

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// book remembers what the ledger says of slots for a while, and reads it anew
// when someone finds that it does not fit.
type book struct {
	bound    Bound
	incoming *rate.Limiter // reads that strangers cause

	mu      sync.Mutex
	entries map[canon.Hash]*bookEntry
}

type bookEntry struct {
	binding Binding
	err     error
	at      time.Time
	reading chan struct{} // closed when who reads now has read; nil: nobody does
}

const (
	bookFresh = time.Minute
	bookPause = time.Second // before a binding that did not fit is read again
	bookMost  = 4096
)

func newBook(bound Bound) *book {
	return &book{bound: bound, incoming: rate.NewLimiter(100, 1000), entries: map[canon.Hash]*bookEntry{}}
}

// get returns a binding that was read within the last minute.
func (b *book) get(ctx context.Context, slot canon.Hash) (Binding, error) {
	return b.read(ctx, slot, bookFresh, false)
}

// getFor is get for someone who says that he is in the slot.
func (b *book) getFor(ctx context.Context, slot canon.Hash) (Binding, error) {
	return b.read(ctx, slot, bookFresh, true)
}

// again reads a binding that did not fit, but not more often than bookPause says:
// nobody can make us ask the ledger faster. incoming says that a stranger caused it.
func (b *book) again(ctx context.Context, slot canon.Hash, incoming bool) (Binding, error) {
	return b.read(ctx, slot, bookPause, incoming)
}

func (b *book) read(ctx context.Context, slot canon.Hash, fresh time.Duration, incoming bool) (Binding, error) {
	for {
		b.mu.Lock()
		e := b.entries[slot]
		if e != nil && e.reading != nil {
			reading := e.reading
			b.mu.Unlock()
			select {
			case <-reading:
				continue
			case <-ctx.Done():
				return Binding{}, ctx.Err()
			}
		}
		if e != nil {
			life := fresh
			if e.err != nil {
				life = min(fresh, bookPause)
			}
			if time.Since(e.at) < life {
				b.mu.Unlock()
				return e.binding, e.err
			}
		}
		if incoming && !b.incoming.Allow() {
			b.mu.Unlock()
			return Binding{}, problem.New("node-busy", "read the binding of node %s: too many reads", slot.Short())
		}
		if e == nil && len(b.entries) >= bookMost && !b.forget() {
			b.mu.Unlock()
			return Binding{}, problem.New("node-busy", "read the binding of node %s: too many slots at once", slot.Short())
		}
		e = &bookEntry{reading: make(chan struct{})}
		b.entries[slot] = e
		b.mu.Unlock()

		rctx, cancel := context.WithTimeout(ctx, factsDeadline)
		binding, err := b.bound(rctx, slot)
		cancel()
		b.mu.Lock()
		if err != nil && ctx.Err() != nil {
			delete(b.entries, slot) // says nothing about the slot
		} else {
			e.binding, e.err, e.at = binding, err, time.Now()
		}
		close(e.reading)
		e.reading = nil
		b.mu.Unlock()
		return binding, err
	}
}

// forget makes room; the book is locked.
func (b *book) forget() bool {
	for slot, e := range b.entries {
		if e.reading == nil && time.Since(e.at) > bookPause {
			delete(b.entries, slot)
		}
	}
	return len(b.entries) < bookMost
}
