package flist

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/zero-os/zos/canon"
)

// fs-verity as Zero-OS uses it: SHA-256, 4 KiB blocks, no salt
// (https://docs.kernel.org/filesystems/fsverity.html).
const (
	verityBlock    = 4096
	verityLog      = 12
	verityPerBlock = verityBlock / sha256.Size
)

// Verity computes a file's fs-verity digest while its content streams by: what
// FS_IOC_MEASURE_VERITY answers for the file. The zero value is ready to use.
// It keeps one block of data and one block per level of the Merkle tree.
type Verity struct {
	size   uint64
	block  [verityBlock]byte // data that does not fill a block yet
	have   int
	levels []verityLevel
}

// verityLevel is the block of hashes that is being filled at one level.
type verityLevel struct {
	block [verityBlock]byte
	have  int    // bytes in block
	total uint64 // hashes ever added
	last  [sha256.Size]byte
}

// Write adds content. It never fails.
func (v *Verity) Write(p []byte) (int, error) {
	n := len(p)
	v.size += uint64(n)
	if v.have > 0 {
		c := copy(v.block[v.have:], p)
		v.have += c
		p = p[c:]
		if v.have == verityBlock {
			v.add(0, sha256.Sum256(v.block[:]))
			v.have = 0
		}
	}
	for len(p) >= verityBlock {
		v.add(0, sha256.Sum256(p[:verityBlock]))
		p = p[verityBlock:]
	}
	if len(p) > 0 {
		v.have = copy(v.block[:], p)
	}
	return n, nil
}

// add appends a hash to a level, and a full block's hash to the level above.
func (v *Verity) add(level int, h [sha256.Size]byte) {
	for {
		if level == len(v.levels) {
			v.levels = append(v.levels, verityLevel{})
		}
		l := &v.levels[level]
		l.have += copy(l.block[l.have:], h[:])
		l.total++
		l.last = h
		if l.have < verityBlock {
			return
		}
		h = sha256.Sum256(l.block[:])
		l.have = 0
		level++
	}
}

// Sum ends the content and returns the digest. Reset v before using it again.
func (v *Verity) Sum() canon.Hash {
	if v.have > 0 {
		clear(v.block[v.have:])
		v.add(0, sha256.Sum256(v.block[:]))
		v.have = 0
	}
	return verityDescriptor(v.size, v.root())
}

// root closes the tree: the root is the only hash of the topmost level; the
// root of no data at all is zero.
func (v *Verity) root() (root [sha256.Size]byte) {
	for level := 0; level < len(v.levels); level++ {
		l := &v.levels[level]
		if l.total == 1 {
			return l.last
		}
		if l.have > 0 {
			clear(l.block[l.have:])
			h := sha256.Sum256(l.block[:])
			l.have = 0
			v.add(level+1, h)
		}
	}
	return root
}

// Reset makes v ready for another file.
func (v *Verity) Reset() {
	v.size, v.have, v.levels = 0, 0, v.levels[:0]
}

// verityDescriptor hashes the 256-byte descriptor that stands for a file.
func verityDescriptor(size uint64, root [sha256.Size]byte) canon.Hash {
	var d [256]byte
	d[0] = 1 // version
	d[1] = 1 // FS_VERITY_HASH_ALG_SHA256
	d[2] = verityLog
	binary.LittleEndian.PutUint64(d[8:], size)
	copy(d[16:], root[:])
	return sha256.Sum256(d[:])
}
