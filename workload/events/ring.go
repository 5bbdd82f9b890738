package events

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/logs"
)

// Bound is how many bytes a workload's ring has at most: some hundreds of events.
const Bound = 256 << 10

// maxOpen bounds the rings that are held open for writing.
const maxOpen = 256

// Book writes and reads the rings of a node's workloads below one directory.
type Book struct {
	dir string

	mu   sync.Mutex
	open map[workload.ID]*logs.Writer
}

// Open returns the book of a directory, which it makes when there is something to
// write.
func Open(dir string) *Book { return &Book{dir: dir, open: map[workload.ID]*logs.Writer{}} }

// ring is where a workload's events are: names are of proven plans, [a-z0-9-]{1,63}.
func (b *Book) ring(id workload.ID) string {
	return filepath.Join(b.dir, id.Contract.String(), id.Name)
}

// Add appends an event; its Sequence and Time are the ring's to give.
func (b *Book) Add(id workload.ID, e Event) error {
	line, err := e.encode()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.open[id]
	if w == nil {
		if len(b.open) >= maxOpen {
			b.close()
		}
		dir := b.ring(id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("open event ring: %w", err)
		}
		if w, err = logs.Open(dir, Bound); err != nil {
			return fmt.Errorf("open event ring: %w", err)
		}
		b.open[id] = w
	}
	if err := w.Write(logs.Node, line); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return nil
}

// Read returns up to limit events of a workload from sequence number from on, and the
// number from which to go on. A record that is no event is left out.
func (b *Book) Read(id workload.ID, from uint64, limit int) ([]Event, uint64, error) {
	records, next, err := logs.NewReader(b.ring(id)).Read(from, limit)
	if errors.Is(err, os.ErrNotExist) {
		return nil, from, nil
	}
	if err != nil {
		return nil, from, fmt.Errorf("read events: %w", err)
	}
	var out []Event
	for _, r := range records {
		if e, ok := event(r); ok {
			out = append(out, e)
		}
	}
	return out, next, nil
}

// Follow yields the events of a workload from sequence number from on, as they come,
// until ctx ends.
func (b *Book) Follow(ctx context.Context, id workload.ID, from uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for r, err := range logs.NewReader(b.ring(id)).Follow(ctx, from) {
			if err != nil {
				yield(Event{}, err)
				return
			}
			if e, ok := event(r); ok && !yield(e, nil) {
				return
			}
		}
	}
}

func event(r logs.Record) (Event, bool) {
	e, err := decode(r.Data)
	e.Sequence, e.Time = r.Seq, r.Time
	return e, err == nil && !r.Partial
}

// Forget deletes the rings of contracts that keep does not know.
func (b *Book) Forget(keep func(contract string) bool) error {
	entries, err := os.ReadDir(b.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("forget events: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		if keep(e.Name()) {
			continue
		}
		for id, w := range b.open {
			if id.Contract.String() == e.Name() {
				_ = w.Close()
				delete(b.open, id)
			}
		}
		err = errors.Join(err, os.RemoveAll(filepath.Join(b.dir, e.Name())))
	}
	if err != nil {
		return fmt.Errorf("forget events: %w", err)
	}
	return nil
}

// Close closes every ring.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.close()
}

func (b *Book) close() error {
	var err error
	for id, w := range b.open {
		err = errors.Join(err, w.Close())
		delete(b.open, id)
	}
	return err
}
