package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/linux/verity"
	"github.com/zero-os/zos/problem"
)

// Writer is an object that is not visible yet. Its content may be written in
// any order, by several goroutines. Commit or Abort ends it.
type Writer struct {
	s    *Store
	f    *os.File
	want flist.File
	held int64 // bytes reserved

	// The hashes run behind the writers, over what is surely written.
	sum    hash.Hash
	tree   *flist.Verity // nil where the kernel computes it
	hashed int64
}

// Create begins the object want.Digest and reserves room for it. The error's
// code is disk-full when there is none, also not after evicting what nobody needs.
func (s *Store) Create(ctx context.Context, want flist.File) (*Writer, error) {
	if want.Size > flist.MaxFileSize {
		return nil, problem.New(CodeManifestInvalid, "object %s of %d bytes, at most %d are allowed", want.Digest.Short(), want.Size, int64(flist.MaxFileSize))
	}
	held, err := s.space.reserve(ctx, int64(want.Size))
	if err != nil {
		return nil, fmt.Errorf("store object %s: %w", want.Digest.Short(), err)
	}
	f, err := os.CreateTemp(s.tmp.path, "o-")
	if err != nil {
		s.space.release(held)
		return nil, fmt.Errorf("store object %s: %w", want.Digest.Short(), diskFull(err))
	}
	w := &Writer{s: s, f: f, want: want, held: held, sum: sha256.New()}
	if !s.verity {
		w.tree = new(flist.Verity)
	}
	return w, nil
}

// WriteAt implements io.WriterAt. Writing past the declared size is refused.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || uint64(off)+uint64(len(p)) > w.want.Size {
		return 0, problem.New(CodeDigestMismatch, "object %s is longer than the %d bytes declared", w.want.Digest.Short(), w.want.Size)
	}
	n, err := w.f.WriteAt(p, off)
	if err != nil {
		// Room that others took behind the reservation's back: make some and try once more.
		if (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) && w.s.space.evict(w.held) > 0 {
			n, err = w.f.WriteAt(p, off)
		}
		if err != nil {
			return n, fmt.Errorf("write object %s: %w", w.want.Digest.Short(), diskFull(err))
		}
	}
	return n, nil
}

// Hash takes the content up to end into the object's hashes. All of it must be
// written. Calling it while the content still arrives reads what the page cache
// holds, where Commit alone might read a large object from disk again.
func (w *Writer) Hash(end int64) error {
	var dst io.Writer = w.sum
	if w.tree != nil {
		dst = io.MultiWriter(w.sum, w.tree)
	}
	n, err := io.Copy(dst, io.NewSectionReader(w.f, w.hashed, end-w.hashed))
	w.hashed += n
	if err != nil {
		return fmt.Errorf("read object %s back: %w", w.want.Digest.Short(), err)
	}
	return nil
}

// Commit verifies the content, makes it durable and then visible. On error
// nothing is visible; the code is digest-mismatch, manifest-invalid (the content
// is right but its declared fs-verity digest is not) or disk-full.
func (w *Writer) Commit() error {
	err := w.commit()
	w.Abort() // what is left: the descriptor, the reservation, on error the file
	if err != nil {
		return fmt.Errorf("commit object %s: %w", w.want.Digest.Short(), err)
	}
	return nil
}

func (w *Writer) commit() error {
	st, err := w.f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != int64(w.want.Size) {
		return problem.New(CodeDigestMismatch, "content has %d bytes, %d were declared", st.Size(), w.want.Size)
	}
	if err := w.Hash(st.Size()); err != nil {
		return err
	}
	if got := canon.Hash(w.sum.Sum(nil)); got != w.want.Digest {
		return problem.New(CodeDigestMismatch, "content has the digest %s", got)
	}
	if err := w.f.Chmod(0o444); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return diskFull(err)
	}
	// fs-verity tolerates no writer.
	if err := w.f.Close(); err != nil {
		return diskFull(err)
	}
	var got canon.Hash
	if w.s.verity {
		if err := verity.Enable(w.f.Name()); err != nil {
			return diskFull(err)
		}
		if got, err = verity.Measure(w.f.Name()); err != nil {
			return err
		}
	} else {
		got = w.tree.Sum()
	}
	if got != w.want.Verity {
		return problem.New(CodeManifestInvalid, "content has the fs-verity digest %s, the manifest says %s", got, w.want.Verity)
	}
	return w.s.publish(w.f.Name(), w.want)
}

// publish renames a finished file to its name. If somebody was faster, theirs
// stays: readers may have it open, and its pages are shared.
func (s *Store) publish(tmp string, want flist.File) error {
	final := s.ObjectPath(want.Digest)
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return diskFull(err)
	}
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, final, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		if s.sound(want) {
			return nil // the temporary file is removed by Abort
		}
		err = os.Rename(tmp, final)
	}
	if err != nil {
		return diskFull(err)
	}
	s.space.added(want.Size)
	return nil
}

// Abort throws the content away. After Commit it does nothing.
func (w *Writer) Abort() {
	if w.f == nil {
		return
	}
	_ = w.f.Close()
	_ = os.Remove(w.f.Name()) // after a commit the name is gone already
	w.s.space.release(w.held)
	w.f = nil
}

// Put stores the object want from r, which must hold exactly its content.
func (s *Store) Put(ctx context.Context, want flist.File, r io.Reader) error {
	w, err := s.Create(ctx, want)
	if err != nil {
		return err
	}
	defer w.Abort()
	buf := make([]byte, 256<<10)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, rerr := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := w.WriteAt(buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
		if rerr == io.EOF || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return fmt.Errorf("read content of object %s: %w", want.Digest.Short(), rerr)
		}
	}
	return w.Commit()
}

// Has tells whether the object is present with its declared size. It opens nothing.
func (s *Store) Has(want flist.File) bool {
	if want.Size == 0 {
		return true
	}
	st, err := os.Lstat(s.ObjectPath(want.Digest))
	return err == nil && st.Mode().IsRegular() && uint64(st.Size()) == want.Size
}

// sound tells whether the object is present and the kernel will accept it: it
// has its size, and fs-verity with the declared digest where there is fs-verity.
func (s *Store) sound(want flist.File) bool {
	if !s.Has(want) {
		return false
	}
	if !s.verity || want.Size == 0 {
		return true
	}
	got, err := verity.Measure(s.ObjectPath(want.Digest))
	return err == nil && got == want.Verity
}

// Remove makes an object disappear. Who has it open, or an overlay that opened
// it before, goes on reading it; its space comes back when the last of these is gone.
func (s *Store) Remove(d canon.Hash) error {
	path := s.ObjectPath(d)
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("remove object %s: %w", d.Short(), err)
	}
	s.space.removed(st)
	return nil
}
