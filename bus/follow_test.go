package bus_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	rules "github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// numbers answers logs with count chunks that hold their number, then with what
// end returns.
func numbers(count int, end func(ctx context.Context) error) bus.StreamHandler {
	return func(ctx context.Context, _ bus.Query, send func([]byte) error) error {
		for i := range count {
			if err := send(binary.BigEndian.AppendUint32(make([]byte, 1000), uint32(i))); err != nil {
				return err
			}
		}
		return end(ctx)
	}
}

func stay(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
func leave(context.Context) error    { return nil }

func number(t testing.TB, b []byte) int {
	t.Helper()
	if len(b) != 1004 {
		t.Fatalf("chunk of %d bytes", len(b))
	}
	return int(binary.BigEndian.Uint32(b[1000:]))
}

func TestStreamIsWholeAndInOrder(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	const count = 10 * bus.Window
	n.HandleStream(bus.MethodLogs, numbers(count, leave))
	st, err := w.client(t, w.member, url).Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	for i := range count {
		b, err := st.Next(ctx(t))
		must(t, err)
		if number(t, b) != i {
			t.Fatalf("chunk %d came where %d was due", number(t, b), i)
		}
	}
	for range 2 {
		if _, err := st.Next(ctx(t)); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	}
}

// A reader that stands still stops the sender: nothing is lost, and no more than
// the window is on the way.
func TestSlowReaderLosesNothing(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	const count = 3 * bus.Window
	sent := make(chan int, count)
	n.HandleStream(bus.MethodLogs, func(ctx context.Context, _ bus.Query, send func([]byte) error) error {
		for i := range count {
			if err := send(binary.BigEndian.AppendUint32(make([]byte, 1000), uint32(i))); err != nil {
				return err
			}
			sent <- i
		}
		return nil
	})
	st, err := w.client(t, w.member, url).Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	for range bus.Window - 1 { // the first, empty chunk is one of them
		<-sent
	}
	select {
	case <-sent:
		t.Error("more than the window was sent to a reader that read none")
	case <-time.After(300 * time.Millisecond):
	}
	for i := range count {
		b, err := st.Next(ctx(t))
		must(t, err)
		if number(t, b) != i {
			t.Fatalf("chunk %d came where %d was due", number(t, b), i)
		}
	}
	if _, err := st.Next(ctx(t)); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestQuietStreamOutlivesItsLease(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	say := make(chan []byte)
	n.SetLease(3 * short)
	n.HandleStream(bus.MethodLogs, func(ctx context.Context, _ bus.Query, send func([]byte) error) error {
		for {
			select {
			case b := <-say:
				if err := send(b); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	c := w.client(t, w.member, url)
	c.SetLease(3 * short)
	st, err := c.Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	time.Sleep(7 * short)
	say <- []byte("still here")
	b, err := st.Next(ctx(t))
	must(t, err)
	if string(b) != "still here" {
		t.Errorf("chunk %q", b)
	}
}

func TestRemovedMemberLosesTheStream(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	ended := make(chan error, 1)
	n.HandleStream(bus.MethodLogs, numbers(1, func(ctx context.Context) error {
		err := stay(ctx)
		ended <- err
		return err
	}))
	c := w.client(t, w.member, url)
	c.SetLease(3 * short) // renewed each second
	st, err := c.Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	_, err = st.Next(ctx(t))
	must(t, err)
	w.setMembers(w.outsider.Public())
	_, err = st.Next(ctx(t))
	wantCode(t, err, "not-permitted")
	wantCode(t, <-ended, "not-permitted")
	_, err = c.Stream(ctx(t), ask(bus.MethodLogs))
	wantCode(t, err, "not-permitted")
}

func TestUnrenewedStreamEnds(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	ended := make(chan error, 1)
	n.SetLease(short)
	n.HandleStream(bus.MethodLogs, numbers(0, func(ctx context.Context) error {
		err := stay(ctx)
		ended <- err
		return err
	}))
	c := w.client(t, w.member, m.people)
	c.SetLease(short)
	st, err := c.Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	m.onRequest(func(*middle, []byte, string) {}) // the bus drops the renewals
	_, err = st.Next(ctx(t))
	wantCode(t, err, "lease-expired")
	wantCode(t, <-ended, "lease-expired")
}

func TestStreamOfADeadNodeIsNoticed(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	n.SetLease(short)
	n.HandleStream(bus.MethodLogs, numbers(0, stay))
	c := w.client(t, w.member, m.people)
	c.SetLease(short)
	st, err := c.Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	m.onAnswer(func(*middle, []byte, string) {})
	_, err = st.Next(ctx(t))
	wantCode(t, err, "stream-lost")
}

func TestNodeThatStopsSaysSo(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleStream(bus.MethodLogs, numbers(0, stay))
	st, err := w.client(t, w.member, url).Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	n.stop()
	_, err = st.Next(ctx(t))
	wantCode(t, err, "node-stopping")
}

func TestClosedStreamEndsAtTheNode(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	ended := make(chan struct{})
	n.HandleStream(bus.MethodLogs, numbers(0, func(ctx context.Context) error {
		defer close(ended)
		return stay(ctx)
	}))
	n.SetLease(time.Hour)
	st, err := w.client(t, w.member, url).Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	st.Close()
	select {
	case <-ended:
	case <-ctx(t).Done():
		t.Error("the handler still runs")
	}
	if _, err := st.Next(ctx(t)); err == nil {
		t.Error("a closed stream goes on")
	}
}

func TestStreamWithAGapEnds(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	n.HandleStream(bus.MethodLogs, numbers(10, stay))
	reorder(m, func(n int, data []byte) [][]byte { return pick(n != 5, data) })
	st, err := w.client(t, w.member, m.people).Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	for i := range 4 {
		b, err := st.Next(ctx(t))
		must(t, err)
		if number(t, b) != i {
			t.Fatalf("chunk %d", number(t, b))
		}
	}
	_, err = st.Next(ctx(t))
	wantCode(t, err, "reply-gap")
}

// Another account, although it may ask this node too, can neither keep nor end a
// stream that isn't its own, nor learn of it.
func TestStreamBelongsToWhoOpenedIt(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	w.setMembers(w.member.Public(), w.outsider.Public())
	k := newKeys(t)
	n := w.start(t, slot, k, m.node)
	sent := make(chan struct{}, 10*bus.Window)
	n.HandleStream(bus.MethodLogs, func(ctx context.Context, _ bus.Query, send func([]byte) error) error {
		for {
			if err := send([]byte("x")); err != nil {
				return err
			}
			sent <- struct{}{}
		}
	})
	opened := make(chan bus.Opened, 100)
	m.onRequest(func(m *middle, data []byte, reply string) {
		o, err := bus.OpenCall(k.sealing, grid, slot, 1, data)
		if err != nil {
			t.Error(err)
		}
		opened <- o
		m.toNode(data, reply)
	})
	c := w.client(t, w.member, m.people)
	c.SetLease(time.Hour) // no renewal of its own
	st, err := c.Stream(ctx(t), ask(bus.MethodLogs))
	must(t, err)
	defer st.Close()
	o := <-opened
	params, err := canon.Marshal(bus.Renewal{Stream: o.Hash(), End: true})
	must(t, err)
	_, err = w.greeted(t, w.outsider, m.people).Call(brief(t), bus.Ask{Slot: slot, Contract: contract, Method: bus.MethodRenew, Params: params})
	wantCode(t, err, "node-silent")
	refusedSoon(t, n, "stream-unknown", 1)
	if _, err := st.Next(ctx(t)); err != nil {
		t.Errorf("the stream ended: %v", err)
	}
	for range bus.Window - 1 {
		<-sent
	}
	// A renewal that says it read more than was sent makes no room.
	params, err = canon.Marshal(bus.Renewal{Stream: o.Hash(), Received: 1 << 60})
	must(t, err)
	req := o.Request
	req.ID, req.Method, req.Params = make([]byte, 16), bus.MethodRenew, params
	s, err := rules.Sign(ctx(t), req, rules.KindRequest, w.member)
	must(t, err)
	b, err := w.Bound(ctx(t), slot)
	must(t, err)
	sealed, err := bus.SealCall(b, grid, slot, s)
	must(t, err)
	m.toNode(sealed, "")
	m.toNode(sealed, "")
	refusedSoon(t, n, "request-replayed", 1)
	select {
	case <-sent:
		t.Error("a renewal that claims too much made room")
	case <-time.After(300 * time.Millisecond):
	}
}

func TestStreamOfACallIsRefused(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleStream(bus.MethodLogs, numbers(1, leave))
	c := w.client(t, w.member, url)
	_, err := c.Stream(ctx(t), ask(bus.MethodStatus))
	wantCode(t, err, "reply-invalid")
	for name, body := range map[string][]byte{"empty": nil, "long": make([]byte, bus.MaxChunk+1)} {
		n.HandleStream(bus.MethodLogs, func(_ context.Context, _ bus.Query, send func([]byte) error) error { return send(body) })
		st, err := c.Stream(ctx(t), ask(bus.MethodLogs))
		must(t, err)
		if _, err := st.Next(ctx(t)); problem.Code(err) != "internal" {
			t.Errorf("%s chunk: %v", name, err)
		}
		st.Close()
	}
}
