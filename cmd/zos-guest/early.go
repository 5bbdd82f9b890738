package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/module"
)

// Places in the agent's own root, which no program of the workload sees.
const (
	lowerDir = "/lower"
	diskDir  = "/disk"
	rootDir  = "/root"
	filesDir = "/files"
	groupDir = "/sys/fs/cgroup/workload"
)

// mountBasics makes a tmpfs the root, since pivot_root doesn't work from the
// initramfs, and mounts what everything needs. The agent's program and the modules
// stay below it and are reached by initrd.
func mountBasics() (initrd *os.File, err error) {
	if initrd, err = os.Open("/"); err != nil {
		return nil, fmt.Errorf("open initrd: %w", err)
	}
	const base = "/newroot"
	if err := unix.Mount("tmpfs", base, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700,size=64m"); err != nil {
		return nil, fmt.Errorf("mount root: %w", err)
	}
	if err := errors.Join(unix.Chdir(base), unix.Mount(base, "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir("/")); err != nil {
		return nil, fmt.Errorf("enter root: %w", err)
	}
	for _, m := range []struct{ kind, dir, data string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""},
		{"cgroup2", "/sys/fs/cgroup", ""}, {"tmpfs", filesDir, "mode=700,size=16m"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil && !errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("make %s: %w", m.dir, err)
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, unix.MS_NOSUID, m.data); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	for _, d := range []string{lowerDir, diskDir, rootDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, fmt.Errorf("make %s: %w", d, err)
		}
	}
	return initrd, nil
}

// modules loads drivers from the initrd when they are needed: each costs time.
type modules struct{ initrd *os.File }

func (m modules) load(group guest.Group) error {
	dir := fmt.Sprintf("/proc/self/fd/%d/%s", m.initrd.Fd(), group.Dir())
	if _, err := module.LoadDir(dir, nil); err != nil {
		return fmt.Errorf("load drivers for %s: %w", group, err)
	}
	return nil
}

// hasDevice tells whether the machine has a virtio device of this kind (virtio 1.2, 5).
func hasDevice(id int) bool {
	files, _ := filepath.Glob("/sys/bus/virtio/devices/*/device") // the pattern is fine
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		var got int
		_, serr := fmt.Sscanf(string(b), "0x%x", &got)
		return err == nil && serr == nil && got == id
	})
}

// port is the virtio-serial port to the node. Its Read waits while no one is at the
// other end, as its Write does in the kernel.
type port struct{ fd int }

// openPort waits for the port: the kernel finds it a moment after its bus.
func openPort() (*port, error) {
	for range 5000 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err != nil || strings.TrimSpace(string(b)) != guest.PortName {
				continue
			}
			fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(n)), unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open port to the node: %w", err)
			}
			return &port{fd}, nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil, fmt.Errorf("the machine has no port %s", guest.PortName)
}

func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("read from the node: %w", err)
		case n > 0:
			return n, nil
		default:
			// Nobody is there. The kernel has no way to wait for somebody (poll says
			// POLLHUP at once), and a shim comes back in seconds.
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (p *port) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := unix.Write(p.fd, b[written:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return written, fmt.Errorf("write to the node: %w", err)
		}
		written += n
	}
	return written, nil
}

// Close does nothing: the port is there for as long as the machine.
func (p *port) Close() error { return nil }
