package server_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/bus/server"
)

// fed dials a server by handing it one end of a pair of sockets.
type fed struct{ s *server.Server }

func (f fed) Dial(_, _ string) (net.Conn, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	in, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	go f.s.ServeConn(in)
	return c, nil
}

func fresh(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.New(t.Context(), server.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func feed(t *testing.T, s *server.Server, user, token string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://bus", nats.SetCustomDialer(fed{s}), nats.UserInfo(user, token), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestConnectionsThatAreHandedInAreServed(t *testing.T) {
	s := fresh(t)
	node, person := feed(t, s, "node."+slot.String(), tokenA), feed(t, s, "people", tokenB)
	if _, err := node.Subscribe(bus.RequestSubject(slot), func(m *nats.Msg) { m.Respond(append(m.Data, '!')) }); err != nil {
		t.Fatal(err)
	}
	if err := node.Flush(); err != nil {
		t.Fatal(err)
	}
	in, err := person.SubscribeSync("inbox." + tokenB + ".>")
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, server.MaxPayload-1)
	if err := person.PublishRequest(bus.RequestSubject(slot), "inbox."+tokenB+".1", big); err != nil {
		t.Fatal(err)
	}
	m, err := in.NextMsg(10 * time.Second)
	if err != nil || len(m.Data) != server.MaxPayload {
		t.Fatalf("%v: %d bytes", err, len(m.Data))
	}
	if n := s.Clients(); n != 2 {
		t.Errorf("%d clients", n)
	}
	// Both ends notice the end.
	closed := make(chan struct{})
	node.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("a client did not notice that the server stopped")
	}
	a, b := net.Pipe()
	defer b.Close()
	if err := s.ServeConn(a); err == nil {
		t.Error("a stopped server takes connections")
	}
}

func TestMessagesPassBetweenTwoBusesOnce(t *testing.T) {
	a, b := fresh(t), fresh(t)
	var mu sync.Mutex
	var ja, jb *server.Joined
	passed := map[string]int{}
	pass := func(from string, to **server.Joined) func(server.Message) {
		return func(m server.Message) {
			mu.Lock()
			passed[from+" "+m.Subject]++
			j := *to
			mu.Unlock()
			if err := j.Publish(m); err != nil {
				t.Error(err)
			}
		}
	}
	mu.Lock()
	var err error
	if ja, err = a.Join(pass("a", &jb)); err != nil {
		t.Fatal(err)
	}
	if jb, err = b.Join(pass("b", &ja)); err != nil {
		t.Fatal(err)
	}
	mu.Unlock()
	t.Cleanup(ja.Close)
	t.Cleanup(jb.Close)

	node, person := feed(t, a, "node."+slot.String(), tokenA), feed(t, b, "people", tokenB)
	if _, err := node.Subscribe(bus.RequestSubject(slot), func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := node.Flush(); err != nil {
		t.Fatal(err)
	}
	in, err := person.SubscribeSync("inbox." + tokenB + ".>")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := person.PublishRequest(bus.RequestSubject(slot), "inbox."+tokenB+".1", []byte(text)); err != nil {
			t.Fatal(err)
		}
		m, err := in.NextMsg(10 * time.Second)
		if err != nil || string(m.Data) != text {
			t.Fatalf("%v: %v", err, m)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for what, n := range map[string]int{"b " + bus.RequestSubject(slot): 2, "a inbox." + tokenB + ".1": 2} {
		if passed[what] != n {
			t.Errorf("%s passed %d times, want %d", what, passed[what], n)
		}
		delete(passed, what)
	}
	if len(passed) != 0 {
		t.Errorf("passed back: %v", passed)
	}
	for _, bad := range []string{"", ">", "*", "inbox.>", "$SYS.x", "$JS.API", ".a", "a.", "a b", "a\r\nPUB b 0", "A"} {
		if err := ja.Publish(server.Message{Subject: bad}); err == nil {
			t.Errorf("published on %q", bad)
		}
		if err := ja.Publish(server.Message{Subject: "a", Reply: bad}); err == nil && bad != "" {
			t.Errorf("reply to %q", bad)
		}
	}
	if err := ja.Publish(server.Message{Subject: "a", Data: make([]byte, server.MaxPayload+1)}); err == nil {
		t.Error("published too much")
	}
}
