package rendezvous_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/rendezvoustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a client that keeps what it receives.
type node struct {
	*rendezvous.Client
	rendezvoustest.Member
	t testing.TB

	mu       sync.Mutex
	got      map[string]int // by sender's short name and text
	observed map[[16]byte]netip.AddrPort
}

func connect(t testing.TB, w *rendezvoustest.World, m rendezvoustest.Member, change func(*rendezvous.ClientConfig), urls ...string) *node {
	t.Helper()
	n := &node{Member: m, t: t, got: map[string]int{}, observed: map[[16]byte]netip.AddrPort{}}
	cfg := w.Config(m, urls...)
	cfg.OnPacket = func(from canon.Hash, p []byte) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.got[from.Short()+" "+string(p)]++
	}
	cfg.OnObserved = func(token [16]byte, a netip.AddrPort) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.observed[token] = a
	}
	if change != nil {
		change(&cfg)
	}
	c, err := rendezvous.Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	n.Client = c
	return n
}

func relayOnly(c *rendezvous.ClientConfig) { c.RelayOnly = true }

func (n *node) up(links int) *node {
	n.t.Helper()
	rendezvoustest.Until(n.t, fmt.Sprintf("%d links are up", links), func() bool {
		up := 0
		for _, l := range n.Links() {
			if l.Up {
				up++
			}
		}
		return up == links
	})
	return n
}

func (n *node) has(from *node, text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.got[from.Slot.Short()+" "+text] > 0
}

// reach sends text to another node until it is there; packets may be lost.
func (n *node) reach(to *node, text string) {
	n.t.Helper()
	var last error
	defer func() {
		if n.t.Failed() {
			n.t.Logf("last error of Send: %v; links %+v, other's links %+v", last, n.Links(), to.Links())
		}
	}()
	next := time.Time{}
	rendezvoustest.Until(n.t, text+" arrives", func() bool {
		if now := time.Now(); now.After(next) {
			last = n.Send(to.Slot, []byte(text))
			next = now.Add(20 * time.Millisecond)
		}
		return to.has(n, text)
	})
}

func TestTwoNodesTalkThroughTheRelay(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t)
	for _, tc := range []struct {
		name   string
		change func(*rendezvous.ClientConfig)
	}{{"TLS", relayOnly}, {"UDP", nil}} {
		t.Run(tc.name, func(t *testing.T) {
			a := connect(t, w, w.Join(t, "a"), tc.change, s.URL()).up(1)
			b := connect(t, w, w.Join(t, "b"), tc.change, s.URL()).up(1)
			if tc.change == nil {
				for _, n := range []*node{a, b} {
					rendezvoustest.Until(t, "UDP is used", func() bool { return n.Links()[0].UDP })
				}
			}
			a.reach(b, "hello")
			b.reach(a, "hello back")
			for _, size := range []int{1, 1000, 1420, 1500, rendezvous.MaxPacket} {
				a.reach(b, string(bytes.Repeat([]byte{'x'}, size)))
			}
			rendezvoustest.Until(t, "a round trip is measured", func() bool { return a.Links()[0].RTT > 0 })
			if got := a.Links()[0].UDP; got != (tc.change == nil) {
				t.Errorf("UDP in use: %v", got)
			}
			if err := a.Send(b.Slot, make([]byte, rendezvous.MaxPacket+1)); err != rendezvous.ErrSize {
				t.Errorf("too large: %v", err)
			}
			if err := a.Send(b.Slot, nil); err != rendezvous.ErrSize {
				t.Errorf("empty: %v", err)
			}
		})
	}
}
