package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// DefaultBound is the ring's size on disk in bytes, both segments together.
const DefaultBound = 4 << 20

// Writer appends to a ring. There is one at a time per directory; its owner sees
// to that. Its methods may be called from several goroutines.
type Writer struct {
	dir   string
	bound int64 // of one segment
	now   func() time.Time

	mu      sync.Mutex
	f       *os.File
	size    int64
	next    uint64
	pending [Node + 1][]byte // begun lines, by stream
	buf     []byte
	dropped uint64 // records that could not be written
}

// Open opens or creates the ring in dir with a total bound in bytes (at least
// 4 MaxRecord; 0 means DefaultBound), cutting off what a crash left torn.
func Open(dir string, bound int64) (*Writer, error) {
	if bound == 0 {
		bound = DefaultBound
	}
	if bound < 4*MaxRecord {
		return nil, fmt.Errorf("open log ring: bound of %d bytes is below %d", bound, 4*MaxRecord)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open log ring: %w", err)
	}
	w := &Writer{dir: dir, bound: bound / 2, now: time.Now, next: 1}
	segs, err := segments(dir)
	if err != nil {
		return nil, err
	}
	if len(segs) == 0 {
		return w, w.startSegment()
	}
	last := segs[len(segs)-1]
	f, err := os.OpenFile(last.path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("open log ring: %w", err)
	}
	w.size, w.next, err = scanFile(f, last.first)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open log ring: %w", err)
	}
	if err := f.Truncate(w.size); err != nil {
		f.Close()
		return nil, fmt.Errorf("cut off torn log record: %w", err)
	}
	w.f = f
	return w, nil
}

// Write takes bytes of a stream, cuts them into lines and appends those that are
// complete; the begun last line waits for its end, for Flush, or until it is
// longer than MaxRecord.
func (w *Writer) Write(s Stream, p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte{'\n'})
		begun := w.pending[s]
		for room := MaxRecord - len(begun); len(line) > room; room = MaxRecord {
			w.add(s, append(begun, line[:room]...), true)
			line, begun = line[room:], begun[:0]
		}
		if whole {
			w.add(s, append(begun, line...), false)
			w.pending[s] = begun[:0]
		} else {
			w.pending[s] = append(begun, line...)
		}
		p = rest
	}
	return w.commit()
}

// Flush appends a line of the stream that was begun and not ended, as partial.
func (w *Writer) Flush(s Stream) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending[s]) > 0 {
		w.add(s, w.pending[s], true)
		w.pending[s] = w.pending[s][:0]
	}
	return w.commit()
}

// Next returns the sequence number of the next record.
func (w *Writer) Next() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// Close flushes and closes the ring's file.
func (w *Writer) Close() error {
	var err error
	for s := range w.pending {
		err = errors.Join(err, w.Flush(Stream(s)))
	}
	if cerr := w.f.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close log ring: %w", cerr)
	}
	return err
}

// add encodes one record into the buffer, going to a new segment first when the
// present one is full.
func (w *Writer) add(s Stream, data []byte, partial bool) {
	if w.size+int64(len(w.buf)+headerSize+len(data)) > w.bound {
		// An error here shows again at the commit that follows.
		if w.commit() == nil && w.size > 0 {
			_ = w.startSegment()
		}
	}
	w.buf = appendRecord(w.buf, Record{Seq: w.next, Time: w.now(), Stream: s, Data: data, Partial: partial})
	w.next++
}

// commit writes the buffer in one call. What can't be written is dropped, and
// its numbers are used again: a full disk must not stop the workload.
func (w *Writer) commit() error {
	if len(w.buf) == 0 {
		return nil
	}
	n, err := w.f.Write(w.buf)
	if err != nil {
		_ = w.f.Truncate(w.size)
		_, next := scan(w.buf, firstSeq(w.buf), nil)
		w.dropped += next - firstSeq(w.buf)
		w.next = firstSeq(w.buf)
		w.buf = w.buf[:0]
		return fmt.Errorf("append to log ring: %w", err)
	}
	w.size += int64(n)
	w.buf = w.buf[:0]
	return nil
}

func firstSeq(b []byte) uint64 {
	r, _, _ := parseRecord(b)
	return r.Seq
}

// startSegment makes the next record the first of a new file and deletes the
// files that the bound no longer allows. Readers that hold them read on.
func (w *Writer) startSegment() error {
	segs, err := segments(w.dir)
	if err != nil {
		return err
	}
	for len(segs) > 1 {
		if err := os.Remove(segs[0].path); err != nil {
			return fmt.Errorf("drop oldest log segment: %w", err)
		}
		segs = segs[1:]
	}
	f, err := os.OpenFile(segmentPath(w.dir, w.next), os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("start log segment: %w", err)
	}
	if w.f != nil {
		w.f.Close()
	}
	w.f, w.size = f, 0
	return nil
}
