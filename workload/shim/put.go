package shim

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

// put unpacks a tar stream into the directory that name means. Files take the place
// of what has their name in one step, except of a directory; a failure in the middle
// leaves what was complete. Owners are the workload's ids, set-id bits are dropped,
// and only files, directories and links are taken.
func (t *tree) put(ctx context.Context, name string, r io.Reader) error {
	into, err := t.resolve(name)
	if err != nil {
		return wrong(name, err)
	}
	defer unix.Close(into)
	st, err := look(into)
	if err != nil {
		return wrong(name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return problem.New(CodeBadFile, "%.200q is not a directory", name)
	}
	in := tar.NewReader(r)
	for n := 0; ; n++ {
		if err := alive(ctx); err != nil {
			return err
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return drain(r)
		}
		if err != nil {
			if ctx.Err() != nil {
				return alive(ctx)
			}
			return problem.New(CodeBadFile, "read the copy: %w", err)
		}
		if n >= maxEntries {
			return problem.New(CodeBadFile, "more than %d files in one copy", maxEntries)
		}
		if err := t.unpack(ctx, into, h, in); err != nil {
			return wrong(h.Name, err)
		}
	}
}

// drain reads what follows the end of an archive, which tar programs pad.
func drain(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
	if err != nil {
		return fmt.Errorf("end the copy: %w", err)
	}
	if n == 1<<20 {
		return problem.New(CodeBadFile, "something follows the end of the copy")
	}
	return nil
}

// unpack makes one entry below into.
func (t *tree) unpack(ctx context.Context, into int, h *tar.Header, body io.Reader) error {
	name, err := cleanEntry(h.Name)
	if err != nil {
		return err
	}
	uid, err := t.outside(h.Uid)
	if err != nil {
		return err
	}
	gid, err := t.outside(h.Gid)
	if err != nil {
		return err
	}
	if name == "." {
		return nil // the directory itself stays as it is
	}
	if strings.Count(name, "/") >= maxDepth {
		return problem.New(CodeBadFile, "it lies more than %d directories deep", maxDepth)
	}
	dir, err := t.parent(into, path.Dir(name), uid, gid)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	base, mode := path.Base(name), uint32(h.Mode&0o777)
	switch h.Typeflag {
	case tar.TypeReg:
		return t.place(ctx, dir, base, func(tmp string) error { return t.write(ctx, dir, tmp, mode, uid, gid, body) })
	case tar.TypeDir:
		return t.mkdir(dir, base, mode, uid, gid)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > 4095 || strings.ContainsRune(h.Linkname, 0) {
			return problem.New(CodeBadFile, "a link to nothing")
		}
		// Wherever it points, it is followed inside the workload only.
		return t.place(ctx, dir, base, func(tmp string) error {
			if err := unix.Symlinkat(h.Linkname, dir, tmp); err != nil {
				return err
			}
			return unix.Fchownat(dir, tmp, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
		})
	}
	return problem.New(CodeBadFile, "an entry of type %q: only files, directories and links are copied", h.Typeflag)
}

// parent opens the directory dir below into, making what is missing.
func (t *tree) parent(into int, dir string, uid, gid int) (int, error) {
	at, err := t.beneath(into, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil || dir == "." {
		return at, err
	}
	for _, name := range strings.Split(dir, "/") {
		next, err := t.beneath(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if errors.Is(err, unix.ENOENT) {
			if err = t.mkdir(at, name, 0o755, uid, gid); err == nil {
				next, err = t.beneath(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
			}
		}
		unix.Close(at)
		if errors.Is(err, unix.ENOTDIR) {
			return -1, problem.New(CodeBadFile, "%.200q is not a directory", name)
		}
		if err != nil {
			return -1, err
		}
		if _, err := look(next); err != nil { // something may be mounted there
			unix.Close(next)
			return -1, err
		}
		at = next
	}
	return at, nil
}

// mkdir makes a directory, or gives an existing one this owner and mode.
func (t *tree) mkdir(dir int, name string, mode uint32, uid, gid int) error {
	if err := unix.Mkdirat(dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := t.beneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := look(fd); err != nil {
		return err
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode)
}

// place makes something under another name and then renames it.
func (t *tree) place(_ context.Context, dir int, name string, build func(tmp string) error) error {
	if len(name) > 200 {
		return problem.New(CodeBadFile, "a name of %d bytes, at most 200 are allowed", len(name))
	}
	for try := 0; ; try++ {
		tmp := "." + name + ".zos-" + strconv.Itoa(try)
		err := build(tmp)
		if errors.Is(err, unix.EEXIST) && try < 100 {
			continue // an earlier copy that was broken off, or the workload's own
		}
		if err == nil {
			err = unix.Renameat(dir, tmp, dir, name)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			_ = unix.Unlinkat(dir, tmp, 0)
		}
		return err
	}
}

// write makes a new file.
func (t *tree) write(ctx context.Context, dir int, name string, mode uint32, uid, gid int, body io.Reader) error {
	fd, err := t.beneath(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			if err := alive(ctx); err != nil {
				return err
			}
			m, err := unix.Write(fd, b)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			b = b[m:]
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return problem.New(CodeBadFile, "the copy broke off: %w", err)
		}
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, mode)
}
