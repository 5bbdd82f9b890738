package netns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// MountSysfs mounts, on target, a read-only sysfs that shows the network
// interfaces of the namespace. A container in a user namespace of its own can't
// make one: the kernel lets only the owner of the network namespace.
func MountSysfs(ns int, target string) error {
	return Do(ns, func() error {
		const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err := unix.Mount("sysfs", target, "sysfs", flags, ""); err != nil {
			return fmt.Errorf("mount sysfs of a network namespace on %s: %w", target, err)
		}
		return nil
	})
}
