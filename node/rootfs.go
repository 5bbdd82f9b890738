package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/fault"
)

// rootfs gives containers their root file systems: flists from the node's
// store, their missing objects brought by the fault server.
type rootfs struct {
	store *store.Store
	fault *fault.Client
	log   *slog.Logger
}

// Deadlines for what only the local fault server and kernel do.
const (
	localTimeout    = 10 * time.Second
	manifestTimeout = 2 * time.Minute
)

// Mount implements container.Rootfs.
func (r rootfs) Mount(ctx context.Context, image canon.Hash, target, upper, work string, idBase uint32) (bool, error) {
	fetch, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	if err := r.fault.Manifest(fetch, image); err != nil {
		return false, err
	}
	info, err := store.MountFlist(ctx, store.MountSpec{
		Store: r.store, Flist: image, Target: target, FaultDir: faultDir, Upper: upper, Work: work, IDBase: idBase,
	})
	return info.Verity, err
}

// Unmount implements container.Rootfs.
func (r rootfs) Unmount(target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), localTimeout)
	defer cancel()
	return store.UnmountFlist(ctx, target)
}

// Failure implements container.Rootfs. When the hubs are not to blame it reads
// what is on this node's own disk: an object that the kernel refuses to serve is
// removed, so that the next start fetches it again.
func (r rootfs) Failure(image canon.Hash) (code, detail string) {
	ctx, cancel := context.WithTimeout(context.Background(), localTimeout)
	defer cancel()
	s, err := r.fault.Status(ctx, image)
	if err == nil && len(s.Failures) > 0 {
		return s.Failures[0].Code, s.Failures[0].Detail
	}
	damaged, err := r.scrub(image)
	if err != nil || damaged == 0 {
		return "", ""
	}
	return store.CodeDigestMismatch, fmt.Sprintf("%d objects on this node's disk were damaged; they are removed and will be fetched again", damaged)
}

// scrub reads every object of a flist that is present, and removes those that
// fail the kernel's verification.
func (r rootfs) scrub(digest canon.Hash) (damaged int, err error) {
	m, err := r.store.Manifest(digest)
	if err != nil {
		return 0, err
	}
	m.Files(func(_ []byte, f *flist.File) bool {
		err := readAll(r.store.ObjectPath(f.Digest))
		if errors.Is(err, syscall.EIO) {
			damaged++
			err = r.store.Remove(f.Digest)
			r.log.Warn("an object on the data disk was damaged, removed it", "object", f.Digest, "error", err)
		}
		return true
	})
	return damaged, nil
}

// readAll reads a file to its end, from the disk and not from the page cache.
func readAll(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return err
}
