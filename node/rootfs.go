package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/store/fault"
)

// rootfs gives containers their root file systems: flists from the node's
// store, their missing objects brought by the fault server.
type rootfs struct {
	store  *store.Store
	fault  *fault.Client
	log    *slog.Logger
	scrubs *scrubs
}

// scrubs are what was found when the objects of flists were read for damage: for each
// run that ended in failure once, and once a scrubPause for each flist, since it costs
// the disk, the processor, and what others have in memory of the same files.
type scrubs struct {
	mu sync.Mutex
	of map[death]scrubbed
}

// death is a run's end: by its flist, and when it had been begun. The zero time is for
// the last of a flist.
type death struct {
	image canon.Hash
	begun time.Time
}

type scrubbed struct {
	at      time.Time
	damaged int
}

const (
	scrubPause = time.Minute
	maxScrubs  = 1024 // remembered
)

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

// Failure implements container.Rootfs.
func (r rootfs) Failure(image canon.Hash) (code, detail string) {
	ctx, cancel := context.WithTimeout(context.Background(), localTimeout)
	defer cancel()
	s, err := r.fault.Status(ctx, image)
	if err == nil && len(s.Failures) > 0 {
		return s.Failures[0].Code, s.Failures[0].Detail
	}
	return "", ""
}

// Damage implements container.Rootfs. It reads what is on this node's own disk: an
// object that the kernel refuses to serve is removed, so that the next start fetches
// it again.
func (r rootfs) Damage(image canon.Hash, begun time.Time) (code, detail string) {
	damaged, err := r.scrubs.once(death{image, begun}, time.Now(), func() (int, error) { return r.scrub(image) })
	if err != nil || damaged == 0 {
		return "", ""
	}
	return store.CodeDigestMismatch, fmt.Sprintf("%d objects on this node's disk were damaged; they are removed and will be fetched again", damaged)
}

// once returns what the scrub for a death found, which it makes unless there was one.
// Soon after another death with the same flist, that one's counts.
func (s *scrubs) once(d death, now time.Time, scrub func() (int, error)) (damaged int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.of[d]; ok {
		return found.damaged, nil
	}
	found, ok := s.of[death{image: d.image}]
	if !ok || now.Sub(found.at) >= scrubPause {
		if damaged, err = scrub(); err != nil {
			return 0, err
		}
		found = scrubbed{now, damaged}
	}
	if s.of == nil || len(s.of) >= maxScrubs {
		s.of = map[death]scrubbed{}
	}
	s.of[d], s.of[death{image: d.image}] = found, found
	return found.damaged, nil
}

// scrub reads every object of a flist that is present, and removes those that
// fail the kernel's verification.
func (r rootfs) scrub(digest canon.Hash) (damaged int, err error) {
	m, err := r.store.Manifest(digest)
	if err != nil {
		return 0, err
	}
	seen := map[canon.Hash]bool{} // files with equal content are one object
	m.Files(func(_ []byte, f *flist.File) bool {
		if seen[f.Digest] {
			return true
		}
		seen[f.Digest] = true
		err := readAll(r.store.ObjectPath(f.Digest))
		if errors.Is(err, syscall.EIO) {
			damaged++
			if err = r.store.Remove(f.Digest); err == nil {
				err = count(damagesFile)
			}
			r.log.Warn("an object on the data disk was damaged, removed it", "object", f.Digest, "error", err)
		}
		return true
	})
	return damaged, nil
}

// damagesFile has a byte for each object that was removed since boot because it was
// damaged: a count that a crash of the daemon does not lose.
const damagesFile = boot.RunDir + "/damages"

func count(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{0})
	return errors.Join(err, f.Close())
}

// Damages implements container.Rootfs.
func (r rootfs) Damages() uint64 {
	st, err := os.Stat(damagesFile)
	if err != nil {
		return 0
	}
	return uint64(st.Size())
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
