package merkle

import (
	"bytes"
	"fmt"

	"github.com/zero-os/zos/canon"
)

// Limits on what a tree holds.
const (
	// MaxKey is the longest key in bytes; the shortest has 1.
	MaxKey = 512
	// MaxValue is the largest value in bytes.
	MaxValue = 2 << 20
)

// Tree is one version of the map. The zero Tree is empty. A Tree is immutable
// and safe for concurrent use; slices that it returns must not be written to.
type Tree struct {
	root *node
	size int
}

// Change sets a key to a value, or deletes the key. The tree keeps the slices:
// the caller must not write to them afterwards.
type Change struct {
	Key    []byte
	Value  []byte
	Delete bool
}

// KV is a key and its value.
type KV struct {
	Key   []byte `cbor:"key"`
	Value []byte `cbor:"value"`
}

// Root returns the hash that commits to every key and value; the zero hash for
// the empty tree.
func (t Tree) Root() canon.Hash {
	if t.root == nil {
		return canon.Hash{}
	}
	return t.root.hash
}

// Len returns how many keys there are.
func (t Tree) Len() int { return t.size }

// Get returns the value of key and whether there is one.
func (t Tree) Get(key []byte) ([]byte, bool) {
	if t.root == nil {
		return nil, false
	}
	leaf := t.root.nearest(key)
	if !bytes.Equal(leaf.key, key) {
		return nil, false
	}
	return leaf.value, true
}

// Apply returns the tree after the changes, made in order. The tree depends
// only on its content, not on the order or number of the changes that led to
// it. It fails, and changes nothing, if a key or value is outside the limits.
func (t Tree) Apply(changes []Change) (Tree, error) {
	for _, c := range changes {
		if err := CheckKey(c.Key); err != nil {
			return Tree{}, err
		}
		if len(c.Value) > MaxValue {
			return Tree{}, fmt.Errorf("value of key %.80q has %d bytes, at most %d are allowed", c.Key, len(c.Value), MaxValue)
		}
	}
	for _, c := range changes {
		if c.Delete {
			t = t.remove(c.Key)
		} else {
			t = t.put(c.Key, c.Value)
		}
	}
	t.root.seal()
	return t, nil
}

// CheckKey tells whether key is one that a tree can hold.
func CheckKey(key []byte) error {
	if len(key) == 0 || len(key) > MaxKey {
		return fmt.Errorf("key %.80q has %d bytes, 1 to %d are allowed", key, len(key), MaxKey)
	}
	return nil
}

func (t Tree) put(key, value []byte) Tree {
	leaf := &node{key: key, value: value}
	if t.root == nil {
		return Tree{root: leaf, size: 1}
	}
	old := t.root.nearest(key)
	at, differs := firstDifference(old.key, key)
	if !differs {
		if bytes.Equal(old.value, value) {
			return t
		}
		return Tree{root: replace(t.root, key, leaf), size: t.size}
	}
	return Tree{root: insert(t.root, key, at, leaf), size: t.size + 1}
}

// replace copies the path to key's leaf and puts leaf in its place.
func replace(n *node, key []byte, leaf *node) *node {
	if n.isLeaf() {
		return leaf
	}
	side := bitAt(key, n.bit)
	return n.with(side, replace(n.child(side), key, leaf))
}

// insert puts a new inner node at bit at, where key leaves the keys there are.
func insert(n *node, key []byte, at uint32, leaf *node) *node {
	if n.isLeaf() || n.bit > at {
		if bitAt(key, at) == 0 {
			return &node{bit: at, left: leaf, right: n}
		}
		return &node{bit: at, left: n, right: leaf}
	}
	side := bitAt(key, n.bit)
	return n.with(side, insert(n.child(side), key, at, leaf))
}

func (t Tree) remove(key []byte) Tree {
	if t.root == nil || !bytes.Equal(t.root.nearest(key).key, key) {
		return t
	}
	return Tree{root: remove(t.root, key), size: t.size - 1}
}

// remove returns n without key's leaf, nil if nothing is left.
func remove(n *node, key []byte) *node {
	if n.isLeaf() {
		return nil
	}
	side := bitAt(key, n.bit)
	child := remove(n.child(side), key)
	if child == nil {
		return n.child(1 - side)
	}
	return n.with(side, child)
}

// Walk calls visit for every key that begins with prefix, in order, until visit
// returns false.
func (t Tree) Walk(prefix []byte, visit func(key, value []byte) bool) {
	n, _ := t.subtree(prefix)
	if n == nil || !bytes.HasPrefix(n.nearest(prefix).key, prefix) {
		return
	}
	walk(n, visit)
}

func walk(n *node, visit func(key, value []byte) bool) bool {
	if n.isLeaf() {
		return visit(n.key, n.value)
	}
	return walk(n.left, visit) && walk(n.right, visit)
}

// subtree returns the node below which are all the keys with the prefix, if
// there are any, and the inner nodes above it.
func (t Tree) subtree(prefix []byte) (n *node, above []*node) {
	n = t.root
	for n != nil && !n.isLeaf() && n.bit < prefixBits(prefix) {
		above = append(above, n)
		n = n.child(bitAt(prefix, n.bit))
	}
	return n, above
}
