package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
)

// staging is the folder for files that are being written. It is no part of the
// layout, so nobody is served from it.
const staging = ".staging"

// WriterOptions say how a Writer writes. The zero value is right for a hub that
// others depend on.
type WriterOptions struct {
	// NoSync leaves out fsync: for hubs that are thrown away, as in tests.
	// Without it a file that has its name survives a power cut.
	NoSync bool
}

// Writer publishes into a hub's directory. A file appears under its name whole
// or not at all; what is there already is not written again. It is safe for
// concurrent use, also by several processes.
type Writer struct {
	dir  string
	opts WriterOptions
	zstd *zstd.Encoder

	mu    sync.Mutex
	known map[canon.Hash]struct{} // objects that are known to lie there
	stats WriterStats
}

// WriterStats counts what a Writer was given.
type WriterStats struct {
	Objects    uint64 `json:"objects"`     // distinct objects given
	NewObjects uint64 `json:"new_objects"` // of them, written by this Writer
	NewBytes   uint64 `json:"new_bytes"`   // compressed bytes written
}

// OpenWriter opens the hub directory dir, making it when it is missing. Close
// the Writer when done.
func OpenWriter(dir string, opts WriterOptions) (*Writer, error) {
	for _, d := range []string{"flists", "objects", "tags", "releases", staging} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("open hub directory %s: %w", dir, err)
		}
	}
	if err := sweep(filepath.Join(dir, staging)); err != nil {
		return nil, fmt.Errorf("open hub directory %s: %w", dir, err)
	}
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("set up zstd encoder: %w", err)
	}
	return &Writer{dir: dir, opts: opts, zstd: z, known: map[canon.Hash]struct{}{}}, nil
}

// sweep removes what a writer that was killed has left. A file that is being
// written is never that old.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, "new-*"))
	if err != nil {
		return err
	}
	for _, p := range left {
		if st, err := os.Lstat(p); err == nil && time.Since(st.ModTime()) > 24*time.Hour {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// Close releases the Writer's memory.
func (w *Writer) Close() error { return w.zstd.Close() }

// Stats returns what the Writer has been given so far.
func (w *Writer) Stats() WriterStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// Put implements flist.Sink: it publishes one object or chunk.
func (w *Writer) Put(ctx context.Context, name canon.Hash, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	_, known := w.known[name]
	w.mu.Unlock()
	if known {
		return nil
	}
	// Two callers may write the same object at once: the second rename puts the
	// same content in the place of the first.
	n, err := w.publish(ObjectPath(name), data)
	if err != nil {
		return fmt.Errorf("publish object %s: %w", name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.known[name]; known {
		return nil
	}
	w.known[name] = struct{}{}
	w.stats.Objects++
	if n > 0 {
		w.stats.NewObjects++
		w.stats.NewBytes += uint64(n)
	}
	return nil
}

// PutFlist publishes a manifest under its digest, which it returns. Publish its
// objects first: who finds a flist may expect to find them.
func (w *Writer) PutFlist(ctx context.Context, m flist.Manifest) (canon.Hash, error) {
	if err := ctx.Err(); err != nil {
		return canon.Hash{}, err
	}
	b, h, err := flist.Encode(m)
	if err != nil {
		return canon.Hash{}, err
	}
	if _, err := w.publish(FlistPath(h), b); err != nil {
		return canon.Hash{}, fmt.Errorf("publish flist %s: %w", h, err)
	}
	return h, nil
}

// publish compresses data into the file at path unless it is there. It returns
// how many bytes it wrote.
func (w *Writer) publish(path string, data []byte) (int, error) {
	full := filepath.Join(w.dir, filepath.FromSlash(path))
	// A file of no bytes is what a power cut can leave of one that was not
	// synced; no compressed content is that short.
	if st, err := os.Stat(full); err == nil && st.Mode().IsRegular() && st.Size() > 0 {
		return 0, nil
	}
	z := w.zstd.EncodeAll(data, make([]byte, 0, len(data)/2+64))
	return len(z), w.replace(full, z)
}

// replace puts b at the path full in one step.
func (w *Writer) replace(full string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Join(w.dir, staging), "new-*")
	if err != nil {
		return fullDisk(err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fullDisk(err)
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if !w.opts.NoSync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), full); err != nil {
		return err
	}
	if w.opts.NoSync {
		return nil
	}
	return syncDir(filepath.Dir(full))
}

// syncDir makes a rename in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// fullDisk names the one failure that a person can mend.
func fullDisk(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return problem.New("disk-full", "the hub's disk is full: %w", err).WithFix("free space on the hub's disk")
	}
	return err
}

// locked runs f while no other process changes tags or releases.
func (w *Writer) locked(ctx context.Context, f func() error) error {
	lock, err := os.OpenFile(filepath.Join(w.dir, staging, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // ends the lock as well
	if err := flock(ctx, int(lock.Fd())); err != nil {
		return fmt.Errorf("lock hub directory %s: %w", w.dir, err)
	}
	return f()
}
