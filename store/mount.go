package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/linux/idmap"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/problem"
)

// MountSpec says what to mount where.
type MountSpec struct {
	Store *Store
	Flist canon.Hash // its manifest must be in the store (Fetcher.Manifest)
	// Target is the absolute path to mount on; made if it is not there.
	Target string
	// FaultDir is where the fault server is mounted; not needed if Complete.
	FaultDir string
	// Complete says that every object is present and must stay so: the mount
	// uses the store alone and depends on no process. It is checked.
	Complete bool
	// Upper and Work are directories on one writable file system; they are made
	// if they are not there. Both empty: a read-only mount. An upper belongs to one
	// flist and one IDBase for its whole life; the caller keeps these beside it.
	Upper, Work string
	// IDBase shifts the owners of all files: id 0 of the flist is shown as IDBase.
	// A range has 65536 ids. 0: not shifted.
	IDBase uint32
}

// MountInfo is a mounted flist, as the kernel's list of mounts tells it.
type MountInfo struct {
	Flist    canon.Hash `json:"flist"`
	Target   string     `json:"target"`
	IDBase   uint32     `json:"id_base"`
	Complete bool       `json:"complete"` // uses no fault server
	Verity   bool       `json:"verity"`   // the kernel verifies every page it reads
	Writable bool       `json:"writable"`
}

// Names of the fault server's two directories.
const (
	FetchDir = "fetch"
	FailDir  = "fail"
)

// MountFlist mounts a flist. It is an overlay of the flist's metadata (an EROFS
// image derived from the manifest) over the object store, between the fault
// server's two layers unless complete. It is all there or not at all.
//
// Codes of errors: object-missing, manifest-invalid, disk-full, fault-server-down,
// upper-mismatch, mount-failed.
func MountFlist(ctx context.Context, spec MountSpec) (MountInfo, error) {
	info, err := mountFlist(ctx, spec)
	if err != nil {
		return MountInfo{}, fmt.Errorf("mount flist %s on %s: %w", spec.Flist.Short(), spec.Target, err)
	}
	return info, nil
}

func mountFlist(ctx context.Context, spec MountSpec) (MountInfo, error) {
	if err := spec.check(); err != nil {
		return MountInfo{}, err
	}
	s := spec.Store
	data := []string{s.ObjectsDir()}
	if spec.Complete {
		if err := s.Complete(ctx, spec.Flist); err != nil {
			return MountInfo{}, err
		}
	} else {
		if err := faultServerUp(ctx, spec.FaultDir); err != nil {
			return MountInfo{}, err
		}
		data = []string{filepath.Join(spec.FaultDir, FetchDir), s.ObjectsDir(), filepath.Join(spec.FaultDir, FailDir)}
	}
	image, root, err := s.ensureImage(ctx, spec.Flist)
	if errors.Is(err, os.ErrNotExist) {
		return MountInfo{}, problem.New(CodeObjectMissing, "its manifest is not in the store: %w", err)
	}
	if err != nil {
		return MountInfo{}, err
	}
	if err := os.MkdirAll(spec.Target, 0o755); err != nil {
		return MountInfo{}, err
	}
	if spec.Upper != "" {
		if err := prepareUpper(spec, root); err != nil {
			return MountInfo{}, err
		}
	}
	// The overlay takes a clone of the metadata mount for itself, so the mount
	// is only there while the overlay is made: one mount per flist remains.
	meta, err := os.MkdirTemp(s.tmp.path, "meta-")
	if err != nil {
		return MountInfo{}, diskFull(err)
	}
	defer os.Remove(meta)
	if err := mount.EROFS(image, meta); err != nil {
		return MountInfo{}, problem.New(CodeMountFailed, "%w", err).
			WithFix("the store's file system must be able to back a mount (not tmpfs), and the kernel needs EROFS with file backing")
	}
	defer func() { _ = mount.Detach(meta) }()
	if spec.IDBase != 0 {
		if err := shift(meta, spec.IDBase); err != nil {
			return MountInfo{}, problem.New(CodeMountFailed, "%w", err)
		}
	}
	if err := mount.Overlay(spec.overlay(meta, data), spec.Target); err != nil {
		return MountInfo{}, problem.New(CodeMountFailed, "%w", err)
	}
	if spec.Upper != "" {
		// The kernel mounts an overlay read-only, without an error, when it doesn't
		// like the upper.
		if err := proveWritable(spec.Target); err != nil {
			return MountInfo{}, errors.Join(problem.New(CodeMountFailed, "the mount is not writable: %w", err), mount.Detach(spec.Target))
		}
	}
	return MountInfo{
		Flist: spec.Flist, Target: spec.Target, IDBase: spec.IDBase,
		Complete: spec.Complete, Verity: s.verity, Writable: spec.Upper != "",
	}, nil
}

func (spec MountSpec) check() error {
	switch {
	case spec.Store == nil || spec.Flist.IsZero():
		return errors.New("no store or no flist given")
	case !filepath.IsAbs(spec.Target) || filepath.Clean(spec.Target) == "/":
		return fmt.Errorf("bad target %q: want an absolute path", spec.Target)
	case (spec.Upper == "") != (spec.Work == ""):
		return errors.New("upper and work directory go together")
	case !spec.Complete && spec.FaultDir == "":
		return errors.New("no fault server's directory given")
	case uint64(spec.IDBase)+idmap.Size > 1<<32-1:
		return fmt.Errorf("bad base %d of user ids: the range would leave 32 bits", spec.IDBase)
	}
	there, err := mount.Under(spec.Target)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return problem.New(CodeMountFailed, "something is mounted there already (%s)", there[0].Type)
	}
	return nil
}

func (spec MountSpec) overlay(meta string, data []string) mount.OverlaySpec {
	o := mount.OverlaySpec{
		Source: mountSource(spec),
		Lower:  []string{meta},
		Data:   data,
		NoDev:  true,
		Params: [][2]string{{"metacopy", "on"}},
	}
	if spec.Upper == "" {
		o.Params = append(o.Params, [2]string{"redirect_dir", "follow"})
	} else {
		o.Params = append(o.Params, [2]string{"redirect_dir", "on"})
		o.Upper, o.Work = spec.Upper, spec.Work
	}
	if spec.Store.verity {
		o.Params = append(o.Params, [2]string{"verity", "require"})
	}
	return o
}

func shift(meta string, base uint32) error {
	ns, err := idmap.UserNamespace(base)
	if err != nil {
		return err
	}
	defer ns.Close()
	return idmap.Mount(meta, ns)
}

// prepareUpper makes the upper directory, with the owner and mode of the flist's
// root, or checks that the one there belongs to the range of ids.
func prepareUpper(spec MountSpec, root flist.Entry) error {
	if err := os.MkdirAll(spec.Work, 0o700); err != nil {
		return diskFull(err)
	}
	st, err := os.Lstat(spec.Upper)
	if err == nil {
		return checkUpper(spec, st)
	}
	if err := os.MkdirAll(filepath.Dir(spec.Upper), 0o755); err != nil {
		return diskFull(err)
	}
	// Under another name first: one that is there is finished.
	fresh := spec.Upper + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return diskFull(err)
	}
	for _, x := range root.Xattrs {
		if err := unix.Lsetxattr(fresh, string(x.Name), x.Value, 0); err != nil {
			return fmt.Errorf("set %s of upper directory: %w", x.Name, err)
		}
	}
	mtime := unix.NsecToTimespec(root.MTime)
	if err := errors.Join(
		unix.Chown(fresh, int(spec.IDBase+root.UID), int(spec.IDBase+root.GID)),
		unix.Chmod(fresh, root.Mode&0o7777),
		unix.UtimesNanoAt(unix.AT_FDCWD, fresh, []unix.Timespec{mtime, mtime}, 0),
		os.Rename(fresh, spec.Upper),
	); err != nil {
		return fmt.Errorf("make upper directory: %w", err)
	}
	return nil
}

func checkUpper(spec MountSpec, st os.FileInfo) error {
	var sys unix.Stat_t
	if err := unix.Lstat(spec.Upper, &sys); err != nil {
		return err
	}
	if !st.IsDir() || sys.Uid < spec.IDBase || sys.Uid >= spec.IDBase+idmap.Size {
		return problem.New(CodeUpperMismatch, "upper directory %s is owned by user %d, outside the range from %d", spec.Upper, sys.Uid, spec.IDBase).
			WithFix("mount it with the range of ids that it was made with")
	}
	return nil
}

// proveWritable writes to the mount, into a file without a name: nothing of it stays.
func proveWritable(target string) error {
	fd, err := unix.Open(target, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return proveWritableByName(target)
	}
	if err != nil {
		return err
	}
	_, werr := unix.Write(fd, []byte{0})
	return errors.Join(werr, unix.Close(fd))
}

// proveWritableByName is for upper file systems without nameless files.
func proveWritableByName(target string) error {
	f, err := os.CreateTemp(target, ".zos-probe-")
	if err != nil {
		return err
	}
	_, werr := f.Write([]byte{0})
	return errors.Join(werr, f.Close(), os.Remove(f.Name()))
}

// faultServerUp tells whether a living fault server is mounted at dir.
func faultServerUp(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer := make(chan error, 1) // buffered: a server that hangs must not keep a caller
	go func() {
		var fs unix.Statfs_t
		for _, name := range []string{FetchDir, FailDir} {
			path := filepath.Join(dir, name)
			if err := unix.Statfs(path, &fs); err != nil {
				answer <- fmt.Errorf("%s: %w", path, err)
				return
			}
			if fs.Type != unix.FUSE_SUPER_MAGIC {
				answer <- fmt.Errorf("%s is not a FUSE mount", path)
				return
			}
		}
		answer <- nil
	}()
	var err error
	select {
	case err = <-answer:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return problem.New(CodeFaultServerDown, "the fault server does not answer: %w", err).
			WithFix("start zos-fault, or fetch the whole flist and mount it as complete")
	}
	return nil
}

// unmountWait is how long Unmount waits for users of a mount before it detaches it.
const unmountWait = 2 * time.Second

// UnmountFlist removes the flist mounted on target with whatever is mounted below
// it, and waits for it to be really gone; what is still in use after two seconds
// is detached, and goes when its last user goes. Directories stay. It is no error
// if nothing is mounted.
func UnmountFlist(ctx context.Context, target string) error {
	for {
		there, err := mount.Under(target)
		if err != nil || len(there) == 0 {
			return err
		}
		if err := unmountOne(ctx, there[len(there)-1].Target); err != nil {
			return fmt.Errorf("unmount flist from %s: %w", target, err)
		}
	}
}

func unmountOne(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, unmountWait)
	defer cancel()
	for {
		err := mount.Unmount(target)
		if !mount.IsBusy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return mount.Detach(target)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Mounts lists the flists that are mounted at prefix and below, from the
// kernel's list of mounts alone.
func Mounts(prefix string) ([]MountInfo, error) {
	entries, err := mount.Under(prefix)
	if err != nil {
		return nil, err
	}
	var all []MountInfo
	for _, e := range entries {
		if info, ok := mountInfo(e); ok {
			all = append(all, info)
		}
	}
	return all, nil
}

// The source of a flist's mount says all about it that the kernel would not
// say otherwise: zos:<flist>:<base of ids>:<complete or lazy>.
const sourcePrefix = "zos:"

func mountSource(spec MountSpec) string {
	kind := "lazy"
	if spec.Complete {
		kind = "complete"
	}
	return sourcePrefix + spec.Flist.String() + ":" + strconv.FormatUint(uint64(spec.IDBase), 10) + ":" + kind
}

func mountInfo(e mount.Entry) (MountInfo, bool) {
	source, ok := strings.CutPrefix(e.Source, sourcePrefix)
	parts := strings.Split(source, ":")
	if !ok || e.Type != "overlay" || len(parts) != 3 {
		return MountInfo{}, false
	}
	d, err := canon.ParseHash(parts[0])
	base, err2 := strconv.ParseUint(parts[1], 10, 32)
	if errors.Join(err, err2) != nil {
		return MountInfo{}, false
	}
	verity, _ := e.SuperOption("verity")
	_, upper := e.SuperOption("upperdir")
	return MountInfo{
		Flist: d, Target: e.Target, IDBase: uint32(base),
		Complete: parts[2] == "complete", Verity: verity == "require", Writable: upper,
	}, true
}

// Complete checks that every object of the flist is present and will be accepted
// by the kernel. The error's code is object-missing if one is not.
func (s *Store) Complete(ctx context.Context, d canon.Hash) error {
	c, err := s.index.of(d)
	if err != nil {
		return problem.New(CodeObjectMissing, "flist %s: %w", d.Short(), err)
	}
	for i := range c.records {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f := c.file(i); !s.sound(f) {
			return problem.New(CodeObjectMissing, "flist %s: object %s is not in the store", d.Short(), f.Digest)
		}
	}
	return nil
}
