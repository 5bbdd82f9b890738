package gateway

import (
	"cmp"
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/problem"
)

// Store keeps what the gateways of a contract share: certificates and locks.
type Store interface {
	// Do does what the process asks for a contract that is served here.
	Do(ctx context.Context, r control.StoreRequest) (control.StoreReply, error)
	// Forget deletes everything of a contract: its last gateway here is gone.
	Forget(contract canon.Hash) error
}

// Bounds of what one contract's gateways share.
const (
	maxItems   = 2048
	maxLocks   = 512      // one for each host whose certificate is ordered, and a few
	maxShared  = 16 << 20 // bytes of values
	itemLimit  = 64 << 10
	lease      = 6 * time.Minute     // of a lock: longer than any order for a certificate
	tombstones = 30 * 24 * time.Hour // how long a deletion is remembered
	peerLimit  = 5 * time.Second     // for one other gateway to answer
	maxAhead   = 24 * time.Hour      // of another gateway's clock before this one's
)

// item is one value, or the memory of its deletion. Of two the newest counts: by
// time, then by the slot that wrote it.
type item struct {
	Key     string     `cbor:"key"`
	Value   []byte     `cbor:"value"`
	Deleted bool       `cbor:"deleted"`
	Time    int64      `cbor:"time"` // Unix nanoseconds of the writer's clock
	Slot    canon.Hash `cbor:"slot"`
}

func (i item) newer(than item) bool {
	return cmp.Or(cmp.Compare(i.Time, than.Time), slices.Compare(i.Slot[:], than.Slot[:])) > 0
}

// Peers are the other gateways of contracts. A node makes them of its bus.
type Peers interface {
	// Gateways are the slots of a contract's gateways by its newest proven plan,
	// this one included.
	Gateways(contract canon.Hash) []canon.Hash
	// Call asks another gateway's node, whose Shared.Answer answers.
	Call(ctx context.Context, slot canon.Hash, body []byte) ([]byte, error)
}

// Shared is a Store on the data disk, encrypted, that the gateways of a contract
// keep equal: what is written goes to all that answer, and whoever was away asks
// for what it has missed. It is no database of record: if all gateways are gone,
// certificates are ordered anew.
//
// A lock is granted by the gateway with the lowest slot that answers, for a lease.
// While gateways don't reach each other two may hold one: then a certificate is
// ordered twice, and the newer one counts.
type Shared struct {
	dir   string
	aead  cipher.AEAD
	slot  canon.Hash
	peers Peers
	log   *slog.Logger
	now   func() time.Time

	mu    sync.Mutex
	of    map[canon.Hash]map[string]item
	locks map[lockKey]held
}

type lockKey struct {
	contract canon.Hash
	name     string
}

type held struct {
	slot  canon.Hash
	until time.Time
}

// NewShared opens the store below dir. secret is the node's own, of which the key
// is derived; slot is the node's.
func NewShared(dir string, secret [32]byte, slot canon.Hash, peers Peers, log *slog.Logger) (*Shared, error) {
	key, err := hkdf.Key(sha256.New, secret[:], nil, "zos-gateway-store-v1", chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("open the store of gateways: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("open the store of gateways: %w", err)
	}
	return &Shared{dir: dir, aead: aead, slot: slot, peers: peers, log: log, now: time.Now, of: map[canon.Hash]map[string]item{}, locks: map[lockKey]held{}}, nil
}

const storeDir = ".store"

func (s *Shared) path(contract canon.Hash, key string) string {
	return filepath.Join(s.dir, contract.String(), storeDir, canon.Sum([]byte(key)).String())
}

// items are a contract's, read from the disk at first use. The caller holds the lock.
func (s *Shared) items(contract canon.Hash) map[string]item {
	if all, ok := s.of[contract]; ok {
		return all
	}
	all := map[string]item{}
	s.of[contract] = all
	dir := filepath.Dir(s.path(contract, ""))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("read what gateways share", "error", err)
	}
	for _, e := range entries {
		i, err := s.load(contract, filepath.Join(dir, e.Name()))
		if err != nil {
			s.log.Warn("what gateways share is damaged and left out", "error", err)
			continue
		}
		all[i.Key] = i
	}
	return all
}

func (s *Shared) load(contract canon.Hash, path string) (item, error) {
	var i item
	info, err := os.Stat(path)
	if err != nil {
		return i, err
	}
	if info.Size() > itemLimit {
		return i, fmt.Errorf("%d bytes", info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return i, err
	}
	if len(b) < s.aead.NonceSize() {
		return i, errors.New("too short")
	}
	plain, err := s.aead.Open(nil, b[:s.aead.NonceSize()], b[s.aead.NonceSize():], contract[:])
	if err != nil {
		return i, err
	}
	if err := canon.UnmarshalLimit(plain, itemLimit, &i); err != nil {
		return i, err
	}
	if s.path(contract, i.Key) != path {
		return i, errors.New("it is another one's")
	}
	return i, nil
}

// keep takes an item if it is the newest; false if it is not, or there is no room.
func (s *Shared) keep(contract canon.Hash, i item) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.items(contract)
	old, known := all[i.Key]
	if known && !i.newer(old) {
		return false, nil
	}
	total := len(i.Value)
	for k, o := range all {
		if k != i.Key {
			total += len(o.Value)
		}
	}
	if !known && len(all) >= maxItems || total > maxShared {
		return false, problem.New("store-full", "the gateways of contract %s share too much: %d values, %d bytes", contract.Short(), len(all), total)
	}
	b, err := canon.Marshal(i)
	if err != nil {
		return false, err
	}
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(b)+s.aead.Overhead())
	rand.Read(nonce) // never fails, see crypto/rand
	path := s.path(contract, i.Key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, fmt.Errorf("keep what gateways share: %w", err)
	}
	if err := replace(path, s.aead.Seal(nonce, nonce, b, contract[:])); err != nil {
		return false, err
	}
	all[i.Key] = i
	return true, nil
}

// Do implements Store.
func (s *Shared) Do(ctx context.Context, r control.StoreRequest) (control.StoreReply, error) {
	var none control.StoreReply
	switch r.Op {
	case control.StorePut, control.StoreDelete:
		if len(r.Value) > maxValue {
			return none, problem.New("store-full", "a value of %d bytes, gateways share at most %d", len(r.Value), maxValue)
		}
		i := item{Key: r.Key, Value: r.Value, Deleted: r.Op == control.StoreDelete, Time: s.stamp(r.Contract, r.Key), Slot: s.slot}
		if i.Deleted {
			i.Value = []byte{}
		}
		if _, err := s.keep(r.Contract, i); err != nil {
			return none, err
		}
		s.spread(ctx, r.Contract, peerMessage{Contract: r.Contract, Op: peerPut, Items: []item{i}})
		return none, nil
	case control.StoreGet, control.StoreStat:
		i, ok := s.get(r.Contract, r.Key)
		if !ok {
			// Another one may have it: this one was away, or is new.
			s.catchUp(ctx, r.Contract, r.Key)
			i, ok = s.get(r.Contract, r.Key)
		}
		if !ok {
			return control.StoreReply{Failure: control.Failure{Code: control.FailureAbsent, Message: "there is no such key"}}, nil
		}
		out := control.StoreReply{Size: uint64(len(i.Value)), Modified: i.Time}
		if r.Op == control.StoreGet {
			out.Value = i.Value
		}
		return out, nil
	case control.StoreList:
		s.catchUp(ctx, r.Contract, r.Key)
		s.mu.Lock()
		defer s.mu.Unlock()
		out := control.StoreReply{Keys: []string{}}
		for key, i := range s.items(r.Contract) {
			if !i.Deleted && strings.HasPrefix(key, r.Key) {
				out.Keys = append(out.Keys, key)
			}
		}
		slices.Sort(out.Keys)
		return out, nil
	case control.StoreLock, control.StoreUnlock:
		return s.lock(ctx, r)
	}
	return none, problem.New("request-invalid", "%.16q is no operation of a store", r.Op)
}

// stamp is the time of a write: now, or a moment after what is there, which a
// gateway with another clock may have written.
func (s *Shared) stamp(contract canon.Hash, key string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.now().UnixNano(), s.items(contract)[key].Time+1)
}

func (s *Shared) get(contract canon.Hash, key string) (item, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.items(contract)[key]
	return i, ok && !i.Deleted
}

// Forget implements Store.
func (s *Shared) Forget(contract canon.Hash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, contract)
	maps.DeleteFunc(s.locks, func(k lockKey, _ held) bool { return k.contract == contract })
	if err := os.RemoveAll(filepath.Dir(s.path(contract, ""))); err != nil {
		return fmt.Errorf("forget what gateways shared: %w", err)
	}
	return nil
}
