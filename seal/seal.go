package seal

import (
	"crypto/hpke"
	"fmt"

	"github.com/zero-os/zos/problem"
)

// Sizes in bytes.
const (
	// PublicSize is the length of a public key.
	PublicSize = 1216
	// Overhead is how much longer sealed bytes are than the plaintext: version,
	// encapsulated key, authentication tag.
	Overhead = 1 + encSize + 16

	encSize = 1120
)

// version begins all sealed bytes: KEM MLKEM768X25519, HKDF-SHA256, AES-256-GCM.
const version = 1

// label separates our use of the algorithms from every other; the caller's
// info follows it. It has no variable part, so no two infos can collide.
const label = "zos-seal-v1\x00"

// PrivateKey opens what was sealed to its public half.
type PrivateKey struct {
	key    hpke.PrivateKey
	public []byte
}

// KeyFromSeed makes the key that belongs to seed, 32 secret random bytes. The
// same seed gives the same key, always.
func KeyFromSeed(seed [32]byte) (*PrivateKey, error) {
	k, err := hpke.MLKEM768X25519().NewPrivateKey(seed[:])
	if err != nil {
		return nil, fmt.Errorf("derive sealing key: %w", err)
	}
	return &PrivateKey{key: k, public: k.PublicKey().Bytes()}, nil
}

// Public returns the public key, PublicSize bytes that may be published.
func (k *PrivateKey) Public() []byte { return append([]byte(nil), k.public...) }

// CheckPublic tells whether pub is a usable public key.
func CheckPublic(pub []byte) error {
	if len(pub) != PublicSize {
		return problem.New("key-invalid", "sealing key has %d bytes, want %d", len(pub), PublicSize)
	}
	if _, err := hpke.MLKEM768X25519().NewPublicKey(pub); err != nil {
		return problem.New("key-invalid", "sealing key: %w", err)
	}
	return nil
}

// Seal encrypts plaintext to pub. Open needs the same info. The result is
// Overhead bytes longer than plaintext and differs at every call.
func Seal(pub []byte, info, plaintext []byte) ([]byte, error) {
	if err := CheckPublic(pub); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	pk, err := hpke.MLKEM768X25519().NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	ct, err := hpke.Seal(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), bind(info), plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return append([]byte{version}, ct...), nil
}

// Open decrypts what was sealed to k with the same info. Its errors have the
// code "unsealable" and never tell which of key, info and bytes was wrong.
func (k *PrivateKey) Open(info, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead || sealed[0] != version {
		return nil, problem.New("unsealable", "open sealed bytes: not in a known format")
	}
	pt, err := hpke.Open(k.key, hpke.HKDFSHA256(), hpke.AES256GCM(), bind(info), sealed[1:])
	if err != nil {
		return nil, problem.New("unsealable", "open sealed bytes: sealed to another key or for another purpose, or altered")
	}
	return pt, nil
}

func bind(info []byte) []byte { return append([]byte(label), info...) }
