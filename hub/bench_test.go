package hub

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/zero-os/zos/flist"
)

// BenchmarkPublish builds and publishes 2,000 files of 16 KiB, and one of 64 MiB.
func BenchmarkPublish(b *testing.B) {
	src := b.TempDir()
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint(i)), bytes.Repeat(fmt.Append(nil, "content ", i), 1200), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(src, "large"), bytes.Repeat([]byte("0123456789abcde\n"), 4<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	for _, opts := range []WriterOptions{{}, {NoSync: true}} {
		b.Run(fmt.Sprintf("sync=%v", !opts.NoSync), func(b *testing.B) {
			for b.Loop() {
				w, err := OpenWriter(b.TempDir(), opts)
				if err != nil {
					b.Fatal(err)
				}
				_, m, stats, err := flist.BuildDir(context.Background(), src, w, flist.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.PutFlist(context.Background(), m); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(stats.Bytes))
				w.Close()
			}
		})
	}
}
