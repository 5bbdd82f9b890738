package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Sizes of what lies in the guest's memory, as of containers in namespaces.
const (
	tmpSize = 64 << 20
	shmSize = 64 << 20
	// ttyGroup owns terminals, in every distribution.
	ttyGroup = 5
)

// newRoot is the root of the workload.
type newRoot struct {
	Hostname string  `json:"hostname"`
	Binds    []bound `json:"binds"`
}

// bound is a file of the agent's tmpfs that the workload sees.
type bound struct {
	Source string `json:"source"` // in filesDir
	Target string `json:"target"`
	Exec   bool   `json:"exec"`
}

// make turns the calling process's mount namespace into the workload's.
func (n newRoot) make(privileged bool) error {
	if err := unix.Sethostname([]byte(n.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	// From within its cgroup, so that it is the root of what the program sees.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("leave the cgroups: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("part with the agent's mounts: %w", err)
	}
	sources := make([]int, len(n.Binds))
	for i, b := range n.Binds {
		fd, err := b.detached()
		if err != nil {
			return fmt.Errorf("open file for %s: %w", b.Target, err)
		}
		sources[i] = fd
	}
	if err := unix.Chdir(rootDir); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	// The agent's root, below which cwd still is, lies on top of the new one now: ".."
	// in a link of the image's would lead into it.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the agent's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// From here on every path is the image's, links included, and can't leave it.
	for _, m := range mounts(privileged) {
		if err := m.mount(); err != nil {
			return err
		}
	}
	if !privileged {
		if err := devices(); err != nil {
			return err
		}
	}
	for i, b := range n.Binds {
		if err := bindFile(sources[i], b); err != nil {
			return fmt.Errorf("put file %s: %w", b.Target, err)
		}
	}
	if !privileged {
		if err := mask(); err != nil {
			return err
		}
	}
	return nil
}

type mountPoint struct {
	kind, dir string
	flags     uintptr
	data      string
}

// mounts are those of containers in namespaces. A privileged program sees the guest's
// devices, cgroups and settings as they are, for containers of its own.
func mounts(privileged bool) []mountPoint {
	const quiet = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	readOnly := uintptr(unix.MS_RDONLY)
	dev := []mountPoint{{"tmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_STRICTATIME, "mode=755,size=64k"}}
	if privileged {
		readOnly = 0
		dev = []mountPoint{{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, ""}}
	}
	all := append([]mountPoint{{"proc", "/proc", quiet, ""}}, dev...)
	return append(all,
		mountPoint{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, fmt.Sprintf("newinstance,ptmxmode=0666,mode=0620,gid=%d", ttyGroup)},
		mountPoint{"tmpfs", "/dev/shm", quiet, fmt.Sprintf("mode=1777,size=%d", shmSize)},
		mountPoint{"mqueue", "/dev/mqueue", quiet, ""},
		mountPoint{"sysfs", "/sys", quiet | readOnly, ""},
		mountPoint{"cgroup2", "/sys/fs/cgroup", quiet | readOnly, ""},
		mountPoint{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", tmpSize)},
	)
}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("make %s: %w", m.dir, err)
	}
	if err := unix.Mount(m.kind, m.dir, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s: %w", m.dir, err)
	}
	return nil
}

// devices are the few that every program may want (OCI runtime spec, default devices).
func devices() error {
	old := unix.Umask(0)
	defer unix.Umask(old)
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		if err := unix.Mknod("/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	if err := unix.Mknod("/dev/tty", unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))); err != nil {
		return fmt.Errorf("make /dev/tty: %w", err)
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	return nil
}

// detached is the file as a mount that is nowhere yet, read-only.
func (b bound) detached() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(filesDir, filepath.Base(b.Source)), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return 0, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if !b.Exec {
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	return fd, unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
}

// bindFile shows a file of the agent's at a path of the image's.
func bindFile(source int, b bound) error {
	if err := os.MkdirAll(filepath.Dir(b.Target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(b.Target, os.O_CREATE|os.O_RDONLY|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	// On what was opened: a link is followed once.
	return unix.MoveMount(source, "", int(f.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// mask hides what the kernel says of the whole machine, with the lists of containers
// in namespaces.
func mask() error {
	for _, p := range []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	} {
		fi, err := os.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("mask: %w", err)
		}
		if fi.IsDir() {
			err = unix.Mount("tmpfs", p, "tmpfs", unix.MS_RDONLY, "size=0k")
		} else {
			err = unix.Mount("/dev/null", p, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("mask %s: %w", p, err)
		}
	}
	for _, p := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		err := unix.Mount(p, p, "", unix.MS_BIND|unix.MS_REC, "")
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = unix.Mount("", p, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}
		if err != nil {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
	}
	return nil
}
