package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
)

// FetchOptions of a Fetcher. Zero values mean the defaults.
type FetchOptions struct {
	// Hubs are base URLs in order of preference. Their content is verified, they
	// need no trust.
	Hubs []string
	// Parallel is how many requests run at the same time; default 12.
	Parallel int
	// Wait bounds connecting, waiting for an answer, and every pause in it; default 10 s.
	Wait time.Duration
	// MinSpeed in bytes per second, below which a hub counts as unreachable; default 16 KiB/s.
	MinSpeed int64
	// Rounds is how often all hubs are asked before an object is given up for
	// now, as long as one of them could not be reached; default 4.
	Rounds int
	// Backoff is the pause after the first round, doubled after each; default 250 ms.
	Backoff time.Duration
}

func (o *FetchOptions) defaults() {
	if o.Parallel <= 0 {
		o.Parallel = 12
	}
	if o.Wait <= 0 {
		o.Wait = 10 * time.Second
	}
	if o.MinSpeed <= 0 {
		o.MinSpeed = 16 << 10
	}
	if o.Rounds <= 0 {
		o.Rounds = 4
	}
	if o.Backoff <= 0 {
		o.Backoff = 250 * time.Millisecond
	}
}

// Fetcher brings objects and manifests from hubs into a store. An object that
// is asked for by many is fetched once. Its methods may be called at the same time.
type Fetcher struct {
	store  *Store
	o      FetchOptions
	hubs   hubs
	client *client
	sched  scheduler
	bufs   buffers

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	flights  map[canon.Hash]*flight
	failures failures
	tracked  map[canon.Hash]*tracker
}

// flight is the fetching of one object, or manifest, under way.
type flight struct {
	lane   *lane
	done   chan struct{} // closed when err is set
	err    error
	cancel context.CancelFunc

	waiting int  // under Fetcher.mu
	kept    bool // somebody comes back for it: not cancelled when nobody waits
}

// NewFetcher returns a Fetcher into s. Close it after use.
func NewFetcher(s *Store, o FetchOptions) (*Fetcher, error) {
	o.defaults()
	list, err := parseHubs(o.Hubs)
	if err != nil {
		return nil, err
	}
	f := &Fetcher{
		store: s, o: o,
		client:  newClient(o.Parallel, o.Wait, o.MinSpeed),
		flights: map[canon.Hash]*flight{},
		tracked: map[canon.Hash]*tracker{},
	}
	f.hubs.list = list
	f.sched.total = o.Parallel
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f, nil
}

// Close ends what is under way and waits for it.
func (f *Fetcher) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop()
	f.work.Wait()
	f.client.http.CloseIdleConnections()
	return nil
}

// SetHubs replaces the list of hubs.
func (f *Fetcher) SetHubs(bases []string) error {
	list, err := parseHubs(bases)
	if err != nil {
		return err
	}
	f.hubs.mu.Lock()
	f.hubs.list = list
	f.hubs.mu.Unlock()
	return nil
}

// Hubs returns the list of hubs.
func (f *Fetcher) Hubs() []string {
	f.hubs.mu.Lock()
	defer f.hubs.mu.Unlock()
	all := make([]string, 0, len(f.hubs.list))
	for _, h := range f.hubs.list {
		all = append(all, h.base)
	}
	return all
}

// Store returns the store that is fetched into.
func (f *Fetcher) Store() *Store { return f.store }

// Object makes sure that the object d is in the store, fetching it if it is
// not. A manifest in the store must speak of it: that tells its size, chunks and
// fs-verity digest. When ctx ends, so does the waiting; the fetching goes on if
// ctx ended by its deadline, since then somebody may come back for it.
//
// Codes of errors: digest-mismatch, hub-unreachable, object-missing,
// manifest-invalid, disk-full. An error is not remembered: the next call tries again.
func (f *Fetcher) Object(ctx context.Context, d canon.Hash, p Priority) error {
	files, err := f.store.index.files(d)
	if err != nil {
		return fmt.Errorf("fetch object %s: %w", d.Short(), err)
	}
	if len(files) == 0 {
		return problem.New(CodeObjectMissing, "fetch object %s: no manifest in the store speaks of it", d)
	}
	for _, file := range files {
		if f.store.sound(file) {
			return nil
		}
	}
	return f.join(ctx, d, p, func(ctx context.Context, l *lane) error {
		err := f.fetchObject(ctx, files, l)
		f.settle(d, err)
		return err
	})
}

// Size returns the size of the object d in bytes, 0 if no manifest in the store
// speaks of it.
func (f *Fetcher) Size(d canon.Hash) uint64 {
	files, err := f.store.index.files(d)
	if err != nil || len(files) == 0 {
		return 0
	}
	return files[0].Size
}

// Present tells whether the object d is in the store and sound.
func (f *Fetcher) Present(d canon.Hash) bool {
	files, err := f.store.index.files(d)
	if err != nil {
		return false
	}
	for _, file := range files {
		if f.store.sound(file) {
			return true
		}
	}
	return false
}

// Manifest returns the flist d from the store, fetching it first if need be.
func (f *Fetcher) Manifest(ctx context.Context, d canon.Hash) (flist.Manifest, error) {
	m, err := f.store.Manifest(d)
	if !errors.Is(err, os.ErrNotExist) {
		return m, err
	}
	err = f.join(ctx, d, Demand, func(ctx context.Context, l *lane) error {
		b, err := f.fetchManifest(ctx, d, l)
		if err == nil {
			err = f.store.PutManifest(d, b)
		}
		f.settle(d, err)
		return err
	})
	if err != nil {
		return flist.Manifest{}, fmt.Errorf("fetch flist %s: %w", d.Short(), err)
	}
	return f.store.Manifest(d)
}

// join waits for the flight to d, starting it if there is none.
func (f *Fetcher) join(ctx context.Context, d canon.Hash, p Priority, run func(context.Context, *lane) error) error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return errors.New("the fetcher is closed")
	}
	fl := f.flights[d]
	if fl == nil {
		fl = f.takeOff(d, p, run)
	}
	fl.waiting++
	f.mu.Unlock()
	if p == Demand && fl.lane.priority() != Demand {
		f.sched.raise(fl.lane)
	}
	select {
	case <-fl.done:
		f.leave(fl, true)
		return fl.err
	case <-ctx.Done():
		f.leave(fl, errors.Is(ctx.Err(), context.DeadlineExceeded))
		return ctx.Err()
	}
}

func (f *Fetcher) takeOff(d canon.Hash, p Priority, run func(context.Context, *lane) error) *flight {
	ctx, cancel := context.WithCancel(f.ctx)
	fl := &flight{lane: newLane(p), done: make(chan struct{}), cancel: cancel}
	f.flights[d] = fl
	f.work.Go(func() {
		defer cancel()
		err := run(ctx, fl.lane)
		f.mu.Lock()
		fl.err = err
		if f.flights[d] == fl {
			delete(f.flights, d)
		}
		f.mu.Unlock()
		close(fl.done)
	})
	return fl
}

// leave ends the waiting of one; a flight that nobody waits for and nobody comes
// back for is cancelled, and forgotten at once so that who comes next starts a new one.
func (f *Fetcher) leave(fl *flight, keep bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.waiting--
	fl.kept = fl.kept || keep
	if fl.waiting > 0 || fl.kept {
		return
	}
	fl.cancel()
	for d, x := range f.flights {
		if x == fl {
			delete(f.flights, d)
		}
	}
}
