package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zero-os/zos/canon"
)

// object is one that is present.
type object struct {
	digest canon.Hash
	path   string
}

// eachObject calls f for every visible object, in no order. Files that no
// object can be named are passed over.
func (s *Store) eachObject(f func(object)) error {
	dirs, err := readNames(s.ObjectsDir())
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	for _, dir := range dirs {
		if len(dir) != 2 {
			continue
		}
		path := filepath.Join(s.ObjectsDir(), dir)
		names, err := readNames(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list objects: %w", err)
		}
		for _, n := range names {
			if d, err := canon.ParseHash(dir + n); err == nil && d.String() == dir+n {
				f(object{digest: d, path: filepath.Join(path, n)})
			}
		}
	}
	return nil
}

// Usage is what the store holds.
type Usage struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"` // allocated on the file system, all kinds of files together
	Max     int64 `json:"max"`   // the store's own limit; 0: none
}

// Usage measures the store.
func (s *Store) Usage() (Usage, error) {
	var u Usage
	if err := s.eachObject(func(object) { u.Objects++ }); err != nil {
		return Usage{}, err
	}
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	s.space.measure()
	u.Bytes, u.Max = s.space.used, s.space.max
	return u, nil
}
