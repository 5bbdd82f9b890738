package merkle

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/zero-os/zos/canon"
)

// The first byte of what is hashed keeps leaves and inner nodes apart.
const (
	domainLeaf  = 0x00
	domainInner = 0x01
)

// node is a leaf (left == nil) or an inner node. Nodes never change once their
// hash is set; a node without hash belongs to the one Apply that makes it.
type node struct {
	hash canon.Hash

	// Of an inner node: all keys below agree on the bits before bit, those on
	// the left have a 0 there and those on the right a 1.
	bit         uint32
	left, right *node

	// Of a leaf.
	key, value []byte
}

func (n *node) isLeaf() bool { return n.left == nil }

// leafHash is SHA-256(0x00 ‖ len(key) as uint32 ‖ key ‖ SHA-256(value)).
func leafHash(key []byte, value canon.Hash) canon.Hash {
	b := make([]byte, 0, 1+4+len(key)+canon.HashSize)
	b = append(b, domainLeaf)
	b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
	b = append(b, key...)
	b = append(b, value[:]...)
	return sha256.Sum256(b)
}

// innerHash is SHA-256(0x01 ‖ bit as uint32 ‖ left ‖ right).
func innerHash(bit uint32, left, right canon.Hash) canon.Hash {
	var b [1 + 4 + 2*canon.HashSize]byte
	b[0] = domainInner
	binary.BigEndian.PutUint32(b[1:], bit)
	copy(b[5:], left[:])
	copy(b[5+canon.HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// seal sets the hash of n and of every node below it that has none yet.
func (n *node) seal() {
	if n == nil || !n.hash.IsZero() {
		return
	}
	if n.isLeaf() {
		n.hash = leafHash(n.key, canon.Sum(n.value))
		return
	}
	n.left.seal()
	n.right.seal()
	n.hash = innerHash(n.bit, n.left.hash, n.right.hash)
}

// nearest walks down from n by the bits of key and returns the leaf it ends at:
// key's own leaf, if there is one.
func (n *node) nearest(key []byte) *node {
	for !n.isLeaf() {
		n = n.child(bitAt(key, n.bit))
	}
	return n
}

func (n *node) child(side int) *node {
	if side == 0 {
		return n.left
	}
	return n.right
}

// with returns a copy of the inner node n with another child.
func (n *node) with(side int, child *node) *node {
	c := &node{bit: n.bit, left: n.left, right: n.right}
	if side == 0 {
		c.left = child
	} else {
		c.right = child
	}
	return c
}
