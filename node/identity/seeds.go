package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// seeds are the two secrets of a node, 32 random bytes each.
type seeds struct {
	signing [32]byte
	sealing [32]byte
}

// wipe overwrites the seeds. The keys derived from them stay in memory.
func (s *seeds) wipe() {
	clear(s.signing[:])
	clear(s.sealing[:])
}

// stored is the form of seeds on a disk and in a TPM. The names are short: a TPM
// seals no more than 128 bytes, and this is 112.
type stored struct {
	V       uint64     `cbor:"v"`
	Binding canon.Hash `cbor:"b"`
	Signing [32]byte   `cbor:"s"`
	Sealing [32]byte   `cbor:"e"`
}

const (
	storedVersion = 1
	maxStored     = 128
)

// binding is the hash of grid and slot: to whom seeds belong.
func binding(grid, slot canon.Hash) canon.Hash {
	b := append([]byte("zos-node-key-v1\x00"), grid[:]...)
	return canon.Sum(append(b, slot[:]...))
}

func (s *seeds) encode(to canon.Hash) ([]byte, error) {
	f := stored{V: storedVersion, Binding: to, Signing: s.signing, Sealing: s.sealing}
	defer clear(f.Signing[:])
	defer clear(f.Sealing[:])
	return canon.Marshal(f)
}

// decode reads what encode gave, for the same binding.
func (s *seeds) decode(b []byte, to canon.Hash) error {
	var f stored
	if err := canon.UnmarshalLimit(b, maxStored, &f); err != nil || f.V != storedVersion {
		// The cause is left out on purpose: it could quote the secret.
		return problem.New("key-damaged", "stored node keys can't be read (%d bytes)", len(b)).
			WithFix("restore them, or delete them and have the farm re-key the slot")
	}
	defer clear(f.Signing[:])
	defer clear(f.Sealing[:])
	if subtle.ConstantTimeCompare(f.Binding[:], to[:]) != 1 {
		return problem.New("key-foreign", "stored node keys belong to another grid or slot").
			WithFix("put the disk or TPM back into its own slot, or delete the keys on it first")
	}
	s.signing, s.sealing = f.Signing, f.Sealing
	return nil
}

// store is where seeds are kept. load returns errNothing where nothing was ever
// stored; save never replaces anything.
type store interface {
	load() ([]byte, error)
	save([]byte) error
}

var errNothing = errors.New("nothing is stored")

// openSeeds loads the seeds, or makes and stores them.
func openSeeds(st store, to canon.Hash) (s *seeds, fresh bool, err error) {
	s = &seeds{}
	b, err := st.load()
	defer func() { clear(b) }()
	if err == nil {
		if err := s.decode(b, to); err != nil {
			return nil, false, err
		}
		return s, false, nil
	}
	if !errors.Is(err, errNothing) {
		return nil, false, err
	}
	rand.Read(s.signing[:])
	rand.Read(s.sealing[:])
	b, err = s.encode(to)
	if err != nil {
		return nil, false, err
	}
	if err := st.save(b); err != nil {
		return nil, false, err
	}
	// Keys that can't be read back would be lost at the next boot: find out now.
	back, err := st.load()
	defer clear(back)
	if err != nil {
		return nil, false, fmt.Errorf("read back stored node keys: %w", err)
	}
	if subtle.ConstantTimeCompare(b, back) != 1 {
		return nil, false, problem.New("key-damaged", "stored node keys read back differently")
	}
	return s, true, nil
}
