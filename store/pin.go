package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/mount"
)

// Pin keeps the objects of a flist from being evicted, on behalf of owner
// ([a-z0-9-], 1 to 64), until Unpin, also after a restart. A mounted flist needs no
// pin: the kernel's list of mounts is asked too.
func (s *Store) Pin(d canon.Hash, owner string) error {
	path, err := s.pinPath(d, owner)
	if err == nil {
		err = s.putFile(path, nil)
	}
	if err != nil {
		return fmt.Errorf("pin flist %s for %s: %w", d.Short(), owner, err)
	}
	return nil
}

// Unpin takes a pin back; it is no error if there is none.
func (s *Store) Unpin(d canon.Hash, owner string) error {
	path, err := s.pinPath(d, owner)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin flist %s for %s: %w", d.Short(), owner, err)
	}
	s.space.lookAgain()
	return nil
}

// Pins lists the pinned flists with their owners.
func (s *Store) Pins() (map[canon.Hash][]string, error) {
	names, err := readNames(filepath.Join(s.dir, pinsDir))
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	pins := map[canon.Hash][]string{}
	for _, n := range names {
		hex, owner, _ := strings.Cut(n, ".")
		if d, err := canon.ParseHash(hex); err == nil {
			pins[d] = append(pins[d], owner)
		}
	}
	return pins, nil
}

func (s *Store) pinPath(d canon.Hash, owner string) (string, error) {
	if !regexp.MustCompile(`^[a-z0-9-]{1,64}$`).MatchString(owner) {
		return "", fmt.Errorf("bad owner %q: want 1 to 64 of a-z, 0-9 and -", owner)
	}
	return filepath.Join(s.dir, pinsDir, d.String()+"."+owner), nil
}

// kept returns the flists whose objects must stay: pinned ones and mounted ones.
func (s *Store) kept() (map[canon.Hash]bool, error) {
	pins, err := s.Pins()
	if err != nil {
		return nil, err
	}
	kept := make(map[canon.Hash]bool, len(pins))
	for d := range pins {
		kept[d] = true
	}
	mounts, err := mount.Under("/")
	if err != nil {
		return nil, err
	}
	for _, e := range mounts {
		if info, ok := mountInfo(e); ok {
			kept[info.Flist] = true
		}
	}
	return kept, nil
}
