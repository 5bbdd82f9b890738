package merkle

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/zero-os/zos/canon"
)

// Limits on a proof.
const (
	// MaxProof is the size of the largest proof in bytes.
	MaxProof = 12 << 20
	// MaxItems is how many keys a ListProof may prove.
	MaxItems = 20_000
	// maxListBytes bounds the keys and values of a ListProof, so that its
	// encoding stays below MaxProof.
	maxListBytes = 8 << 20
	// maxSteps is the longest path: one inner node per bit of the longest key.
	maxSteps = MaxKey*bitsPerByte + 1
	version  = 1
)

// ErrTooLarge says that a prefix has more keys than one proof may carry.
var ErrTooLarge = errors.New("too many keys for one proof; ask for a longer prefix")

// Step is an inner node on the way from the root down: the bit it branches on,
// and the hash of the branch not taken. Which side was taken follows from the
// bits of the key.
type Step struct {
	_       struct{} `cbor:",toarray"`
	Bit     uint32
	Sibling canon.Hash
}

// GetProof proves the value of a key, or that the key is absent. It is absent
// if the way that its bits lead down ends at the leaf of another key, or if the
// tree is empty.
type GetProof struct {
	V     uint64 `cbor:"v"`
	Steps []Step `cbor:"steps"`
	Found bool   `cbor:"found"`
	Value []byte `cbor:"value"` // empty unless Found
	// The leaf of another key, empty if Found or if the tree is empty.
	Other     []byte     `cbor:"other"`
	OtherHash canon.Hash `cbor:"other_hash"` // SHA-256 of its value
}

// ListProof proves all the keys with a prefix: Items is the whole content of the
// subtree that the prefix leads to, so its hash can be computed again.
type ListProof struct {
	V     uint64 `cbor:"v"`
	Steps []Step `cbor:"steps"`
	Items []KV   `cbor:"items"` // in order
	// With no items: a leaf where the keys would be, empty if the tree is.
	Other     []byte     `cbor:"other"`
	OtherHash canon.Hash `cbor:"other_hash"`
}

// ProveGet makes the proof for key, at most MaxKey bytes.
func (t Tree) ProveGet(key []byte) (GetProof, error) {
	p := GetProof{V: version}
	if err := CheckKey(key); err != nil {
		return p, err
	}
	if t.root == nil {
		return p, nil
	}
	leaf := t.root
	leaf, p.Steps = descend(leaf, key)
	if bytes.Equal(leaf.key, key) {
		p.Found, p.Value = true, leaf.value
	} else {
		p.Other, p.OtherHash = leaf.key, canon.Sum(leaf.value)
	}
	return p, nil
}

// ProveList makes the proof for all keys with the prefix, which may be empty.
// It fails with ErrTooLarge if they are more than MaxItems or 8 MiB.
func (t Tree) ProveList(prefix []byte) (ListProof, error) {
	p := ListProof{V: version}
	if len(prefix) > MaxKey {
		return p, fmt.Errorf("prefix has %d bytes, at most %d are allowed", len(prefix), MaxKey)
	}
	n, above := t.subtree(prefix)
	if n == nil {
		return p, nil
	}
	if leaf := n.nearest(prefix); !bytes.HasPrefix(leaf.key, prefix) {
		_, p.Steps = descend(t.root, leaf.key)
		p.Other, p.OtherHash = leaf.key, canon.Sum(leaf.value)
		return p, nil
	}
	for _, a := range above {
		p.Steps = append(p.Steps, Step{Bit: a.bit, Sibling: a.child(1 - bitAt(prefix, a.bit)).hash})
	}
	size, tooLarge := 0, false
	walk(n, func(key, value []byte) bool {
		size += len(key) + len(value)
		tooLarge = size > maxListBytes || len(p.Items) == MaxItems
		if !tooLarge {
			p.Items = append(p.Items, KV{Key: key, Value: value})
		}
		return !tooLarge
	})
	if tooLarge {
		return ListProof{}, ErrTooLarge
	}
	return p, nil
}

// descend follows key from n down to a leaf.
func descend(n *node, key []byte) (leaf *node, steps []Step) {
	for !n.isLeaf() {
		side := bitAt(key, n.bit)
		steps = append(steps, Step{Bit: n.bit, Sibling: n.child(1 - side).hash})
		n = n.child(side)
	}
	return n, steps
}
