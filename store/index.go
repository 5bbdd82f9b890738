package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
)

// contents is what one manifest says about objects, packed: an entry costs 88
// bytes plus its chunks and holds no pointer, since a node may know a million.
type contents struct {
	records []record // sorted by digest, each digest once
	chunks  []canon.Hash
	bytes   uint64 // sum of the sizes
}

type record struct {
	digest, verity canon.Hash
	size           uint64
	chunk, chunks  uint32 // range in contents.chunks
}

// newContents packs a manifest. Empty files need no object and are left out.
func newContents(m flist.Manifest) *contents {
	c := &contents{}
	for i := range m.Entries {
		f := m.Entries[i].File
		if f == nil || f.Size == 0 {
			continue
		}
		c.records = append(c.records, record{digest: f.Digest, verity: f.Verity, size: f.Size, chunk: uint32(i)})
	}
	slices.SortStableFunc(c.records, func(a, b record) int { return bytes.Compare(a.digest[:], b.digest[:]) })
	c.records = slices.CompactFunc(c.records, func(a, b record) bool { return a.digest == b.digest })
	c.records = slices.Clip(slices.Clone(c.records))
	for i := range c.records {
		r := &c.records[i]
		list := m.Entries[r.chunk].File.Chunks
		r.chunk, r.chunks = uint32(len(c.chunks)), uint32(len(list))
		c.chunks = append(c.chunks, list...)
		c.bytes += r.size
	}
	return c
}

// find returns the position of the object d, or false.
func (c *contents) find(d canon.Hash) (int, bool) {
	return slices.BinarySearchFunc(c.records, d, func(r record, d canon.Hash) int { return bytes.Compare(r.digest[:], d[:]) })
}

func (c *contents) file(i int) flist.File {
	r := c.records[i]
	return flist.File{Size: r.size, Digest: r.digest, Verity: r.verity, Chunks: c.chunks[r.chunk : r.chunk+r.chunks]}
}

// index answers what the store's manifests say about an object. It is read
// from the manifests when it is first asked, and again when others appear.
type index struct {
	s    *Store
	mu   sync.Mutex
	by   map[canon.Hash]*contents
	seen time.Time // modification time of manifests/ when it was read; zero: read it again
}

// settled is how old a directory's modification time must be for it to tell
// later changes apart: the kernel's file times move in steps of some milliseconds.
const settled = time.Second

func (x *index) init(s *Store) { x.s, x.by = s, map[canon.Hash]*contents{} }

// of returns the contents of one flist; the error wraps os.ErrNotExist when
// the store does not have its manifest.
func (x *index) of(d canon.Hash) (*contents, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.load(d)
}

// add takes in a flist that was just stored.
func (x *index) add(d canon.Hash, c *contents) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.by[d] == nil {
		x.by[d] = c
	}
}

func (x *index) load(d canon.Hash) (*contents, error) {
	if c := x.by[d]; c != nil {
		return c, nil
	}
	m, err := x.s.Manifest(d)
	if err != nil {
		return nil, err
	}
	c := newContents(m)
	x.by[d] = c
	return c, nil
}

// refresh brings the index to what is in manifests/ now.
func (x *index) refresh() error {
	st, err := os.Stat(filepath.Join(x.s.dir, manifestsDir))
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.seen.IsZero() && x.seen.Equal(st.ModTime()) {
		return nil
	}
	all, err := x.s.Manifests()
	if err != nil {
		return err
	}
	there := make(map[canon.Hash]bool, len(all))
	for _, d := range all {
		there[d] = true
		if _, err := x.load(d); err != nil && !errors.Is(err, os.ErrNotExist) {
			x.s.log.Warn("a manifest in the store is unusable", "flist", d.String(), "error", err)
		}
	}
	for d := range x.by {
		if !there[d] {
			delete(x.by, d)
		}
	}
	x.seen = time.Time{}
	if time.Since(st.ModTime()) > settled {
		x.seen = st.ModTime()
	}
	return nil
}

// files returns every different thing that manifests say about the object d.
// There can be more than one: a flist may lie about how an object is cut into
// chunks or about its fs-verity digest, and must not harm the others by that.
func (x *index) files(d canon.Hash) ([]flist.File, error) {
	if err := x.refresh(); err != nil {
		return nil, err
	}
	return x.search(d), nil
}

func (x *index) search(d canon.Hash) []flist.File {
	x.mu.Lock()
	defer x.mu.Unlock()
	var found []flist.File
	for _, c := range x.by {
		i, ok := c.find(d)
		if !ok {
			continue
		}
		f := c.file(i)
		if !slices.ContainsFunc(found, func(g flist.File) bool {
			return g.Size == f.Size && g.Verity == f.Verity && slices.Equal(g.Chunks, f.Chunks)
		}) {
			found = append(found, f)
		}
	}
	return found
}
