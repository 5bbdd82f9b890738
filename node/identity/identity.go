package identity

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// NonceSize is the length of a boot nonce in bytes.
const NonceSize = 16

// Names of what is stored.
const (
	keyFile   = "node.key"   // seeds, in Config.Dir or Config.RunDir
	nonceFile = "boot.nonce" // in Config.RunDir
)

// TPM is the part of a TPM that is needed. Unseal returns an error that is
// Config.TPMEmpty when nothing was ever sealed in the index.
type TPM interface {
	Seal(index uint32, secret []byte) error
	Unseal(index uint32) ([]byte, error)
}

// Config says whose keys to open, and where they are.
type Config struct {
	// Mode is contract.IdentityDisk, IdentityTPM or IdentityNone, as the farm
	// declared for the slot.
	Mode string
	Grid canon.Hash
	Slot canon.Hash
	// Dir is on the data disk, /data/keys in a node; for IdentityDisk.
	Dir string
	// RunDir is in memory and lasts as long as the boot, /run/zos/keys in a
	// node. It keeps the boot nonce, and with IdentityNone the keys, over a
	// restart of the daemon.
	RunDir string
	// TPM, TPMIndex and TPMEmpty are for IdentityTPM; in a node those of package
	// linux/tpm: *TPM, IndexIdentity, ErrEmpty.
	TPM      TPM
	TPMIndex uint32
	TPMEmpty error
}

// Identity is a node's keys for this boot.
type Identity struct {
	Signer  sign.Signer
	Sealing *seal.PrivateKey
	// BootNonce is 16 random bytes of this boot; a restart of the daemon alone
	// keeps it.
	BootNonce [NonceSize]byte
	// Entry is the secret of which the keys are derived that people's devices know
	// this node by. It lasts as long as the other keys.
	Entry [32]byte
	// Kept is the secret of which the keys are derived of what the node keeps on its
	// disk for itself. It lasts as long as the other keys.
	Kept [32]byte
	// Fresh tells that the keys were made just now.
	Fresh bool
}

// Open returns the slot's keys, and makes and stores them where there are none
// yet. Codes of its errors: "key-foreign" (stored keys belong to another grid or
// slot), "key-damaged" (what is stored is no key), "tpm-failed", and none for a
// directory that can't be used. It never replaces stored keys.
func Open(cfg Config) (*Identity, error) {
	if cfg.Grid.IsZero() || cfg.Slot.IsZero() || cfg.RunDir == "" {
		return nil, errors.New("open node keys: grid, slot and a run directory are needed")
	}
	nonce, err := bootNonce(cfg.RunDir)
	if err != nil {
		return nil, err
	}
	keys, err := cfg.store()
	if err != nil {
		return nil, err
	}
	s, fresh, err := openSeeds(keys, binding(cfg.Grid, cfg.Slot))
	if err != nil {
		return nil, fmt.Errorf("open node keys of slot %s (%s): %w", cfg.Slot.Short(), cfg.Mode, err)
	}
	defer s.wipe()
	sealing, err := seal.KeyFromSeed(s.sealing)
	if err != nil {
		return nil, fmt.Errorf("open node keys: %w", err)
	}
	entry, err := hkdf.Key(sha256.New, s.signing[:], nil, "zos-node-entry-v1", 32)
	if err != nil {
		return nil, fmt.Errorf("open node keys: %w", err)
	}
	kept, err := hkdf.Key(sha256.New, s.signing[:], nil, "zos-node-kept-v1", 32)
	if err != nil {
		return nil, fmt.Errorf("open node keys: %w", err)
	}
	return &Identity{Signer: sign.FromSeed(s.signing), Sealing: sealing, BootNonce: nonce, Entry: [32]byte(entry), Kept: [32]byte(kept), Fresh: fresh}, nil
}

// store is where the seeds are.
func (cfg Config) store() (store, error) {
	switch cfg.Mode {
	case contract.IdentityDisk:
		if cfg.Dir == "" {
			return nil, problem.New("key-store-missing", "open node keys: the slot keeps them on its data disk, and there is none").
				WithFix("attach the slot's disk, or have the farm declare another identity")
		}
		return fileStore{cfg.Dir, keyFile}, nil
	case contract.IdentityTPM:
		if cfg.TPM == nil {
			return nil, problem.New("key-store-missing", "open node keys: the slot keeps them in a TPM, and there is none").
				WithFix("enable the machine's TPM 2.0, or have the farm declare another identity")
		}
		return tpmStore{cfg.TPM, cfg.TPMIndex, cfg.TPMEmpty}, nil
	case contract.IdentityNone:
		return fileStore{cfg.RunDir, keyFile}, nil
	}
	return nil, fmt.Errorf("open node keys: identity %q is none of disk, tpm, none", cfg.Mode)
}

// bootNonce reads or makes the nonce of this boot.
func bootNonce(dir string) ([NonceSize]byte, error) {
	var nonce [NonceSize]byte
	f := fileStore{dir, nonceFile}
	b, err := f.load()
	if errors.Is(err, errNothing) {
		rand.Read(nonce[:])
		if err := f.save(nonce[:]); err != nil {
			return nonce, fmt.Errorf("keep boot nonce: %w", err)
		}
		return nonce, nil
	}
	if err != nil {
		return nonce, fmt.Errorf("read boot nonce: %w", err)
	}
	if len(b) != NonceSize {
		return nonce, problem.New("key-damaged", "read boot nonce %s: %d bytes, want %d", filepath.Join(dir, nonceFile), len(b), NonceSize)
	}
	return [NonceSize]byte(b), nil
}

// Forget deletes the keys of a slot from a data disk, when the farm takes the
// machine out of the slot. Without keys it does nothing.
func Forget(dir string) error {
	if err := os.Remove(filepath.Join(dir, keyFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete node keys: %w", err)
	}
	return syncDir(dir)
}
