package firststage

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A basic is a mount that every system needs.
type basic struct {
	source, target, fs string
	flags              uintptr
	data               string
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// basics in mount order. securityfs shows whether the kernel is locked down.
func basics() []basic {
	return []basic{
		{"proc", "/proc", "proc", quiet, "hidepid=invisible"},
		{"sysfs", "/sys", "sysfs", quiet, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755,size=1m"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666,newinstance"},
		{"shm", "/dev/shm", "tmpfs", quiet, "mode=1777,size=16m"},
		{"run", "/run", "tmpfs", quiet, "mode=0755,size=64m"},
		{"tmp", "/tmp", "tmpfs", quiet, "mode=1777,size=32m"},
		{"securityfs", "/sys/kernel/security", "securityfs", quiet, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, "nsdelegate,memory_recursiveprot"},
	}
}

// mountBasics mounts what is not mounted yet: a try before this one may have got
// half way.
func mountBasics() (int, error) {
	n := 0
	for _, b := range basics() {
		if err := os.MkdirAll(b.target, 0o755); err != nil {
			return n, fmt.Errorf("mount %s: %w", b.target, err)
		}
		if isMountPoint(b.target) {
			n++
			continue
		}
		err := unix.Mount(b.source, b.target, b.fs, b.flags, b.data)
		if errors.Is(err, unix.EINVAL) && b.data != "" {
			err = unix.Mount(b.source, b.target, b.fs, b.flags, "") // an option this kernel does not know
		}
		if err != nil {
			return n, fmt.Errorf("mount %s: %w", b.target, err)
		}
		n++
	}
	return n, nil
}

// isMountPoint compares devices, because /proc may not be there yet.
func isMountPoint(path string) bool {
	var here, up unix.Stat_t
	return unix.Lstat(path, &here) == nil && unix.Lstat(path+"/..", &up) == nil && here.Dev != up.Dev
}
