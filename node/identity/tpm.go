package identity

import (
	"errors"
	"fmt"
)

// tpmStore keeps a secret sealed in a TPM's NV index.
type tpmStore struct {
	tpm   TPM
	index uint32
	empty error
}

func (t tpmStore) load() ([]byte, error) {
	b, err := t.tpm.Unseal(t.index)
	if err != nil && t.empty != nil && errors.Is(err, t.empty) {
		return nil, errNothing
	}
	return b, err
}

// save seals. Package identity loads first, so what is in the index already is
// not overwritten: a TPM that can't be read is an error, not an empty one.
func (t tpmStore) save(b []byte) error {
	if err := t.tpm.Seal(t.index, b); err != nil {
		return fmt.Errorf("seal node keys in the TPM: %w", err)
	}
	return nil
}
