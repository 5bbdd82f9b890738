package shim

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

// Bounds of one copy. The bytes are bounded by the disks on either side.
const (
	maxEntries = 1 << 20
	maxDepth   = 64 // of directories, each of which is open meanwhile
)

// get writes what name means, a file or a directory with all below it, to w as a tar
// stream. Its entries are named from the last element of name on; of "/", from ".".
// Sockets, FIFOs and devices are left out.
func (t *tree) get(ctx context.Context, name string, w io.Writer) error {
	fd, err := t.resolve(name)
	if err != nil {
		return wrong(name, err)
	}
	defer unix.Close(fd)
	buffered := bufio.NewWriterSize(w, 32<<10)
	out := &getter{tree: t, ctx: ctx, w: tar.NewWriter(buffered)}
	base := path.Base(name)
	if base == "/" {
		base = "."
	}
	if err := out.add(fd, base, 0); err != nil {
		return wrong(name, err)
	}
	if out.entries == 0 {
		return problem.New(CodeBadFile, "%.200q is neither a file nor a directory nor a link", name)
	}
	if err := errors.Join(out.w.Close(), buffered.Flush()); err != nil {
		return fmt.Errorf("end the copy: %w", err)
	}
	return nil
}

type getter struct {
	*tree
	ctx     context.Context
	w       *tar.Writer
	entries int
}

// add writes one file, of which fd is an O_PATH descriptor.
func (g *getter) add(fd int, name string, depth int) error {
	if err := alive(g.ctx); err != nil {
		return err
	}
	st, err := look(fd)
	if err != nil {
		if depth > 0 && problem.Code(err) == CodeBadFile {
			return nil // /proc in a copy of everything
		}
		return err
	}
	if g.entries++; g.entries > maxEntries {
		return problem.New(CodeBadFile, "more than %d files in one copy", maxEntries)
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: g.inside(st.Uid), Gid: g.inside(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return g.file(fd, h)
	case unix.S_IFDIR:
		return g.directory(fd, h, depth)
	case unix.S_IFLNK:
		target := make([]byte, 4096)
		n, err := unix.Readlinkat(fd, "", target)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(target[:n])
		return g.w.WriteHeader(h)
	}
	g.entries--
	return nil
}

// file copies as many bytes as the file had when it was opened: one that grows ends
// there, one that shrinks fails the copy, since the stream has said its size.
func (g *getter) file(fd int, h *tar.Header) error {
	n, err := reopen(fd, unix.O_RDONLY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(n), h.Name)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	if err := g.w.WriteHeader(h); err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for left := h.Size; left > 0; {
		if err := alive(g.ctx); err != nil {
			return err
		}
		n, err := f.Read(buf[:min(int64(len(buf)), left)])
		if n > 0 {
			if _, err := g.w.Write(buf[:n]); err != nil {
				return err
			}
			left -= int64(n)
		}
		if errors.Is(err, io.EOF) && left > 0 {
			return problem.New(CodeBadFile, "%.200q became shorter while it was copied", h.Name)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

func (g *getter) directory(fd int, h *tar.Header, depth int) error {
	if depth >= maxDepth {
		return problem.New(CodeBadFile, "%.200q lies more than %d directories deep", h.Name, maxDepth)
	}
	h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	if err := g.w.WriteHeader(h); err != nil {
		return err
	}
	n, err := reopen(fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(n), h.Name)
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			child, err := g.beneath(n, name, unix.O_PATH, 0)
			if errors.Is(err, unix.ENOENT) {
				continue // gone meanwhile
			}
			if err == nil {
				err = g.add(child, path.Join(h.Name, name), depth+1)
				unix.Close(child)
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || err == nil && len(names) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
