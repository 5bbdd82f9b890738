package storetest

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
)

// Tree is a flist with its content.
type Tree struct {
	Flist    canon.Hash
	Bytes    []byte // canonical
	Manifest flist.Manifest
	Content  map[canon.Hash][]byte // of the objects
}

// NewTree makes a flist of plain files from their paths and contents; directories
// come by themselves. All times are the same.
func NewTree(files map[string]string) (Tree, error) {
	t := Tree{Content: map[canon.Hash][]byte{}}
	const mtime = 1_700_000_000_000_000_000
	entries := map[string]flist.Entry{"": {Mode: 0o40755, MTime: mtime}}
	for p, content := range files {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			entries[dir] = flist.Entry{Path: []byte(dir), Mode: 0o40755, MTime: mtime}
		}
		f := Describe([]byte(content))
		entries[p] = flist.Entry{Path: []byte(p), Mode: 0o100755, MTime: mtime, File: &f}
		if f.Size > 0 {
			t.Content[f.Digest] = []byte(content)
		}
	}
	m := flist.Manifest{V: flist.Version}
	for _, e := range entries {
		m.Entries = append(m.Entries, e)
	}
	slices.SortFunc(m.Entries, func(a, b flist.Entry) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return t, t.SetManifest(m)
}

// SetManifest replaces the manifest, keeping the content.
func (t *Tree) SetManifest(m flist.Manifest) error {
	b, d, err := flist.Encode(m)
	if err != nil {
		return fmt.Errorf("make a flist: %w", err)
	}
	t.Manifest, t.Bytes, t.Flist = m, b, d
	return nil
}

// File returns what the manifest says about the file at p.
func (t Tree) File(p string) flist.File {
	for _, e := range t.Manifest.Entries {
		if string(e.Path) == p && e.File != nil {
			return *e.File
		}
	}
	panic("storetest: no file " + p)
}

// Describe computes what a manifest says about a content.
func Describe(b []byte) flist.File {
	var tree flist.Verity
	_, _ = tree.Write(b)
	f := flist.File{Size: uint64(len(b)), Digest: canon.Sum(b), Verity: tree.Sum()}
	if len(b) > flist.ChunkedAbove {
		for chunk := range slices.Chunk(b, flist.ChunkSize) {
			f.Chunks = append(f.Chunks, canon.Sum(chunk))
		}
	}
	return f
}

// Noise returns n bytes that don't compress, the same for the same seed.
func Noise(seed uint64, n int) string {
	b := make([]byte, n)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(key).Read(b)
	return string(b)
}
