package wireguard

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/netns"
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

// within runs f in the network namespace ns. Sockets and tunnel devices belong to
// the namespace in which they are opened, for good; so nothing else need run there.
func within(ns int, f func() error) error { return netns.Do(ns, f) }
