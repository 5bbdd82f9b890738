package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"
)

// Key is a WireGuard key: a Curve25519 private or public key, or a preshared
// key of 32 random bytes. The zero Key means none.
type Key [32]byte

// NewPrivateKey makes a private key, clamped as Curve25519 wants it, so that it
// reads back from the kernel unchanged.
func NewPrivateKey() Key {
	var k Key
	rand.Read(k[:]) // never fails: it ends the process instead
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// Public returns the public key that belongs to the private key k.
func (k Key) Public() Key {
	// Neither step can fail: 32 bytes are always a key, and the base point always
	// gives a point.
	private, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		return Key{}
	}
	return Key(private.PublicKey().Bytes())
}

// IsZero tells whether k is no key.
func (k Key) IsZero() bool { return k == Key{} }

// String returns the key in base64, as WireGuard's own tools write it. Never
// log a private or preshared key.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ParseKey reads what String wrote, and nothing else.
func ParseKey(s string) (Key, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(Key{}) || Key(b).String() != s {
		return Key{}, fmt.Errorf("a WireGuard key is 44 characters of base64, not %d characters %.50q", len(s), s)
	}
	return Key(b), nil
}
