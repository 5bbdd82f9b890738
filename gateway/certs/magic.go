package certs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
)

// storage is a Store as certmagic wants it: with folders.
type storage struct{ store Store }

var _ certmagic.Storage = storage{}

func (s storage) Lock(ctx context.Context, name string) error {
	return s.store.Lock(ctx, "certmagic/"+name)
}

func (s storage) Unlock(ctx context.Context, name string) error {
	return s.store.Unlock(ctx, "certmagic/"+name)
}

func (s storage) Store(ctx context.Context, key string, value []byte) error {
	if !ValidKey(key) {
		return fmt.Errorf("store: %.80q is no key", key)
	}
	return s.store.Put(ctx, key, value)
}

func (s storage) Load(ctx context.Context, key string) ([]byte, error) { return s.store.Get(ctx, key) }

// Delete removes key and all below it.
func (s storage) Delete(ctx context.Context, key string) error {
	if err := s.store.Delete(ctx, key); err != nil {
		return err
	}
	below, err := s.store.List(ctx, key+"/")
	if err != nil {
		return err
	}
	for _, k := range below {
		if err := s.store.Delete(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

func (s storage) Exists(ctx context.Context, key string) bool {
	if _, err := s.store.Stat(ctx, key); err == nil {
		return true
	}
	below, err := s.store.List(ctx, key+"/")
	return err == nil && len(below) > 0
}

// List returns what is in a folder, or all that is below it.
func (s storage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	prefix := strings.TrimSuffix(path, "/") + "/"
	if path == "" {
		prefix = ""
	}
	keys, err := s.store.List(ctx, prefix)
	if err != nil || recursive {
		return keys, err
	}
	for i, k := range keys {
		word, _, _ := strings.Cut(k[len(prefix):], "/")
		keys[i] = prefix + word
	}
	return slices.Compact(keys), nil
}

func (s storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	i, err := s.store.Stat(ctx, key)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key, Modified: i.Modified, Size: i.Size, IsTerminal: true}, nil
}
