package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"
)

// Reader reads a ring while its writer writes. It keeps no file open between
// calls and is for one goroutine.
type Reader struct {
	dir  string
	poll time.Duration

	// Where the last Read ended, so that the next need not scan from the start.
	at  segment
	off int64
	seq uint64
}

// NewReader returns a reader of the ring in dir, which need not exist yet.
func NewReader(dir string) *Reader { return &Reader{dir: dir, poll: 100 * time.Millisecond} }

// Read returns records from sequence number from on (0 and 1: the oldest there
// is), at most limit of them, and the number to go on with. Records that the ring
// has dropped are skipped: the first record's number tells. Fewer than limit, or
// none, means that there is no more for now.
func (r *Reader) Read(from uint64, limit int) (recs []Record, next uint64, err error) {
	if limit < 1 {
		return nil, from, fmt.Errorf("read log ring: at most %d records make no sense", limit)
	}
	from = max(from, 1)
	// The writer may delete a segment between listing and opening: list again.
	for range 10 {
		recs, next, err = r.read(from, limit)
		if !errors.Is(err, fs.ErrNotExist) {
			return recs, next, err
		}
	}
	return nil, from, err
}

func (r *Reader) read(from uint64, limit int) ([]Record, uint64, error) {
	segs, err := segments(r.dir)
	if err != nil {
		return nil, from, err
	}
	var out []Record
	next := from
	for i, s := range segs {
		if i+1 < len(segs) && segs[i+1].first <= from {
			continue // all of it lies before
		}
		off, seq := int64(0), s.first
		if r.at == s && r.seq <= next && r.seq > s.first {
			off, seq = r.off, r.seq
		}
		b, err := load(s.path, off)
		if err != nil {
			return nil, from, err
		}
		for len(out) < limit {
			rec, n, ok := parseRecord(b)
			if !ok || rec.Seq != seq {
				break
			}
			b, off, seq = b[n:], off+int64(n), seq+1
			if rec.Seq >= next {
				rec.Data = append([]byte(nil), rec.Data...)
				out = append(out, rec)
				next = rec.Seq + 1
			}
		}
		r.at, r.off, r.seq = s, off, seq
		if len(out) == limit {
			break
		}
	}
	return out, next, nil
}

func load(path string, off int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read log segment: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, off, maxSegment))
	if err != nil {
		return nil, fmt.Errorf("read log segment: %w", err)
	}
	return b, nil
}

// Follow yields records from sequence number from on, then waits for new ones
// until ctx ends, which ends the sequence without an error. An error ends it too.
// It looks for news ten times a second.
func (r *Reader) Follow(ctx context.Context, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		tick := time.NewTicker(r.poll)
		defer tick.Stop()
		for ctx.Err() == nil {
			recs, next, err := r.Read(from, 256)
			if err != nil {
				yield(Record{}, err)
				return
			}
			for _, rec := range recs {
				if ctx.Err() != nil || !yield(rec, nil) {
					return
				}
			}
			from = next
			if len(recs) > 0 {
				continue
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}
}
