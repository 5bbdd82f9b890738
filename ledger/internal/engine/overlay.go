package engine

import (
	"bytes"
	"fmt"
	"slices"
	"sort"

	"github.com/zero-os/zos/ledger/merkle"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

// reader is what an overlay lies over: the tree, or another overlay.
type reader interface {
	lookup(key string) (value []byte, found bool)
}

// base makes a tree a reader.
type base struct{ merkle.Tree }

func (b base) lookup(key string) ([]byte, bool) { return b.Get([]byte(key)) }

// overlay collects writes over a state that it never changes. It is the
// contract.State that the rules see.
type overlay struct {
	under  reader
	writes map[string]write
	err    error // the first write outside the limits
}

type write struct {
	value  []byte
	delete bool
}

func newOverlay(under reader) *overlay { return &overlay{under: under, writes: map[string]write{}} }

func (o *overlay) lookup(key string) ([]byte, bool) {
	if w, ok := o.writes[key]; ok {
		return w.value, !w.delete
	}
	return o.under.lookup(key)
}

// Get implements contract.State. The caller owns what it gets.
func (o *overlay) Get(key string) []byte {
	value, found := o.lookup(key)
	if !found {
		return nil
	}
	return append([]byte{}, value...)
}

// Set implements contract.State.
func (o *overlay) Set(key string, value []byte) {
	switch {
	case merkle.CheckKey([]byte(key)) != nil:
		o.fail(merkle.CheckKey([]byte(key)))
	case len(value) > merkle.MaxValue:
		o.fail(fmt.Errorf("value of %.80q has %d bytes, at most %d are allowed", key, len(value), merkle.MaxValue))
	default:
		o.writes[key] = write{value: slices.Clone(value)}
	}
}

// Delete implements contract.State.
func (o *overlay) Delete(key string) { o.writes[key] = write{delete: true} }

func (o *overlay) fail(err error) {
	if o.err == nil {
		o.err = problem.New(wire.ProblemTooLarge, "write state: %w", err)
	}
}

// merge makes the writes of o those of the overlay that it lies over.
func (o *overlay) merge(into *overlay) {
	for key, w := range o.writes {
		into.writes[key] = w
	}
}

// changes returns what the writes change in t, in the order of the keys, and
// what would change it back.
func (o *overlay) changes(t merkle.Tree) (forth, back []merkle.Change) {
	keys := make([]string, 0, len(o.writes))
	for key := range o.writes {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		w := o.writes[key]
		old, found := t.Get([]byte(key))
		if w.delete && !found || !w.delete && found && bytes.Equal(old, w.value) {
			continue
		}
		forth = append(forth, merkle.Change{Key: []byte(key), Value: w.value, Delete: w.delete})
		back = append(back, merkle.Change{Key: []byte(key), Value: old, Delete: !found})
	}
	return forth, back
}
