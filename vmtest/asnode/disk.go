package asnode

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/ext4"
)

const (
	// DataDir is where MountData mounts the data disk.
	DataDir = "/data"
	// VMMRoot is where a node has the VMM's files.
	VMMRoot = "/run/zos/vmm"
)

// MountData formats the blank disk dev, of size bytes, as nodes do and mounts it at
// DataDir.
func MountData(dev string, size uint64) error {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := ext4.Journaled.Write(f, [16]byte{1}, nil, true); err != nil {
		return err
	}
	if err := os.MkdirAll(DataDir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, DataDir, "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	return ext4.Grow(DataDir, size)
}

// MountVMM mounts the disk dev, which vmtest.VMMDisk made, at VMMRoot.
func MountVMM(dev string) error {
	if err := os.MkdirAll(VMMRoot, 0o755); err != nil {
		return err
	}
	return unix.Mount(dev, VMMRoot, "ext4", unix.MS_RDONLY, "")
}
