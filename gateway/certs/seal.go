package certs

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/zero-os/zos/problem"
)

// Form of a sealed value: magic, version (8 bytes, big endian), nonce, ciphertext
// with its tag (XChaCha20-Poly1305). The key's name and the version are
// authenticated with it.
const (
	sealMagic = "zgs1"
	sealHead  = len(sealMagic) + 8 + chacha20poly1305.NonceSizeX
	sealLabel = "zos-gateway-store-v1\x00"

	// maxRemembered bounds the keys whose versions are remembered.
	maxRemembered = 4096
)

// sealed encrypts what goes into a Store.
type sealed struct {
	Store
	aead cipher.AEAD

	mu   sync.Mutex
	seen map[string]uint64 // newest version of a key that was read or written
}

// Seal returns a Store that keeps values in s encrypted under key, so that who
// holds s can neither read nor make them, nor put one key's value under another
// (store-damaged). An older value of the same key is refused (store-old) by whoever
// has seen a newer one since it began; that a key is missing can't be told from its
// deletion. Names, sizes and times are not hidden.
func Seal(s Store, key [32]byte) Store {
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err) // of a key's length, which is right
	}
	return &sealed{Store: s, aead: aead, seen: map[string]uint64{}}
}

// label is what is authenticated with a value.
func label(key string, version []byte) []byte {
	return append(append([]byte(sealLabel), version...), key...)
}

func (s *sealed) Put(ctx context.Context, key string, value []byte) error {
	// The version follows what is there and what was seen: gateways that write one
	// key hold a lock for it.
	var last uint64
	if old, err := s.Store.Get(ctx, key); err == nil {
		if _, v, err := s.open(key, old); err == nil {
			last = v
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.mu.Lock()
	version := max(last, s.seen[key]) + 1
	s.mu.Unlock()

	b := append(make([]byte, 0, sealHead+len(value)+s.aead.Overhead()), sealMagic...)
	b = binary.BigEndian.AppendUint64(b, version)
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	if _, err := rand.Read(nonce); err != nil {
		return err
	}
	b = append(b, nonce...)
	b = s.aead.Seal(b, nonce, value, label(key, b[len(sealMagic):len(sealMagic)+8]))
	if err := s.Store.Put(ctx, key, b); err != nil {
		return err
	}
	s.remember(key, version)
	return nil
}

func (s *sealed) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := s.Store.Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		s.mu.Lock()
		delete(s.seen, key) // another gateway may have deleted it, and begin anew
		s.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	value, version, err := s.open(key, b)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	newest := s.seen[key]
	s.mu.Unlock()
	if version < newest {
		return nil, problem.New("store-old", "read %s of the certificates' store: it is older than what was there before", key).
			WithFix("a node that keeps it lies or was restored from a copy; delete the key")
	}
	s.remember(key, version)
	return value, nil
}

func (s *sealed) Delete(ctx context.Context, key string) error {
	if err := s.Store.Delete(ctx, key); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.seen, key)
	s.mu.Unlock()
	return nil
}

func (s *sealed) remember(key string, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[key]; !ok && len(s.seen) >= maxRemembered {
		for k := range s.seen { // any one
			delete(s.seen, k)
			break
		}
	}
	s.seen[key] = max(version, s.seen[key])
}

func (s *sealed) open(key string, b []byte) (value []byte, version uint64, err error) {
	damaged := func() error {
		return problem.New("store-damaged", "read %s of the certificates' store: it was not written under this publication's key", key).
			WithFix("a node that keeps it lies or is damaged; delete the key")
	}
	if len(b) < sealHead || string(b[:len(sealMagic)]) != sealMagic {
		return nil, 0, damaged()
	}
	v := b[len(sealMagic) : len(sealMagic)+8]
	value, err = s.aead.Open(nil, b[len(sealMagic)+8:sealHead], b[sealHead:], label(key, v))
	if err != nil {
		return nil, 0, damaged()
	}
	return value, binary.BigEndian.Uint64(v), nil
}
