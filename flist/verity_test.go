package flist

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/zero-os/zos/canon"
)

// plainVerity computes the digest the straightforward way: all levels in
// memory, one after the other, as the kernel's documentation describes them.
func plainVerity(data []byte) canon.Hash {
	block := func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 4096-len(b))...) }
	root := make([]byte, 32)
	if len(data) > 0 {
		level := data
		for {
			var hashes []byte
			for off := 0; off < len(level); off += 4096 {
				h := sha256.Sum256(block(level[off:min(off+4096, len(level))]))
				hashes = append(hashes, h[:]...)
			}
			if len(hashes) == 32 {
				root = hashes
				break
			}
			level = hashes
		}
	}
	descriptor := []byte{1, 1, 12, 0, 0, 0, 0, 0}
	descriptor = binary.LittleEndian.AppendUint64(descriptor, uint64(len(data)))
	descriptor = append(descriptor, root...)
	descriptor = append(descriptor, make([]byte, 256-len(descriptor))...)
	return sha256.Sum256(descriptor)
}

func TestVerityAgreesWithTheStraightforwardWay(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 128*128*4096+4097)
	random.Read(data)
	sizes := []int{0, 1, 4095, 4096, 4097, 8192, 127 * 4096, 128 * 4096, 128*4096 + 1, 129 * 4096, 256 * 4096,
		128*128*4096 - 1, 128 * 128 * 4096, 128*128*4096 + 1, len(data)}
	var v Verity
	r := rand.New(random)
	for _, size := range sizes {
		want := plainVerity(data[:size])
		for _, most := range []int{size + 1, 4096, 100_000} {
			v.Reset()
			for rest := data[:size]; len(rest) > 0; {
				n := min(len(rest), 1+r.IntN(most))
				v.Write(rest[:n])
				rest = rest[n:]
			}
			if got := v.Sum(); got != want {
				t.Fatalf("%d bytes in writes of up to %d: %s, want %s", size, most, got, want)
			}
		}
	}
}

// TestVerityOfKnownFiles holds digests that fsverity(1) of fsverity-utils and the
// kernel give, so that both ways above can't be wrong together.
func TestVerityOfKnownFiles(t *testing.T) {
	for content, want := range map[string]string{
		"": "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
	} {
		var v Verity
		v.Write([]byte(content))
		if got := v.Sum(); hex.EncodeToString(got[:]) != want {
			t.Errorf("%q: %s, want %s", content, got, want)
		}
	}
}

func BenchmarkVerity(b *testing.B) {
	data := make([]byte, 8<<20)
	b.SetBytes(int64(len(data)))
	var v Verity
	for b.Loop() {
		v.Reset()
		v.Write(data)
		v.Sum()
	}
}
