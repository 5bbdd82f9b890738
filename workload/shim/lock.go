package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrLocked says that a shim runs in the directory already.
var ErrLocked = errors.New("a shim runs here already")

// The lock belongs to an open file description, so the process that launches a
// shim takes it and the shim inherits it: from then on, without a gap, the lock is
// held until the shim is dead, however it died.

// takeLock opens the directory's lock file and locks it.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock shim directory: %w", err)
	}
	if err := relock(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// relock locks f, also if its description holds the lock already.
func relock(f *os.File) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrLocked
	}
	if err != nil {
		return fmt.Errorf("lock shim directory: %w", err)
	}
	return nil
}

// inheritLock makes file descriptor fd, inherited from Launch, the lock of dir.
func inheritLock(dir string, fd uintptr) (*os.File, error) {
	f := os.NewFile(fd, lockFile)
	if f == nil {
		return nil, errors.New("inherit lock: no such file descriptor")
	}
	unix.CloseOnExec(int(fd))
	got, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("inherit lock: %w", err)
	}
	want, err := os.Stat(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("inherit lock: %w", err)
	}
	if !os.SameFile(got, want) {
		return nil, fmt.Errorf("inherit lock: descriptor %d is not the lock of %s", fd, dir)
	}
	return f, relock(f)
}

// Alive tells whether a shim runs in dir. It asks the kernel, not a file's content,
// and takes no lock itself.
func Alive(dir string) bool {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return false
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false
	}
	return l.Type != unix.F_UNLCK
}
