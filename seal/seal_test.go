package seal

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func key(t testing.TB, n byte) *PrivateKey {
	t.Helper()
	k, err := KeyFromSeed([32]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sealed(t testing.TB, k *PrivateKey, info, text string) []byte {
	t.Helper()
	b, err := Seal(k.Public(), []byte(info), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSealedOpensWithKeyAndInfo(t *testing.T) {
	k := key(t, 1)
	for _, text := range []string{"", "x", string(make([]byte, 1<<20))} {
		b := sealed(t, k, "info", text)
		if len(b) != len(text)+Overhead {
			t.Errorf("%d bytes sealed to %d, want %d more", len(text), len(b), Overhead)
		}
		got, err := k.Open([]byte("info"), b)
		if err != nil || string(got) != text {
			t.Errorf("got %d bytes, %v; want %d bytes", len(got), err, len(text))
		}
	}
}

func TestSealingTwiceDiffers(t *testing.T) {
	k := key(t, 1)
	if bytes.Equal(sealed(t, k, "i", "x"), sealed(t, k, "i", "x")) {
		t.Error("two sealings are equal")
	}
}

func TestSeedAlwaysGivesTheSameKey(t *testing.T) {
	// The digest was written down when the format was frozen: a node that finds
	// its seed again must find its key again, whatever built it.
	const want = "c51b533bcc7756befc894243b2369da7"
	if got := hex.EncodeToString(sum(key(t, 7).Public())); got != want {
		t.Errorf("public key of the fixed seed hashes to %s, want %s", got, want)
	}
	if bytes.Equal(key(t, 7).Public(), key(t, 8).Public()) {
		t.Error("two seeds give one key")
	}
	if n := len(key(t, 7).Public()); n != PublicSize {
		t.Errorf("public key has %d bytes, want %d", n, PublicSize)
	}
}

func sum(b []byte) []byte { h := canon.Sum(b); return h[:16] }

func TestOtherKeyInfoOrBytesDoNotOpen(t *testing.T) {
	k := key(t, 1)
	good := sealed(t, k, "info", "secret")
	refused := func(name string, k *PrivateKey, info string, b []byte) {
		t.Helper()
		got, err := k.Open([]byte(info), b)
		if problem.Code(err) != "unsealable" || got != nil {
			t.Errorf("%s: got %q, %v; want code unsealable", name, got, err)
		}
	}
	refused("other key", key(t, 2), "info", good)
	refused("other info", k, "infoo", good)
	refused("no info", k, "", good)
	refused("nothing", k, "info", nil)
	for _, i := range []int{0, 1, 1 + encSize - 1, 1 + encSize, len(good) - 1} {
		b := bytes.Clone(good)
		b[i] ^= 1
		refused("flipped byte", k, "info", b)
	}
	refused("cut", k, "info", good[:len(good)-1])
	refused("longer", k, "info", append(bytes.Clone(good), 0))
}

func TestBadPublicKeysAreRefused(t *testing.T) {
	good := key(t, 1).Public()
	outOfRange := bytes.Clone(good)
	for i := range 12 {
		outOfRange[i] = 0xff // ML-KEM coefficients are below 3329
	}
	for name, pub := range map[string][]byte{
		"nil": nil, "short": good[1:], "long": append(bytes.Clone(good), 0), "coefficients out of range": outOfRange,
	} {
		if err := CheckPublic(pub); problem.Code(err) != "key-invalid" {
			t.Errorf("%s: CheckPublic: %v", name, err)
		}
		if _, err := Seal(pub, nil, nil); err == nil {
			t.Errorf("%s: Seal accepted the key", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := key(f, 1)
	good := sealed(f, k, "info", "secret")
	f.Add([]byte("info"), good)
	f.Add([]byte("info"), good[:Overhead])
	f.Add([]byte(""), []byte{version})
	f.Fuzz(func(t *testing.T, info, b []byte) {
		got, err := k.Open(info, b)
		if err == nil && !(bytes.Equal(b, good) && string(info) == "info" && string(got) == "secret") {
			t.Errorf("opened bytes that were never sealed: %q", got)
		}
	})
}
