package flist

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
)

// storeSink keeps objects and chunks in memory, to lay them out as a node's
// store does.
type storeSink struct {
	mu      chan struct{}
	objects map[canon.Hash][]byte
}

func newStoreSink() *storeSink {
	return &storeSink{mu: make(chan struct{}, 1), objects: map[canon.Hash][]byte{}}
}

func (s *storeSink) Put(_ context.Context, name canon.Hash, data []byte) error {
	s.mu <- struct{}{}
	defer func() { <-s.mu }()
	s.objects[name] = bytes.Clone(data)
	return nil
}

// content joins a file's chunks.
func (s *storeSink) content(f *File) []byte {
	if len(f.Chunks) == 0 {
		return s.objects[f.Digest]
	}
	var b []byte
	for _, c := range f.Chunks {
		b = append(b, s.objects[c]...)
	}
	return b
}

// layOut writes every file whole into a data-only layer.
func (s *storeSink) layOut(t *testing.T, m Manifest) string {
	t.Helper()
	dir := t.TempDir()
	m.Files(func(_ []byte, f *File) bool {
		p := filepath.Join(dir, string(appendObjectPath(nil, f)))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, s.content(f), 0o644); err != nil {
			t.Fatal(err)
		}
		return true
	})
	return dir
}

// mountFlist mounts a manifest as a node does, but for verity: this host's
// kernel may have none.
func mountFlist(t *testing.T, m Manifest, objects string) string {
	t.Helper()
	meta := mountEROFS(t, writeImage(t, m))
	dir := t.TempDir()
	opts := "metacopy=on,redirect_dir=follow,lowerdir=" + meta + "::" + objects
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, opts); err != nil {
		t.Fatalf("mount overlay with %s: %v (Linux 6.8 or later is needed)", opts, err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

func TestOverlayServesTheContentOfEveryFile(t *testing.T) {
	sink := newStoreSink()
	m := sampleTree(t, sink)
	dir := mountFlist(t, m, sink.layOut(t, m))
	compareTree(t, dir, m, true)
	read := 0
	for _, e := range m.Entries {
		if e.Mode&ModeType != ModeRegular {
			continue
		}
		f := e.File
		if f == nil {
			first, _ := m.Lookup(string(e.Link))
			f = first.File
		}
		file, err := os.Open(filepath.Join(dir, string(e.Path)))
		if err != nil {
			t.Errorf("open %q: %v", e.Path, err)
			continue
		}
		h := sha256.New()
		n, err := io.Copy(h, file)
		file.Close()
		if err != nil || uint64(n) != f.Size || canon.Hash(h.Sum(nil)) != f.Digest {
			t.Errorf("%q: read %d bytes with another digest, want %d (%v)", e.Path, n, f.Size, err)
		}
		read++
	}
	if read < manyFiles {
		t.Fatalf("only %d files were compared", read)
	}
}

func TestMissingObjectIsAnErrorNeverZeros(t *testing.T) {
	sink := newStoreSink()
	m := sampleTree(t, sink)
	dir := mountFlist(t, m, t.TempDir())
	if b, err := os.ReadFile(filepath.Join(dir, "big")); err == nil {
		t.Fatalf("read %d bytes of a file whose object is absent", len(b))
	}
	if b, err := os.ReadFile(filepath.Join(dir, "dir/empty")); err != nil || len(b) != 0 {
		t.Fatalf("an empty file needs no object: %d bytes, %v", len(b), err)
	}
}
