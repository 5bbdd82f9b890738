package certs

import (
	"context"
	"strings"
	"time"
)

// MaxKey bounds a key of a Store, in bytes.
const MaxKey = 512

// Store keeps what the gateways of one publication share. Keys are slash-separated
// words of printable ASCII, at most MaxKey bytes. Among the values are private keys:
// the Store shows them to nobody else, neither at rest nor on the way.
//
// All methods may be called at once from many goroutines, and honour the context.
type Store interface {
	// Lock waits until this caller alone holds name among all gateways of the
	// publication. A lock whose holder is gone is released by the Store after a
	// lease of its own, which is longer than LockLease.
	Lock(ctx context.Context, name string) error
	// Unlock gives back what Lock took.
	Unlock(ctx context.Context, name string) error
	// Put keeps value at key, in place of what was there, all of it or nothing.
	Put(ctx context.Context, key string, value []byte) error
	// Get returns the value at key, or an error that is fs.ErrNotExist.
	Get(ctx context.Context, key string) ([]byte, error)
	// Delete removes key; it is no error that there is none.
	Delete(ctx context.Context, key string) error
	// List returns all keys that begin with prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
	// Stat tells of the value at key, or returns an error that is fs.ErrNotExist.
	Stat(ctx context.Context, key string) (Info, error)
}

// Info tells of a value in a Store.
type Info struct {
	Size     int64     // bytes as the Store sees them
	Modified time.Time // of the last Put
}

// LockLease bounds how long a Manager holds a lock: an order with an authority
// that answers slowly.
const LockLease = 5 * time.Minute

// Challenges puts text records under the grid's zone, for DNS-01.
type Challenges interface {
	// Present returns when every name server of the zone answers name (a full host
	// name without a dot at its end) with text among its TXT records.
	Present(ctx context.Context, name, text string) error
	// CleanUp takes the record away again.
	CleanUp(ctx context.Context, name, text string) error
}

// ValidKey tells whether s is a key as the Store's description has it.
func ValidKey(s string) bool {
	if s == "" || len(s) > MaxKey {
		return false
	}
	for _, word := range strings.Split(s, "/") {
		if word == "" || word == "." || word == ".." {
			return false
		}
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
