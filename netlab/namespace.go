package netlab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace that only descriptors hold: it ends with
// them, even if this process is killed.
type namespace struct{ file *os.File }

func newNamespace() (*namespace, error) {
	type made struct {
		f   *os.File
		err error
	}
	c := make(chan made)
	go func() {
		// The thread is not given back, and ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			c <- made{nil, fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		c <- made{f, err}
	}()
	m := <-c
	if m.err != nil {
		return nil, m.err
	}
	return &namespace{m.f}, nil
}

// do runs f on a thread in the namespace and waits for it. A panic or an end
// of f's goroutine (t.Fatal) is passed on to the caller.
func (n *namespace) do(f func()) error {
	var entered error
	finished := false
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			entered = err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			entered = fmt.Errorf("enter network namespace: %w", err)
			return
		}
		defer func() {
			panicked = recover()
			// A thread that can't go home ends with this goroutine.
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		f()
		finished = true
	}()
	<-done
	switch {
	case entered != nil:
		return entered
	case panicked != nil:
		panic(panicked)
	case !finished:
		runtime.Goexit()
	}
	return nil
}

// try is do for functions that fail.
func (n *namespace) try(f func() error) error {
	var err error
	return errors.Join(n.do(func() { err = f() }), err)
}

// inode tells namespaces apart, as /proc/PID/ns/net shows it.
func (n *namespace) inode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}
