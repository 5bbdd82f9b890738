package bus_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// These tests play what a bus, a person and a node can do to a duplex stream.

// isFrame tells a frame from a sealed request, as a bus can.
func isFrame(data []byte) bool { return len(data) > 0 && data[0] == 2 }

func TestDuplexSurvivesABusThatDropsRepeatsAndReorders(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	d := dialog(t, w, n, echo, m.people)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(1, 2))
	// mangle drops a fifth, repeats a fifth, and swaps neighbours now and then.
	mangle := func(pass func([]byte, string)) func(*middle, []byte, string) {
		var held []byte
		var heldReply string
		return func(_ *middle, data []byte, reply string) {
			mu.Lock()
			dice := rng.IntN(10)
			mu.Unlock()
			switch {
			case !isFrame(data):
				pass(data, reply)
			case dice < 2:
			case dice < 4:
				pass(data, reply)
				pass(data, reply)
			case dice < 6 && held == nil:
				held, heldReply = slices.Clone(data), reply
			default:
				pass(data, reply)
				if held != nil {
					pass(held, heldReply)
					held = nil
				}
			}
		}
	}
	m.onRequest(mangle(m.toNode))
	m.onAnswer(mangle(m.toPeople))
	through(t, d, 6*bus.DuplexWindow, 500)
	goodbye(t, d)
}

func TestReplayedFramesChangeNothing(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	var mu sync.Mutex
	var taken []string
	d := dialog(t, w, n, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
		for {
			b, err := d.Receive(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			taken = append(taken, string(b))
			mu.Unlock()
			if err := d.Send(ctx, b); err != nil {
				return err
			}
		}
	}, m.people)
	var up, down [][]byte
	var upReply, downReply string
	m.onRequest(func(m *middle, data []byte, reply string) {
		mu.Lock()
		up, upReply = append(up, slices.Clone(data)), reply
		mu.Unlock()
		m.toNode(data, reply)
	})
	m.onAnswer(func(m *middle, data []byte, reply string) {
		mu.Lock()
		down, downReply = append(down, slices.Clone(data)), reply
		mu.Unlock()
		m.toPeople(data, reply)
	})
	say := func(s string) {
		t.Helper()
		must(t, d.Send(ctx(t), []byte(s)))
		b, err := d.Receive(ctx(t))
		must(t, err)
		if string(b) != s {
			t.Fatalf("%q came back where %q was due", b, s)
		}
	}
	say("one")
	say("two")
	mu.Lock()
	ups, downs, toNode, toPeople := slices.Clone(up), slices.Clone(down), upReply, downReply
	mu.Unlock()
	for range 3 {
		for _, b := range ups {
			m.toNode(b, toNode)
		}
		for _, b := range downs {
			m.toPeople(b, toPeople)
		}
	}
	say("three")
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(taken, []string{"one", "two", "three"}) {
		t.Errorf("the handler was given %q", taken)
	}
}

// What belongs to one stream means nothing in another, and not in the other
// direction either.
func TestFramesOfAnotherStreamOrDirectionAreRefused(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	a := dialog(t, w, n, echo, m.people)
	b := dialog(t, w, n, echo, m.people)
	var mu sync.Mutex
	var up, down []byte
	var upReply, downReply string
	m.onRequest(func(m *middle, data []byte, reply string) {
		mu.Lock()
		if isFrame(data) {
			up, upReply = slices.Clone(data), reply
		}
		mu.Unlock()
		m.toNode(data, reply)
	})
	m.onAnswer(func(m *middle, data []byte, reply string) {
		mu.Lock()
		if isFrame(data) {
			down, downReply = slices.Clone(data), reply
		}
		mu.Unlock()
		m.toPeople(data, reply)
	})
	through(t, a, 1, 10)
	mu.Lock()
	upA, downA := up, down
	mu.Unlock()
	through(t, b, 1, 10)
	mu.Lock()
	upB, downB, toNode, toPeople := up, down, upReply, downReply
	mu.Unlock()
	before := n.Refused()["unsealable"]
	forged := 0
	for _, f := range [][]byte{
		slices.Concat(upB[:41], upA[41:]),   // a's bytes under b's name
		slices.Concat(upB[:33], upA[33:]),   // with a's count
		slices.Concat(upB[:33], downB[33:]), // the other direction
		slices.Concat(upB[:41], make([]byte, 100)),
		upB[:len(upB)-1],
		slices.Concat(upB, []byte{0}),
	} {
		m.toNode(f, toNode)
		forged++
	}
	m.toPeople(slices.Concat(downB[:33], downA[33:]), toPeople)
	m.toPeople(slices.Concat(downB[:33], upB[33:]), toPeople)
	refusedSoon(t, n, "unsealable", before+uint64(forged))
	through(t, b, 1, 10)
	goodbye(t, a)
	goodbye(t, b)
}

func TestUnknownStreamsFramesAreDropped(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	w.greeted(t, w.member, m.people) // it listens now
	for range 1000 {
		m.toNode(append([]byte{2}, make([]byte, 100)...), "")
	}
	refusedSoon(t, n, "stream-unknown", 1000)
	goodbye(t, dialog(t, w, n, echo, m.people)) // and the node goes on
}

// A bus that floods one stream holds up that stream at most.
func TestFloodOfOneStreamHoldsUpNoOther(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	other := dialog(t, w, n, echo, m.people)
	through(t, other, 1, 10)
	var mu sync.Mutex
	var frame []byte
	m.onRequest(func(m *middle, data []byte, reply string) {
		mu.Lock()
		if isFrame(data) && frame == nil {
			frame = slices.Clone(data)
		}
		mu.Unlock()
		m.toNode(data, reply)
	})
	victim := dialog(t, w, n, echo, m.people)
	through(t, victim, 1, 10)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				began := time.Now()
				for range 50 {
					m.toNode(frame, "")
				}
				// A flood, not a test of the machine: a busy one has time for the rest, too.
				time.Sleep(max(time.Millisecond, 2*time.Since(began)))
			}
		}
	}()
	through(t, other, 5*bus.DuplexWindow, 100)
	goodbye(t, other)
	close(stop)
	<-done
}

func TestSlowHandlerStopsTheAskerWithinTheWindow(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	read := make(chan struct{})
	d := dialog(t, w, n, func(ctx context.Context, _ bus.Query, d *bus.Duplex) error {
		<-read
		return echo(ctx, bus.Query{}, d)
	}, url)
	for range bus.DuplexWindow {
		must(t, d.Send(ctx(t), []byte("x")))
	}
	full, cancel := context.WithTimeout(ctx(t), 300*time.Millisecond)
	defer cancel()
	if err := d.Send(full, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("more than the window was taken: %v", err)
	}
	close(read)
	for range bus.DuplexWindow {
		_, err := d.Receive(ctx(t))
		must(t, err)
	}
	goodbye(t, d)
}

func TestSlowAskerStopsTheHandlerWithinTheWindow(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	sent := make(chan int, 1000)
	d := dialog(t, w, n, func(ctx context.Context, _ bus.Query, d *bus.Duplex) error {
		for i := range 3 * bus.DuplexWindow {
			if err := d.Send(ctx, []byte{byte(i)}); err != nil {
				return err
			}
			sent <- i
		}
		return nil
	}, url)
	for range bus.DuplexWindow {
		<-sent
	}
	select {
	case <-sent:
		t.Error("more than the window was sent to an asker who read none")
	case <-time.After(300 * time.Millisecond):
	}
	for i := range 3 * bus.DuplexWindow {
		b, err := d.Receive(ctx(t))
		must(t, err)
		if b[0] != byte(i) {
			t.Fatalf("message %d came where %d was due", b[0], i)
		}
	}
	if _, err := d.Receive(ctx(t)); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestRevokedRightEndsTheDuplex(t *testing.T) {
	for name, tc := range map[string]struct {
		revoke func(w *world)
		code   string
	}{
		"no member any more":   {func(w *world) { w.setMembers(w.outsider.Public()) }, "not-permitted"},
		"the plan grants none": {func(w *world) { w.grant(map[string]plan.Access{"web": {Exec: plan.AccessNone}}) }, "access-not-granted"},
		"the workload is gone": {func(w *world) { w.grant(nil) }, "workload-unknown"},
		"the ledger is frozen": {func(w *world) { w.mu.Lock(); w.facts.Stale = true; w.mu.Unlock() }, "head-stale"},
	} {
		t.Run(name, func(t *testing.T) {
			w, url := newWorld(t), serve(t).URL()
			n := w.start(t, slot, newKeys(t), url)
			n.SetLease(3 * short)
			ended := make(chan error, 1)
			n.HandleDuplex(bus.MethodExec, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
				err := echo(ctx, q, d)
				ended <- err
				return err
			})
			w.grant(granted())
			c := w.client(t, w.member, url)
			c.SetLease(3 * short)
			d, err := c.Duplex(ctx(t), enter())
			must(t, err)
			defer d.Close()
			through(t, d, 1, 10)
			tc.revoke(w)
			_, err = d.Receive(ctx(t))
			wantCode(t, err, tc.code)
			wantCode(t, <-ended, tc.code)
			wantCode(t, d.Send(ctx(t), []byte("x")), tc.code)
			_, err = c.Duplex(ctx(t), enter())
			wantCode(t, err, tc.code)
		})
	}
}

// A bus can't keep a stream alive for an asker who is gone: the renewals that it
// kept renew a beat that is over.
func TestKeptRenewalsProlongNoLease(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	n.SetLease(3 * short)
	ended := make(chan error, 1)
	n.HandleDuplex(bus.MethodExec, func(ctx context.Context, _ bus.Query, d *bus.Duplex) error {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil
	})
	w.grant(granted())
	var mu sync.Mutex
	var kept [][]byte
	gone := false
	m.onRequest(func(m *middle, data []byte, reply string) {
		mu.Lock()
		defer mu.Unlock()
		kept = append(kept, slices.Clone(data))
		if !gone {
			m.toNode(data, reply)
		}
	})
	c := w.client(t, w.member, m.people)
	c.SetLease(3 * short)
	d, err := c.Duplex(ctx(t), enter())
	must(t, err)
	time.Sleep(5 * short) // it lives by its renewals
	select {
	case err := <-ended:
		t.Fatalf("it ended while it was renewed: %v", err)
	default:
	}
	mu.Lock()
	gone = true
	mu.Unlock()
	d.Close()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(short / 10):
			}
			mu.Lock()
			for _, b := range kept[:len(kept)-1] { // all but the farewell
				m.toNode(b, "")
			}
			mu.Unlock()
		}
	}()
	select {
	case err := <-ended:
		wantCode(t, err, "lease-expired")
	case <-time.After(9 * short):
		t.Error("the stream lives on")
	}
	close(stop)
	<-done
}

func TestAskerWhoLeavesEndsTheHandlerAtOnce(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	ended := make(chan struct{})
	d := dialog(t, w, n, func(ctx context.Context, _ bus.Query, _ *bus.Duplex) error {
		<-ctx.Done()
		close(ended)
		return nil
	}, url)
	d.Close()
	select {
	case <-ended:
	case <-time.After(lease / 2):
		t.Error("the handler waits for the end of the lease")
	}
}

func TestNodeThatFallsSilentEndsTheDuplex(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	n.SetLease(short)
	n.HandleDuplex(bus.MethodExec, echo)
	w.grant(granted())
	c := w.client(t, w.member, m.people)
	c.SetLease(short)
	d, err := c.Duplex(ctx(t), enter())
	must(t, err)
	defer d.Close()
	m.onAnswer(func(*middle, []byte, string) {})
	_, err = d.Receive(ctx(t))
	wantCode(t, err, "stream-lost")
}

func TestHandlersErrorReachesTheAskerAfterItsMessages(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	d := dialog(t, w, n, func(ctx context.Context, _ bus.Query, d *bus.Duplex) error {
		for range bus.DuplexWindow {
			if err := d.Send(ctx, []byte("x")); err != nil {
				return err
			}
		}
		return problem.New("start-failed", "no such program")
	}, url)
	for range bus.DuplexWindow {
		_, err := d.Receive(ctx(t))
		must(t, err)
	}
	_, err := d.Receive(ctx(t))
	wantCode(t, err, "start-failed")
}

func TestLostOpeningReplyIsRepeated(t *testing.T) {
	w, m := newWorld(t), newMiddle(t)
	n := w.start(t, slot, newKeys(t), m.node)
	handled := make(chan struct{}, 10)
	n.HandleDuplex(bus.MethodExec, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
		handled <- struct{}{}
		return echo(ctx, q, d)
	})
	w.grant(granted())
	c := w.greeted(t, w.member, m.people)
	var mu sync.Mutex
	dropped := 0
	m.onAnswer(func(m *middle, data []byte, reply string) {
		mu.Lock()
		drop := !isFrame(data) && dropped == 0
		if drop {
			dropped++
		}
		mu.Unlock()
		if !drop {
			m.toPeople(data, reply)
		}
	})
	d, err := c.Duplex(ctx(t), enter())
	must(t, err)
	defer d.Close()
	goodbye(t, d)
	if len(handled) != 1 || dropped != 1 {
		t.Errorf("the handler ran %d times, %d replies were dropped", len(handled), dropped)
	}
}

// Acting takes the account's own key: the client does not even try with a session,
// and a node refuses one whose client does.
func TestSessionKeyActsOnNothing(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleDuplex(bus.MethodExec, func(context.Context, bus.Query, *bus.Duplex) error {
		t.Error("the handler ran")
		return nil
	})
	n.HandleCall(bus.MethodRestart, func(context.Context, bus.Query) ([]byte, error) {
		t.Error("the handler ran")
		return nil, nil
	})
	w.grant(granted())
	s, err := bus.NewSession(ctx(t), grid, w.member, time.Now(), time.Hour)
	must(t, err)
	c := w.sessionClient(t, s, url)
	_, err = c.Duplex(ctx(t), enter())
	wantCode(t, err, "not-permitted")
	a := enter()
	a.Method = bus.MethodRestart
	_, err = c.Call(ctx(t), a)
	wantCode(t, err, "not-permitted")
	_, err = c.DuplexBySession(ctx(t), enter())
	wantCode(t, err, "not-permitted")
}

// The farm that owns the machine can't enter what runs on it.
func TestFarmKeyEntersNothing(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleDuplex(bus.MethodExec, echo)
	w.grant(granted())
	_, err := w.client(t, w.farm, url).Duplex(ctx(t), enter())
	wantCode(t, err, "not-permitted")
}

func TestOneAccountCannotTakeAllStreams(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleDuplex(bus.MethodExec, echo)
	w.grant(granted())
	c := w.client(t, w.member, url)
	w.many = true
	var open []*bus.Dialog
	for i := range 16 {
		ask := enter()
		ask.Contract = canon.Hash{byte(i + 1)}
		d, err := c.Duplex(ctx(t), ask)
		must(t, err)
		defer d.Close()
		open = append(open, d)
	}
	_, err := c.Duplex(ctx(t), enter())
	wantCode(t, err, "node-busy")
	goodbye(t, open[0])
}

// Accounts cost a group nothing, so they are no bound on what it takes of a node.
func TestOneContractCannotTakeAllStreams(t *testing.T) {
	w, url := newWorld(t), serve(t).URL()
	n := w.start(t, slot, newKeys(t), url)
	n.HandleDuplex(bus.MethodExec, echo)
	w.grant(granted())
	w.many = true
	w.setMembers(w.member.Public(), w.outsider.Public())
	one, two := w.client(t, w.member, url), w.client(t, w.outsider, url)
	for i := range 12 {
		c := one
		if i%2 == 1 {
			c = two
		}
		d, err := c.Duplex(ctx(t), enter())
		must(t, err)
		defer d.Close()
	}
	for _, c := range []*bus.Client{one, two} {
		_, err := c.Duplex(ctx(t), enter())
		wantCode(t, err, "node-busy")
	}
	ask := enter()
	ask.Contract = canon.Hash{1}
	d, err := one.Duplex(ctx(t), ask)
	must(t, err)
	defer d.Close()
	goodbye(t, d)
}

// A link that breaks and comes back, on either side, loses nothing.
func TestDuplexSurvivesTheBusRestarting(t *testing.T) {
	w, s := newWorld(t), serve(t)
	n := w.start(t, slot, newKeys(t), s.URL())
	d := dialog(t, w, n, echo, s.URL())
	through(t, d, 3, 100)
	must(t, s.Stop())
	for range 5 {
		must(t, d.Send(ctx(t), []byte("while it is away")))
	}
	s.again(t)
	for range 5 {
		b, err := d.Receive(ctx(t))
		must(t, err)
		if string(b) != "while it is away" {
			t.Errorf("%q came back", b)
		}
	}
	goodbye(t, d)
}

// A list that names two servers: when one goes for good, the stream goes on over
// the other, both ways.
func TestDuplexGoesOnOverTheOtherServer(t *testing.T) {
	w, a, b := newWorld(t), serve(t), serve(t)
	n := w.start(t, slot, newKeys(t), a.URL(), b.URL())
	d := dialog(t, w, n, echo, a.URL(), b.URL())
	through(t, d, 3, 100)
	must(t, a.Stop())
	through(t, d, 2*bus.DuplexWindow, 100)
	goodbye(t, d)
}
