package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/verity"
	"github.com/zero-os/zos/problem"
)

// Options of a Store. The zero value is usable.
type Options struct {
	// MaxBytes bounds what the store occupies on its file system, objects,
	// manifests and images together; 0: only the file system bounds it.
	// Several processes that share a store each keep to it by themselves and
	// see each other's objects when they measure anew, so together they may
	// exceed it by what they fetch at the same time.
	MaxBytes int64
	// RequireVerity makes Open fail where there is no fs-verity.
	RequireVerity bool
	// Logger gets what no caller can be told; nil: nothing is logged.
	Logger *slog.Logger
}

// Store is an open object store. Its methods may be called at the same time.
type Store struct {
	dir    string
	verity bool
	log    *slog.Logger
	tmp    *tmpDir
	space  space
	index  index

	imagesMu sync.Mutex
	images   map[canon.Hash]*image
}

// The directories of a store.
const (
	objectsDir   = "objects"
	manifestsDir = "manifests"
	imagesDir    = "images"
	pinsDir      = "pins"
	tmpDirName   = "tmp"
)

// Open opens the store in dir, making it if it is not there, and removes what
// processes that were killed left in its tmp/.
func Open(dir string, o Options) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Store{dir: abs, log: o.Logger, images: map[canon.Hash]*image{}}
	if s.log == nil {
		s.log = discard()
	}
	for _, d := range []string{"", objectsDir, manifestsDir, imagesDir, pinsDir, tmpDirName} {
		// Searchable by all, because containers' processes look objects up
		// through the overlay, with the mounter's rights; writable by root alone.
		if err := os.MkdirAll(filepath.Join(abs, d), 0o755); err != nil {
			return nil, fmt.Errorf("open store: %w", diskFull(err))
		}
	}
	if s.tmp, err = newTmpDir(filepath.Join(abs, tmpDirName), s.log); err != nil {
		return nil, fmt.Errorf("open store %s: %w", abs, diskFull(err))
	}
	if s.verity, err = verity.Supported(s.tmp.path); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", abs, diskFull(err)), s.tmp.close())
	}
	if o.RequireVerity && !s.verity {
		return nil, errors.Join(problem.New(CodeNoVerity, "open store %s: its file system has no fs-verity", abs).
			WithFix("use ext4 made with -O verity, or btrfs, on a kernel with CONFIG_FS_VERITY"), s.tmp.close())
	}
	s.space.init(s, o.MaxBytes)
	s.index.init(s)
	return s, nil
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Close removes this process's temporary files. The store must not be used after it.
func (s *Store) Close() error { return s.tmp.close() }

// Dir returns the store's absolute path.
func (s *Store) Dir() string { return s.dir }

// Verity tells whether the kernel checks the store's objects on every read.
func (s *Store) Verity() bool { return s.verity }

// ObjectsDir is the directory that overlays use as data-only layer.
func (s *Store) ObjectsDir() string { return filepath.Join(s.dir, objectsDir) }

// ObjectPath returns where the object d is when it is present.
func (s *Store) ObjectPath(d canon.Hash) string {
	h := d.String()
	return filepath.Join(s.dir, objectsDir, h[:2], h[2:])
}

func (s *Store) manifestPath(d canon.Hash) string {
	return filepath.Join(s.dir, manifestsDir, d.String())
}

func (s *Store) imagePath(d canon.Hash) string {
	return filepath.Join(s.dir, imagesDir, d.String()+".erofs")
}

// diskFull gives a lack of room its code.
func diskFull(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return problem.New(CodeDiskFull, "the store's file system is full: %w", err).
			WithFix("free space on the data disk, or use a larger one")
	}
	return err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
