package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/disk"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/workload/control"
)

// Kinds of virtio devices (virtio 1.2, 5).
const (
	virtioNet   = 1
	virtioBlock = 2
)

// mountRoot puts the workload's root together at rootDir: the flist, read-only, below
// the writable layer of its disk.
func (a *agent) mountRoot(r control.Root, privileged bool) error {
	if hasDevice(virtioBlock) {
		if err := a.modules.load(guest.GroupBlock); err != nil {
			return err
		}
	}
	if err := a.modules.load(guest.GroupOverlay); err != nil {
		return err
	}
	var err error
	switch {
	case r.Tag != "" && r.Disk == "":
		if err = unix.Mount(r.Tag, lowerDir, "virtiofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
			err = fmt.Errorf("mount virtiofs %.40q: %w", r.Tag, err)
		}
	case r.Disk != "" && r.Tag == "":
		if err = a.modules.load(guest.GroupEROFS); err != nil {
			break
		}
		err = mountDisk(r.Disk, lowerDir, "erofs", unix.MS_RDONLY|unix.MS_NODEV)
	default:
		err = errors.New("the root is neither a virtiofs nor a disk")
	}
	if err != nil {
		return err
	}
	if err := mountDisk(r.Upper, diskDir, "ext4", unix.MS_NODEV|unix.MS_NOATIME); err != nil {
		return err
	}
	if err := grow(diskDir, r.Upper); err != nil {
		return err
	}
	for _, d := range []string{"/upper", "/work"} {
		if err := os.MkdirAll(diskDir+d, 0o755); err != nil {
			return fmt.Errorf("prepare writable layer: %w", err)
		}
	}
	return mount.Overlay(mount.OverlaySpec{
		Source: "root", Lower: []string{lowerDir}, Upper: diskDir + "/upper", Work: diskDir + "/work", NoDev: !privileged,
	}, rootDir)
}

// mountDisk mounts the block device with the serial.
func mountDisk(serial, target, kind string, flags uintptr) error {
	// The kernel may still be looking at its disks, some milliseconds.
	for range 2500 {
		all, err := disk.List("/sys")
		if err != nil {
			return err
		}
		for _, d := range all {
			if d.Serial != serial || serial == "" {
				continue
			}
			if err := unix.Mount(d.Device, target, kind, flags, ""); err != nil {
				return fmt.Errorf("mount disk %s as %s: %w", serial, kind, err)
			}
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("the machine has no disk with serial %.40q", serial)
}

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64). Package linux/ext4 has it too, with
// templates and a decompressor that have no place in a guest.
const resizeFS = 0x40086610

// grow lets the writable layer use all of its disk: the node makes it from a small template,
// and never mounts it. Nothing happens where it has that size already.
func grow(dir, serial string) error {
	all, err := disk.List("/sys")
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("measure writable layer: %w", err)
	}
	for _, d := range all {
		if d.Serial != serial {
			continue
		}
		f, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("grow writable layer: %w", err)
		}
		defer f.Close()
		blocks := d.Size / uint64(st.Bsize)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); e != 0 {
			return fmt.Errorf("grow writable layer to %d blocks: %w", blocks, e)
		}
	}
	return nil
}

// writeFiles puts the small files into the agent's tmpfs; the stage shows them.
func writeFiles(b control.Boot) ([]bound, error) {
	files := b.Files
	for path, content := range map[string][]byte{"/etc/hosts": b.Hosts, "/etc/resolv.conf": b.ResolvConf} {
		if len(content) > 0 {
			files = append(files[:len(files):len(files)], control.File{Path: path, Mode: 0o644, Content: content})
		}
	}
	var all []bound
	for i, f := range files {
		name := strconv.Itoa(i)
		path := filepath.Join(filesDir, name)
		if err := os.WriteFile(path, f.Content, 0o600); err != nil {
			return nil, fmt.Errorf("write file %s: %w", f.Path, err)
		}
		if err := errors.Join(os.Chown(path, int(f.UID), int(f.GID)), os.Chmod(path, os.FileMode(f.Mode&0o777))); err != nil {
			return nil, fmt.Errorf("write file %s: %w", f.Path, err)
		}
		if !filepath.IsAbs(f.Path) {
			return nil, fmt.Errorf("write file %.40q: want an absolute path", f.Path)
		}
		all = append(all, bound{Source: name, Target: f.Path, Exec: f.Mode&0o111 != 0})
	}
	return all, nil
}
