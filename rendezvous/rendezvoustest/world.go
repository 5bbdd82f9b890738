// Package rendezvoustest has what tests of a rendezvous, and of everything that
// relies on one, need: slots with keys, servers for them, a wire that can be
// broken (Proxy) and an operator who lies (Relay).
package rendezvoustest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/sign"
)

// World is a grid's slots and their keys, as a ledger would prove them.
type World struct {
	Grid canon.Hash

	mu    sync.Mutex
	bound map[canon.Hash]bus.Binding
	away  bool
	reads int
}

// Member is a slot with its key.
type Member struct {
	Slot   canon.Hash
	Epoch  uint64
	Signer sign.Signer
}

// NewWorld is a grid without slots.
func NewWorld() *World {
	return &World{Grid: canon.Sum([]byte("grid")), bound: map[canon.Hash]bus.Binding{}}
}

// Join binds a new key to the slot of a name: at first as epoch 1, then as the
// next one.
func (w *World) Join(t testing.TB, name string) Member {
	t.Helper()
	_, s, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	slot := canon.Sum([]byte(name))
	w.mu.Lock()
	defer w.mu.Unlock()
	b := bus.Binding{Epoch: w.bound[slot].Epoch + 1, SigningKey: s.Public()}
	w.bound[slot] = b
	return Member{slot, b.Epoch, s}
}

// Leave takes a slot's binding away.
func (w *World) Leave(slot canon.Hash) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.bound, slot)
}

// Away makes the ledger unreachable, or reachable again.
func (w *World) Away(away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = away
}

// Reads is how often Bound was called.
func (w *World) Reads() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reads
}

// Bound reads a binding, as server.Config wants it.
func (w *World) Bound(_ context.Context, slot canon.Hash) (bus.Binding, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads++
	if w.away {
		return bus.Binding{}, errors.New("the ledger is away")
	}
	b, ok := w.bound[slot]
	if !ok {
		return b, problem.New("slot-unknown", "no key is bound to slot %s", slot.Short())
	}
	return b, nil
}

// Serve starts a server for the world; the test's end stops it. change may alter
// its configuration.
func (w *World) Serve(t testing.TB, change ...func(*server.Config)) *server.Server {
	t.Helper()
	cfg := server.Config{CertDir: t.TempDir(), Grid: w.Grid, Bound: w.Bound}
	for _, c := range change {
		c(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := server.Serve(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Cluster starts n servers that are joined, and waits until they are.
func (w *World) Cluster(t testing.TB, n int, change ...func(*server.Config)) []*server.Server {
	t.Helper()
	var out []*server.Server
	for range n {
		out = append(out, w.Serve(t, change...))
	}
	for _, s := range out {
		for _, o := range out {
			if err := s.AddRoute(o.URL()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range out {
		Until(t, "the servers are joined", func() bool { return s.Peers() == n-1 })
	}
	return out
}

// Config is the configuration of a member's client.
func (w *World) Config(m Member, urls ...string) rendezvous.ClientConfig {
	return rendezvous.ClientConfig{
		URLs: urls, Grid: w.Grid, Slot: m.Slot, Epoch: m.Epoch, Signer: m.Signer,
		OnPacket: func(canon.Hash, []byte) {},
	}
}

// Until waits until ok holds, and fails the test when it does not within 30 s.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // between looks, not for ordering
	}
}

// host splits a server's URL into the address to dial and what follows it.
func host(t testing.TB, url string) (hostPort, rest string) {
	t.Helper()
	a, err := rendezvous.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := net.SplitHostPort(a.Host); err != nil {
		t.Fatal(err)
	}
	return a.Host, url[len("tls://"+a.Host):]
}
