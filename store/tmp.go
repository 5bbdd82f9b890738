package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/mount"
)

// tmpDir is this process's own directory under tmp/. A lock on it, which the
// kernel drops when the process dies, tells the others that it is in use.
type tmpDir struct {
	path string
	lock *os.File
}

// newTmpDir removes the directories of dead processes and makes a new one.
func newTmpDir(parent string, log *slog.Logger) (*tmpDir, error) {
	// One process at a time looks for leftovers or makes a directory, so that
	// none is taken for dead between being made and being locked.
	gate, err := os.Open(parent)
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	if err := flock(gate, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", parent, err)
	}
	entries, err := gate.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", parent, err)
	}
	for _, e := range entries {
		if err := removeDead(filepath.Join(parent, e.Name())); err != nil {
			// A leftover costs room, no correctness.
			log.Warn("leftover in the store's tmp directory stays", "name", e.Name(), "error", err)
		}
	}
	path, err := os.MkdirTemp(parent, "p-")
	if err != nil {
		return nil, err
	}
	lock, err := os.Open(path)
	if err == nil {
		err = flock(lock, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), os.Remove(path))
	}
	return &tmpDir{path: path, lock: lock}, nil
}

// removeDead removes path unless a living process holds it.
func removeDead(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	switch err := flock(f, unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil
	case err != nil:
		return err
	}
	return clearDir(path)
}

// clearDir removes path with all in it, mounts first: a process killed while it
// mounted a flist leaves the metadata image mounted there.
func clearDir(path string) error {
	mounts, err := mount.Under(path)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := mount.Detach(mounts[i].Target); err != nil {
			return err
		}
	}
	return os.RemoveAll(path)
}

func (t *tmpDir) close() error {
	return errors.Join(clearDir(t.path), t.lock.Close())
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
