package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// pair is two nodes that the ledger binds, on the given servers.
func pair(t testing.TB, w *world, left, right []string) (a, b *peer) {
	t.Helper()
	ka, kb := newKeys(t), newKeys(t)
	w.bind(slotNamed("a"), 1, ka)
	w.bind(slotNamed("b"), 1, kb)
	return w.peer(t, slotNamed("a"), 1, ka, left...), w.peer(t, slotNamed("b"), 1, kb, right...)
}

func TestNodesCallEachOther(t *testing.T) {
	w, urls := newWorld(t), []string{serve(t).URL()}
	a, b := pair(t, w, urls, urls)
	for _, body := range []string{"", "x", strings.Repeat("y", bus.MaxPeerBody-32)} {
		a.echo(t, ctx(t), b, body)
		b.echo(t, ctx(t), a, body)
	}
	_, err := a.Call(ctx(t), b.slot, "echo", make([]byte, bus.MaxPeerBody+1))
	wantCode(t, err, "request-invalid")
	_, err = a.Call(ctx(t), b.slot, "", nil)
	wantCode(t, err, "request-invalid")
	_, err = a.Call(ctx(t), a.slot, "echo", nil)
	wantCode(t, err, "request-invalid")
	_, err = a.Call(ctx(t), b.slot, "dance", nil)
	wantCode(t, err, "unknown-method")
	_, err = a.Call(ctx(t), b.slot, "echo", make([]byte, bus.MaxPeerBody)) // the answer is longer
	wantCode(t, err, "answer-too-large")
	b.Handle("fail", func(context.Context, canon.Hash, []byte) ([]byte, error) {
		return nil, fmt.Errorf("look: %w", problem.New("disk-full", "no room\n%s", strings.Repeat("ü", 1000)))
	})
	_, err = a.Call(ctx(t), b.slot, "fail", nil)
	wantCode(t, err, "disk-full")
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error of two lines: %q", err)
	}
	b.Handle("fail", func(context.Context, canon.Hash, []byte) ([]byte, error) { return nil, errors.New("no code") })
	_, err = a.Call(ctx(t), b.slot, "fail", nil)
	wantCode(t, err, "internal")
}

// Both nodes' clocks may say anything: nothing depends on the time of day.
func TestPeersNeedNoTimeOfDay(t *testing.T) {
	w, urls := newWorld(t), []string{serve(t).URL()}
	ka, kb := newKeys(t), newKeys(t)
	w.bind(slotNamed("a"), 1, ka)
	w.bind(slotNamed("b"), 1, kb)
	past := func(c *bus.PeersConfig) {
		now := c.Now
		c.Now = func() time.Time { return now().Add(-30 * 365 * 24 * time.Hour) }
	}
	a, b := w.peer(t, slotNamed("a"), 1, ka, urls...), w.peerWith(t, slotNamed("b"), 1, kb, past, urls...)
	a.echo(t, ctx(t), b, "1")
	b.echo(t, ctx(t), a, "2")
	// And steps of a clock, as of a machine that slept, are mended by one refusal.
	b.clock.add(time.Hour)
	a.echo(t, ctx(t), b, "3")
	a.clock.add(3 * time.Hour)
	a.echo(t, ctx(t), b, "4")
	b.echo(t, ctx(t), a, "5")
	if r := b.Refused(); r["request-expired"] != 1 || r["request-stale"] != 1 {
		t.Errorf("refused: %v", r)
	}
}

func TestRestartedPeerIsFoundAtOnce(t *testing.T) {
	w, urls := newWorld(t), []string{serve(t).URL()}
	a, b := pair(t, w, urls, urls)
	a.echo(t, ctx(t), b, "1")
	b.stop()
	b = w.peer(t, b.slot, 1, b.keys, urls...)
	a.echo(t, ctx(t), b, "2")
	if r := b.Refused(); r["request-stale"] != 1 {
		t.Errorf("refused: %v", r)
	}
	// Who was called knows the caller's run without asking.
	b.echo(t, ctx(t), a, "3")
	if r := a.Refused(); len(r) != 0 {
		t.Errorf("refused: %v", r)
	}
}

// A slot whose keys change is reached again without anybody's help, within a call.
func TestRekeyedPeerHeals(t *testing.T) {
	w, urls := newWorld(t), []string{serve(t).URL()}
	a, b := pair(t, w, urls, urls)
	a.echo(t, ctx(t), b, "1")
	b.echo(t, ctx(t), a, "2")
	b.stop()
	b.conn.Close()
	k := newKeys(t)
	w.bind(b.slot, 2, k)
	b = w.peer(t, b.slot, 2, k, urls...)
	a.echo(t, ctx(t), b, "3") // the callee was re-keyed
	a.stop()
	a.conn.Close()
	k = newKeys(t)
	w.bind(a.slot, 2, k)
	a = w.peer(t, a.slot, 2, k, urls...)
	b.echo(t, ctx(t), a, "4")
	a.echo(t, ctx(t), b, "5") // the caller was
	a.stop()
	a.conn.Close()
	k = newKeys(t)
	w.bind(a.slot, 3, k)
	a = w.peer(t, a.slot, 3, k, urls...)
	a.echo(t, ctx(t), b, "6") // and is the first to speak
}

// What the ledger does not bind is not believed, whoever it is.
func TestUnboundPeersAreRefused(t *testing.T) {
	w, urls := newWorld(t), []string{serve(t).URL()}
	a, b := pair(t, w, urls, urls)
	brief := func() context.Context {
		c, cancel := context.WithTimeout(context.Background(), time.Second)
		t.Cleanup(cancel)
		return c
	}
	// In the slot of a, with keys of its own; all the while it knows b's.
	impostor := w.peer(t, a.slot, 1, newKeys(t), urls...)
	_, err := impostor.Call(brief(), b.slot, "echo", nil)
	wantCode(t, err, "node-silent")
	peerRefused(t, b, "node-rekeyed", 1)
	// With the right keys, but of another epoch.
	old := w.peer(t, a.slot, 2, a.keys, urls...)
	_, err = old.Call(brief(), b.slot, "echo", nil)
	wantCode(t, err, "node-silent")
	peerRefused(t, b, "node-rekeyed", 2)
	// In a slot without a binding.
	stranger := w.peer(t, slotNamed("stranger"), 1, newKeys(t), urls...)
	_, err = stranger.Call(brief(), b.slot, "echo", nil)
	wantCode(t, err, "node-silent")
	peerRefused(t, b, "internal", 1) // the world's error has no code
	// To a slot without one.
	_, err = a.Call(brief(), slotNamed("nowhere"), "echo", nil)
	if err == nil || !strings.Contains(err.Error(), "not bound") {
		t.Errorf("error %v", err)
	}
	// Of another grid, with keys that are bound in this one.
	other := w.peerWith(t, a.slot, 1, a.keys, func(c *bus.PeersConfig) { c.Grid = canon.Sum([]byte("other")) }, urls...)
	_, err = other.Call(brief(), b.slot, "echo", nil)
	wantCode(t, err, "node-silent")
	if got := b.got(); len(got) != 0 {
		t.Errorf("a handler ran for %q", got)
	}
	a.echo(t, ctx(t), b, "control")
}

func TestOnlyKnownPeersMayCall(t *testing.T) {
	w, urls := newWorld(t), []string{serve(t).URL()}
	ka, kb := newKeys(t), newKeys(t)
	w.bind(slotNamed("a"), 1, ka)
	w.bind(slotNamed("b"), 1, kb)
	var known atomic.Bool
	var read atomic.Int64
	b := w.peerWith(t, slotNamed("b"), 1, kb, func(c *bus.PeersConfig) {
		c.Known = func(s canon.Hash) bool { return s == slotNamed("a") && known.Load() }
		c.Bound = func(x context.Context, s canon.Hash) (bus.Binding, error) { read.Add(1); return w.Bound(x, s) }
	}, urls...)
	a := w.peer(t, slotNamed("a"), 1, ka, urls...)
	short, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := a.Call(short, b.slot, "echo", nil)
	wantCode(t, err, "node-silent")
	peerRefused(t, b, "not-permitted", 1)
	if read.Load() != 0 {
		t.Error("the ledger was read for someone unknown")
	}
	known.Store(true)
	a.echo(t, ctx(t), b, "now")
}

// Two servers: a call is answered as long as one carries both ways, and a request
// that comes over both runs once.
func TestPeersSurviveTheLossOfAServer(t *testing.T) {
	w, s1, s2 := newWorld(t), serve(t), serve(t)
	urls := []string{s1.URL(), s2.URL()}
	a, b := pair(t, w, urls, urls)
	bothUp(t, a.conn)
	bothUp(t, b.conn)
	for i := range 20 {
		a.echo(t, ctx(t), b, fmt.Sprint(i))
	}
	if got := b.got(); len(got) != 20 {
		t.Errorf("the handler ran %d times for 20 calls", len(got))
	}
	if r := b.Refused(); len(r) != 0 {
		t.Errorf("refused: %v", r)
	}
	must(t, s1.Stop())
	a.echo(t, ctx(t), b, "after")
	b.echo(t, ctx(t), a, "back")
}

// A server that carries requests and swallows every answer is no obstacle: the
// request goes over another one next, and the answer back over each.
func TestServerThatSwallowsAnswersIsNoObstacle(t *testing.T) {
	w := newWorld(t)
	m := newBetween(t, slotNamed("b"))
	good := serve(t).URL()
	a, b := pair(t, w, []string{m.left, good}, []string{m.right, good})
	bothUp(t, a.conn)
	bothUp(t, b.conn)
	m.onAnswer(func([]byte, string) {})
	for i := range 10 {
		a.echo(t, ctx(t), b, fmt.Sprint(i))
	}
	if got := b.got(); len(got) != 10 {
		t.Errorf("the handler ran %d times for 10 calls", len(got))
	}
}

func bothUp(t testing.TB, c *bus.Conn) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); c.Up() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the links do not come up")
		}
	}
}

// A caller that keeps a node busy takes nothing from the others.
func TestBusyPeerLeavesRoomForOthers(t *testing.T) {
	w, urls := newWorld(t), []string{serve(t).URL()}
	a, b := pair(t, w, urls, urls)
	kc := newKeys(t)
	w.bind(slotNamed("c"), 1, kc)
	c := w.peer(t, slotNamed("c"), 1, kc, urls...)
	hold := make(chan struct{})
	entered := make(chan struct{}, 100)
	b.Handle("wait", func(ctx context.Context, _ canon.Hash, _ []byte) ([]byte, error) {
		entered <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, nil
	})
	results := make(chan error, bus.PeerPerCaller)
	for range bus.PeerPerCaller {
		go func() {
			_, err := a.Call(ctx(t), b.slot, "wait", nil)
			results <- err
		}()
	}
	for range bus.PeerPerCaller {
		<-entered
	}
	_, err := a.Call(ctx(t), b.slot, "wait", nil)
	wantCode(t, err, "node-busy")
	c.echo(t, ctx(t), b, "me too")
	close(hold)
	for range bus.PeerPerCaller {
		must(t, <-results)
	}
	a.echo(t, ctx(t), b, "again")
}

// Calls of a method in order: what is overtaken is refused, and two of one
// caller never overlap.
func TestOvertakenCallsAreRefused(t *testing.T) {
	w, m := newWorld(t), newBetween(t, slotNamed("b"))
	a, b := pair(t, w, []string{m.left}, []string{m.right})
	held := make(chan func(), 1)
	var once sync.Once
	m.onRequest(func(data []byte, reply string) {
		data = bytes.Clone(data)
		first := false
		once.Do(func() { first = true })
		if first {
			held <- func() { m.toRight(data, reply) }
			return
		}
		m.toRight(data, reply)
	})
	short, cancel := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() {
		_, err := a.Call(short, b.slot, "newest", []byte("1"))
		first <- err
	}()
	late := <-held
	cancel()
	<-first
	_, err := a.Call(ctx(t), b.slot, "newest", []byte("2"))
	must(t, err)
	late()
	peerRefused(t, b, "request-old", 1)
	if got := b.got(); len(got) != 1 || got[0] != "2" {
		t.Errorf("the handler got %q", got)
	}
	var inside atomic.Int64
	b.HandleInOrder("alone", func(context.Context, canon.Hash, []byte) ([]byte, error) {
		if inside.Add(1) != 1 {
			t.Error("two calls of one caller overlap")
		}
		time.Sleep(time.Millisecond)
		inside.Add(-1)
		return nil, nil
	})
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := a.Call(ctx(t), b.slot, "alone", nil); err != nil && problem.Code(err) != "request-old" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A restarted caller counts as newer than everything of its earlier run, also
// what the bus held back.
func TestHeldBackCallOfAnEarlierRunIsOld(t *testing.T) {
	w, m := newWorld(t), newBetween(t, slotNamed("b"))
	a, b := pair(t, w, []string{m.left}, []string{m.right})
	_, err := a.Call(ctx(t), b.slot, "newest", []byte("1"))
	must(t, err)
	held := make(chan func(), 100)
	m.onRequest(func(data []byte, reply string) {
		data = bytes.Clone(data)
		held <- func() { m.toRight(data, reply) }
	})
	short, cancel := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() {
		_, err := a.Call(short, b.slot, "newest", []byte("2"))
		first <- err
	}()
	late := <-held
	cancel()
	<-first
	a.stop()
	a.conn.Close()
	m.onRequest(nil)
	a = w.peer(t, a.slot, 1, a.keys, m.left)
	_, err = a.Call(ctx(t), b.slot, "newest", []byte("3"))
	must(t, err)
	late()
	peerRefused(t, b, "request-old", 1)
	_, err = a.Call(ctx(t), b.slot, "newest", []byte("4"))
	must(t, err)
	if got := strings.Join(b.got(), ""); got != "134" {
		t.Errorf("the handler got %s", got)
	}
}
