package bus_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/rendezvous"
)

func TestAddressesThatCanNeverWorkAreRefused(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	for _, urls := range [][]string{
		nil, {""}, {"nats://127.0.0.1:4222"}, {"tls://127.0.0.1"}, {"tls://127.0.0.1:443#ab"}, {"127.0.0.1:443"},
		{"tls://user@127.0.0.1:443#" + pin}, {"tls://127.0.0.1:443/x#" + pin}, make([]string, 9),
		{"tls://127.0.0.1:443#" + pin, "http://127.0.0.1:443"},
	} {
		c, err := bus.Connect(bus.ConnConfig{URLs: urls, Role: bus.AsPeople()})
		if err == nil {
			c.Close()
			t.Errorf("%q is taken", urls)
		}
	}
	if c, err := bus.Connect(bus.ConnConfig{URLs: []string{"tls://127.0.0.1:443#" + pin}}); err == nil {
		c.Close()
		t.Error("no role is taken")
	}
}

// A server with another key than the pinned one is no bus, and people are told.
func TestBusMustHaveThePinnedKey(t *testing.T) {
	s := serve(t)
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	a.Pin[0] ^= 1
	c := connect(t, bus.AsPeople(), a.String())
	short, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err = c.Ready(short)
	wantCode(t, err, "bus-unreachable")
	if !strings.Contains(err.Error(), "pinned") {
		t.Errorf("the reason is not told: %v", err)
	}
	a.Pin = nil // no certificate authority of the system knows it
	c = connect(t, bus.AsPeople(), a.String())
	short, cancel = context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	wantCode(t, c.Ready(short), "bus-unreachable")
}

// A poke ends a dial that waits for an answer by a way that is gone: ten of them
// end here in the time in which two would by themselves.
func TestPokeDialsAnew(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	dialed := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			dialed <- c // and never a word to it
		}
	}()
	conn := connect(t, bus.AsPeople(), "tls://"+ln.Addr().String()+"#"+strings.Repeat("ab", 32))
	end := ctx(t)
	for range 10 {
		select {
		case c := <-dialed:
			defer c.Close()
		case <-end.Done():
			t.Fatal("a poke does not lead to a new dial")
		}
		conn.Poke()
	}
	short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	wantCode(t, conn.Ready(short), "bus-unreachable")
}

// hole is a way to a server that can become a black hole: what was connected
// stays so and hears nothing any more.
type hole struct {
	ln net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	epoch int // connections of an earlier one carry nothing
}

func newHole(t testing.TB, to string) *hole {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	h := &hole{ln: ln}
	t.Cleanup(func() { ln.Close(); h.wg.Wait() })
	h.wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			h.mu.Lock()
			epoch := h.epoch
			h.mu.Unlock()
			pass := func(a, b net.Conn) {
				defer a.Close()
				defer b.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := a.Read(buf)
					h.mu.Lock()
					dead := h.epoch != epoch
					h.mu.Unlock()
					if !dead && n > 0 {
						if _, err := b.Write(buf[:n]); err != nil {
							return
						}
					}
					if err == io.EOF || err != nil {
						return
					}
				}
			}
			h.wg.Go(func() { pass(near, far) })
			h.wg.Go(func() { pass(far, near) })
		}
	})
	return h
}

// swallow makes all present connections black holes; new ones work.
func (h *hole) swallow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
}

func (h *hole) url(t testing.TB, s *served) string {
	t.Helper()
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	a.Host = h.ln.Addr().String()
	return a.String()
}

// A link that is up and carries nothing is found: at a poke, and without one
// when its pings stay unanswered.
func TestDeadLinksAreFound(t *testing.T) {
	s := serve(t)
	w := newWorld(t)
	b := w.start(t, slot, newKeys(t), s.URL())
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	for name, ping := range map[string]time.Duration{"poked": time.Hour, "by itself": 200 * time.Millisecond} {
		h := newHole(t, a.Host)
		conn, err := bus.Connect(bus.WithPing(bus.ConnConfig{URLs: []string{h.url(t, s)}, Role: bus.AsPeople()}, ping))
		must(t, err)
		defer conn.Close()
		c, err := bus.NewClient(bus.ClientConfig{Conn: conn, Grid: grid, Bound: w.Bound, Signer: w.farm})
		must(t, err)
		for range 2 {
			_, err := c.Hello(ctx(t), b.slot)
			must(t, err)
			h.swallow()
			if name == "poked" {
				conn.Poke()
			}
			// Asked for as long as it takes: only a new link brings the answer.
			if _, err := c.Hello(ctx(t), b.slot); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}
