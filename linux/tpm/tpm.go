package tpm

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/zero-os/zos/problem"
)

// DefaultPath is the kernel's resource-managed device of the first TPM 2.0.
const DefaultPath = "/dev/tpmrm0"

// NV indices of a node, in the range that TCG leaves to the owner.
const (
	IndexIdentity = 0x0180_5A01 // the node's seeds, sealed
	IndexFloor    = 0x0180_5A02 // the release floor
)

// MaxSecret is the longest secret that Seal takes, in bytes: what every TPM 2.0
// can seal in one object.
const MaxSecret = 128

// Errors to be told apart by callers.
var (
	// ErrNoTPM: the machine has no TPM 2.0 that answers.
	ErrNoTPM = errors.New("no TPM 2.0")
	// ErrEmpty: the NV index was never written.
	ErrEmpty = errors.New("NV index is empty")
)

// TPM is an open TPM 2.0. It is not safe for concurrent use.
type TPM struct {
	t transport.TPMCloser
}

// Open opens the device at path. Without the device the error is ErrNoTPM.
func Open(path string) (*TPM, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open TPM %s: %w", path, ErrNoTPM)
	}
	t, err := linuxtpm.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open TPM %s: %w: %w", path, ErrNoTPM, err)
	}
	return &TPM{t: t}, nil
}

// New uses an open transport, which Close closes: a simulator's, in tests.
func New(t transport.TPMCloser) *TPM { return &TPM{t: t} }

// Close releases the device.
func (t *TPM) Close() error { return t.t.Close() }

// storageKey makes the TPM's primary storage key. It is derived from the chip's
// own seed and the standard template, so it is the same key each time and needs
// no storage. The caller flushes it.
func (t *TPM) storageKey() (*tpm2.CreatePrimaryResponse, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(t.t)
	if err != nil {
		return nil, problem.New("tpm-failed", "make the TPM's storage key: %w", err).
			WithFix("clear the TPM in the machine's setup: its owner password must be empty")
	}
	return rsp, nil
}

func (t *TPM) flush(h tpm2.TPMHandle) {
	// A handle that stays behind is reclaimed by the resource manager on Close.
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t.t)
}

// Seal seals secret (1 to MaxSecret bytes) under this TPM and keeps it in the
// NV index, replacing what was there.
func (t *TPM) Seal(index uint32, secret []byte) error {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return fmt.Errorf("seal to NV index %#x: secret of %d bytes, want 1 to %d", index, len(secret), MaxSecret)
	}
	srk, err := t.storageKey()
	if err != nil {
		return err
	}
	defer t.flush(srk.ObjectHandle)
	obj, err := tpm2.Create{
		ParentHandle: tpm2.NamedHandle{Handle: srk.ObjectHandle, Name: srk.Name},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type:    tpm2.TPMAlgKeyedHash,
			NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{
				FixedTPM:     true,
				FixedParent:  true,
				UserWithAuth: true,
				NoDA:         true,
			},
		}),
	}.Execute(t.t, encrypted(srk, tpm2.AESEncryption(128, tpm2.EncryptIn)))
	if err != nil {
		return problem.New("tpm-failed", "seal to NV index %#x: %w", index, err)
	}
	return t.writeNV(index, encodeBlob(blob{public: tpm2.Marshal(obj.OutPublic), private: tpm2.Marshal(obj.OutPrivate)}))
}

// Unseal returns the secret that Seal left in the NV index. A TPM that never
// held one gives ErrEmpty; one whose index holds something else an error.
func (t *TPM) Unseal(index uint32) ([]byte, error) {
	raw, err := t.readNV(index)
	if err != nil {
		return nil, err
	}
	public, private, err := decodeObject(raw)
	if err != nil {
		return nil, fmt.Errorf("unseal NV index %#x: %w", index, err)
	}
	srk, err := t.storageKey()
	if err != nil {
		return nil, err
	}
	defer t.flush(srk.ObjectHandle)
	obj, err := tpm2.Load{
		ParentHandle: tpm2.NamedHandle{Handle: srk.ObjectHandle, Name: srk.Name},
		InPrivate:    private,
		InPublic:     public,
	}.Execute(t.t)
	if err != nil {
		return nil, problem.New("tpm-failed", "load the sealed object of NV index %#x: %w", index, err)
	}
	defer t.flush(obj.ObjectHandle)
	rsp, err := tpm2.Unseal{
		ItemHandle: tpm2.NamedHandle{Handle: obj.ObjectHandle, Name: obj.Name},
	}.Execute(t.t, encrypted(srk, tpm2.AESEncryption(128, tpm2.EncryptOut)))
	if err != nil {
		return nil, problem.New("tpm-failed", "unseal NV index %#x: %w", index, err)
	}
	return rsp.OutData.Buffer, nil
}

// encrypted is a session that keeps the secret off the wires between processor
// and chip: its key comes from a salt encrypted to the storage key. encryption
// says which parameter is hidden.
func encrypted(srk *tpm2.CreatePrimaryResponse, encryption tpm2.AuthOption) tpm2.Session {
	pub, err := srk.OutPublic.Contents()
	if err != nil {
		// Only a TPM that answers nonsense gets here; the empty password then
		// makes the command fail or succeed exactly as without encryption.
		return tpm2.PasswordAuth(nil)
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(srk.ObjectHandle, *pub), encryption)
}
