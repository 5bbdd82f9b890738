package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// maxSegment bounds what a reader loads of one file, whatever its size.
const maxSegment = 64 << 20

type segment struct {
	path  string
	first uint64 // sequence number of its first record
}

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x.log", first))
}

// segments lists the ring's files, oldest first. A directory that is missing
// holds none.
func segments(dir string) ([]segment, error) {
	ents, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list log segments: %w", err)
	}
	var out []segment
	for _, e := range ents {
		hex, ok := strings.CutSuffix(e.Name(), ".log")
		if !ok || len(hex) != 16 || !e.Type().IsRegular() {
			continue
		}
		first, err := strconv.ParseUint(hex, 16, 64)
		if err != nil || first == 0 {
			continue
		}
		out = append(out, segment{path: filepath.Join(dir, e.Name()), first: first})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].first < out[j].first })
	return out, nil
}

// scan calls f with each intact record of b in turn, as long as they count up
// from first, and returns the length of that intact prefix and the next number.
func scan(b []byte, first uint64, f func(Record)) (size int64, next uint64) {
	next = first
	for {
		r, n, ok := parseRecord(b[size:])
		if !ok || r.Seq != next {
			return size, next
		}
		if f != nil {
			f(r)
		}
		size += int64(n)
		next++
	}
}

// scanFile is scan of a file, with little memory: there is a writer in every shim.
func scanFile(f io.Reader, first uint64) (size int64, next uint64, err error) {
	next = first
	f = io.LimitReader(f, maxSegment)
	buf := make([]byte, 0, 2*(headerSize+MaxRecord))
	for {
		n, rerr := f.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if rerr != nil && !errors.Is(rerr, io.EOF) {
			return 0, 0, rerr
		}
		used, after := scan(buf, next, nil)
		size, next = size+used, after
		buf = buf[:copy(buf, buf[used:])]
		// What doesn't fit one record is none, whatever follows.
		if rerr != nil || len(buf) >= headerSize+MaxRecord {
			return size, next, nil
		}
	}
}
