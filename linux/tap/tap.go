// Package tap opens the network interfaces whose other end is a program.
package tap

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Open opens a tap of the calling thread's network namespace, or makes it. What is
// read and written are frames with a virtio header of ten bytes before each, as QEMU
// wants them. One that is made is gone with its last descriptor, unless it is kept.
// Only one at a time may have a tap open.
func Open(name string) (*os.File, error) {
	if len(name) == 0 || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("open tap: %.20q is no name of an interface", name)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], name)
	req.flags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); e != 0 {
		return nil, errors.Join(fmt.Errorf("open tap %s: %w", name, e), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Keep makes a tap stay when nobody has it open.
func Keep(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep tap %s: %w", f.Name(), err)
	}
	return nil
}
