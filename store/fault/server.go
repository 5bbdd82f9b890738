package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/store"
)

// Config of a Server.
type Config struct {
	// Dir is where it is mounted, such as /run/zos/fault; made if not there.
	Dir     string
	Fetcher *store.Fetcher
	// Wait is how long a lookup waits for an object, plus a second for every
	// 4 MiB of it; default 60 s. After it the reader gets EIO.
	Wait   time.Duration
	Logger *slog.Logger
}

// Server is a mounted fault server.
type Server struct {
	fuse *fuse.Server
	dir  string
	stop context.CancelFunc
	done chan struct{}
}

// Mount mounts the fault server. A dead one at the same place is detached
// first; overlays that used it stay with the dead one.
func Mount(ctx context.Context, c Config) (*Server, error) {
	if c.Wait <= 0 {
		c.Wait = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := detachOld(c.Dir); err != nil {
		return nil, fmt.Errorf("mount fault server: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("mount fault server: %w", err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	fs := &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		ctx:           serving, fetcher: c.Fetcher, wait: c.Wait, log: c.Logger,
	}
	srv, err := fuse.NewServer(fs, c.Dir, &fuse.MountOptions{
		FsName:            "zos-fault",
		Name:              "zos-fault",
		DirectMountStrict: true, // no fusermount program
		DirectMountFlags:  unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY,
		DisableXAttrs:     true,
		// Overlays stack on this file system, and containers stack theirs on
		// those. A depth beyond the kernel's limit of 2 switches passthrough off,
		// which is not used here and would count as one layer.
		MaxStackDepth: 3,
		MaxWrite:      8 << 10, // nothing is read or written: small request buffers suffice
		Logger:        log.New(io.Discard, "", 0),
		PanicHandler: func(p any) fuse.Status {
			c.Logger.Error("panic in the fault server", "panic", p)
			return fuse.EIO
		},
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("mount fault server on %s: %w", c.Dir, err)
	}
	s := &Server{fuse: srv, dir: c.Dir, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		srv.Serve()
	}()
	if err := srv.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount fault server on %s: %w", c.Dir, err), s.Close())
	}
	return s, nil
}

// Dir is where the server is mounted.
func (s *Server) Dir() string { return s.dir }

// Done is closed when the mount is gone.
func (s *Server) Done() <-chan struct{} { return s.done }

// Close unmounts the server. Lookups under way get EIO from the layer below. Overlays
// that are still mounted keep the file system alive, and get EIO for what they have
// not opened yet.
func (s *Server) Close() error {
	s.stop()
	err := mount.Detach(s.dir)
	if mount.IsNotMounted(err) {
		err = nil
	}
	return err
}

// detachOld removes fault servers that were mounted on dir before.
func detachOld(dir string) error {
	there, err := mount.Under(dir)
	if err != nil {
		return err
	}
	for i := len(there) - 1; i >= 0; i-- {
		if !strings.HasPrefix(there[i].Type, "fuse") || there[i].Target != dir {
			return fmt.Errorf("%s is mounted on %s", there[i].Type, there[i].Target)
		}
		if err := mount.Detach(dir); err != nil {
			return err
		}
	}
	return nil
}
