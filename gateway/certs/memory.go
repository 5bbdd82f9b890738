package certs

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a Store in this process. Its zero value is empty.
type Memory struct {
	mu     sync.Mutex
	values map[string]memoryValue
	locks  map[string]chan struct{} // full while held
}

type memoryValue struct {
	value    []byte
	modified time.Time
}

// Lock is Store's.
func (m *Memory) Lock(ctx context.Context, name string) error {
	select {
	case m.lock(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unlock is Store's.
func (m *Memory) Unlock(_ context.Context, name string) error {
	select {
	case <-m.lock(name):
		return nil
	default:
		return fmt.Errorf("unlock %s: it is not locked", name)
	}
}

func (m *Memory) lock(name string) chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks == nil {
		m.locks = map[string]chan struct{}{}
	}
	if m.locks[name] == nil {
		m.locks[name] = make(chan struct{}, 1)
	}
	return m.locks[name]
}

// Put is Store's.
func (m *Memory) Put(_ context.Context, key string, value []byte) error {
	if err := checkPut(key, value); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values == nil {
		m.values = map[string]memoryValue{}
	}
	m.values[key] = memoryValue{slices.Clone(value), time.Now()}
	return nil
}

// Get is Store's.
func (m *Memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[key]
	if !ok {
		return nil, missing(key)
	}
	return slices.Clone(v.value), nil
}

// Delete is Store's.
func (m *Memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.values, key)
	return nil
}

// List is Store's.
func (m *Memory) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(m.values))
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, prefix) }), nil
}

// Stat is Store's.
func (m *Memory) Stat(_ context.Context, key string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[key]
	if !ok {
		return Info{}, missing(key)
	}
	return Info{Size: int64(len(v.value)), Modified: v.modified}, nil
}

func missing(key string) error { return fmt.Errorf("get %s: %w", key, fs.ErrNotExist) }

// checkPut refuses what a Store is not asked to keep.
func checkPut(key string, value []byte) error {
	if !ValidKey(key) {
		return fmt.Errorf("put: %.80q is no key", key)
	}
	if len(value) > MaxValue {
		return fmt.Errorf("put %s: %d bytes, at most %d are allowed", key, len(value), MaxValue)
	}
	return nil
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
