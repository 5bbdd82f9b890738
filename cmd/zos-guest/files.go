package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
)

// tarJob is a stage's order to pack or unpack files. The stage is in the workload's mount
// namespace then, so no link leads anywhere else.
type tarJob struct {
	Path   string `json:"path"`
	Unpack bool   `json:"unpack"`
}

// copyFiles has a stage do it and passes the archive.
func (a *agent) copyFiles(_ context.Context, c *control.Conn, j tarJob) error {
	o := order{Tar: &j}
	t, err := a.begin(o, 0, 0)
	if err != nil {
		return err
	}
	// What the stage says to stderr is why it failed.
	why := make(chan string, 1)
	stderr := t.err
	go func() {
		b, _ := io.ReadAll(io.LimitReader(stderr, 4096)) // a part will do
		why <- string(b)
		_, _ = io.Copy(io.Discard, stderr)
	}()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("prepare streams: %w", err)
	}
	_ = w.Close()
	t.err = r // nothing of it goes to the node
	defer stderr.Close()
	return t.serve(c, func(code int) error {
		if code == 0 {
			return c.Exit(0)
		}
		select { // said here: the connection is closed when this returns
		case s := <-why:
			return c.Fail(fmt.Errorf("copy files: %s", s))
		case <-time.After(grandchildren):
			return c.Fail(errors.New("copy files: it was broken off"))
		}
	})
}

func (j tarJob) run() error {
	if j.Unpack {
		return unpack(os.Stdin, j.Path)
	}
	return pack(os.Stdout, j.Path)
}

// pack writes a file or a tree. Names begin with the last part of path. Devices, pipes and
// sockets are left out.
func pack(w io.Writer, path string) error {
	tw := tar.NewWriter(w)
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	base := filepath.Base(path)
	err = filepath.WalkDir(real, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p != real {
			return nil // it went while we walked
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(real, p)
		if err != nil {
			return err
		}
		name := filepath.Join(base, rel)
		if base == "/" {
			name = rel
		}
		return packOne(tw, p, name)
	})
	return errors.Join(err, tw.Close())
}

func packOne(tw *tar.Writer, path, name string) error {
	// Opened first, so that what is described is what is sent.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ELOOP) {
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) {
		return nil // gone, or a socket
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("inspect %s: %w", path, err)
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return tw.WriteHeader(h)
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		n, err := io.Copy(tw, io.LimitReader(f, st.Size))
		if err == nil && n < st.Size {
			err = fmt.Errorf("it shrank while it was read")
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	return nil
}

// unpack reads an archive into dir. A name can't lead out of dir by itself; a link that is
// there can, within the workload.
func unpack(r io.Reader, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackOne(tr, h, filepath.Join(dir, filepath.Clean("/"+h.Name))); err != nil {
			return err
		}
	}
}

func unpackOne(r io.Reader, h *tar.Header, path string) error {
	mode := os.FileMode(h.Mode & 0o777)
	special := uint32(h.Mode & 0o7777)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeSymlink:
		_ = os.Remove(path)
		if err := os.Symlink(h.Linkname, path); err != nil {
			return err
		}
		return os.Lchown(path, h.Uid, h.Gid)
	case tar.TypeReg:
		if err := replace(r, path, mode); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s is neither a file, a directory nor a link", h.Name)
	}
	// Owner first: it takes the set-id bits away.
	if err := os.Chown(path, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Chmod(path, special); err != nil {
		return fmt.Errorf("set mode of %s: %w", path, err)
	}
	return nil
}

// replace writes a file beside its place and moves it there, so that nobody sees a half,
// unless it can't be moved there (a file of the node's own is mounted on it, say).
func replace(r io.Reader, path string, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".zos-put-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, r)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
