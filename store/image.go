package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/linux/verity"
)

// image is what this process knows about the metadata image of one flist. Only
// what it derived from the manifest itself is trusted; what lies on disk since
// before is compared with that.
type image struct {
	mu      sync.Mutex
	derived bool
	digest  canon.Hash // fs-verity digest of the image that the manifest gives
	root    flist.Entry
	checked identity // of a file whose content was compared, without fs-verity
}

// identity changes when a file is replaced or written.
type identity struct {
	dev, ino, size uint64
	ctime          time.Time
}

// ensureImage makes sure that the flist's metadata image is on disk and is
// exactly what its manifest gives, under fs-verity where there is some. It
// returns the path, and the tree's root.
func (s *Store) ensureImage(ctx context.Context, d canon.Hash) (path string, root flist.Entry, err error) {
	s.imagesMu.Lock()
	im := s.images[d]
	if im == nil {
		im = &image{}
		s.images[d] = im
	}
	s.imagesMu.Unlock()
	im.mu.Lock()
	defer im.mu.Unlock()
	path = s.imagePath(d)
	switch {
	case !im.derived:
		err = s.deriveImage(ctx, d, im)
	case !s.imageMatches(path, im):
		err = s.buildImage(ctx, d, im)
	}
	if err != nil {
		return "", flist.Entry{}, fmt.Errorf("metadata image of flist %s: %w", d.Short(), err)
	}
	return path, im.root, nil
}

// deriveImage learns the image's digest from the manifest, building the image
// if none is there that has it.
func (s *Store) deriveImage(ctx context.Context, d canon.Hash, im *image) error {
	if _, err := os.Lstat(s.imagePath(d)); err != nil {
		return s.buildImage(ctx, d, im)
	}
	m, err := s.Manifest(d)
	if err != nil {
		return err
	}
	var tree flist.Verity
	if err := flist.WriteEROFS(&tree, m); err != nil {
		return err
	}
	im.derived, im.digest, im.root = true, tree.Sum(), rootOf(m)
	if s.imageMatches(s.imagePath(d), im) {
		return nil
	}
	s.log.Warn("a stored metadata image is not what its manifest gives, it is built again", "flist", d.String())
	return s.buildImage(ctx, d, im)
}

// rootOf copies the first entry, so that it does not keep the others in memory.
func rootOf(m flist.Manifest) flist.Entry {
	root := m.Entries[0]
	root.Xattrs = slices.Clone(root.Xattrs)
	for i, x := range root.Xattrs {
		root.Xattrs[i] = flist.Xattr{Name: bytes.Clone(x.Name), Value: bytes.Clone(x.Value)}
	}
	return root
}

// imageMatches tells whether the file at path has the derived digest. With
// fs-verity that is one call and holds for as long as the file exists; without,
// the content is read, once for every change of the file.
func (s *Store) imageMatches(path string, im *image) bool {
	if s.verity {
		got, err := verity.Measure(path)
		return err == nil && got == im.digest
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	id, err := identify(f)
	if err != nil {
		return false
	}
	if id == im.checked {
		return true
	}
	var tree flist.Verity
	if _, err := io.Copy(&tree, f); err != nil || tree.Sum() != im.digest {
		return false
	}
	im.checked = id
	return true
}

func identify(f *os.File) (identity, error) {
	st, err := f.Stat()
	if err != nil {
		return identity{}, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, errors.New("no inode number")
	}
	return identity{dev: sys.Dev, ino: sys.Ino, size: uint64(sys.Size), ctime: time.Unix(sys.Ctim.Sec, sys.Ctim.Nsec)}, nil
}

// buildImage writes the image from the manifest.
func (s *Store) buildImage(ctx context.Context, d canon.Hash, im *image) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	m, err := s.Manifest(d)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.tmp.path, "i-")
	if err != nil {
		return diskFull(err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
		err = diskFull(err)
	}()
	var tree flist.Verity
	out := bufio.NewWriterSize(f, 1<<20)
	if err := flist.WriteEROFS(io.MultiWriter(out, &tree), m); err != nil {
		return err
	}
	if err := errors.Join(out.Flush(), f.Chmod(0o444), f.Sync(), f.Close()); err != nil {
		return err
	}
	im.derived, im.digest, im.root = true, tree.Sum(), rootOf(m)
	if s.verity {
		if err := verity.Enable(f.Name()); err != nil {
			return err
		}
		got, err := verity.Measure(f.Name())
		if err != nil {
			return err
		}
		if got != im.digest {
			return fmt.Errorf("image written has the fs-verity digest %s, %s was meant", got, im.digest)
		}
	}
	path := s.imagePath(d)
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if !s.verity && !s.imageMatches(path, im) {
		return errors.New("image on disk is not what was written")
	}
	return syncDir(filepath.Dir(path))
}
