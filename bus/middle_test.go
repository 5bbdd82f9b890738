package bus_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	rules "github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// These tests play the attacks of a bus that lies.

func brief(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	t.Cleanup(cancel)
	return c
}

func TestMiddleReadsNothing(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	marker := []byte("the marker that nobody may see")
	n.HandleCall(bus.MethodStatus, func(context.Context, bus.Query) ([]byte, error) { return marker, nil })
	a := ask(bus.MethodStatus)
	a.Params = marker
	got, err := w.client(t, w.member, m.people).Call(ctx(t), a)
	must(t, err)
	if !bytes.Equal(got, marker) {
		t.Errorf("answer %q", got)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	hellos := 0
	for _, b := range m.seen {
		for name, secret := range map[string][]byte{"text": marker, "method": []byte(bus.MethodStatus), "contract": contract[:], "account": w.member.Public()} {
			if bytes.Contains(b, secret) {
				t.Errorf("the bus sees the %s", name)
			}
		}
		if bytes.Contains(b, n.signer.Public()) {
			hellos++ // the control: what is public is seen
		}
	}
	if hellos == 0 || len(m.seen) < 3 {
		t.Errorf("control: %d messages passed, %d name the node's key", len(m.seen), hellos)
	}
}

func TestReplayedRequestRunsOnce(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	var mu sync.Mutex
	var kept []byte
	m.onRequest(func(m *middle, data []byte, reply string) {
		mu.Lock()
		kept = data
		mu.Unlock()
		for range 5 {
			m.toNode(data, reply)
		}
	})
	_, err := w.client(t, w.member, m.people).Call(ctx(t), ask(bus.MethodStatus))
	must(t, err)
	refusedSoon(t, n, "request-replayed", 4)
	mu.Lock()
	m.toNode(kept, "")
	mu.Unlock()
	refusedSoon(t, n, "request-replayed", 5)
	if len(n.calls) != 1 {
		t.Errorf("the handler ran %d times", len(n.calls))
	}
	// Past the expiry its id is forgotten; the expiry refuses it.
	n.clock.add(5 * time.Minute)
	mu.Lock()
	m.toNode(kept, "")
	mu.Unlock()
	refusedSoon(t, n, "request-expired", 1)
	// And a clock that runs back does not revive it.
	n.clock.add(-10 * time.Minute)
	mu.Lock()
	m.toNode(kept, "")
	mu.Unlock()
	refusedSoon(t, n, "request-expired", 2)
	if len(n.calls) != 1 {
		t.Errorf("the handler ran %d times", len(n.calls))
	}
}

func TestDelayedRequestIsRefused(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	m.onRequest(func(m *middle, data []byte, reply string) {
		n.clock.add(3 * time.Minute)
		m.toNode(data, reply)
	})
	_, err := w.client(t, w.member, m.people).Call(ctx(t), ask(bus.MethodStatus))
	wantCode(t, err, "request-expired")
	if len(n.calls) != 0 {
		t.Error("the handler ran")
	}
}

func TestRequestOfAnEarlierBootIsRefused(t *testing.T) {
	w, m, k := newWorld(t), newMiddle(t), newKeys(t)
	n := w.start(t, slot, k, m.node)
	held := make(chan []byte, 1)
	m.onRequest(func(m *middle, data []byte, reply string) { held <- data })
	_, err := w.greeted(t, w.member, m.people).Call(brief(t), ask(bus.MethodStatus))
	wantCode(t, err, "node-silent")
	n.stop()
	n = w.start(t, slot, k, m.node)
	w.greeted(t, w.member, m.people) // it listens now
	m.toNode(<-held, "")
	refusedSoon(t, n, "request-stale", 1)
	if len(n.calls) != 0 {
		t.Error("the handler ran")
	}
}

// The holder of one node opens what he was sent and seals it to another node,
// with the same account's right to ask there.
func TestRequestReSealedToAnotherNodeIsRefused(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	mine := w.start(t, slot, newKeys(t), m.node)
	second := canon.Sum([]byte("another slot"))
	other := w.start(t, second, newKeys(t), m.node)
	m.onRequest(func(m *middle, data []byte, reply string) {
		inner, err := bus.InnerCall(mine.sealing, grid, slot, 1, data)
		if err != nil {
			t.Error(err)
			return
		}
		b, err := w.Bound(context.Background(), second)
		if err != nil {
			t.Error(err)
			return
		}
		again, err := bus.SealCall(b, grid, second, inner)
		if err != nil {
			t.Error(err)
			return
		}
		m.b.PublishRequest(bus.RequestSubject(second), reply, again)
		m.b.PublishRequest(bus.RequestSubject(second), reply, data) // and as it was
	})
	_, err := w.greeted(t, w.member, m.people).Call(brief(t), ask(bus.MethodStatus))
	wantCode(t, err, "node-silent")
	refusedSoon(t, other, "request-misdirected", 1)
	refusedSoon(t, other, "unsealable", 1)
	if len(other.calls)+len(mine.calls) != 0 {
		t.Error("a handler ran")
	}
}

func TestAlteredRequestIsRefused(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	count := make(chan int, 1)
	m.onRequest(func(m *middle, data []byte, reply string) {
		sent := 0
		for i := 0; i < len(data); i += 37 {
			b := bytes.Clone(data)
			b[i] ^= 1
			m.toNode(b, reply)
			sent++
		}
		m.toNode(data[:len(data)-1], reply)
		m.toNode(append(bytes.Clone(data), 0), reply)
		m.toNode(nil, reply)
		m.toNode(make([]byte, 1<<19), reply)
		count <- sent + 3
	})
	_, err := w.greeted(t, w.member, m.people).Call(brief(t), ask(bus.MethodStatus))
	wantCode(t, err, "node-silent")
	refusedSoon(t, n, "unsealable", uint64(<-count))
	refusedSoon(t, n, "request-invalid", 1)
	if len(n.calls) != 0 {
		t.Error("the handler ran")
	}
}

// TestForgedRepliesAreNoAnswer: whatever the bus puts into the asker's inbox, the
// node's own reply is what the asker gets.
func TestForgedRepliesAreNoAnswer(t *testing.T) {
	w, m, k := newWorld(t), newMiddle(t), newKeys(t)
	n := w.start(t, slot, k, m.node)
	impostor := newKeys(t)
	var mu sync.Mutex
	var request []byte // as the node received it
	var earlier []byte // a true reply to another request
	m.onRequest(func(m *middle, data []byte, reply string) {
		mu.Lock()
		request = data
		mu.Unlock()
		m.toNode(data, reply)
	})
	forge := func(o bus.Opened, key keys, to []byte, change func(*bus.Reply)) []byte {
		r := bus.Reply{
			Header: rules.Header{V: bus.Version, Kind: rules.KindReply, Grid: grid},
			Slot:   slot, Epoch: 1, Request: o.Hash(), Last: true, Body: canon.Sum([]byte("forged")),
		}
		change(&r)
		s, err := rules.Sign(context.Background(), r, r.Kind, key.signer)
		if err != nil {
			return nil // a kind that can't be signed as this one
		}
		b, err := bus.SealReply(to, o.Hash(), s, []byte("forged"))
		if err != nil {
			t.Error(err)
		}
		return b
	}
	same := func(*bus.Reply) {}
	m.onAnswer(func(m *middle, data []byte, reply string) {
		if reply == "" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if request == nil { // the answer to a hello
			m.toPeople(data, reply)
			return
		}
		// A holder of the node's sealing key alone, the strongest bus there can be.
		o, err := bus.OpenCall(k.sealing, grid, slot, 1, request)
		if err != nil {
			t.Error(err)
			return
		}
		for _, f := range [][]byte{
			nil, {1}, bytes.Repeat([]byte{1}, 2000), make([]byte, 900_000),
			append(bytes.Clone(data), 0), data[1:],
			forge(o, impostor, o.ReplyTo, same),
			forge(o, impostor, impostor.sealing.Public(), same),
			forge(o, k, impostor.sealing.Public(), same),
			// Signed by the true node, which would never: each binding holds alone.
			forge(o, k, o.ReplyTo, func(r *bus.Reply) { r.Request = canon.Sum([]byte("another")) }),
			forge(o, k, o.ReplyTo, func(r *bus.Reply) { r.Slot = canon.Sum([]byte("another")) }),
			forge(o, k, o.ReplyTo, func(r *bus.Reply) { r.Epoch = 2 }),
			forge(o, k, o.ReplyTo, func(r *bus.Reply) { r.Grid = canon.Sum([]byte("another")) }),
			forge(o, k, o.ReplyTo, func(r *bus.Reply) { r.Body = canon.Sum([]byte("else")) }),
			forge(o, k, o.ReplyTo, func(r *bus.Reply) { r.Code, r.Last = "oops", false }),
			earlier,
		} {
			m.toPeople(f, reply)
		}
		for i := 0; i < len(data); i += 61 {
			b := bytes.Clone(data)
			b[i] ^= 0x80
			m.toPeople(b, reply)
		}
		earlier = bytes.Clone(data)
		m.toPeople(data, reply)
	})
	c := w.client(t, w.member, m.people)
	for range 2 { // the second time there is an earlier reply to offer
		got, err := c.Call(ctx(t), ask(bus.MethodStatus))
		must(t, err)
		if string(got) != "status of web" {
			t.Errorf("answer %q", got)
		}
	}
	// The control for the forgeries: with everything right, it would be believed.
	m.onAnswer(func(m *middle, data []byte, reply string) {
		mu.Lock()
		defer mu.Unlock()
		o, err := bus.OpenCall(k.sealing, grid, slot, 1, request)
		if err != nil {
			t.Error(err)
			return
		}
		m.toPeople(forge(o, k, o.ReplyTo, same), reply)
	})
	got, err := c.Call(ctx(t), ask(bus.MethodStatus))
	must(t, err)
	if string(got) != "forged" {
		t.Errorf("control: answer %q", got)
	}
	// Forgeries alone are no answer, and the asker is told of them.
	m.onAnswer(func(m *middle, data []byte, reply string) { m.toPeople([]byte("no"), reply) })
	_, err = c.Call(brief(t), ask(bus.MethodStatus))
	wantCode(t, err, "node-silent")
	_ = n
}

func TestForgedHelloIsNoHello(t *testing.T) {
	w, m, k := newWorld(t), newMiddle(t), newKeys(t)
	w.start(t, slot, k, m.node)
	impostor := newKeys(t)
	var kept []byte
	forge := func(change func(*bus.Heartbeat), s sign.Signer) []byte {
		h := bus.Heartbeat{
			Header: rules.Header{V: bus.Version, Kind: rules.KindHeartbeat, Grid: grid},
			Slot:   slot, Epoch: 1, BootNonce: make([]byte, 16), Instance: make([]byte, 16), Sequence: 99,
			Challenge: make([]byte, 16),
		}
		change(&h)
		signed, err := rules.Sign(context.Background(), h, rules.KindHeartbeat, s)
		if err != nil {
			t.Error(err)
		}
		b, err := signed.Encode()
		if err != nil {
			t.Error(err)
		}
		return b
	}
	m.onAnswer(func(m *middle, data []byte, reply string) {
		for _, f := range [][]byte{
			nil, {0xa0}, kept,
			forge(func(*bus.Heartbeat) {}, impostor.signer),
			forge(func(*bus.Heartbeat) {}, k.signer), // another challenge
			forge(func(h *bus.Heartbeat) { h.Slot = canon.Sum(nil) }, k.signer),
			forge(func(h *bus.Heartbeat) { h.BootNonce = nil }, k.signer),
		} {
			m.toPeople(f, reply)
		}
		kept = data
	})
	c := w.client(t, w.member, m.people)
	for range 2 {
		_, err := c.Hello(brief(t), slot)
		if code := problem.Code(err); code != "node-silent" {
			t.Errorf("error %v", err)
		}
	}
}

// reorder makes the bus treat replies by their place: what f returns is what
// the asker gets when reply n arrives. Hellos pass.
func reorder(m *middle, f func(n int, data []byte) [][]byte) {
	var mu sync.Mutex
	n := -1 // the first answer is to the hello
	m.onAnswer(func(m *middle, data []byte, reply string) {
		mu.Lock()
		defer mu.Unlock()
		if n < 0 {
			m.toPeople(data, reply)
		} else {
			for _, b := range f(n, data) {
				m.toPeople(b, reply)
			}
		}
		n++
	})
}

func TestLostOrReorderedRepliesAreNoticed(t *testing.T) {
	var held []byte
	for name, f := range map[string]func(n int, data []byte) [][]byte{
		"dropped first":  func(n int, data []byte) [][]byte { return pick(n != 0, data) },
		"dropped second": func(n int, data []byte) [][]byte { return pick(n != 1, data) },
		"swapped": func(n int, data []byte) [][]byte {
			if n == 1 {
				held = data
				return nil
			}
			if n == 2 {
				return [][]byte{data, held}
			}
			return [][]byte{data}
		},
		"altered": func(n int, data []byte) [][]byte {
			if n == 1 {
				data = bytes.Clone(data)
				data[len(data)-1] ^= 1
			}
			return [][]byte{data}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := newWorld(t), newMiddle(t)
			n := w.start(t, slot, newKeys(t), m.node)
			n.HandleCall(bus.MethodNode, func(context.Context, bus.Query) ([]byte, error) { return make([]byte, 3*bus.MaxChunk), nil })
			reorder(m, f)
			_, err := w.client(t, w.farm, m.people).Call(ctx(t), ask(bus.MethodNode))
			wantCode(t, err, "reply-gap")
		})
	}
	t.Run("the last", func(t *testing.T) {
		w, m := newWorld(t), newMiddle(t)
		n := w.start(t, slot, newKeys(t), m.node)
		n.HandleCall(bus.MethodNode, func(context.Context, bus.Query) ([]byte, error) { return make([]byte, 3*bus.MaxChunk), nil })
		reorder(m, func(n int, data []byte) [][]byte { return pick(n != 2, data) })
		_, err := w.greeted(t, w.farm, m.people).Call(brief(t), ask(bus.MethodNode))
		wantCode(t, err, "node-silent")
	})
	t.Run("control: repeated replies do no harm", func(t *testing.T) {
		w, m := newWorld(t), newMiddle(t)
		n := w.start(t, slot, newKeys(t), m.node)
		want := make([]byte, 2*bus.MaxChunk+5)
		rand.Read(want)
		n.HandleCall(bus.MethodNode, func(context.Context, bus.Query) ([]byte, error) { return want, nil })
		reorder(m, func(n int, data []byte) [][]byte { return [][]byte{data, data, data} })
		got, err := w.client(t, w.farm, m.people).Call(ctx(t), ask(bus.MethodNode))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Error("the answer came back different")
		}
	})
}

func pick(ok bool, data []byte) [][]byte {
	if ok {
		return [][]byte{data}
	}
	return nil
}

// A request lost once is sent again by the client, and still runs once.
func TestLostRequestIsSentAgain(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	var mu sync.Mutex
	count := 0
	m.onRequest(func(m *middle, data []byte, reply string) {
		mu.Lock()
		defer mu.Unlock()
		if count++; count > 1 {
			m.toNode(data, reply)
		}
	})
	_, err := w.client(t, w.member, m.people).Call(ctx(t), ask(bus.MethodStatus))
	must(t, err)
	if len(n.calls) != 1 {
		t.Errorf("the handler ran %d times", len(n.calls))
	}
}

// A request whose signed bytes were changed by someone who can seal: the holder
// of the node's key asks in the name of a member.
func TestNobodyAsksInAnothersName(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	hb, err := w.client(t, w.member, url).Hello(ctx(t), slot)
	must(t, err)
	req := bus.Request{
		Header: rules.Header{V: bus.Version, Kind: rules.KindRequest, Grid: grid},
		Slot:   slot, Epoch: 1, BootNonce: hb.BootNonce, Instance: hb.Instance, ID: make([]byte, 16),
		Method: bus.MethodStatus, Contract: contract, ReplyTo: replyKey(t), Expiry: hb.Time + 60,
	}
	signed, err := rules.Sign(ctx(t), req, rules.KindRequest, w.outsider)
	must(t, err)
	to, err := w.Bound(ctx(t), slot)
	must(t, err)
	nc, _ := raw(t, url, "people")
	send := func(s rules.Signed) {
		b, err := bus.SealCall(to, grid, slot, s)
		must(t, err)
		must(t, nc.Publish(bus.RequestSubject(slot), b))
	}
	stolen := signed
	stolen.Signatures = []rules.Signature{{Key: w.member.Public(), Sig: signed.Signatures[0].Sig}}
	send(stolen)
	refusedSoon(t, n, "signature-invalid", 1)
	both := signed
	both.Signatures = append(both.Signatures, stolen.Signatures...)
	send(both)
	refusedSoon(t, n, "signature-invalid", 2)
	none := signed
	none.Signatures = nil
	send(none)
	refusedSoon(t, n, "signature-invalid", 3)
	changed := signed
	changed.Statement = bytes.Replace(signed.Statement, []byte("workload.status"), []byte("workload.statuS"), 1)
	send(changed)
	refusedSoon(t, n, "signature-invalid", 4)
	send(signed)
	refusedSoon(t, n, "not-permitted", 1)
	if len(n.calls) != 0 {
		t.Error("a handler ran")
	}
	// The control: the same bytes signed by the member do run.
	good, err := rules.Sign(ctx(t), req, rules.KindRequest, w.member)
	must(t, err)
	send(good)
	select {
	case <-n.calls:
	case <-ctx(t).Done():
		t.Error("control: the member's own request did not run")
	}
}

func replyKey(t testing.TB) []byte {
	k, err := seal.KeyFromSeed([32]byte{1})
	must(t, err)
	return k.Public()
}
