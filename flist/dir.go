package flist

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
)

// BuildDir makes a flist of the directory root: every name below it, mounts
// included, in whatever order the file system lists them. root itself may be a
// symbolic link; none below it is followed. Hard links are
// recognised within root. Sockets are kept as what they are, though nothing
// listens on them. It needs no root for what it may read; trusted attributes
// and Options.RootOwned are the reasons why a tree may look different with it.
// A file that changes while it is read is an error.
func BuildDir(ctx context.Context, root string, sink Sink, opts Options) (canon.Hash, Manifest, Stats, error) {
	t := NewTree(sink, opts)
	s := dirScan{tree: t, links: map[inodeKey][]byte{}}
	dir, err := filepath.EvalSymlinks(root)
	if err != nil {
		return canon.Hash{}, Manifest{}, Stats{}, fmt.Errorf("build flist of directory %s: %w", root, err)
	}
	if err := s.scan(ctx, dir, ""); err != nil {
		return canon.Hash{}, Manifest{}, Stats{}, fmt.Errorf("build flist of directory %s: %w", root, err)
	}
	if err := s.hash(ctx, opts.workers()); err != nil {
		return canon.Hash{}, Manifest{}, Stats{}, fmt.Errorf("build flist of directory %s: %w", root, err)
	}
	return t.Manifest()
}

type dirScan struct {
	tree  *Tree
	links map[inodeKey][]byte // first path of inodes with several names
	files []dirFile           // to be hashed
}

type inodeKey struct{ dev, ino uint64 }

type dirFile struct {
	path string // on this machine
	node *node
	stat unix.Stat_t
}

// scan adds one file, and what is below it when it is a directory.
func (s *dirScan) scan(ctx context.Context, file, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.tree.content.budget.entry(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: file, Err: err}
	}
	if st.Nlink > 1 && st.Mode&ModeType == ModeRegular {
		if first, seen := s.links[inodeKey{st.Dev, st.Ino}]; seen {
			return s.tree.link([]byte(path), first)
		}
	}
	n, err := s.node(file, &st)
	if err != nil {
		return err
	}
	if err := s.tree.put([]byte(path), n); err != nil {
		return err
	}
	switch st.Mode & ModeType {
	case ModeDir:
		return s.children(ctx, file, path)
	case ModeRegular:
		s.files = append(s.files, dirFile{file, n, st})
		if st.Nlink > 1 {
			s.links[inodeKey{st.Dev, st.Ino}] = []byte(path)
		}
	}
	return nil
}

func (s *dirScan) children(ctx context.Context, file, path string) error {
	d, err := os.Open(file)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return fmt.Errorf("list directory %s: %w", file, err)
	}
	for _, name := range names {
		p := name
		if path != "" {
			p = path + "/" + name
		}
		if err := s.scan(ctx, filepath.Join(file, name), p); err != nil {
			return err
		}
	}
	return nil
}

// node reads everything about a file but its content.
func (s *dirScan) node(file string, st *unix.Stat_t) (*node, error) {
	n := &node{meta: Meta{Mode: st.Mode, UID: st.Uid, GID: st.Gid, MTime: st.Mtim.Nano()}}
	switch st.Mode & ModeType {
	case ModeDir:
		n.children = map[string]*dirent{}
	case ModeSymlink:
		target, err := os.Readlink(file)
		if err != nil {
			return nil, err
		}
		n.target = []byte(target)
	case ModeChar, ModeBlock:
		rdev, err := makedev(int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		n.rdev = rdev
	}
	xs, err := readXattrs(file)
	if err != nil {
		return nil, err
	}
	n.meta.Xattrs = xs
	return n, nil
}

// hash reads the content of all files.
func (s *dirScan) hash(ctx context.Context, workers int) error {
	g, working := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, f := range s.files {
		if working.Err() != nil {
			break
		}
		g.Go(func() error {
			content, err := s.read(working, f)
			if err != nil {
				return fmt.Errorf("read %s: %w", f.path, err)
			}
			f.node.file = content
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// read opens the very file that was seen, never another one that has taken its
// name, and never blocks on a pipe.
func (s *dirScan) read(ctx context.Context, f dirFile) (*File, error) {
	fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), f.path)
	defer file.Close()
	var before, after unix.Stat_t
	if err := unix.Fstat(fd, &before); err != nil {
		return nil, err
	}
	if before.Dev != f.stat.Dev || before.Ino != f.stat.Ino || before.Mode&ModeType != ModeRegular {
		return nil, errors.New("it was replaced while the directory was read")
	}
	content, err := s.tree.content.file(ctx, file, f.stat.Size)
	if err != nil {
		return nil, err
	}
	if err := unix.Fstat(fd, &after); err != nil {
		return nil, err
	}
	if after.Mtim != f.stat.Mtim || after.Size != f.stat.Size {
		return nil, errors.New("it changed while it was read")
	}
	return content, nil
}

// readXattrs lists a file's attributes without following it. A file system
// without attributes has none.
func readXattrs(file string) ([]Xattr, error) {
	names, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(file, b) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "llistxattr", Path: file, Err: err}
	}
	var xs []Xattr
	for _, name := range splitNames(names) {
		value, err := growing(func(b []byte) (int, error) { return unix.Lgetxattr(file, name, b) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue // it went away, or its handler has nothing for this file
		}
		if err != nil {
			return nil, &os.PathError{Op: "lgetxattr " + name, Path: file, Err: err}
		}
		xs = append(xs, Xattr{Name: []byte(name), Value: value})
	}
	return xs, nil
}

// splitNames cuts a list in which every name ends with NUL.
func splitNames(b []byte) []string {
	var names []string
	start := 0
	for i, c := range b {
		if c == 0 {
			names = append(names, string(b[start:i]))
			start = i + 1
		}
	}
	return names
}

// growing calls get with a buffer that is large enough.
func growing(get func([]byte) (int, error)) ([]byte, error) {
	var small [256]byte
	if n, err := get(small[:]); err == nil {
		return append([]byte{}, small[:n]...), nil
	} else if !errors.Is(err, unix.ERANGE) {
		return nil, err
	}
	b := make([]byte, 64<<10) // the kernel's limit for names and for a value
	n, err := get(b)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, b[:n]...), nil
}
