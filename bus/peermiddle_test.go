package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	rules "github.com/zero-os/zos/contract"
)

// These tests play the attacks of a bus that lies to nodes about each other.

// greeted are two nodes with a bus that lies between them, that know each other's run.
func greeted(t testing.TB) (*world, *between, *peer, *peer) {
	t.Helper()
	w, m := newWorld(t), newBetween(t, slotNamed("b"))
	a, b := pair(t, w, []string{m.left}, []string{m.right})
	a.echo(t, ctx(t), b, "first")
	return w, m, a, b
}

func second(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), time.Second)
	t.Cleanup(cancel)
	return c
}

func TestMiddleReadsNothingOfPeers(t *testing.T) {
	_, m, a, b := greeted(t)
	a.echo(t, ctx(t), b, "the marker that nobody may see")
	m.mu.Lock()
	defer m.mu.Unlock()
	public := 0
	for _, d := range m.seen {
		for name, secret := range map[string][]byte{"body": []byte("the marker"), "method": []byte("echo"), "caller": a.slot[:], "caller's key": a.signer.Public()} {
			if bytes.Contains(d, secret) {
				t.Errorf("the bus sees the %s", name)
			}
		}
		if bytes.Contains(d, b.signer.Public()) {
			public++ // the control: a hello names the key that signed it
		}
	}
	if public == 0 || len(m.seen) < 5 {
		t.Errorf("control: %d messages passed, %d name the callee's key", len(m.seen), public)
	}
}

func TestReplayedPeerRequestRunsOnce(t *testing.T) {
	_, m, a, b := greeted(t)
	kept := make(chan []byte, 1)
	m.onRequest(func(data []byte, reply string) {
		select {
		case kept <- bytes.Clone(data):
		default:
		}
		for range 100 {
			m.toRight(data, reply)
		}
	})
	a.echo(t, ctx(t), b, "once")
	old := <-kept
	// The answer is given again, a bounded number of times; the handler does not run.
	got := make(chan struct{}, 1000)
	m.onAnswer(func([]byte, string) { got <- struct{}{} })
	for range 100 {
		m.toRight(old, "")
	}
	m.onRequest(nil)
	m.onAnswer(nil)
	a.echo(t, ctx(t), b, "twice") // all of that has arrived before this
	if got := b.got(); len(got) != 3 {
		t.Errorf("the handler got %q", got)
	}
	if len(got) > 40 {
		t.Errorf("%d answers were given again", len(got))
	}
	// Past its expiry the answer and the id are forgotten; the expiry refuses.
	b.clock.add(2 * time.Minute)
	b.Sweep()
	m.toRight(old, "")
	peerRefused(t, b, "request-expired", 1)
	b.clock.add(-10 * time.Minute) // and a clock that runs back does not revive it
	m.toRight(old, "")
	peerRefused(t, b, "request-expired", 2)
	// Nor does a new run take it.
	b.stop()
	k := b.keys
	b.conn.Close()
	again := &world{bound: map[canon.Hash]bus.Binding{}}
	again.bind(a.slot, 1, a.keys)
	b = again.peer(t, b.slot, 1, k, m.right)
	for end := time.Now().Add(20 * time.Second); b.Refused()["request-stale"] == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		m.toRight(old, "") // again and again: when the new run begins to listen is not known
	}
	peerRefused(t, b, "request-stale", 1)
	if got := b.got(); len(got) != 0 {
		t.Errorf("the handler got %q", got)
	}
}

// A server that keeps answers back and repeats many old requests at once can't make
// the callee forget what it has just answered: the other server's copy is answered.
func TestRepeatedOldRequestsPushOutNoAnswer(t *testing.T) {
	w := newWorld(t)
	m := newBetween(t, slotNamed("b"))
	good := serve(t).URL()
	a, b := pair(t, w, []string{m.left, good}, []string{m.right, good})
	bothUp(t, a.conn)
	bothUp(t, b.conn)
	var mu sync.Mutex
	var old [][]byte
	m.onRequest(func(data []byte, reply string) {
		mu.Lock()
		old = append(old, bytes.Clone(data))
		mu.Unlock()
		m.toRight(data, reply)
	})
	kept := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(old)
	}
	for i := 0; kept() < 70; i++ {
		a.echo(t, ctx(t), b, fmt.Sprint(i))
	}
	b.clock.add(2 * time.Minute) // all of them are past their expiry
	b.Sweep()
	m.onRequest(nil)
	a.echo(t, ctx(t), b, "now") // so a knows b's clock again
	m.onAnswer(func(_ []byte, reply string) {
		if reply == "" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, data := range old {
			m.toRight(data, "")
		}
	})
	for i := range 6 { // by the one server first, or by the other
		a.echo(t, ctx(t), b, fmt.Sprint("under attack ", i))
	}
}

func TestDelayedPeerRequestIsAskedAnew(t *testing.T) {
	_, m, a, b := greeted(t)
	first := true
	m.onRequest(func(data []byte, reply string) {
		if first { // as if it had been a minute on its way
			b.clock.add(61 * time.Second)
		}
		first = false
		m.toRight(data, reply)
	})
	a.echo(t, ctx(t), b, "late")
	if r := b.Refused(); r["request-expired"] != 1 {
		t.Errorf("refused: %v", r)
	}
	if got := b.got(); len(got) != 2 {
		t.Errorf("the handler got %q", got)
	}
}

// The holder of one node opens what he was sent and seals it to another.
func TestPeerRequestReSealedToAnotherIsRefused(t *testing.T) {
	w, m, a, b := greeted(t)
	kc := newKeys(t)
	w.bind(slotNamed("c"), 1, kc)
	c := w.peer(t, slotNamed("c"), 1, kc, m.right)
	m.onRequest(func(data []byte, reply string) {
		inner, err := bus.InnerPeerCall(b.sealing, grid, b.slot, 1, data)
		if err != nil {
			t.Error(err)
			return
		}
		to, _ := w.Bound(context.Background(), c.slot)
		again, err := bus.SealPeerCall(to, grid, c.slot, inner)
		if err != nil {
			t.Error(err)
			return
		}
		m.b.PublishRequest(bus.PeerSubject(c.slot), reply, again)
		m.b.PublishRequest(bus.PeerSubject(c.slot), reply, data)
	})
	_, err := a.Call(second(t), b.slot, "echo", []byte("x"))
	wantCode(t, err, "node-silent")
	peerRefused(t, c, "request-misdirected", 1)
	peerRefused(t, c, "unsealable", 1)
	if len(c.got())+len(b.got()) != 1 {
		t.Error("a handler ran")
	}
	// Sealed anew to the same node it is another message but the same request.
	m.onRequest(func(data []byte, reply string) {
		m.toRight(data, reply)
		inner, err := bus.InnerPeerCall(b.sealing, grid, b.slot, 1, data)
		if err != nil {
			t.Error(err)
			return
		}
		to, _ := w.Bound(context.Background(), b.slot)
		again, err := bus.SealPeerCall(to, grid, b.slot, inner)
		if err != nil {
			t.Error(err)
			return
		}
		m.toRight(again, reply)
	})
	a.echo(t, ctx(t), b, "y")
	peerRefused(t, b, "request-replayed", 1)
	if got := b.got(); len(got) != 2 {
		t.Errorf("the handler got %q", got)
	}
}

func TestAlteredPeerRequestIsRefused(t *testing.T) {
	_, m, a, b := greeted(t)
	count := make(chan int, 100)
	m.onRequest(func(data []byte, reply string) {
		sent := 0
		for i := 0; i < len(data); i += 37 {
			d := bytes.Clone(data)
			d[i] ^= 1
			m.toRight(d, reply)
			sent++
		}
		m.toRight(data[:len(data)-1], reply)
		m.toRight(append(bytes.Clone(data), 0), reply)
		m.toRight([]byte{1}, reply)
		m.toRight(nil, reply)
		m.toRight(make([]byte, 1<<19), reply)
		count <- sent
	})
	_, err := a.Call(second(t), b.slot, "echo", nil)
	wantCode(t, err, "node-silent")
	peerRefused(t, b, "unsealable", uint64(<-count))
	peerRefused(t, b, "request-invalid", 1)
	if got := b.got(); len(got) != 1 {
		t.Errorf("the handler got %q", got)
	}
}

// Whatever the bus puts into the caller's inbox, the callee's own reply is what
// the caller gets.
func TestForgedPeerRepliesAreNoAnswer(t *testing.T) {
	w, m, a, b := greeted(t)
	impostor := newKeys(t)
	requests := make(chan []byte, 1)
	var earlier []byte
	m.onRequest(func(data []byte, reply string) {
		select {
		case requests <- bytes.Clone(data):
		default:
		}
		m.toRight(data, reply)
	})
	// The strongest bus there can be: it holds the callee's sealing key.
	forge := func(request []byte, k keys, change func(*bus.PeerReply)) []byte {
		o, err := bus.OpenPeerCall(b.sealing, grid, b.slot, 1, request)
		if err != nil {
			t.Error(err)
			return nil
		}
		r := bus.PeerReply{
			Header: rules.Header{V: bus.Version, Kind: bus.KindPeerReply, Grid: grid},
			From:   b.slot, Epoch: 1, Run: o.ToRun, Time: o.Issued, To: a.slot, Request: o.Hash(), Body: canon.Sum([]byte("forged")),
		}
		change(&r)
		s, err := rules.Sign(context.Background(), r, r.Kind, k.signer)
		if err != nil {
			t.Error(err)
		}
		d, err := bus.SealPeerReply(grid, o, s, []byte("forged"))
		if err != nil {
			t.Error(err)
		}
		return d
	}
	same := func(*bus.PeerReply) {}
	var request []byte
	m.onAnswer(func(data []byte, reply string) {
		select {
		case request = <-requests:
		default:
		}
		if request == nil {
			m.toLeft(data, reply)
			return
		}
		for _, f := range [][]byte{
			nil, {1}, bytes.Repeat([]byte{1}, 2000), make([]byte, 900_000),
			append(bytes.Clone(data), 0), data[:len(data)-1],
			forge(request, impostor, same),
			forge(request, a.keys, same), // the caller's own key is no key of the callee
			// Signed by the true node, which would never: each binding holds alone.
			forge(request, b.keys, func(r *bus.PeerReply) { r.Request = canon.Sum([]byte("another")) }),
			forge(request, b.keys, func(r *bus.PeerReply) { r.From = canon.Sum([]byte("another")) }),
			forge(request, b.keys, func(r *bus.PeerReply) { r.To = canon.Sum([]byte("another")) }),
			forge(request, b.keys, func(r *bus.PeerReply) { r.Epoch = 2 }),
			forge(request, b.keys, func(r *bus.PeerReply) { r.Grid = canon.Sum([]byte("another")) }),
			forge(request, b.keys, func(r *bus.PeerReply) { r.Body = canon.Sum([]byte("else")) }),
			forge(request, b.keys, func(r *bus.PeerReply) { r.Code = "oops" }),
			forge(request, b.keys, func(r *bus.PeerReply) { r.Run = nil }),
			forge(request, b.keys, func(r *bus.PeerReply) { r.Time = 1 << 63 }),
			earlier,
		} {
			m.toLeft(f, reply)
		}
		for i := 0; i < len(data); i += 61 {
			d := bytes.Clone(data)
			d[i] ^= 0x80
			m.toLeft(d, reply)
		}
		earlier = bytes.Clone(data)
		m.toLeft(data, reply)
		request = nil
	})
	a.echo(t, ctx(t), b, "1")
	a.echo(t, ctx(t), b, "2") // now there is an earlier reply to offer
	// The control: with everything right, it would be believed.
	m.onAnswer(func(_ []byte, reply string) { m.toLeft(forge(<-requests, b.keys, same), reply) })
	got, err := a.Call(ctx(t), b.slot, "echo", nil)
	must(t, err)
	if string(got) != "forged" {
		t.Errorf("control: answer %q", got)
	}
	// Forgeries alone are no answer, and the caller is told of them.
	m.onRequest(nil)
	m.onAnswer(func(_ []byte, reply string) { m.toLeft([]byte("no"), reply) })
	_, err = a.Call(second(t), b.slot, "echo", nil)
	wantCode(t, err, "node-silent")
	_ = w
}

// A forged hello tells a caller nothing: not the run, not the clock.
func TestForgedPeerHelloIsNoHello(t *testing.T) {
	w, m := newWorld(t), newBetween(t, slotNamed("b"))
	a, b := pair(t, w, []string{m.left}, []string{m.right})
	impostor := newKeys(t)
	forge := func(k keys, change func(*bus.PeerHello)) []byte {
		h := bus.PeerHello{
			Header: rules.Header{V: bus.Version, Kind: bus.KindPeerHello, Grid: grid},
			Slot:   b.slot, Epoch: 1, Run: make([]byte, 16), Challenge: make([]byte, 16),
		}
		change(&h)
		s, err := rules.Sign(context.Background(), h, h.Kind, k.signer)
		if err != nil {
			t.Error(err)
		}
		d, err := s.Encode()
		if err != nil {
			t.Error(err)
		}
		return d
	}
	var mu sync.Mutex
	var kept, next []byte // the true answer to an earlier challenge, and to this one
	requests := 0
	m.onRequest(func([]byte, string) {
		mu.Lock()
		defer mu.Unlock()
		requests++
	})
	m.onAnswer(func(data []byte, reply string) {
		mu.Lock()
		defer mu.Unlock()
		for _, f := range [][]byte{
			nil, {0xa0}, kept,
			forge(impostor, func(*bus.PeerHello) {}),
			forge(b.keys, func(*bus.PeerHello) {}), // another challenge
			forge(b.keys, func(h *bus.PeerHello) { h.Slot = canon.Sum(nil) }),
			forge(b.keys, func(h *bus.PeerHello) { h.Run = nil }),
		} {
			m.toLeft(f, reply)
		}
		next = bytes.Clone(data)
	})
	for range 2 {
		_, err := a.Call(second(t), b.slot, "echo", nil)
		wantCode(t, err, "node-silent")
		mu.Lock()
		kept = next
		mu.Unlock()
	}
	mu.Lock()
	if requests != 0 || kept == nil {
		t.Errorf("%d requests were made for a run of which nobody told", requests)
	}
	mu.Unlock()
	m.onAnswer(nil)
	m.onRequest(nil)
	a.echo(t, ctx(t), b, "control")
}

// Lost requests and lost answers cost time, not a second run.
func TestLostPeerMessagesAreSentAgain(t *testing.T) {
	_, m, a, b := greeted(t)
	n := 0
	m.onRequest(func(data []byte, reply string) {
		if n++; n > 1 {
			m.toRight(data, reply)
		}
	})
	answers := 0
	m.onAnswer(func(data []byte, reply string) {
		if answers++; answers > 1 {
			m.toLeft(data, reply)
		}
	})
	a.echo(t, ctx(t), b, "x")
	if got := b.got(); len(got) != 2 {
		t.Errorf("the handler got %q", got)
	}
}

// Reordered calls each get their own answer.
func TestReorderedPeerCallsKeepTheirAnswers(t *testing.T) {
	_, m, a, b := greeted(t)
	type held struct {
		data  []byte
		reply string
	}
	var wait []held
	m.onRequest(func(data []byte, reply string) {
		wait = append(wait, held{bytes.Clone(data), reply})
		if len(wait) < 4 {
			return
		}
		for i := len(wait) - 1; i >= 0; i-- {
			m.toRight(wait[i].data, wait[i].reply)
		}
	})
	done := make(chan error, 4)
	for i := range 4 {
		go func() {
			body := string(rune('a' + i))
			got, err := a.Call(ctx(t), b.slot, "echo", []byte(body))
			if err == nil && string(got) != a.slot.Short()+" said "+body {
				err = errors.New("another call's answer: " + string(got))
			}
			done <- err
		}()
	}
	for range 4 {
		must(t, <-done)
	}
}

// A statement signed by someone else than the slot that it names is refused,
// however it is sealed.
func TestNobodyCallsInAnothersName(t *testing.T) {
	w, m, a, b := greeted(t)
	kc := newKeys(t)
	w.bind(slotNamed("c"), 1, kc)
	m.onRequest(func(data []byte, reply string) {
		o, err := bus.OpenPeerCall(b.sealing, grid, b.slot, 1, data)
		if err != nil {
			t.Error(err)
			return
		}
		to, _ := w.Bound(context.Background(), b.slot)
		send := func(k keys, change func(*bus.PeerRequest), body string) {
			r := o.PeerRequest
			r.ID = []byte(token())[:16]
			r.Body = canon.Sum([]byte("x"))
			change(&r)
			s, err := rules.Sign(context.Background(), r, r.Kind, k.signer)
			if err != nil {
				t.Error(err)
				return
			}
			d, err := bus.SealPeerCall(to, grid, b.slot, bus.PeerCall{Request: s, Body: []byte(body)})
			if err != nil {
				t.Error(err)
				return
			}
			m.toRight(d, reply)
		}
		send(kc, func(*bus.PeerRequest) {}, "x")                                        // c says that it is a
		send(a.keys, func(r *bus.PeerRequest) { r.From = slotNamed("c") }, "x")         // a says that it is c
		send(a.keys, func(r *bus.PeerRequest) {}, "y")                                  // another body
		send(a.keys, func(r *bus.PeerRequest) { r.Grid = canon.Sum([]byte("z")) }, "x") // another grid
		send(a.keys, func(r *bus.PeerRequest) { r.To = slotNamed("c") }, "x")           // to another
	})
	_, err := a.Call(second(t), b.slot, "echo", []byte("x"))
	wantCode(t, err, "node-silent")
	peerRefused(t, b, "node-rekeyed", 2)
	peerRefused(t, b, "request-invalid", 1)
	peerRefused(t, b, "wrong-grid", 1)
	peerRefused(t, b, "request-misdirected", 1)
	if got := b.got(); len(got) != 1 {
		t.Errorf("the handler got %q", got)
	}
}
