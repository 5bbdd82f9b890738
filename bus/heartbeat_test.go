package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	rules "github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/sign"
)

// watch listens and gives a channel of all heartbeats that count.
func (w *world) watch(t testing.TB, now func() time.Time, urls ...string) (*bus.Watch, chan bus.Heartbeat) {
	t.Helper()
	ch := make(chan bus.Heartbeat, 1000)
	conn := connect(t, bus.AsPeople(), urls...)
	must(t, conn.Ready(ctx(t)))
	watch, err := bus.NewWatch(bus.WatchConfig{
		Conn: conn, Grid: grid, Slots: []canon.Hash{slot}, Bound: w.Bound, Now: now,
		On: func(h bus.Heartbeat) { ch <- h },
	})
	must(t, err)
	t.Cleanup(watch.Stop)
	// One round trip behind the subscription.
	wantCode(t, conn.Ask(brief(t), bus.HelloSubject(canon.Sum(nil)), nil, func([]byte) bool { return true }), "")
	return watch, ch
}

func beatOf(t testing.TB, ch chan bus.Heartbeat) bus.Heartbeat {
	t.Helper()
	select {
	case h := <-ch:
		return h
	case <-ctx(t).Done():
		t.Fatal("no heartbeat came")
		return bus.Heartbeat{}
	}
}

func TestHeartbeatsTellOfTheNode(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	watch, ch := w.watch(t, nil, url)
	if _, _, ok := watch.Last(slot); ok {
		t.Error("heard of a node that never was")
	}
	w.start(t, slot, newKeys(t), url)
	first, second := beatOf(t, ch), beatOf(t, ch)
	if !first.Status.Ready || first.Release != 7 || first.Epoch != 1 || second.Sequence <= first.Sequence || len(first.Challenge) != 0 {
		t.Errorf("heartbeats %+v, %+v", first, second)
	}
	last, at, ok := watch.Last(slot)
	if !ok || last.Sequence < second.Sequence || time.Since(at) > 5*time.Second {
		t.Errorf("last heard %v at %v", last.Sequence, at)
	}
}

// What the bus invents, keeps and plays again makes no dead node alive.
func TestOldAndForgedHeartbeatsDoNotCount(t *testing.T) {
	w, url, k := newWorld(t), serve(t).URL(), newKeys(t)
	other := newKeys(t)
	n := w.start(t, slot, k, url)
	nc, _ := raw(t, url, bus.AsNode(slot).String())
	_, ch := w.watch(t, nil, url)
	one := beatOf(t, ch)
	n.stop()
	// The node comes back: what it said before is of an earlier run.
	n = w.start(t, slot, k, url)
	for string(beatOf(t, ch).BootNonce) == string(one.BootNonce) {
	}
	n.stop()
	watch, ch := w.watch(t, nil, url)
	beat := func(change func(*bus.Heartbeat), s sign.Signer) []byte {
		h := bus.Heartbeat{
			Header: rules.Header{V: bus.Version, Kind: rules.KindHeartbeat, Grid: grid},
			Slot:   slot, Epoch: 1, BootNonce: make([]byte, 16), Instance: make([]byte, 16), Sequence: 10, Time: uint64(time.Now().Unix()),
		}
		change(&h)
		signed, err := rules.Sign(context.Background(), h, rules.KindHeartbeat, s)
		must(t, err)
		b, err := signed.Encode()
		must(t, err)
		return b
	}
	same := func(*bus.Heartbeat) {}
	good := beat(same, k.signer)
	five := func(h *bus.Heartbeat) { h.Sequence = 5 } // would show if it counted
	refused := [][]byte{
		nil, {0xa0}, make([]byte, 100_000),
		beat(five, other.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Slot = canon.Sum(nil) }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Grid = canon.Sum(nil) }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Epoch = 2 }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Time -= 3600 }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Time += 3600 }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Time = ^uint64(0) }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Instance = nil }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Challenge = []byte{1} }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Status.Problems = make([]string, bus.MaxProblems+1) }, k.signer),
		beat(func(h *bus.Heartbeat) { five(h); h.Status.Problems = []string{string(make([]byte, bus.MaxCode+1))} }, k.signer),
	}
	for _, b := range refused {
		must(t, nc.Publish(bus.HeartbeatSubject(slot), b))
	}
	must(t, nc.Publish(bus.HeartbeatSubject(slot), good))
	if h := beatOf(t, ch); h.Sequence != 10 {
		t.Errorf("a refused heartbeat counted: %+v", h)
	}
	// Again, earlier in the same run, and then the next.
	must(t, nc.Publish(bus.HeartbeatSubject(slot), good))
	must(t, nc.Publish(bus.HeartbeatSubject(slot), beat(func(h *bus.Heartbeat) { h.Sequence = 9 }, k.signer)))
	must(t, nc.Publish(bus.HeartbeatSubject(slot), beat(func(h *bus.Heartbeat) { h.Sequence = 11 }, k.signer)))
	if h := beatOf(t, ch); h.Sequence != 11 {
		t.Errorf("a repeated heartbeat counted: %+v", h)
	}
	// A new run retires the old one for good.
	next := func(h *bus.Heartbeat) { h.Instance = []byte("0123456789abcdef"); h.Sequence = 1 }
	must(t, nc.Publish(bus.HeartbeatSubject(slot), beat(next, k.signer)))
	if h := beatOf(t, ch); h.Sequence != 1 {
		t.Errorf("%+v", h)
	}
	must(t, nc.Publish(bus.HeartbeatSubject(slot), beat(func(h *bus.Heartbeat) { h.Sequence = 12 }, k.signer)))
	must(t, nc.Publish(bus.HeartbeatSubject(slot), beat(func(h *bus.Heartbeat) { next(h); h.Sequence = 2 }, k.signer)))
	if h := beatOf(t, ch); h.Sequence != 2 {
		t.Errorf("a heartbeat of an earlier run counted: %+v", h)
	}
	if last, _, _ := watch.Last(slot); last.Sequence != 2 {
		t.Errorf("last heard: %+v", last)
	}
}

// After a re-key only the new key's heartbeats count.
func TestRekeyedSlotIsHeardUnderItsNewKey(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	_, ch := w.watch(t, nil, url)
	old := w.start(t, slot, newKeys(t), url)
	beatOf(t, ch)
	old.stop()
	k := newKeys(t)
	n := w.start(t, slot, k, url)
	deadline := ctx(t)
	for {
		select {
		case h := <-ch:
			if hb, err := w.client(t, w.member, url).Hello(ctx(t), slot); err != nil || string(hb.BootNonce) != string(h.BootNonce) {
				continue
			}
			_ = n
			return
		case <-deadline.Done():
			t.Fatal("the new key was not heard")
		}
	}
}
