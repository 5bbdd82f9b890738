package certs_test

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/gateway/certs"
)

// memory is a Store that gateways of one test share. Its zero value is empty.
type memory struct {
	mu     sync.Mutex
	values map[string]memoryValue
	locks  map[string]chan struct{} // full while held
}

type memoryValue struct {
	value    []byte
	modified time.Time
}

// Lock is Store's.
func (m *memory) Lock(ctx context.Context, name string) error {
	select {
	case m.lock(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unlock is Store's.
func (m *memory) Unlock(_ context.Context, name string) error {
	select {
	case <-m.lock(name):
		return nil
	default:
		return fmt.Errorf("unlock %s: it is not locked", name)
	}
}

func (m *memory) lock(name string) chan struct{} {
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
func (m *memory) Put(_ context.Context, key string, value []byte) error {
	if !certs.ValidKey(key) {
		return fmt.Errorf("put: %.80q is no key", key)
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
func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[key]
	if !ok {
		return nil, missing(key)
	}
	return slices.Clone(v.value), nil
}

// Delete is Store's.
func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.values, key)
	return nil
}

// List is Store's.
func (m *memory) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(m.values))
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, prefix) }), nil
}

// Stat is Store's.
func (m *memory) Stat(_ context.Context, key string) (certs.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.values[key]
	if !ok {
		return certs.Info{}, missing(key)
	}
	return certs.Info{Size: int64(len(v.value)), Modified: v.modified}, nil
}

func missing(key string) error { return fmt.Errorf("get %s: %w", key, fs.ErrNotExist) }
