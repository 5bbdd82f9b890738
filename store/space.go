package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/zero-os/zos/problem"
)

// space keeps the store within its limit. Used bytes are measured by walking
// the store, then counted; they are measured again before anything is evicted or
// refused, because other processes use the same store.
type space struct {
	s   *Store
	max int64

	mu       sync.Mutex
	measured bool
	used     int64
	reserved int64 // by objects that are being written
	// When room was last looked for in vain: looking means walking the store, so
	// it is not done for each of the thousands of files of a flist that can't fit.
	inVain time.Time
}

// pause is how long nothing is looked for after it was looked for in vain.
const pause = time.Second

func (p *space) init(s *Store, limit int64) { p.s, p.max = s, limit }

// footprint estimates what a file of size bytes takes on disk with its Merkle tree.
func footprint(size int64) int64 {
	const block = 4096
	up := func(n int64) int64 { return (n + block - 1) / block * block }
	return up(size) + up(size/127) + block
}

// reserve makes sure that size bytes fit and holds them for the caller, who
// releases what it returns.
func (p *space) reserve(ctx context.Context, size int64) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	need := footprint(size)
	if p.max == 0 {
		return need, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.measured {
		p.measure()
	}
	if p.used+p.reserved+need > p.max && time.Since(p.inVain) > pause {
		p.measure()
		if over := p.used + p.reserved + need - p.max; over > 0 {
			// A little more than needed, or the next file would have to look again.
			p.evictLocked(max(over, p.max/20))
		}
	}
	if p.used+p.reserved+need > p.max {
		if time.Since(p.inVain) > pause {
			p.inVain = time.Now()
		}
		return 0, problem.New(CodeDiskFull, "the store may hold %d bytes, has %d, and %d more are needed", p.max, p.used+p.reserved, need).
			WithFix("raise the store's limit, or remove deployments so that their files can be evicted")
	}
	p.reserved += need
	return need, nil
}

func (p *space) release(held int64) {
	if p.max == 0 {
		return
	}
	p.mu.Lock()
	p.reserved -= held
	p.mu.Unlock()
}

// added counts an object that became visible.
func (p *space) added(size uint64) { p.count(footprint(int64(size))) }

// removed counts one that went.
func (p *space) removed(st fs.FileInfo) { p.count(-allocated(st)) }

func (p *space) count(n int64) {
	p.mu.Lock()
	p.used += n
	if n < 0 {
		p.inVain = time.Time{}
	}
	p.mu.Unlock()
}

// evict makes room for need bytes, whatever the limit, and returns how many
// bytes it freed.
func (p *space) evict(need int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.evictLocked(need)
}

// lookAgain says that something may be evicted now that could not be before.
func (p *space) lookAgain() {
	p.mu.Lock()
	p.inVain = time.Time{}
	p.mu.Unlock()
}

// measure walks the store. What can't be read counts as nothing: the file
// system's own limit still holds.
func (p *space) measure() {
	p.used = 0
	_ = filepath.WalkDir(p.s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && path == filepath.Join(p.s.dir, tmpDirName) {
				return fs.SkipDir // counted as reserved by who writes it
			}
			return nil
		}
		if st, err := d.Info(); err == nil {
			p.used += allocated(st)
		}
		return nil
	})
	p.measured = true
}

func allocated(st fs.FileInfo) int64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return st.Size()
}

type victim struct {
	path string
	size int64
	used time.Time
}

// evictLocked removes the objects that were least recently opened and that no
// pinned or mounted flist speaks of, until need bytes are free.
func (p *space) evictLocked(need int64) (freed int64) {
	victims, err := p.s.victims()
	if err != nil {
		// What must be kept is not known, so everything is.
		p.s.log.Warn("nothing is evicted", "error", err)
		return 0
	}
	slices.SortFunc(victims, func(a, b victim) int { return a.used.Compare(b.used) })
	for _, v := range victims {
		if freed >= need {
			break
		}
		if os.Remove(v.path) == nil {
			freed += v.size
		}
	}
	p.used -= freed
	if freed > 0 {
		p.s.log.Info("evicted objects", "bytes", freed, "wanted", need)
	}
	return freed
}

// victims lists the objects that nobody needs.
func (s *Store) victims() ([]victim, error) {
	kept, err := s.kept()
	if err != nil {
		return nil, err
	}
	var need []*contents
	for d := range kept {
		c, err := s.index.of(d)
		if errors.Is(err, os.ErrNotExist) {
			continue // its manifest is not here, so none of its objects was fetched for it
		}
		if err != nil {
			return nil, fmt.Errorf("what flist %s needs is not known: %w", d.Short(), err)
		}
		need = append(need, c)
	}
	var all []victim
	err = s.eachObject(func(o object) {
		for _, c := range need {
			if _, ok := c.find(o.digest); ok {
				return
			}
		}
		if st, err := os.Lstat(o.path); err == nil {
			all = append(all, victim{path: o.path, size: allocated(st), used: lastUse(st)})
		}
	})
	return all, err
}

// lastUse is the access time, or the modification time where access times are
// not kept.
func lastUse(st fs.FileInfo) time.Time {
	t := st.ModTime()
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		if a := time.Unix(s.Atim.Sec, s.Atim.Nsec); a.After(t) {
			return a
		}
	}
	return t
}
