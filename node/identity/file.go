package identity

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// fileStore keeps a secret in one file, mode 0600, in a directory of mode 0700.
type fileStore struct{ dir, name string }

func (f fileStore) path() string { return filepath.Join(f.dir, f.name) }

func (f fileStore) load() ([]byte, error) {
	file, err := os.Open(f.path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNothing
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", f.path())
	}
	return io.ReadAll(io.LimitReader(file, maxStored+1))
}

// save writes the whole file to the disk and only then gives it its name, so a
// cut of power leaves all of it or nothing. link(2) fails where the name exists:
// stored keys are never replaced.
func (f fileStore) save(b []byte) (err error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("store keys: %w", err)
	}
	tmp, err := os.CreateTemp(f.dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("store keys: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(tmp.Name(), f.path())
	}
	if err != nil {
		return fmt.Errorf("store keys in %s: %w", f.path(), err)
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return fmt.Errorf("store keys: %w", err)
	}
	f.sweep()
	return syncDir(f.dir)
}

// sweep deletes what an interrupted save left: it may hold secrets.
func (f fileStore) sweep() {
	old, _ := filepath.Glob(filepath.Join(f.dir, ".new-*")) // the pattern is valid
	for _, p := range old {
		os.Remove(p) // tried again at the next save
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
