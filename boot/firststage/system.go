package firststage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/store"
)

// osOwner is in whose name the OS flist is pinned in the store.
const osOwner = "os"

// system fetches and mounts OS flists.
type system struct {
	dir     string // the store's
	target  string
	hubs    []string
	console *Console
}

// mount brings the whole flist into the store and mounts it read-only, verified
// by the kernel page by page and depending on no process.
func (s system) mount(ctx context.Context, flist canon.Hash) (detail string, err error) {
	if isMountPoint(s.target) {
		if err := unix.Unmount(s.target, 0); err != nil {
			return "", fmt.Errorf("unmount the try before this one: %w", err)
		}
	}
	st, err := store.Open(s.dir, store.Options{RequireVerity: true})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	f, err := store.NewFetcher(st, store.FetchOptions{Hubs: s.hubs})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	before, got, err := s.fetch(ctx, f, flist)
	if err != nil {
		return "", err
	}
	info, err := store.MountFlist(ctx, store.MountSpec{Store: st, Flist: flist, Target: s.target, Complete: true})
	if err != nil {
		return "", err
	}
	if !info.Verity {
		return "", fmt.Errorf("mount flist %s: the kernel does not verify it", flist.Short())
	}
	if err := checkRoot(s.target); err != nil {
		return "", err
	}
	if err := s.pin(st, flist); err != nil {
		return "", err
	}
	return fmt.Sprintf("flist %s, fetched %s of %s", flist.Short(), mib(got.Bytes-before.Bytes), mib(got.TotalBytes)), nil
}

// fetch completes the flist in the store and shows how far it is, once a second.
func (s system) fetch(ctx context.Context, f *store.Fetcher, flist canon.Hash) (before, after store.Progress, err error) {
	if _, err := f.Manifest(ctx, flist); err != nil {
		return before, after, err
	}
	if before, err = f.Progress(flist); err != nil {
		return before, after, err
	}
	if before.Objects < before.TotalObjects {
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					if p, err := f.Progress(flist); err == nil {
						s.console.Printf("system … fetched %s of %s (%d of %d files)", mib(p.Bytes), mib(p.TotalBytes), p.Objects, p.TotalObjects)
					}
				}
			}
		}()
		err := f.Prefetch(ctx, flist)
		close(stop)
		<-stopped
		if err != nil {
			return before, after, err
		}
	}
	after, err = f.Progress(flist)
	return before, after, err
}

// pin keeps this OS in the store and lets go of older ones.
func (s system) pin(st *store.Store, flist canon.Hash) error {
	if err := st.Pin(flist, osOwner); err != nil {
		return err
	}
	pins, err := st.Pins()
	if err != nil {
		return err
	}
	for d, owners := range pins {
		for _, o := range owners {
			if o == osOwner && d != flist {
				if err := st.Unpin(d, osOwner); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// Programs that the second stage starts; it is useless without them.
func programs() []string {
	return []string{"/bin/zos-init", "/bin/zosd", "/bin/zos-fault"}
}

// movedMounts are taken along into the new root, in this order; what is mounted
// below them moves with them.
func movedMounts() []string {
	return []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/data"}
}

// checkRoot proves that a root can be switched to: a place for every mount, and
// every program readable to its last byte, which the kernel verifies meanwhile.
// After the switch there is no way back.
func checkRoot(root string) error {
	bad := func(format string, args ...any) error {
		return problem.New("os-invalid", "check the OS: "+format, args...).WithFix("publish an OS flist that zos release made")
	}
	for _, m := range movedMounts() {
		info, err := os.Lstat(filepath.Join(root, m))
		if err != nil {
			return bad("%w", err)
		}
		if !info.IsDir() {
			return bad("%s is no directory", m)
		}
	}
	for _, p := range programs() {
		path := filepath.Join(root, p)
		info, err := os.Lstat(path)
		if err != nil {
			return bad("%w", err)
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return bad("%s is not a program", p)
		}
		f, err := os.Open(path)
		if err != nil {
			return bad("%w", err)
		}
		_, err = io.Copy(io.Discard, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return bad("%w", err)
		}
	}
	return nil
}

// switchRoot makes newRoot the root and frees the memory of the initramfs. It
// returns only in the new root, or with an error in the old one.
func switchRoot(newRoot string) error {
	for _, m := range movedMounts() {
		if !isMountPoint(m) {
			continue // moved by a try before this one
		}
		if err := unix.Mount(m, filepath.Join(newRoot, m), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s to the new root: %w", m, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	emptyRoot("/", newRoot)
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

// emptyRoot deletes what lies in the root's own file system, which is memory.
// What can't be deleted stays; it costs memory, nothing else. It refuses a root
// that is not the kernel's own memory file system, and anyone but process 1.
func emptyRoot(root, keep string) {
	var top unix.Stat_t
	var fs unix.Statfs_t
	if os.Getpid() != 1 || unix.Lstat(root, &top) != nil || unix.Statfs(root, &fs) != nil ||
		(fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC) {
		return
	}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			var st unix.Stat_t
			if path == keep || strings.HasPrefix(keep, path+"/") || unix.Lstat(path, &st) != nil || st.Dev != top.Dev {
				continue
			}
			if e.IsDir() {
				walk(path)
			}
			_ = os.Remove(path)
		}
	}
	walk(root)
}
