package engine

import (
	"errors"
	"sync"

	dbm "github.com/cometbft/cometbft-db"
)

// errClosed is what writes to a closed database get.
var errClosed = errors.New("the database is closed")

// lingerDB is a database of CometBFT's that may be read after it was closed: a
// goroutine of its consensus reactor, which nobody waits for, looks for a commit up
// to two seconds after the node has ended, and panics when the database says so.
// It then finds nothing.
type lingerDB struct {
	dbm.DB
	mu     sync.RWMutex
	closed bool
}

func (d *lingerDB) Get(key []byte) ([]byte, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil, nil
	}
	return d.DB.Get(key)
}

func (d *lingerDB) Has(key []byte) (bool, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return false, nil
	}
	return d.DB.Has(key)
}

func (d *lingerDB) Set(key, value []byte) error {
	return d.write(func() error { return d.DB.Set(key, value) })
}

func (d *lingerDB) SetSync(key, value []byte) error {
	return d.write(func() error { return d.DB.SetSync(key, value) })
}

func (d *lingerDB) Delete(key []byte) error {
	return d.write(func() error { return d.DB.Delete(key) })
}

func (d *lingerDB) DeleteSync(key []byte) error {
	return d.write(func() error { return d.DB.DeleteSync(key) })
}

func (d *lingerDB) write(f func() error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return errClosed
	}
	return f()
}

// Close waits for what is reading and writing; a second one does nothing.
func (d *lingerDB) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.DB.Close()
}
