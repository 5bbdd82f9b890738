package main

import (
	"encoding/binary"
	"io"
)

// ballast yields bytes that don't compress, the same on every machine: a
// xorshift generator (Marsaglia 2003) from a fixed seed.
type ballast struct {
	left  int
	state uint64
	rest  []byte
}

// Read implements io.Reader.
func (b *ballast) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && b.left > 0 {
		if len(b.rest) == 0 {
			if b.state == 0 {
				b.state = 0x9e3779b97f4a7c15
			}
			b.state ^= b.state << 13
			b.state ^= b.state >> 7
			b.state ^= b.state << 17
			b.rest = binary.LittleEndian.AppendUint64(b.rest[:0], b.state)
		}
		k := copy(p[n:min(len(p), n+b.left)], b.rest)
		b.rest = b.rest[k:]
		b.left -= k
		n += k
	}
	return n, nil
}
