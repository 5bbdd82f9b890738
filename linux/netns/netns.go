package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// own is the namespace of the calling thread.
const own = "/proc/thread-self/ns/net"

// Current opens the namespace of the calling thread. The caller closes it.
func Current() (*os.File, error) {
	f, err := os.Open(own)
	if err != nil {
		return nil, fmt.Errorf("open this thread's network namespace: %w", err)
	}
	return f, nil
}

// Open opens the namespace pinned at path; fs.ErrNotExist if none is. The
// caller closes it.
func Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	ok, err := isNamespace(int(f.Fd()))
	if err == nil && !ok {
		err = fmt.Errorf("%s is a file without a namespace: %w", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace: %w", err), f.Close())
	}
	return f, nil
}

// isNamespace tells whether a descriptor is that of a network namespace.
func isNamespace(fd int) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, err
	}
	if st.Type != unix.NSFS_MAGIC {
		return false, nil
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	return kind == unix.CLONE_NEWNET, err
}

// Pin makes a new namespace, empty but for a loopback interface that is down,
// pins it at path and opens it. What is pinned there already is opened instead,
// and made is false.
func Pin(path string) (ns *os.File, made bool, err error) {
	if ns, err = Open(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return ns, false, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("pin network namespace: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, false, fmt.Errorf("pin network namespace: %w", err)
	}
	err = elsewhere(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin network namespace at %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return nil, false, errors.Join(err, os.Remove(path))
	}
	ns, err = Open(path)
	return ns, true, err
}

// Unpin takes the pin and its file away. Nothing there is no error.
func Unpin(path string) error {
	// Once per pin: there may be several, one on another, after a crash.
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpin network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin network namespace: %w", err)
	}
	return nil
}

// New makes a namespace as Pin does, that nothing holds but its descriptor: it ends
// with that, even if this process is killed. The caller closes it.
func New() (ns *os.File, err error) {
	err = elsewhere(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		ns, err = Current()
		return err
	})
	return ns, err
}

// Do runs f on a thread that is in the namespace of the descriptor. Sockets that
// f opens belong to it for good; goroutines that f starts do not run in it.
func Do(ns int, f func() error) error {
	return elsewhere(func() error {
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// elsewhere runs f, which may change the namespace of its thread, and waits. A
// thread that can't go back to where it was ends with f. What else f does is the
// caller's: its panic, its end of the goroutine.
func elsewhere(f func() error) (err error) {
	var panicked any
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if !returned {
				panicked = recover()
			}
		}()
		err = onThread(f)
		returned = true
	}()
	<-done
	switch {
	case returned:
		return err
	case panicked != nil:
		panic(panicked)
	}
	runtime.Goexit() // as f did
	return nil
}

func onThread(f func() error) error {
	runtime.LockOSThread()
	back, err := Current()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		// The process's first thread does not end with a goroutine: were it to stay
		// behind, it would keep the namespace.
		if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		back.Close()
	}()
	return f()
}
