package merkle

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/zero-os/zos/canon"
)

// ErrProof is wrapped by every refusal of a proof.
var ErrProof = errors.New("proof is invalid")

// VerifyGet checks the canonical bytes of a GetProof against a root and returns
// the value of key and whether the key exists. Nothing in the proof is believed
// that does not hash to root.
func VerifyGet(root canon.Hash, key, proof []byte) (value []byte, found bool, err error) {
	if err := CheckKey(key); err != nil {
		return nil, false, err
	}
	var p GetProof
	if err := canon.UnmarshalLimit(proof, MaxProof, &p); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if p.V != version {
		return nil, false, refuse("version %d, want %d", p.V, version)
	}
	if err := checkSteps(p.Steps); err != nil {
		return nil, false, err
	}
	if p.Found {
		if len(p.Other) > 0 || !p.OtherHash.IsZero() {
			return nil, false, refuse("it shows a value and another key at once")
		}
		if len(p.Value) > MaxValue {
			return nil, false, refuse("value of %d bytes", len(p.Value))
		}
		if climb(leafHash(key, canon.Sum(p.Value)), key, p.Steps) != root {
			return nil, false, refuse("it does not lead to the root")
		}
		return p.Value, true, nil
	}
	if len(p.Value) > 0 {
		return nil, false, refuse("it shows absence and a value at once")
	}
	if bytes.Equal(p.Other, key) {
		return nil, false, refuse("the key said to be absent is the one shown")
	}
	return nil, false, verifyOther(root, p.Other, p.OtherHash, p.Steps, func(bit uint32) int { return bitAt(key, bit) })
}

// VerifyList checks the canonical bytes of a ListProof against a root and
// returns all the keys with the prefix, in order, with their values.
func VerifyList(root canon.Hash, prefix, proof []byte) ([]KV, error) {
	if len(prefix) > MaxKey {
		return nil, fmt.Errorf("prefix has %d bytes, at most %d are allowed", len(prefix), MaxKey)
	}
	var p ListProof
	if err := canon.UnmarshalLimit(proof, MaxProof, &p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if p.V != version {
		return nil, refuse("version %d, want %d", p.V, version)
	}
	if err := checkSteps(p.Steps); err != nil {
		return nil, err
	}
	if len(p.Items) == 0 {
		if bytes.HasPrefix(p.Other, prefix) && len(p.Other) > 0 {
			return nil, refuse("it shows a key with the prefix and says there is none")
		}
		fixed := prefixBits(prefix)
		return nil, verifyOther(root, p.Other, p.OtherHash, p.Steps, func(bit uint32) int {
			if bit < fixed {
				return bitAt(prefix, bit)
			}
			return bitAt(p.Other, bit)
		})
	}
	if len(p.Other) > 0 || !p.OtherHash.IsZero() {
		return nil, refuse("it shows keys with the prefix and another one at once")
	}
	if len(p.Items) > MaxItems {
		return nil, refuse("%d keys, at most %d are allowed", len(p.Items), MaxItems)
	}
	for i, kv := range p.Items {
		if CheckKey(kv.Key) != nil || !bytes.HasPrefix(kv.Key, prefix) {
			return nil, refuse("key %.80q does not have the prefix", kv.Key)
		}
		if i > 0 && bytes.Compare(p.Items[i-1].Key, kv.Key) >= 0 {
			return nil, refuse("keys are not in order")
		}
	}
	// A branch below the prefix would leave a sibling with further keys of it.
	if n := len(p.Steps); n > 0 && p.Steps[n-1].Bit >= prefixBits(prefix) {
		return nil, refuse("keys with the prefix are left out")
	}
	if climb(rootOf(p.Items), prefix, p.Steps) != root {
		return nil, refuse("it does not lead to the root")
	}
	return p.Items, nil
}

// verifyOther checks that the steps lead from root to the leaf of another key,
// in the directions that want asks for. An empty other means the empty tree.
func verifyOther(root canon.Hash, other []byte, value canon.Hash, steps []Step, want func(bit uint32) int) error {
	if len(other) == 0 {
		if len(steps) > 0 || !value.IsZero() || !root.IsZero() {
			return refuse("it shows nothing, and the tree is not empty")
		}
		return nil
	}
	if CheckKey(other) != nil {
		return refuse("key of %d bytes", len(other))
	}
	for _, s := range steps {
		if bitAt(other, s.Bit) != want(s.Bit) {
			return refuse("it leads another way than the key does")
		}
	}
	if climb(leafHash(other, value), other, steps) != root {
		return refuse("it does not lead to the root")
	}
	return nil
}

func checkSteps(steps []Step) error {
	if len(steps) > maxSteps {
		return refuse("%d steps, at most %d are allowed", len(steps), maxSteps)
	}
	for i, s := range steps {
		if s.Bit >= maxSteps || i > 0 && s.Bit <= steps[i-1].Bit {
			return refuse("steps are not in order")
		}
	}
	return nil
}

// climb returns the root that a node with the hash h has at the end of steps.
func climb(h canon.Hash, key []byte, steps []Step) canon.Hash {
	for i := len(steps) - 1; i >= 0; i-- {
		if s := steps[i]; bitAt(key, s.Bit) == 0 {
			h = innerHash(s.Bit, h, s.Sibling)
		} else {
			h = innerHash(s.Bit, s.Sibling, h)
		}
	}
	return h
}

// rootOf returns the root of the tree that holds exactly items, which are in
// order and at least one. It keeps a stack of finished left branches, each with
// the bit at which what follows differs from it.
func rootOf(items []KV) canon.Hash {
	type branch struct {
		hash canon.Hash
		bit  uint32
	}
	var stack []branch
	h := leafHash(items[0].Key, canon.Sum(items[0].Value))
	for i := 1; i < len(items); i++ {
		bit, _ := firstDifference(items[i-1].Key, items[i].Key)
		for len(stack) > 0 && stack[len(stack)-1].bit > bit {
			top := stack[len(stack)-1]
			h = innerHash(top.bit, top.hash, h)
			stack = stack[:len(stack)-1]
		}
		stack = append(stack, branch{hash: h, bit: bit})
		h = leafHash(items[i].Key, canon.Sum(items[i].Value))
	}
	for i := len(stack) - 1; i >= 0; i-- {
		h = innerHash(stack[i].bit, stack[i].hash, h)
	}
	return h
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProof, fmt.Sprintf(format, args...))
}
