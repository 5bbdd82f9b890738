package light

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/cometbft/cometbft/light/store"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	"github.com/cometbft/cometbft/types"

	"github.com/zero-os/zos/canon"
)

const (
	// keepHeaders is how many verified headers stay in memory.
	keepHeaders = 100
	// saveInterval is how often the newest header goes to the file.
	saveInterval = time.Minute
	maxStoreFile = 4 << 20
)

// headerStore keeps the verified headers in memory and the newest of them in a
// file. It implements CometBFT's light store.
type headerStore struct {
	path  string // empty: memory only
	chain string

	mu      sync.Mutex
	blocks  map[int64]*types.LightBlock
	heights []int64 // sorted
	saved   time.Time
	dirty   bool
}

// storeFile is the content of the file.
type storeFile struct {
	V     uint64     `cbor:"v"`
	Chain string     `cbor:"chain"`
	Block []byte     `cbor:"block"` // protobuf LightBlock
	Sum   canon.Hash `cbor:"sum"`   // SHA-256 of Block
}

func openStore(path, chain string) (*headerStore, error) {
	s := &headerStore{path: path, chain: chain, blocks: map[int64]*types.LightBlock{}}
	if path == "" {
		return s, nil
	}
	block, err := s.load()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return s, nil
	case err != nil:
		return s, fmt.Errorf("read trusted header from %s: %w", path, err)
	}
	s.insert(block)
	return s, nil
}

func (s *headerStore) load() (*types.LightBlock, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStoreFile {
		return nil, fmt.Errorf("%d bytes, at most %d are expected", info.Size(), maxStoreFile)
	}
	b, err := os.ReadFile(s.path)
	if err != nil {
		return nil, err
	}
	return decodeStore(b, s.chain)
}

// decodeStore reads the content of a store's file and checks that it is a
// header of the chain with signatures of its own validators.
func decodeStore(b []byte, chain string) (*types.LightBlock, error) {
	var f storeFile
	if err := canon.UnmarshalLimit(b, maxStoreFile, &f); err != nil {
		return nil, err
	}
	if f.V != 1 || f.Chain != chain || canon.Sum(f.Block) != f.Sum {
		return nil, fmt.Errorf("not a header of %s, or damaged", chain)
	}
	var p cmtproto.LightBlock
	if err := p.Unmarshal(f.Block); err != nil {
		return nil, err
	}
	block, err := types.LightBlockFromProto(&p)
	if err != nil {
		return nil, err
	}
	if err := block.ValidateBasic(chain); err != nil {
		return nil, err
	}
	if err := block.ValidatorSet.VerifyCommitLight(chain, block.Commit.BlockID, block.Height, block.Commit); err != nil {
		return nil, err
	}
	return block, nil
}

func (s *headerStore) insert(b *types.LightBlock) {
	if _, ok := s.blocks[b.Height]; !ok {
		i := sort.Search(len(s.heights), func(i int) bool { return s.heights[i] >= b.Height })
		s.heights = append(s.heights, 0)
		copy(s.heights[i+1:], s.heights[i:])
		s.heights[i] = b.Height
	}
	s.blocks[b.Height] = b
}

func (s *headerStore) remove(height int64) {
	if _, ok := s.blocks[height]; !ok {
		return
	}
	delete(s.blocks, height)
	i := sort.Search(len(s.heights), func(i int) bool { return s.heights[i] >= height })
	s.heights = append(s.heights[:i], s.heights[i+1:]...)
}

// newest returns the newest verified header, nil if there is none.
func (s *headerStore) newest() *types.LightBlock {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heights) == 0 {
		return nil
	}
	return s.blocks[s.heights[len(s.heights)-1]]
}

// clear forgets everything, the file excepted.
func (s *headerStore) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocks, s.heights, s.dirty = map[int64]*types.LightBlock{}, nil, false
}

// SaveLightBlock implements store.Store. A file that cannot be written is not
// the header's fault: it is trusted all the same, from memory.
func (s *headerStore) SaveLightBlock(b *types.LightBlock) error {
	if b.Height <= 0 {
		return errors.New("save header: height is not positive")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(b)
	if b.Height == s.heights[len(s.heights)-1] {
		s.dirty = true
	}
	if time.Since(s.saved) >= saveInterval {
		_ = s.flush() // still dirty then; close tries again and tells
	}
	return nil
}

// close writes the newest header to the file.
func (s *headerStore) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flush()
}

func (s *headerStore) flush() error {
	if s.path == "" || !s.dirty {
		return nil
	}
	p, err := s.blocks[s.heights[len(s.heights)-1]].ToProto()
	if err != nil {
		return fmt.Errorf("save trusted header: %w", err)
	}
	block, err := p.Marshal()
	if err != nil {
		return fmt.Errorf("save trusted header: %w", err)
	}
	b, err := canon.Marshal(storeFile{V: 1, Chain: s.chain, Block: block, Sum: canon.Sum(block)})
	if err != nil {
		return fmt.Errorf("save trusted header: %w", err)
	}
	if err := replaceFile(s.path, b); err != nil {
		return fmt.Errorf("save trusted header to %s: %w", s.path, err)
	}
	s.saved, s.dirty = time.Now(), false
	return nil
}

// replaceFile puts b at path so that after a crash either the old or the new
// content is there.
func replaceFile(path string, b []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// DeleteLightBlock implements store.Store.
func (s *headerStore) DeleteLightBlock(height int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(height)
	return nil
}

// LightBlock implements store.Store.
func (s *headerStore) LightBlock(height int64) (*types.LightBlock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.blocks[height]; ok {
		return b, nil
	}
	return nil, store.ErrLightBlockNotFound
}

// LastLightBlockHeight implements store.Store; -1 if there is none.
func (s *headerStore) LastLightBlockHeight() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heights) == 0 {
		return -1, nil
	}
	return s.heights[len(s.heights)-1], nil
}

// FirstLightBlockHeight implements store.Store; -1 if there is none.
func (s *headerStore) FirstLightBlockHeight() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heights) == 0 {
		return -1, nil
	}
	return s.heights[0], nil
}

// LightBlockBefore implements store.Store.
func (s *headerStore) LightBlockBefore(height int64) (*types.LightBlock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := sort.Search(len(s.heights), func(i int) bool { return s.heights[i] >= height })
	if i == 0 {
		return nil, store.ErrLightBlockNotFound
	}
	return s.blocks[s.heights[i-1]], nil
}

// Prune implements store.Store.
func (s *headerStore) Prune(size uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.heights) > int(size) {
		s.remove(s.heights[0])
	}
	return nil
}

// Size implements store.Store.
func (s *headerStore) Size() uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint16(min(len(s.heights), 1<<16-1))
}
