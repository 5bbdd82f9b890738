package store

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Whatever a hub sends, no more than the declared size comes out of it.
func FuzzDecompress(f *testing.F) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range []int{0, 1, 999, 1000, 1001, 1 << 20} {
		f.Add(enc.EncodeAll(bytes.Repeat([]byte("a"), n), nil))
	}
	two := enc.EncodeAll([]byte("one"), nil)
	f.Add(append(two, enc.EncodeAll(bytes.Repeat([]byte("two"), 400), nil)...))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	f.Add([]byte("<html>"))
	var b buffers
	f.Fuzz(func(t *testing.T, z []byte) {
		const size = 1000
		dst := make([]byte, 0, 4096)
		got, err := b.decompress(z, dst[:0:size+1])
		if err == nil && len(got) > size+1 {
			t.Fatalf("%d bytes came out, %d were allowed", len(got), size+1)
		}
		if whole := dst[:4096]; !bytes.Equal(whole[size+1:], make([]byte, 4096-size-1)) {
			t.Fatal("written beyond the buffer")
		}
	})
}

func TestBuffersOfAManifestsSizeAreNotKept(t *testing.T) {
	var b buffers
	b.put(make([]byte, 0, 64<<20))
	if got := b.get(10); cap(got) >= 64<<20 {
		t.Fatal("a buffer of 64 MiB is kept for pieces of 1 MiB")
	}
}
