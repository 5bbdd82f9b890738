package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"crypto/rand"

	"github.com/zero-os/zos/linux/ext4"
	"github.com/zero-os/zos/linux/loop"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/problem"
)

// The writable layer is an image file with a file system of its own, for a hard
// limit that needs nothing of the data disk's file system. Tried and left: ext4
// project quotas, which overlayfs writes around with its mounter's privileges;
// measuring now and then, which bounds nothing. The image's blocks are reserved, so
// that a container never meets a full data disk in the middle of a write.

// diskImage makes the image at path and mounts it on target. It reports the
// problem disk-full when the data disk can't reserve it.
func (k *Kind) diskImage(path, target string, limit uint64) error {
	template := ext4.Journaled
	if k.cfg.InMemory {
		template = ext4.Volatile
	}
	size := max(limit, template.Size())
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := makeImage(path, template, size); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("writable layer: %w", err)
	case uint64(st.Size()) < size:
		if err := reserve(path, size); err != nil {
			return err
		}
	default:
		size = uint64(st.Size())
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return fmt.Errorf("writable layer: %w", err)
	}
	if err := loop.Mount(path, target, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("writable layer: %w", err)
	}
	if err := ext4.Grow(target, size); err != nil {
		return errors.Join(fmt.Errorf("writable layer: %w", err), mount.Detach(target))
	}
	return nil
}

// growDisk makes the writable layer mounted at target larger, while it is in use. If
// the data disk has no room the layer stays as it was, and the problem is disk-full.
func (k *Kind) growDisk(path, target string, limit uint64) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("grow writable layer: %w", err)
	}
	if uint64(st.Size()) < limit {
		if err := reserve(path, limit); err != nil {
			return err
		}
	}
	entries, err := mount.Under(target)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Target != target {
			continue
		}
		dev, err := os.OpenFile(e.Source, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("grow writable layer: %w", err)
		}
		_, err = unix.IoctlRetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY)
		if err := errors.Join(err, dev.Close()); err != nil {
			return fmt.Errorf("grow writable layer: %s: %w", e.Source, err)
		}
		return ext4.Grow(target, max(limit, uint64(st.Size())))
	}
	return fmt.Errorf("grow writable layer: %s is not mounted", target)
}

func makeImage(path string, template ext4.Template, size uint64) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make writable layer: %w", err)
	}
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return diskFull(fmt.Errorf("make writable layer: %w", err))
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != nil {
		return diskFull(errors.Join(fmt.Errorf("reserve %d bytes for the writable layer: %w", size, err), os.Remove(tmp)))
	}
	var uuid [16]byte
	if _, err := rand.Read(uuid[:]); err != nil {
		return fmt.Errorf("make writable layer: %w", err)
	}
	if err := template.Write(f, uuid, nil, true); err != nil {
		return diskFull(fmt.Errorf("make writable layer: %w", err))
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("make writable layer: %w", err)
	}
	return nil
}

func reserve(path string, size uint64) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("grow writable layer: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("grow writable layer: %w", err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != nil {
		// What of it succeeded goes back, or the next look would take it for grown.
		return diskFull(errors.Join(fmt.Errorf("grow writable layer to %d bytes: %w", size, err), f.Truncate(st.Size())))
	}
	return nil
}

const codeDiskFull = "disk-full"

// diskFull gives an error of a full data disk its code.
func diskFull(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return problem.New(codeDiskFull, "%w", err).WithFix("make room on the node, or ask for a smaller disk")
	}
	return err
}

// unmountAll takes away every mount at or below dir, the last one first.
func unmountAll(dir string) error {
	entries, err := mount.Under(dir)
	if err != nil {
		return err
	}
	for i := len(entries) - 1; i >= 0; i-- {
		if err := mount.Unmount(entries[i].Target); err != nil && !mount.IsNotMounted(err) {
			if !mount.IsBusy(err) {
				return err
			}
			// Something still holds it open; it goes when that does.
			if err := mount.Detach(entries[i].Target); err != nil && !mount.IsNotMounted(err) {
				return err
			}
		}
	}
	return nil
}

// mounted tells whether something is mounted exactly at target.
func mounted(target string) (bool, error) {
	entries, err := mount.Under(filepath.Clean(target))
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.Target == target {
			return true, nil
		}
	}
	return false, nil
}
