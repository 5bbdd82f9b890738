package asnode

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/mount"
)

// Rootfs is a container.Rootfs of plain directories: every image holds one program.
// The real one has tests of its own.
type Rootfs struct {
	Program string                                     // file of this machine, at the same path in each image
	Prepare func(flist canon.Hash, lower string) error // adds to an image; nil adds nothing
}

// Mount mounts an image at target: below the writable layer upper, or by itself and
// read-only to whoever it is given if upper is empty, as machines have it.
func (r Rootfs) Mount(_ context.Context, flist canon.Hash, target, upper, work string, idBase uint32) (bool, error) {
	lower := fmt.Sprintf("/tmp/lower/%s-%d", flist.Short(), idBase)
	at := filepath.Join(lower, r.Program)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return false, err
	}
	b, err := os.ReadFile(r.Program)
	if err != nil {
		return false, err
	}
	if err := os.WriteFile(at, b, 0o755); err != nil {
		return false, err
	}
	if r.Prepare != nil {
		if err := r.Prepare(flist, lower); err != nil {
			return false, err
		}
	}
	err = filepath.WalkDir(lower, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(idBase), int(idBase))
	})
	if err != nil {
		return false, err
	}
	if upper == "" {
		return true, unix.Mount(lower, target, "", unix.MS_BIND, "")
	}
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return false, err
		}
	}
	if err := os.Chown(upper, int(idBase), int(idBase)); err != nil {
		return false, err
	}
	return true, mount.Overlay(mount.OverlaySpec{Lower: []string{lower}, Upper: upper, Work: work, NoDev: true}, target)
}

// Unmount ends all mounts at target.
func (Rootfs) Unmount(target string) error {
	for {
		err := mount.Unmount(target)
		if mount.IsNotMounted(err) || os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Failure has nothing to say: nothing is fetched.
func (Rootfs) Failure(canon.Hash) (code, detail string) { return "", "" }

// Damage has nothing to say: nothing was stored.
func (Rootfs) Damage(canon.Hash, time.Time) (code, detail string) { return "", "" }

// Damages has nothing to count.
func (Rootfs) Damages() uint64 { return 0 }
