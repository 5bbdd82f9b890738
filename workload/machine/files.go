package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/linux/tap"
)

// openFiles are descriptors that are given away.
type openFiles []*os.File

func (o openFiles) Close() {
	for _, f := range o {
		f.Close()
	}
}

// open opens what a monitor inherits, in order.
func (c Config) open(ctx context.Context, dir string) (files openFiles, err error) {
	defer func() {
		if err != nil {
			files.Close()
		}
	}()
	for _, f := range c.Files {
		o, err := f.open(ctx, dir)
		if err != nil {
			return files, fmt.Errorf("open what the machine is made of: %w", err)
		}
		files = append(files, o)
	}
	return files, nil
}

func (f File) open(ctx context.Context, dir string) (*os.File, error) {
	switch f.Kind {
	case FilePath:
		mode := os.O_RDWR
		if f.ReadOnly {
			mode = os.O_RDONLY
		}
		o, err := f.openPath(mode | unix.O_NONBLOCK)
		if err != nil {
			return nil, err
		}
		if st, err := o.Stat(); err != nil || !st.Mode().IsRegular() {
			return nil, errors.Join(err, fmt.Errorf("%s is no regular file", filepath.Base(f.Path)), o.Close())
		}
		return o, unset(o)
	case FileSock:
		return listen(filepath.Join(dir, filepath.Base(f.Name)))
	case FileVhost:
		return os.OpenFile("/dev/vhost-net", os.O_RDWR, 0)
	case FileTap:
		ns, err := netns.Open(f.Path)
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		var o *os.File
		err = netns.Do(int(ns.Fd()), func() (err error) {
			o, err = tap.Open(f.Name)
			return err
		})
		return o, err
	case FileShare:
		return connect(ctx, filepath.Join(dir, fsSocket))
	}
	return nil, fmt.Errorf("unknown kind of file %.20q", f.Kind)
}

// openPath opens a file by its path, below its root if it has one.
func (f File) openPath(mode int) (*os.File, error) {
	if f.Root == "" {
		return os.OpenFile(f.Path, mode|unix.O_NOFOLLOW, 0)
	}
	return OpenBelow(f.Root, f.Path, mode)
}

// OpenBelow opens a file of a directory whose content is somebody else's: links are
// followed as if the directory were the root of everything, and nobody is waited for
// at a FIFO.
func OpenBelow(root, path string, mode int) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags: uint64(mode | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// unset takes O_NONBLOCK away again, which was there in case of a FIFO.
func unset(o *os.File) error {
	if err := unix.SetNonblock(int(o.Fd()), false); err != nil {
		return errors.Join(err, o.Close())
	}
	return nil
}

// listen makes a listening socket that stays when the shim goes. Only root can pass
// through the directory and connect.
func listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Paths of sockets have 107 bytes at most; a descriptor's is short.
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short(d, path), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

func short(dir *os.File, path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}

// dial connects to a socket in the shim's directory.
func dial(ctx context.Context, path string) (net.Conn, error) {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "unix", short(d, path))
}

// connect is dial for a descriptor that is given away.
func connect(ctx context.Context, path string) (*os.File, error) {
	c, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*net.UnixConn).File()
}
