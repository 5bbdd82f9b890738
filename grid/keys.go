package grid

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/zero-os/zos/sign"
)

// Names of the keys that a grid makes for itself. They lie in its own
// directory, unencrypted: a grid of `zos up` is for trying, not for secrets.
const (
	keyValidator = "validator"
	keyFarmer    = "farmer"
	keyAgent     = "farm-agent"
)

// people are the demo accounts; any two of them decide for the group.
var people = []string{"red", "green", "blue"}

// releaseKeys sign the grid's releases, two of three.
var releaseKeys = []string{"release-1", "release-2", "release-3"}

const releaseThreshold = 2

// signer returns the named key of the grid's directory, made when absent. The
// file is an OpenSSH private key, so ssh-keygen and ssh-add read it.
func (d dir) signer(name string) (sign.Signer, error) {
	s, err := sign.FromFile(d.key(name))
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	seed, s, err := sign.Generate()
	if err != nil {
		return nil, fmt.Errorf("make the key %s: %w", name, err)
	}
	return s, d.writeKey(name, seed, s)
}

func (d dir) writeKey(name string, seed [32]byte, s sign.Signer) error {
	private, err := sign.MarshalPrivate(seed, name)
	if err != nil {
		return fmt.Errorf("encode the key %s: %w", name, err)
	}
	if err := os.WriteFile(d.key(name)+".pub", []byte(s.Public().String()+" "+name+"\n"), 0o644); err != nil {
		return fmt.Errorf("write the key %s: %w", name, err)
	}
	if err := os.WriteFile(d.key(name), private, 0o600); err != nil {
		return fmt.Errorf("write the key %s: %w", name, err)
	}
	return nil
}
