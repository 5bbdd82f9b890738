package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/ledger/merkle"
)

// keepTxs is how many transactions' outcomes are remembered.
const keepTxs = 20_000

// database keeps one version of the state, the way back to the version before
// it, and the outcomes of the last transactions. Everything about a block is
// written in one transaction of the file, so a crash leaves one block or the
// other; CometBFT then replays what is missing.
type database struct{ bolt *bolt.DB }

var (
	bucketState = []byte("state") // key → value
	bucketTx    = []byte("tx")    // hash → canonical wire.Inclusion
	bucketOrder = []byte("order") // height ‖ index → hash, the oldest first
	bucketMeta  = []byte("meta")
	keyVersion  = []byte("version") // canonical stored
)

// stored describes the version that the file holds.
type stored struct {
	V      uint64     `cbor:"v"`
	Grid   canon.Hash `cbor:"grid"`
	Height uint64     `cbor:"height"`
	Time   uint64     `cbor:"time"` // of the block, Unix seconds
	Root   canon.Hash `cbor:"root"`
	Before canon.Hash `cbor:"before"` // root of the version before
	Back   []undo     `cbor:"back"`   // changes that lead there
}

type undo struct {
	Key    []byte `cbor:"key"`
	Value  []byte `cbor:"value"`
	Delete bool   `cbor:"delete"`
}

func openDatabase(path string) (*database, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 2 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open ledger state %s (is another process using it?): %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketState, bucketTx, bucketOrder, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("prepare ledger state %s: %w", path, err)
	}
	return &database{db}, nil
}

func (d *database) close() error { return d.bolt.Close() }

// load reads the state and checks it against its own root, so that a damaged
// file is an error here and not a fork later. A new file gives height 0.
func (d *database) load(grid canon.Hash) (now, before merkle.Tree, at stored, err error) {
	err = d.bolt.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketMeta).Get(keyVersion)
		if b == nil {
			return nil
		}
		if err := canon.UnmarshalLimit(b, 64<<20, &at); err != nil {
			return err
		}
		if at.V != 1 {
			return fmt.Errorf("version %d of the file's format, want 1", at.V)
		}
		if at.Grid != grid {
			return fmt.Errorf("it is the state of grid %s, not of %s", at.Grid, grid)
		}
		var all []merkle.Change
		err := tx.Bucket(bucketState).ForEach(func(k, v []byte) error {
			all = append(all, merkle.Change{Key: append([]byte{}, k...), Value: append([]byte{}, v...)})
			return nil
		})
		if err != nil {
			return err
		}
		if now, err = now.Apply(all); err != nil {
			return err
		}
		if now.Root() != at.Root {
			return fmt.Errorf("its content has the root %s and should have %s: it is damaged", now.Root(), at.Root)
		}
		back := make([]merkle.Change, len(at.Back))
		for i, u := range at.Back {
			back[i] = merkle.Change{Key: u.Key, Value: u.Value, Delete: u.Delete}
		}
		if before, err = now.Apply(back); err != nil {
			return err
		}
		if before.Root() != at.Before {
			return errors.New("the way back to the block before is damaged")
		}
		return nil
	})
	if err != nil {
		return merkle.Tree{}, merkle.Tree{}, stored{}, fmt.Errorf("read ledger state %s: %w", d.bolt.Path(), err)
	}
	return now, before, at, nil
}

// save writes the version at and what led to it. It returns when it is on disk.
func (d *database) save(at stored, forth []merkle.Change, txs []record) error {
	err := d.bolt.Update(func(tx *bolt.Tx) error {
		state := tx.Bucket(bucketState)
		for _, c := range forth {
			var err error
			if c.Delete {
				err = state.Delete(c.Key)
			} else {
				err = state.Put(c.Key, c.Value)
			}
			if err != nil {
				return err
			}
		}
		byHash, order := tx.Bucket(bucketTx), tx.Bucket(bucketOrder)
		for _, r := range txs {
			if err := byHash.Put(r.hash[:], r.inclusion); err != nil {
				return err
			}
			if err := order.Put(r.place(), r.hash[:]); err != nil {
				return err
			}
		}
		if err := forget(byHash, order, len(txs)); err != nil {
			return err
		}
		b, err := canon.Marshal(at)
		if err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyVersion, b)
	})
	if err != nil {
		return fmt.Errorf("write ledger state of block %d: %w", at.Height, err)
	}
	return nil
}

// record is the outcome of one transaction.
type record struct {
	hash      canon.Hash
	height    uint64
	index     uint64
	inclusion []byte // canonical wire.Inclusion
}

func (r record) place() []byte {
	b := binary.BigEndian.AppendUint64(nil, r.height)
	return binary.BigEndian.AppendUint64(b, r.index)
}

// forget removes as many old outcomes as were added, once there are enough. The
// bucket counts what it holds in its sequence number.
func forget(byHash, order *bolt.Bucket, added int) error {
	n := order.Sequence() + uint64(added)
	c := order.Cursor()
	for k, hash := c.First(); k != nil && n > keepTxs; k, hash = c.First() {
		// The same bytes may have come into a block again later.
		if err := byHash.Delete(hash); err != nil {
			return err
		}
		if err := c.Delete(); err != nil {
			return err
		}
		n--
	}
	return order.SetSequence(n)
}

// tx returns the canonical wire.Inclusion of a transaction, nil if unknown.
func (d *database) tx(hash []byte) (inclusion []byte, err error) {
	err = d.bolt.View(func(tx *bolt.Tx) error {
		inclusion = append(inclusion, tx.Bucket(bucketTx).Get(hash)...)
		return nil
	})
	return inclusion, err
}
