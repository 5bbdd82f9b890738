package certs_test

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/problem"
)

func TestStoresKeepTheirPromises(t *testing.T) {
	dir, err := certs.NewDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]certs.Store{
		"memory": &certs.Memory{}, "directory": dir, "sealed": certs.Seal(&certs.Memory{}, [32]byte{7}),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			if _, err := s.Get(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("get: %v", err)
			}
			if _, err := s.Stat(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("stat: %v", err)
			}
			for k, v := range map[string]string{"a/b": "one", "a/c/d": "", "ab": "three"} {
				for _, v := range []string{"old", v} {
					if err := s.Put(ctx, k, []byte(v)); err != nil {
						t.Fatal(err)
					}
				}
				if got, err := s.Get(ctx, k); err != nil || string(got) != v {
					t.Errorf("get %s: %q, %v", k, got, err)
				}
			}
			if got, err := s.List(ctx, "a/"); err != nil || !slices.Equal(got, []string{"a/b", "a/c/d"}) {
				t.Errorf("list: %q, %v", got, err)
			}
			if i, err := s.Stat(ctx, "a/b"); err != nil || i.Size < 3 || time.Since(i.Modified) > time.Minute {
				t.Errorf("stat: %+v, %v", i, err)
			}
			for range 2 {
				if err := s.Delete(ctx, "a/b"); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
			if _, err := s.Get(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("get of what was deleted: %v", err)
			}
			for _, k := range []string{"", "/a", "a/", "a//b", "a/../b", "a b", "a\n", strings.Repeat("k", certs.MaxKey+1)} {
				if s.Put(ctx, k, nil) == nil {
					t.Errorf("key %.20q is taken", k)
				}
			}
			if s.Put(ctx, "big", make([]byte, certs.MaxValue+1)) == nil {
				t.Error("too large a value is taken")
			}

			if err := s.Lock(ctx, "l"); err != nil {
				t.Fatal(err)
			}
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			if err := s.Lock(short, "l"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("second lock: %v", err)
			}
			got := make(chan error)
			go func() { got <- s.Lock(ctx, "l") }()
			if err := s.Unlock(ctx, "l"); err != nil {
				t.Errorf("unlock: %v", err)
			}
			if err := <-got; err != nil {
				t.Errorf("lock after unlock: %v", err)
			}
			if err := s.Unlock(ctx, "l"); err != nil {
				t.Errorf("unlock: %v", err)
			}
			if s.Unlock(ctx, "l") == nil {
				t.Error("what is not locked can be unlocked")
			}
		})
	}
}

func TestWhoHoldsTheStoreCanNeitherReadNorForge(t *testing.T) {
	ctx := context.Background()
	raw := &certs.Memory{}
	key := [32]byte{1, 2, 3}
	s := certs.Seal(raw, key)
	put := func(k, v string) []byte {
		t.Helper()
		if err := s.Put(ctx, k, []byte(v)); err != nil {
			t.Fatal(err)
		}
		b, err := raw.Get(ctx, k)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	code := func(s certs.Store, k string) string {
		t.Helper()
		v, err := s.Get(ctx, k)
		if err == nil {
			t.Errorf("%s reads %q", k, v)
		}
		return problem.Code(err)
	}
	old := put("a", "secret one")
	b := put("a", "secret two")
	put("b", "other")
	if strings.Contains(string(b), "secret") {
		t.Error("plain text in the store")
	}
	for i := range b {
		bad := slices.Clone(b)
		bad[i] ^= 1
		_ = raw.Put(ctx, "a", bad)
		if c := code(s, "a"); c != "store-damaged" {
			t.Fatalf("byte %d altered: %q", i, c)
		}
	}
	for n := range b {
		_ = raw.Put(ctx, "a", b[:n])
		if c := code(s, "a"); c != "store-damaged" {
			t.Fatalf("cut to %d bytes: %q", n, c)
		}
	}
	_ = raw.Put(ctx, "b", b) // another key's
	if c := code(s, "b"); c != "store-damaged" {
		t.Errorf("swapped: %q", c)
	}
	_ = raw.Put(ctx, "a", b)
	if c := code(certs.Seal(raw, [32]byte{9}), "a"); c != "store-damaged" {
		t.Errorf("another publication's: %q", c)
	}
	_ = raw.Put(ctx, "a", old)
	if c := code(s, "a"); c != "store-old" {
		t.Errorf("rolled back: %q", c)
	}
	// What is written after that is newer than all that was seen.
	put("a", "secret three")
	if v, err := certs.Seal(raw, key).Get(ctx, "a"); err != nil || string(v) != "secret three" {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := s.Get(ctx, "a"); err != nil || string(v) != "secret three" {
		t.Errorf("%q, %v", v, err)
	}
	// Deleted by another gateway, and made again.
	_ = raw.Delete(ctx, "a")
	if _, err := s.Get(ctx, "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := certs.Seal(raw, key).Put(ctx, "a", []byte("anew")); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get(ctx, "a"); err != nil || string(v) != "anew" {
		t.Errorf("%q, %v", v, err)
	}
}
