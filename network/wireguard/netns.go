package wireguard

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// openNetNS returns a descriptor of its own of the network namespace ns, or,
// when ns is 0, of the one that the calling thread is in.
func openNetNS(ns int) (int, error) {
	if ns != 0 {
		fd, err := unix.FcntlInt(uintptr(ns), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return -1, fmt.Errorf("keep network namespace (descriptor %d): %w", ns, err)
		}
		return fd, nil
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open this thread's network namespace: %w", err)
	}
	return fd, nil
}

// within runs f on a thread that is in the network namespace ns. Sockets and
// tunnel devices belong to the namespace of the thread that opens them, for
// good; so nothing else need run there.
func within(ns int, f func() error) error {
	done := make(chan error)
	go func() {
		// A thread that cannot go back stays locked, and ends with this goroutine.
		runtime.LockOSThread()
		home, err := openNetNS(0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer unix.Close(home)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = f()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
