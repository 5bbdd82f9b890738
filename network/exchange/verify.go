package exchange

import (
	"sync"

	"github.com/zero-os/zos/canon"
)

// maxCached bindings are remembered: those of all peers of some large networks.
const maxCached = 1024

// Verifier opens bindings, each only once: in a network of fifty nodes that
// renew all their keys, verifying the same signatures again would be most of the
// work. It may be used by several goroutines.
type Verifier struct {
	grid canon.Hash

	mu    sync.Mutex
	known map[canon.Hash]Theirs // by the hash of all signed bytes
}

// NewVerifier makes a verifier for the bindings of a grid.
func NewVerifier(grid canon.Hash) *Verifier {
	return &Verifier{grid: grid, known: map[canon.Hash]Theirs{}}
}

// Open returns the binding in signed if its signature is good and Judge accepts
// it. The judgement is made anew every time.
func (v *Verifier) Open(signed []byte, e Expected) (Theirs, error) {
	// The hash is over the signature too, so what is found was verified with it.
	id := canon.Sum(signed)
	v.mu.Lock()
	b, ok := v.known[id]
	v.mu.Unlock()
	if !ok {
		var err error
		if b, err = open(v.grid, signed); err != nil {
			return Theirs{}, err
		}
	}
	if err := Judge(b, e); err != nil {
		return Theirs{}, err
	}
	if !ok {
		v.remember(id, b)
	}
	return b, nil
}

// remember keeps only what was accepted, so nobody fills the cache with bindings
// that no one asked for.
func (v *Verifier) remember(id canon.Hash, b Theirs) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxCached {
		for old := range v.known { // any will do: it is verified again when it returns
			delete(v.known, old)
			break
		}
	}
	v.known[id] = b
}
