package flist

import (
	"io"
	"testing"
)

// The figures of a large distribution image: 65,000 files, 69,337 entries.

func BenchmarkDecode(b *testing.B) {
	bytes := encode(b, syntheticTree(b, 65_000))
	b.ReportMetric(float64(len(bytes)), "manifest-bytes")
	for b.Loop() {
		if _, err := Decode(bytes); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteEROFS(b *testing.B) {
	m := syntheticTree(b, 65_000)
	for b.Loop() {
		if err := WriteEROFS(io.Discard, m); err != nil {
			b.Fatal(err)
		}
	}
}
