package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
)

// PutManifest stores the canonical bytes of the flist d, durably. The error's
// code is digest-mismatch, manifest-invalid or disk-full.
func (s *Store) PutManifest(d canon.Hash, b []byte) error {
	if got := canon.Sum(b); got != d {
		return problem.New(CodeDigestMismatch, "store flist %s: its bytes have the digest %s", d.Short(), got)
	}
	m, err := flist.Decode(b)
	if err != nil {
		return fmt.Errorf("store flist %s: %w", d.Short(), err)
	}
	if err := s.putFile(s.manifestPath(d), b); err != nil {
		return fmt.Errorf("store flist %s: %w", d.Short(), err)
	}
	s.index.add(d, newContents(m)) // reading it again takes long for a large tree
	return nil
}

// putFile writes a small durable file, all or nothing.
func (s *Store) putFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(s.tmp.path, "m-")
	if err != nil {
		return diskFull(err)
	}
	defer func() {
		if err != nil {
			err = diskFull(errors.Join(err, f.Close(), os.Remove(f.Name())))
		}
	}()
	if _, err = f.Write(b); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return errors.Join(f.Close(), syncDir(filepath.Dir(path)))
}

// ManifestBytes returns the canonical bytes of the flist d after checking their
// digest. A file that does not match is removed, so that it is fetched again.
// The error wraps os.ErrNotExist when there is none.
func (s *Store) ManifestBytes(d canon.Hash) ([]byte, error) {
	path := s.manifestPath(d)
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read flist %s: %w", d.Short(), err)
	}
	var b []byte
	if st.Size() <= flist.MaxManifest {
		if b, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read flist %s: %w", d.Short(), err)
		}
	}
	if canon.Sum(b) != d {
		s.log.Warn("a stored manifest was damaged, it is fetched again", "flist", d.String())
		_ = os.Remove(path)
		return nil, fmt.Errorf("read flist %s: stored manifest was damaged: %w", d.Short(), os.ErrNotExist)
	}
	return b, nil
}

// Manifest returns the flist d, checked again. The error wraps os.ErrNotExist
// when the store doesn't have it.
func (s *Store) Manifest(d canon.Hash) (flist.Manifest, error) {
	b, err := s.ManifestBytes(d)
	if err != nil {
		return flist.Manifest{}, err
	}
	m, err := flist.Decode(b)
	if err != nil {
		return flist.Manifest{}, fmt.Errorf("read flist %s: %w", d.Short(), err)
	}
	return m, nil
}

// Manifests lists the flists whose manifests are in the store.
func (s *Store) Manifests() ([]canon.Hash, error) {
	names, err := readNames(filepath.Join(s.dir, manifestsDir))
	if err != nil {
		return nil, fmt.Errorf("list flists: %w", err)
	}
	all := make([]canon.Hash, 0, len(names))
	for _, n := range names {
		if d, err := canon.ParseHash(n); err == nil {
			all = append(all, d)
		}
	}
	return all, nil
}

// RemoveManifest forgets the flist d, its metadata image included. Its objects
// stay until their room is needed. A pinned or mounted flist is refused.
func (s *Store) RemoveManifest(d canon.Hash) error {
	kept, err := s.kept()
	if err != nil {
		return err
	}
	if kept[d] {
		return fmt.Errorf("remove flist %s: it is pinned or mounted", d.Short())
	}
	s.imagesMu.Lock()
	delete(s.images, d)
	s.imagesMu.Unlock()
	for _, p := range []string{s.imagePath(d), s.manifestPath(d)} {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove flist %s: %w", d.Short(), err)
		}
	}
	return nil
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
