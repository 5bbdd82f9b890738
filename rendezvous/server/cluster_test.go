package server_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/rendezvoustest"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/rendezvous/wire"
)

// reach sends a packet until it is there, since joining takes a moment.
func reach(t *testing.T, from *bare, to *bare, toSlot, fromSlot [32]byte, text string) {
	t.Helper()
	got := make(chan error, 1)
	go func() {
		for {
			ty, body, err := to.in.Next()
			if err != nil || ty == wire.Recv && bytes.Equal(body, append(fromSlot[:], text...)) {
				got <- err
				return
			}
		}
	}()
	for {
		from.send(wire.Send, toSlot[:], []byte(text))
		select {
		case err := <-got:
			must(t, err)
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestClientsOfDifferentServersReachEachOther(t *testing.T) {
	w := rendezvoustest.NewWorld()
	servers := w.Cluster(t, 3)
	a, b := w.Join(t, "a"), w.Join(t, "b")
	here := dial(t, servers[0].URL()).as(w, a)
	there := dial(t, servers[1].URL()).as(w, b)
	reach(t, here, there, b.Slot, a.Slot, "one way")
	reach(t, there, here, a.Slot, b.Slot, "and back")

	// It moves to another server: the newer place is found, the older forgotten.
	there.conn.Close()
	there = dial(t, servers[2].URL()).as(w, b)
	reach(t, here, there, b.Slot, a.Slot, "moved")

	// It is gone everywhere: the sender is told, once the others have told.
	there.conn.Close()
	rendezvoustest.Until(t, "the sender is told", func() bool {
		here.send(wire.Send, b.Slot[:], []byte("x"))
		must(t, here.conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		ty, body, err := here.in.Next()
		return err == nil && ty == wire.Gone && bytes.Equal(body, b.Slot[:])
	})
	must(t, here.conn.SetReadDeadline(time.Now().Add(20*time.Second)))

	// A server that stops takes nothing with it but its own clients.
	there = dial(t, servers[2].URL()).as(w, b)
	must(t, servers[1].Stop())
	reach(t, here, there, b.Slot, a.Slot, "after a server stopped")
	if n := servers[0].Peers(); n > 2 {
		t.Errorf("%d peers", n)
	}
}

// TestPacketsAreForwardedOnce and stay in order between two servers.
func TestPacketsAreForwardedOnce(t *testing.T) {
	w := rendezvoustest.NewWorld()
	servers := w.Cluster(t, 2)
	a, b := w.Join(t, "a"), w.Join(t, "b")
	here, there := dial(t, servers[0].URL()).as(w, a), dial(t, servers[1].URL()).as(w, b)
	reach(t, here, there, b.Slot, a.Slot, "joined")
	for i := range 50 {
		here.send(wire.Send, b.Slot[:], []byte{1, byte(i)})
	}
	here.send(wire.Send, b.Slot[:], []byte{2})
	for i := 0; ; {
		ty, body := there.next()
		if ty != wire.Recv || body[32] > 2 { // what reach sent
			continue
		}
		if body[32] == 2 {
			if i != 50 {
				t.Errorf("%d of 50 came", i)
			}
			break
		}
		if body[33] != byte(i) {
			t.Fatalf("packet %d came where %d was due", body[33], i)
		}
		i++
	}
}

func TestOnlyServersOfTheClusterJoin(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s, friend, stranger := w.Serve(t), w.Serve(t), w.Serve(t)
	must(t, s.AddRoute(friend.URL()))
	must(t, s.AddRoute(s.URL()))        // itself is passed over
	must(t, stranger.AddRoute(s.URL())) // one side's wish is not enough
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	cert, err := server.Identity(t.TempDir())
	must(t, err)
	for name, own := range map[string][]tls.Certificate{"another key": {cert}, "no key": nil} {
		c, err := tls.Dial("tcp", a.Host, rendezvous.ClientTLS(a, rendezvous.ALPNCluster, own...))
		if err != nil {
			continue
		}
		c.Write(wire.Append(nil, wire.ClusterHello, []byte{1}, nil, nil))
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		if n, err := c.Read(make([]byte, 100)); err == nil {
			t.Errorf("%s: the server says %d bytes", name, n)
		}
		c.Close()
	}
	if n := s.Peers() + stranger.Peers() + friend.Peers(); n != 0 {
		t.Errorf("%d servers joined", n)
	}
	must(t, friend.AddRoute(s.URL()))
	rendezvoustest.Until(t, "those that name each other are joined", func() bool { return s.Peers() == 1 && friend.Peers() == 1 })
	if stranger.Peers() != 0 {
		t.Error("the stranger joined")
	}
}

func TestMembersOfTheClusterAreNotTrustedWithJunk(t *testing.T) {
	w := rendezvoustest.NewWorld()
	cert, err := server.Identity(t.TempDir())
	must(t, err)
	s := w.Serve(t)
	must(t, s.AddRoute(rendezvous.Address{Host: "127.0.0.1:1", Pin: rendezvous.Pin(cert.Leaf)}.String()))
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	join := func(purpose byte) *tls.Conn {
		t.Helper()
		c, err := tls.Dial("tcp", a.Host, rendezvous.ClientTLS(a, rendezvous.ALPNCluster, cert))
		must(t, err)
		t.Cleanup(func() { c.Close() })
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		hello := wire.Append(nil, wire.ClusterHello, []byte{purpose}, nil, nil)
		_, err = c.Write(hello)
		must(t, err)
		_, err = io.ReadFull(c, make([]byte, len(hello)))
		must(t, err)
		return c
	}
	for name, junk := range map[string][]byte{
		"a frame of a client": wire.Append(nil, wire.Send, make([]byte, 40), nil, nil),
		"a short slot":        wire.Append(nil, wire.ClusterJoin, make([]byte, 31), nil, nil),
		"no packet":           wire.Append(nil, wire.ClusterRelay, make([]byte, 64), nil, nil),
		"no frame":            {0xff, 0xff, 0xff},
	} {
		c := join(1)
		c.Write(junk)
		for b := make([]byte, 100); err == nil; {
			_, err = c.Read(b)
		}
		if ne, ok := err.(interface{ Timeout() bool }); ok && ne.Timeout() {
			t.Errorf("%s: the connection stands", name)
		}
		err = nil
	}
	for name, junk := range map[string][]byte{
		"a huge message": {0xff, 0xff, 0xff, 0xff},
		"a cut message":  {0, 0, 0, 5, 0xff, 0xff, 0, 0, 1},
		"a tiny message": {0, 0, 0, 1, 1},
	} {
		c := join(2)
		c.Write(junk)
		for b := make([]byte, 100); err == nil; {
			_, err = c.Read(b)
		}
		if ne, ok := err.(interface{ Timeout() bool }); ok && ne.Timeout() {
			t.Errorf("%s: the connection stands", name)
		}
		err = nil
	}
	if _, err := join(3).Read(make([]byte, 1)); err == nil {
		t.Error("an unknown purpose is served")
	}
	// A subject that reaches beyond the bus is dropped, the connection stands.
	c := join(2)
	c.Write(append([]byte{0, 0, 0, 4 + 8, 0, 8, 0, 0}, "$SYS.foo"...))
	c.Write([]byte{0, 0, 0, 0})
	rendezvoustest.Until(t, "the server says that it is alive", func() bool {
		n, err := c.Read(make([]byte, 4))
		return err == nil && n == 4
	})
}

func TestBusesOfAClusterAreOne(t *testing.T) {
	w := rendezvoustest.NewWorld()
	servers := w.Cluster(t, 2)
	one, two := servers[0].URL(), servers[1].URL()
	slot := w.Join(t, "node").Slot
	node := func(url string) *nats.Conn { return busOf(t, url, "node."+slot.String(), tokenA) }
	person := func(url string) *nats.Conn { return busOf(t, url, "people", tokenB) }
	nodes, people := []*nats.Conn{node(one), node(two)}, []*nats.Conn{person(one), person(two)}
	// The way between the buses may still be opening.
	heard := make(chan struct{}, 100)
	sub, err := people[1].Subscribe("heartbeat.*", func(*nats.Msg) { heard <- struct{}{} })
	must(t, err)
	must(t, people[1].Flush())
	for joined := false; !joined; {
		must(t, nodes[0].Publish("heartbeat."+slot.String(), nil))
		select {
		case <-heard:
			joined = true
		case <-time.After(20 * time.Millisecond):
		}
	}
	must(t, sub.Unsubscribe())

	if asked, answered := ask(t, nodes[:1], people[1:], slot, tokenB, "across"); asked != 1 || answered != 1 {
		t.Errorf("across: asked %d, answered %d times", asked, answered)
	}
	if asked, answered := ask(t, nodes[1:], people[:1], slot, tokenB, "back"); asked != 1 || answered != 1 {
		t.Errorf("back: asked %d, answered %d times", asked, answered)
	}
	// All are at both: nobody minds doubled questions, but answers are the bulk
	// and come once.
	if asked, answered := ask(t, nodes, people, slot, tokenB, "everywhere"); asked < 2 || asked > 4 || answered != 1 {
		t.Errorf("everywhere: asked %d, answered %d times", asked, answered)
	}

	// An asker whose link here broke asks again, by the same inbox, from there.
	question := func(p *nats.Conn) {
		must(t, p.PublishRequest(bus.RequestSubject(slot), "inbox."+tokenB+".again", []byte("again")))
	}
	answers := make(chan struct{}, 100)
	_, err = nodes[0].Subscribe(bus.RequestSubject(slot), func(m *nats.Msg) { m.Respond(nil) })
	must(t, err)
	must(t, nodes[0].Flush())
	question(people[0])
	people[0].Close()
	_, err = people[1].Subscribe("inbox."+tokenB+".>", func(*nats.Msg) { answers <- struct{}{} })
	must(t, err)
	must(t, people[1].Flush())
	rendezvoustest.Until(t, "it is answered there", func() bool {
		question(people[1])
		select {
		case <-answers:
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
}

// A node's question crosses to another server only when it is asked again, if
// somebody listens here; a person's, who may not ask again, always.
func TestQuestionsOfNodesCrossWhenTheyAreAskedAgain(t *testing.T) {
	w := rendezvoustest.NewWorld()
	servers := w.Cluster(t, 2)
	one, two := servers[0].URL(), servers[1].URL()
	a, b := w.Join(t, "a").Slot, w.Join(t, "b").Slot
	asker := busOf(t, one, "node."+a.String(), tokenA)
	person, far := busOf(t, one, "people", tokenB), busOf(t, two, "people", tokenB)
	here, there := busOf(t, one, "node."+b.String(), tokenA), busOf(t, two, "node."+b.String(), tokenA)
	beats, err := far.SubscribeSync("heartbeat.*")
	must(t, err)
	must(t, far.Flush())
	listen := func(c *nats.Conn, subject string) *nats.Subscription {
		sub, err := c.SubscribeSync(subject)
		must(t, err)
		must(t, c.Flush())
		return sub
	}
	// count is how many questions there are at sub once a new heartbeat has crossed,
	// which does so behind them.
	beat := byte(0)
	count := func(c *nats.Conn, sub *nats.Subscription) int {
		t.Helper()
		beat++
		rendezvoustest.Until(t, "a heartbeat crosses", func() bool {
			must(t, asker.Publish("heartbeat."+a.String(), []byte{beat}))
			for {
				m, err := beats.NextMsg(20 * time.Millisecond)
				if err != nil || m.Data[0] == beat {
					return err == nil
				}
			}
		})
		must(t, c.Flush())
		n, _, err := sub.Pending()
		must(t, err)
		return n
	}
	question := func(c *nats.Conn, subject, inbox string) {
		t.Helper()
		must(t, c.PublishRequest(subject, inbox, []byte("question")))
		must(t, c.Flush())
	}
	away := listen(there, bus.PeerSubject(b))
	count(there, away) // the way between the buses is open
	question(asker, bus.PeerSubject(b), "inbox."+tokenA+".1")
	if n := count(there, away); n != 1 {
		t.Errorf("%d came though nobody listens where it was asked, want 1", n)
	}
	near := listen(here, bus.PeerSubject(b))
	question(asker, bus.PeerSubject(b), "inbox."+tokenA+".2")
	if n := count(there, away); n != 1 {
		t.Errorf("%d came, want 1: the second one was heard where it was asked", n)
	}
	question(asker, bus.PeerSubject(b), "inbox."+tokenA+".2")
	if n, m := count(there, away), count(here, near); n != 2 || m != 2 {
		t.Errorf("%d came there and %d here, want 2 and 2: it was asked again", n, m)
	}
	listen(here, bus.RequestSubject(b))
	requests := listen(there, bus.RequestSubject(b))
	question(person, bus.RequestSubject(b), "inbox."+tokenB+".1")
	if n := count(there, requests); n != 1 {
		t.Errorf("%d requests of a person came, want 1", n)
	}
}
