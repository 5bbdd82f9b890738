package bus_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/spec/plan"
)

func granted() map[string]plan.Access {
	return map[string]plan.Access{"web": {Exec: plan.AccessMembers, Console: plan.AccessNone, Files: plan.AccessMembers, Restart: plan.AccessMembers}}
}

func (w *world) grant(a map[string]plan.Access) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts.Access = a
}

func enter() bus.Ask {
	return bus.Ask{Slot: slot, Contract: contract, Workload: "web", Method: bus.MethodExec, Params: []byte("params")}
}

// echo sends back all that comes, until "bye".
func echo(ctx context.Context, _ bus.Query, d *bus.Duplex) error {
	for {
		b, err := d.Receive(ctx)
		if err != nil {
			return err
		}
		if err := d.Send(ctx, b); err != nil {
			return err
		}
		if string(b) == "bye" {
			return nil
		}
	}
}

// dialog opens a stream to a handler as a member who may.
func dialog(t testing.TB, w *world, n *node, h bus.DuplexHandler, urls ...string) *bus.Dialog {
	t.Helper()
	w.grant(granted())
	n.HandleDuplex(bus.MethodExec, h)
	d, err := w.client(t, w.member, urls...).Duplex(ctx(t), enter())
	must(t, err)
	t.Cleanup(d.Close)
	return d
}

// through sends count numbered messages while it reads as many, and checks that
// they come once each and in order.
func through(t testing.TB, d *bus.Dialog, count, size int) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		for i := range count {
			if err := d.Send(ctx(t), binary.BigEndian.AppendUint32(make([]byte, size), uint32(i))); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i := range count {
		b, err := d.Receive(ctx(t))
		must(t, err)
		if got := binary.BigEndian.Uint32(b[size:]); len(b) != size+4 || got != uint32(i) {
			t.Fatalf("message %d of %d bytes came where %d was due", got, len(b), i)
		}
	}
	must(t, <-sent)
}

func goodbye(t testing.TB, d *bus.Dialog) {
	t.Helper()
	must(t, d.Send(ctx(t), []byte("bye")))
	b, err := d.Receive(ctx(t))
	must(t, err)
	if string(b) != "bye" {
		t.Errorf("last message %q", b)
	}
	for range 2 {
		if _, err := d.Receive(ctx(t)); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
	}
}

func TestDuplexIsWholeAndInOrderBothWays(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	asked := make(chan bus.Query, 1)
	d := dialog(t, w, n, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
		asked <- q
		return echo(ctx, q, d)
	}, url)
	through(t, d, 20*bus.DuplexWindow, 10_000)
	must(t, d.Send(ctx(t), bytes.Repeat([]byte{7}, bus.MaxDuplex)))
	b, err := d.Receive(ctx(t))
	must(t, err)
	if len(b) != bus.MaxDuplex {
		t.Errorf("a message of %d bytes came back with %d", bus.MaxDuplex, len(b))
	}
	if d.Send(ctx(t), make([]byte, bus.MaxDuplex+1)) == nil || d.Send(ctx(t), nil) == nil {
		t.Error("a message out of bounds was taken")
	}
	goodbye(t, d)
	q := <-asked
	if q.Workload != "web" || string(q.Params) != "params" || !q.Caller.Equal(w.member.Public()) {
		t.Errorf("the handler was told %+v", q)
	}
}

func TestDuplexTouchesTheKeyOnceAndOutlivesItsLease(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.SetLease(short)
	n.HandleDuplex(bus.MethodExec, echo)
	w.grant(granted())
	key := &counted{Signer: w.member}
	c := w.client(t, key, url)
	c.SetLease(short)
	d, err := c.Duplex(ctx(t), enter())
	must(t, err)
	defer d.Close()
	time.Sleep(3 * short)
	through(t, d, 3, 10)
	goodbye(t, d)
	if key.touches != 1 {
		t.Errorf("the account's key signed %d times", key.touches)
	}
}
