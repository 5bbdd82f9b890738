package sign

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/crypto/ssh"

	"github.com/zero-os/zos/problem"
)

// Signer holds one key, or reaches the agent that does.
type Signer interface {
	Public() PublicKey
	// Sign returns the SSHSIG blob of message in namespace. With an agent it may
	// wait for a person to touch a token; end ctx to give up.
	Sign(ctx context.Context, namespace string, message []byte) ([]byte, error)
}

// seedSigner signs with a private key in memory.
type seedSigner struct {
	key ed25519.PrivateKey
	pub PublicKey
}

// FromSeed returns the signer of the ed25519 key that belongs to seed.
func FromSeed(seed [32]byte) Signer {
	k := ed25519.NewKeyFromSeed(seed[:])
	return &seedSigner{key: k, pub: FromEd25519(k.Public().(ed25519.PublicKey))}
}

// Generate makes a new key from the system's randomness.
func Generate() (seed [32]byte, s Signer, err error) {
	if _, err := rand.Read(seed[:]); err != nil {
		return seed, nil, fmt.Errorf("generate signing key: %w", err)
	}
	return seed, FromSeed(seed), nil
}

func (s *seedSigner) Public() PublicKey { return s.pub }

func (s *seedSigner) Sign(_ context.Context, namespace string, message []byte) ([]byte, error) {
	if namespace == "" {
		return nil, errors.New("sign: a namespace is needed")
	}
	return blob{key: s.pub, namespace: namespace, sig: ed25519.Sign(s.key, toSign(namespace, message))}.bytes(), nil
}

// maxKeyFile bounds a private key file in bytes.
const maxKeyFile = 64 << 10

// FromFile returns the signer of an unencrypted OpenSSH ed25519 private key
// file. Codes: "key-encrypted" if it has a passphrase, "key-invalid" otherwise.
func FromFile(path string) (Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	if len(b) > maxKeyFile {
		return nil, problem.New("key-invalid", "read private key %s: not a key file, it has more than %d bytes", path, maxKeyFile)
	}
	raw, err := ssh.ParseRawPrivateKey(b)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		return nil, problem.New("key-encrypted", "read private key %s: it is protected by a passphrase", path).
			WithFix("add it to your agent with ssh-add %s; zos then signs through ssh-agent", path)
	}
	if err != nil {
		return nil, problem.New("key-invalid", "read private key %s: %w", path, err).
			WithFix("use an ed25519 key file; keys on a token sign through ssh-agent")
	}
	k, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return nil, problem.New("key-invalid", "read private key %s: its type is not ed25519", path).
			WithFix("make one with ssh-keygen -t ed25519")
	}
	return FromSeed([32]byte(k.Seed())), nil
}

// MarshalPrivate returns seed's key as an unencrypted OpenSSH private key file,
// which FromFile and ssh-keygen read. Store it with mode 0600.
func MarshalPrivate(seed [32]byte, comment string) ([]byte, error) {
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(seed[:]), comment)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(block), nil
}
