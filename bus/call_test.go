package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func TestMemberIsAnswered(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	got, err := w.client(t, w.member, url).Call(ctx(t), ask(bus.MethodStatus))
	must(t, err)
	if string(got) != "status of web" {
		t.Errorf("answer %q", got)
	}
	if q := <-n.calls; !q.Caller.Equal(w.member.Public()) || q.Contract != contract {
		t.Errorf("the handler saw %+v", q)
	}
}

func TestOthersAreRefused(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	_, err := w.client(t, w.outsider, url).Call(ctx(t), ask(bus.MethodStatus))
	wantCode(t, err, "not-permitted")
	_, err = w.client(t, w.member, url).Call(ctx(t), ask(bus.MethodNode))
	wantCode(t, err, "not-permitted")
	_, err = w.client(t, w.farm, url).Call(ctx(t), ask(bus.MethodStatus))
	wantCode(t, err, "not-permitted")
	if len(n.calls) != 0 {
		t.Error("a handler was called for someone without a right")
	}
	_, err = w.client(t, w.farm, url).Call(ctx(t), ask(bus.MethodNode))
	must(t, err)
	_, err = w.client(t, w.farm, url).Call(ctx(t), ask("node.shell"))
	wantCode(t, err, "unknown-method")
}

func TestLongAnswersComeWhole(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	c := w.client(t, w.farm, url)
	for _, size := range []int{0, 1, bus.MaxChunk, bus.MaxChunk + 1, bus.MaxAnswer} {
		want := bytes.Repeat([]byte{byte(size + 1)}, size)
		n.HandleCall(bus.MethodNode, func(context.Context, bus.Query) ([]byte, error) { return want, nil })
		got, err := c.Call(ctx(t), ask(bus.MethodNode))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d came back", size, len(got))
		}
	}
	n.HandleCall(bus.MethodNode, func(context.Context, bus.Query) ([]byte, error) { return make([]byte, bus.MaxAnswer+1), nil })
	_, err := c.Call(ctx(t), ask(bus.MethodNode))
	wantCode(t, err, "answer-too-large")
}

func TestHandlersErrorReachesTheAsker(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleCall(bus.MethodNode, func(context.Context, bus.Query) ([]byte, error) {
		return nil, fmt.Errorf("list: %w", problem.New("disk-full", "no room %s", strings.Repeat("ü", 1000)))
	})
	c := w.client(t, w.farm, url)
	_, err := c.Call(ctx(t), ask(bus.MethodNode))
	wantCode(t, err, "disk-full")
	n.HandleCall(bus.MethodNode, func(context.Context, bus.Query) ([]byte, error) { return nil, errors.New("a\nb") })
	_, err = c.Call(ctx(t), ask(bus.MethodNode))
	wantCode(t, err, "internal")
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error of two lines: %q", err)
	}
}

func TestFactsThatCannotBeReadRefuse(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	conn, k := connect(t, bus.AsNode(slot), url), newKeys(t)
	w.bound[slot] = bus.Binding{Epoch: 1, SigningKey: k.signer.Public(), SealingKey: k.sealing.Public()}
	n, err := bus.NewNode(bus.NodeConfig{
		Conn: conn, Grid: grid, Slot: slot, Epoch: 1, Signer: k.signer, Sealing: k.sealing,
		Facts: func(context.Context, canon.Hash) (bus.Facts, error) {
			return bus.Facts{}, errors.New("the ledger is away")
		},
	})
	must(t, err)
	run, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(run) }()
	defer func() { cancel(); <-done }()
	_, err = w.client(t, w.farm, url).Call(ctx(t), ask(bus.MethodNode))
	wantCode(t, err, "node-not-ready")
}

// A client that was told of an earlier boot, or an earlier run of the daemon,
// asks again by itself.
func TestRestartedNodeIsAskedAnew(t *testing.T) {
	w, url, k := newWorld(t), serve(t).URL(), newKeys(t)
	n := w.start(t, slot, k, url)
	c := w.client(t, w.farm, url)
	_, err := c.Call(ctx(t), ask(bus.MethodNode))
	must(t, err)
	n.stop()
	n = w.start(t, slot, k, url)
	_, err = c.Call(ctx(t), ask(bus.MethodNode))
	must(t, err)
	if n.Refused()["request-stale"] != 1 {
		t.Errorf("refused: %v", n.Refused())
	}
}

func TestRekeyedNodeIsNamedAsSuch(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	w.start(t, slot, newKeys(t), url)
	w.mu.Lock()
	k := newKeys(t)
	w.bound[slot] = bus.Binding{Epoch: 2, SigningKey: k.signer.Public(), SealingKey: k.sealing.Public()}
	w.mu.Unlock()
	short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	_, err := w.client(t, w.farm, url).Call(short, ask(bus.MethodNode))
	wantCode(t, err, "node-rekeyed")
}

func TestSilentNodeAndBusAreToldApart(t *testing.T) {
	w, s := newWorld(t), serve(t)
	k := newKeys(t)
	w.bound[slot] = bus.Binding{Epoch: 1, SigningKey: k.signer.Public(), SealingKey: k.sealing.Public()}
	short := func() context.Context {
		c, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		t.Cleanup(cancel)
		return c
	}
	c := w.client(t, w.farm, s.URL())
	_, err := c.Call(short(), ask(bus.MethodNode))
	wantCode(t, err, "node-silent")
	must(t, s.Stop())
	c = w.client(t, w.farm, s.URL())
	_, err = c.Call(short(), ask(bus.MethodNode))
	wantCode(t, err, "bus-unreachable")
}

// The node's clock and the client's may differ by any amount.
func TestClocksNeedNotAgree(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	for _, d := range []time.Duration{-20 * 365 * 24 * time.Hour, 40 * 365 * 24 * time.Hour} {
		n.clock.add(d)
		c := w.client(t, w.farm, url)
		_, err := c.Call(ctx(t), ask(bus.MethodNode))
		must(t, err)
	}
}

func TestNodeFindsItsBusAgain(t *testing.T) {
	w, s := newWorld(t), serve(t)
	n := w.start(t, slot, newKeys(t), s.URL())
	c := w.client(t, w.farm, s.URL())
	_, err := c.Call(ctx(t), ask(bus.MethodNode))
	must(t, err)
	for range 2 {
		must(t, s.Stop())
		s = s.again(t)
		_, err = c.Call(ctx(t), ask(bus.MethodNode))
		must(t, err)
	}
	_ = n
}

// Two buses: one is away, then the other. Someone is always reached.
func TestOneOfTwoBusesIsEnough(t *testing.T) {
	w, s1, s2 := newWorld(t), serve(t), serve(t)
	w.start(t, slot, newKeys(t), s1.URL(), s2.URL())
	c := w.client(t, w.farm, s1.URL(), s2.URL())
	_, err := c.Call(ctx(t), ask(bus.MethodNode))
	must(t, err)
	must(t, s1.Stop())
	_, err = c.Call(ctx(t), ask(bus.MethodNode))
	must(t, err)
	s1.again(t)
	must(t, s2.Stop())
	_, err = c.Call(ctx(t), ask(bus.MethodNode))
	must(t, err)
}

func TestBusyCallerIsRefusedAndOthersAreNot(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	hold := make(chan struct{})
	entered := make(chan struct{}, 100)
	n.HandleCall(bus.MethodStatus, func(ctx context.Context, q bus.Query) ([]byte, error) {
		entered <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, nil
	})
	c := w.client(t, w.member, url)
	_, err := c.Hello(ctx(t), slot)
	must(t, err)
	results := make(chan error, 16)
	for range 16 {
		go func() {
			_, err := c.Call(ctx(t), ask(bus.MethodStatus))
			results <- err
		}()
	}
	for range 16 {
		<-entered
	}
	_, err = c.Call(ctx(t), ask(bus.MethodStatus))
	wantCode(t, err, "node-busy")
	_, err = w.client(t, w.farm, url).Call(ctx(t), ask(bus.MethodNode))
	must(t, err)
	close(hold)
	for range 16 {
		must(t, <-results)
	}
}
