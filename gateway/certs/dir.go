package certs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is a Store in a directory of this machine, for processes of this machine.
// Locks end with the process that holds them.
type Dir struct {
	path string
	mu   sync.Mutex
	held map[string]*os.File
}

// NewDir returns the Store in the directory path, which is made if need be.
func NewDir(path string) (*Dir, error) {
	for _, sub := range []string{"values", "locks"} {
		if err := os.MkdirAll(filepath.Join(path, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return &Dir{path: path, held: map[string]*os.File{}}, nil
}

// file is where a key or lock is: its hash, as keys are longer than names may be.
func (d *Dir) file(sub, name string) string {
	h := sha256.Sum256([]byte(name))
	return filepath.Join(d.path, sub, hex.EncodeToString(h[:]))
}

// Lock is Store's.
func (d *Dir) Lock(ctx context.Context, name string) error {
	f, err := os.OpenFile(d.file("locks", name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.held[name] = f
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return fmt.Errorf("lock %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Unlock is Store's.
func (d *Dir) Unlock(_ context.Context, name string) error {
	d.mu.Lock()
	f := d.held[name]
	delete(d.held, name)
	d.mu.Unlock()
	if f == nil {
		return fmt.Errorf("unlock %s: it is not locked", name)
	}
	return f.Close()
}

// Put is Store's.
func (d *Dir) Put(_ context.Context, key string, value []byte) error {
	if err := checkPut(key, value); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(d.path, "values"), "new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of nothing, once it is renamed
	b := binary.BigEndian.AppendUint16(nil, uint16(len(key)))
	_, err = f.Write(append(append(b, key...), value...))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), d.file("values", key))
}

// Get is Store's.
func (d *Dir) Get(_ context.Context, key string) ([]byte, error) {
	b, err := os.ReadFile(d.file("values", key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing(key)
	}
	if err != nil {
		return nil, err
	}
	if have, value, ok := cutKey(b); ok && have == key {
		return value, nil
	}
	return nil, fmt.Errorf("get %s: its file is damaged", key)
}

func cutKey(b []byte) (key string, rest []byte, ok bool) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return "", nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return string(b[2:n]), bytes.Clone(b[n:]), true
}

// Delete is Store's.
func (d *Dir) Delete(_ context.Context, key string) error {
	if err := os.Remove(d.file("values", key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List is Store's.
func (d *Dir) List(_ context.Context, prefix string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.path, "values"))
	if err != nil {
		return nil, err
	}
	keys := []string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "new-") {
			continue
		}
		f, err := os.Open(filepath.Join(d.path, "values", e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(f, 2+MaxKey))
		f.Close()
		if err != nil {
			return nil, err
		}
		if key, _, ok := cutKey(b); ok && strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// Stat is Store's.
func (d *Dir) Stat(_ context.Context, key string) (Info, error) {
	i, err := os.Stat(d.file("values", key))
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, missing(key)
	}
	if err != nil {
		return Info{}, err
	}
	return Info{Size: i.Size() - int64(2+len(key)), Modified: i.ModTime()}, nil
}
