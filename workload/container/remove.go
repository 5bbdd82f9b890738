package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/machine"
	"github.com/zero-os/zos/workload/shim"
)

// killLimit is how long the kernel may take to end what was killed.
const killLimit = 30 * time.Second

// Remove implements workload.Kind. Each step finds what the one before left by
// asking the kernel, so it may be broken off anywhere and called again.
func (k *Kind) Remove(ctx context.Context, id workload.ID) error {
	p := k.place(id)
	if err := k.end(ctx, p); err != nil {
		return fmt.Errorf("remove %s %s of contract %s: %w", k.form.Noun(), id.Name, id.Contract.Short(), err)
	}
	if err := removeData(p); err != nil {
		return fmt.Errorf("remove %s %s of contract %s: %w", k.form.Noun(), id.Name, id.Contract.Short(), err)
	}
	return nil
}

// end makes everything of a workload that lives in the kernel or in memory go
// away: shim, processes, runc's state, cgroup, mounts, run directory, network namespace.
func (k *Kind) end(ctx context.Context, p place) error {
	if err := k.endShim(ctx, p); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	for _, r := range machine.Runtimes(p.runtime) {
		if err := r.Clean(limited); err != nil {
			return err
		}
	}
	if err := k.cfg.Rootfs.Unmount(p.rootfs); err != nil {
		return fmt.Errorf("unmount root file system: %w", err)
	}
	if err := unmountAll(p.run); err != nil {
		return err
	}
	if err := os.RemoveAll(p.run); err != nil {
		return fmt.Errorf("remove run directory: %w", err)
	}
	if k.cfg.Networks != nil {
		return k.cfg.Networks.Detach(ctx, p.id)
	}
	return nil
}

// endShim asks the shim to end its container, which takes up to the grace time,
// and ends the shim by force if it does not.
func (k *Kind) endShim(ctx context.Context, p place) error {
	for range 100 {
		if !shim.Alive(p.run) {
			return nil
		}
		st, err := shim.ReadStatus(p.run)
		if err == nil && st.Shim.Alive() {
			grace := time.Minute // of a spec that can't be read
			if spec, err := shim.ReadSpec(p.run); err == nil {
				grace = spec.Life.Grace
			}
			limited, cancel := context.WithTimeout(ctx, grace+3*killLimit)
			err := st.Shim.End(limited, grace+2*killLimit)
			cancel()
			if err != nil {
				return fmt.Errorf("end shim: %w", err)
			}
			continue
		}
		// It holds the lock and has not written who it is: it has only just begun.
		select {
		case <-ctx.Done():
			return fmt.Errorf("end shim: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("end shim: one holds its lock and does not say who it is")
}

// removeData deletes the workload's files, the record last: while it is there,
// Observe shows that something is left.
func removeData(p place) error {
	ents, err := readDir(p.data)
	if err != nil {
		return err
	}
	for _, e := range ents {
		if e.Name() == recordFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.data, e.Name())); err != nil {
			return fmt.Errorf("remove data: %w", err)
		}
	}
	if err := os.RemoveAll(p.data); err != nil {
		return fmt.Errorf("remove data: %w", err)
	}
	// The contract's directory goes with its last workload.
	err = os.Remove(filepath.Dir(p.data))
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove data: %w", err)
	}
	return nil
}
