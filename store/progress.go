package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Progress is how much of a flist is in the store. Objects count once, however
// many names they have; Bytes are uncompressed.
type Progress struct {
	Objects      int    `json:"objects"`
	TotalObjects int    `json:"total_objects"`
	Bytes        uint64 `json:"bytes"`
	TotalBytes   uint64 `json:"total_bytes"`
}

// Failure is why an object or a manifest could not be had the last time.
type Failure struct {
	Object canon.Hash `json:"object"`
	Code   string     `json:"code"`
	Detail string     `json:"detail"`
	At     time.Time  `json:"at"`
}

// maxFailures bounds how many failures are remembered, the newest ones.
const maxFailures = 1024

type failures struct {
	by    map[canon.Hash]Failure
	order []canon.Hash // oldest first
}

// settle records how the fetching of d ended: a success makes its failure forgotten.
func (f *Fetcher) settle(d canon.Hash, err error) {
	if err == nil {
		f.succeeded(d)
	} else {
		f.failed(d, err)
	}
}

func (f *Fetcher) succeeded(d canon.Hash) {
	f.mu.Lock()
	x := &f.failures
	if _, ok := x.by[d]; ok {
		delete(x.by, d)
		x.order = slices.DeleteFunc(x.order, func(o canon.Hash) bool { return o == d })
	}
	trackers := slices.Collect(maps.Values(f.tracked))
	f.mu.Unlock()
	for _, t := range trackers {
		t.got(d)
	}
}

func (f *Fetcher) failed(d canon.Hash, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := &f.failures
	if errors.Is(err, context.Canceled) && problem.Code(err) == "" {
		return // nobody wanted it any more: says nothing about the object
	}
	code := problem.Code(err)
	if code == "" {
		code = "internal"
	}
	if x.by == nil {
		x.by = map[canon.Hash]Failure{}
	}
	if _, ok := x.by[d]; !ok {
		if len(x.order) == maxFailures {
			delete(x.by, x.order[0])
			x.order = x.order[1:]
		}
		x.order = append(x.order, d)
	}
	x.by[d] = Failure{Object: d, Code: code, Detail: err.Error(), At: time.Now()}
	f.store.log.Warn("could not fetch", "object", d.String(), "code", code, "error", err)
}

// Late records that somebody gave up waiting for the object d, which is still
// being fetched. How the fetching ends replaces this.
func (f *Fetcher) Late(d canon.Hash, waited time.Duration) {
	f.failed(d, problem.New(CodeHubUnreachable, "object %s did not arrive within %s", d.Short(), waited).
		WithFix("the hub or the way to it is too slow; fetch the flist before it is used"))
}

// Failure returns why d, an object or a flist, could not be had the last time
// it was tried; false if it could, or was never tried.
func (f *Fetcher) Failure(d canon.Hash) (Failure, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x, ok := f.failures.by[d]
	return x, ok
}

// Failures returns the standing failures of the flist and its objects, the
// latest first; of everything if the flist is the zero hash.
func (f *Fetcher) Failures(of canon.Hash) []Failure {
	var c *contents
	if !of.IsZero() {
		c, _ = f.store.index.of(of) // without its manifest, only its own failure counts
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Failure
	for _, x := range f.failures.by {
		ours := of.IsZero() || x.Object == of
		if !ours && c != nil {
			_, ours = c.find(x.Object)
		}
		if ours {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b Failure) int { return b.At.Compare(a.At) })
	return all
}

// tracker counts the objects of one flist that are present.
type tracker struct {
	mu       sync.Mutex
	contents *contents
	have     []bool
	at       time.Time // when the store was last looked through
	progress Progress
}

// trackFor is how long a count is trusted: other processes fetch and evict too.
const trackFor = 10 * time.Second

// Progress tells how much of a flist is present. Its manifest must be in the store.
func (f *Fetcher) Progress(d canon.Hash) (Progress, error) {
	c, err := f.store.index.of(d)
	if err != nil {
		return Progress{}, fmt.Errorf("progress of flist %s: %w", d.Short(), err)
	}
	f.mu.Lock()
	t := f.tracked[d]
	if t == nil {
		t = &tracker{}
		f.tracked[d] = t
	}
	f.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.contents != c || time.Since(t.at) > trackFor {
		t.contents, t.at = c, time.Now()
		t.have = make([]bool, len(c.records))
		t.progress = Progress{TotalObjects: len(c.records), TotalBytes: c.bytes}
		if err := f.store.eachObject(func(o object) { t.mark(o.digest) }); err != nil {
			t.at = time.Time{}
			return Progress{}, fmt.Errorf("progress of flist %s: %w", d.Short(), err)
		}
	}
	return t.progress, nil
}

// got counts an object that was fetched by this process.
func (t *tracker) got(d canon.Hash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mark(d)
}

func (t *tracker) mark(d canon.Hash) {
	if t.contents == nil {
		return
	}
	if i, ok := t.contents.find(d); ok && !t.have[i] {
		t.have[i] = true
		t.progress.Objects++
		t.progress.Bytes += t.contents.records[i].size
	}
}

// Prefetch fetches all that is missing of a flist, its manifest included, as
// bulk work. It goes on after an object that can't be had and returns the first such error.
func (f *Fetcher) Prefetch(ctx context.Context, d canon.Hash) error {
	if _, err := f.Manifest(ctx, d); err != nil {
		return err
	}
	c, err := f.store.index.of(d)
	if err != nil {
		return fmt.Errorf("prefetch flist %s: %w", d.Short(), err)
	}
	var (
		workers sync.WaitGroup
		next    = make(chan canon.Hash)
		mu      sync.Mutex
		first   error
	)
	for range f.o.Parallel {
		workers.Go(func() {
			for o := range next {
				if err := f.Object(ctx, o, Bulk); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := range c.records {
		if ctx.Err() != nil {
			break
		}
		next <- c.records[i].digest
	}
	close(next)
	workers.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if first != nil {
		return fmt.Errorf("prefetch flist %s: %w", d.Short(), first)
	}
	return nil
}
