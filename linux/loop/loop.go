// Package loop makes a file a block device and mounts the file system in it.
package loop

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const control = "/dev/loop-control"

// blockSize is the device's logical block size for a type of file system. 4096 lets
// the kernel read and write the file directly also where it lies on such a device,
// as zram is; ISO 9660 has blocks of 2048 bytes, and is not mounted from larger ones.
func blockSize(fstype string) uint32 {
	if fstype == "iso9660" {
		return 2048
	}
	return 4096
}

// Mount mounts the file system of the given type in the file at image on target.
// The device goes away by itself with the last mount of it. It needs the kernel's
// loop module.
func Mount(image, target, fstype string, flags uintptr, data string) error {
	dev, err := attach(image, flags&unix.MS_RDONLY != 0, blockSize(fstype))
	if err != nil {
		return fmt.Errorf("mount image %s: %w", image, err)
	}
	defer dev.Close() // if the mount failed, this frees the device
	if err := unix.Mount(dev.Name(), target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount image %s on %s: %w", image, target, err)
	}
	return nil
}

func attach(image string, readOnly bool, size uint32) (*os.File, error) {
	mode, more := os.O_RDWR, uint32(0)
	if readOnly {
		mode, more = os.O_RDONLY, unix.LO_FLAGS_READ_ONLY
	}
	file, err := os.OpenFile(image, mode|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	ctl, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w (is the loop module loaded?)", err)
	}
	defer ctl.Close()
	for range 64 {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("get a free loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		cfg := unix.LoopConfig{Fd: uint32(file.Fd()), Size: size}
		cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO | more
		copy(cfg.Info.File_name[:], "zos")
		err = configure(dev, &cfg)
		if errors.Is(err, unix.EINVAL) { // a file system without direct I/O
			cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | more
			err = configure(dev, &cfg)
		}
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // EBUSY: someone else took it
			return nil, fmt.Errorf("configure loop device %d: %w", n, err)
		}
	}
	return nil, errors.New("every free loop device was taken by someone else")
}

func configure(dev *os.File, cfg *unix.LoopConfig) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), unix.LOOP_CONFIGURE, uintptr(unsafe.Pointer(cfg)))
	if errno != 0 {
		return errno
	}
	return nil
}
