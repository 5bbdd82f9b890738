package node

import (
	"context"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/fault"
)

// rootfs gives containers their root file systems: flists from the node's
// store, their missing objects brought by the fault server.
type rootfs struct {
	store *store.Store
	fault *fault.Client
}

// Deadlines for what only the local fault server and kernel do.
const (
	localTimeout    = 10 * time.Second
	manifestTimeout = 2 * time.Minute
)

// Mount implements container.Rootfs.
func (r rootfs) Mount(ctx context.Context, flist canon.Hash, target, upper, work string, idBase uint32) (bool, error) {
	fetch, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	if err := r.fault.Manifest(fetch, flist); err != nil {
		return false, err
	}
	info, err := store.MountFlist(ctx, store.MountSpec{
		Store: r.store, Flist: flist, Target: target, FaultDir: faultDir, Upper: upper, Work: work, IDBase: idBase,
	})
	return info.Verity, err
}

// Unmount implements container.Rootfs.
func (r rootfs) Unmount(target string) error {
	ctx, cancel := context.WithTimeout(context.Background(), localTimeout)
	defer cancel()
	return store.UnmountFlist(ctx, target)
}

// Failure implements container.Rootfs.
func (r rootfs) Failure(flist canon.Hash) (code, detail string) {
	ctx, cancel := context.WithTimeout(context.Background(), localTimeout)
	defer cancel()
	s, err := r.fault.Status(ctx, flist)
	if err != nil || len(s.Failures) == 0 {
		return "", ""
	}
	return s.Failures[0].Code, s.Failures[0].Detail
}
