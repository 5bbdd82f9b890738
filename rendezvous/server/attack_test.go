package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/rendezvoustest"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/rendezvous/wire"
	"github.com/zero-os/zos/sign"
)

var nobody = canon.Sum([]byte("nobody"))

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ctx(t testing.TB) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bare is a client without any manners: a TLS connection and the frames on it.
type bare struct {
	t         testing.TB
	conn      *tls.Conn
	in        *wire.Reader
	challenge []byte
}

// dial connects for the relay and reads the server's challenge.
func dial(t testing.TB, url string) *bare {
	t.Helper()
	a, err := rendezvous.ParseURL(url)
	must(t, err)
	c, err := rendezvous.Dial(ctx(t), a, rendezvous.ALPNRelay)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(3*time.Minute)))
	b := &bare{t: t, conn: c.(*tls.Conn), in: wire.NewReader(c)}
	ty, body := b.next()
	if ty != wire.Hello || len(body) != wire.ChallengeSize {
		t.Fatalf("the server begins with %d, %d bytes", ty, len(body))
	}
	b.challenge = bytes.Clone(body)
	return b
}

func (b *bare) next() (wire.Type, []byte) {
	b.t.Helper()
	ty, body, err := b.in.Next()
	must(b.t, err)
	return ty, body
}

func (b *bare) send(ty wire.Type, body ...[]byte) {
	b.t.Helper()
	_, err := b.conn.Write(wire.Append(nil, ty, bytes.Join(body, nil), nil, nil))
	must(b.t, err)
}

func (b *bare) channel() []byte {
	b.t.Helper()
	c, err := wire.Channel(b.conn)
	must(b.t, err)
	return c
}

// statement is the login that m should make on this connection.
func (b *bare) statement(w *rendezvoustest.World, m rendezvoustest.Member) wire.Login {
	l := wire.Login{Slot: m.Slot, Epoch: m.Epoch, Challenge: b.challenge, Channel: b.channel()}
	l.Grid = w.Grid
	return l
}

func (b *bare) login(l wire.Login, s sign.Signer) (wire.Type, []byte) {
	b.t.Helper()
	body, err := wire.SignLogin(b.t.Context(), l, s)
	must(b.t, err)
	b.send(wire.LoginFrame, body)
	return b.next()
}

// as logs in properly.
func (b *bare) as(w *rendezvoustest.World, m rendezvoustest.Member) *bare {
	b.t.Helper()
	if ty, body := b.login(b.statement(w, m), m.Signer); ty != wire.Welcome {
		b.t.Fatalf("not welcome: %d %q", ty, body)
	}
	return b
}

// gone waits until the server has cut the connection.
func (b *bare) gone() {
	b.t.Helper()
	for {
		if _, _, err := b.in.Next(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				b.t.Fatal("the connection stands")
			}
			return
		}
	}
}

// TestForgedLoginsAreRefused plays every way to pose as a slot.
func TestForgedLoginsAreRefused(t *testing.T) {
	w := rendezvoustest.NewWorld()
	node, stranger := w.Join(t, "node"), w.Join(t, "stranger")
	old := w.Join(t, "moved")
	moved := w.Join(t, "moved")
	s := w.Serve(t)
	for _, tc := range []struct {
		name  string
		login func(b *bare) (wire.Type, []byte)
		code  string
	}{
		{"another slot's key", func(b *bare) (wire.Type, []byte) {
			return b.login(b.statement(w, node), stranger.Signer)
		}, "login-refused"},
		{"a slot that nobody joined", func(b *bare) (wire.Type, []byte) {
			return b.login(b.statement(w, rendezvoustest.Member{Slot: canon.Sum(nil), Epoch: 1}), node.Signer)
		}, "login-refused"},
		{"the key of an earlier epoch", func(b *bare) (wire.Type, []byte) {
			return b.login(b.statement(w, old), old.Signer)
		}, "login-refused"},
		{"an old key under the new epoch", func(b *bare) (wire.Type, []byte) {
			return b.login(b.statement(w, moved), old.Signer)
		}, "login-refused"},
		{"another grid", func(b *bare) (wire.Type, []byte) {
			l := b.statement(w, node)
			l.Grid = canon.Sum([]byte("another"))
			return b.login(l, node.Signer)
		}, "login-invalid"},
		{"a challenge of another connection", func(b *bare) (wire.Type, []byte) {
			l := b.statement(w, node)
			l.Challenge = dial(t, s.URL()).challenge
			return b.login(l, node.Signer)
		}, "login-invalid"},
		{"a login of another connection", func(b *bare) (wire.Type, []byte) {
			l := dial(t, s.URL()).statement(w, node)
			return b.login(l, node.Signer)
		}, "login-invalid"},
		{"a channel of another connection", func(b *bare) (wire.Type, []byte) {
			l := b.statement(w, node)
			l.Channel = dial(t, s.URL()).channel()
			return b.login(l, node.Signer)
		}, "login-invalid"},
		{"an altered signature", func(b *bare) (wire.Type, []byte) {
			body, err := wire.SignLogin(t.Context(), b.statement(w, node), node.Signer)
			must(t, err)
			body[len(body)-1] ^= 1
			b.send(wire.LoginFrame, body)
			return b.next()
		}, "login-invalid"},
		{"no login at all", func(b *bare) (wire.Type, []byte) {
			b.send(wire.LoginFrame, []byte("let me in"))
			return b.next()
		}, "login-invalid"},
	} {
		b := dial(t, s.URL())
		ty, body := tc.login(b)
		code, text, _ := bytes.Cut(body, []byte{0})
		if ty != wire.Refused || string(code) != tc.code {
			t.Errorf("%s: frame %d, %q %q; want %q", tc.name, ty, code, text, tc.code)
		}
		b.gone()
	}
	if n := s.Clients(); n != 0 {
		t.Errorf("%d clients are in", n)
	}
	dial(t, s.URL()).as(w, node) // and the true one is let in
	dial(t, s.URL()).as(w, moved)
}

// TestLoginCanNotBeForwarded: a server to which a node logs in passes challenge
// and login between it and another server, and does not get in.
func TestLoginCanNotBeForwarded(t *testing.T) {
	w := rendezvoustest.NewWorld()
	node := w.Join(t, "node")
	honest := w.Serve(t)

	// The evil server has a key of its own, so that the node trusts it.
	cert, err := server.Identity(t.TempDir())
	must(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{rendezvous.ALPNRelay}})
	must(t, err)
	defer ln.Close()
	verdict := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		there := dial(t, honest.URL())
		c.Write(wire.Append(nil, wire.Hello, there.challenge, nil, nil))
		ty, body, err := wire.NewReader(c).Next()
		if err != nil || ty != wire.LoginFrame {
			verdict <- fmt.Sprintf("no login: %d %v", ty, err)
			return
		}
		there.send(wire.LoginFrame, body)
		answer, text := there.next()
		code, _, _ := bytes.Cut(text, []byte{0})
		verdict <- fmt.Sprintf("%d %s", answer, code)
	}()
	cfg := w.Config(node, rendezvous.Address{Host: ln.Addr().String(), Pin: rendezvous.Pin(cert.Leaf)}.String())
	cfg.RelayOnly = true
	c, err := rendezvous.Connect(cfg)
	must(t, err)
	defer c.Close()
	select {
	case got := <-verdict:
		if want := fmt.Sprintf("%d login-invalid", wire.Refused); got != want {
			t.Errorf("the honest server answers %q, want %q", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the evil server saw no login")
	}
	if honest.Clients() != 0 {
		t.Error("it got in")
	}
}

func TestAnotherServerIsNotTrusted(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s, other := w.Serve(t), w.Serve(t)
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	o, err := rendezvous.ParseURL(other.URL())
	must(t, err)
	for name, a := range map[string]rendezvous.Address{"the pin of another": {Host: a.Host, Pin: o.Pin}, "no pin and no authority": {Host: a.Host}} {
		c, err := rendezvous.Dial(ctx(t), a, rendezvous.ALPNRelay)
		if err == nil {
			c.Close()
			t.Errorf("%s: trusted", name)
		} else if !strings.Contains(err.Error(), "connect to") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestJunkIsCutOff: whatever does not log in is gone after the deadline, and the
// server serves others all the while.
func TestJunkIsCutOff(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t, func(c *server.Config) { c.Limits.Handshake = 300 * time.Millisecond })
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	junk := make([]byte, 4096)
	rand.Read(junk)
	handshake := func(cfg *tls.Config) func(c net.Conn) {
		return func(c net.Conn) {
			cfg.InsecureSkipVerify = true
			tls.Client(c, cfg).HandshakeContext(ctx(t))
		}
	}
	for name, do := range map[string]func(c net.Conn){
		"nothing":                      func(net.Conn) {},
		"noise":                        func(c net.Conn) { c.Write(junk) },
		"HTTP":                         func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
		"half a hello":                 func(c net.Conn) { c.Write([]byte{0x16, 3, 1, 2, 0, 1, 0, 1}) },
		"no protocol":                  handshake(&tls.Config{}),
		"TLS 1.2":                      handshake(&tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{rendezvous.ALPNRelay}}),
		"web":                          handshake(&tls.Config{NextProtos: []string{"h2", "http/1.1"}}),
		"a silent client":              handshake(&tls.Config{NextProtos: []string{rendezvous.ALPNRelay}}),
		"a server without certificate": handshake(&tls.Config{NextProtos: []string{rendezvous.ALPNCluster}}),
	} {
		c, err := net.Dial("tcp", a.Host)
		must(t, err)
		defer c.Close()
		do(c)
		must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stands", name)
		}
	}
	// A slow sender of frames that are none.
	b := dial(t, s.URL())
	b.send(wire.Send, make([]byte, 100))
	b.gone()
	node := w.Join(t, "node")
	b = dial(t, s.URL()).as(w, node)
	b.conn.Write([]byte{0xff, 0xff, 0xff})
	b.gone()
	for _, ty := range []wire.Type{0, wire.Recv, wire.LoginFrame, wire.ClusterRelay, 255} {
		b = dial(t, s.URL()).as(w, node)
		b.send(ty, make([]byte, 100))
		b.gone()
	}
	dial(t, s.URL()).as(w, node)
}

func TestHalfOpenConnectionsAreBounded(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t, func(c *server.Config) { c.Limits.PerSite, c.Limits.Handshake = 5, time.Minute })
	a, err := rendezvous.ParseURL(s.URL())
	must(t, err)
	var wg sync.WaitGroup
	closed := make(chan struct{}, 100)
	var conns []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", a.Host)
		must(t, err)
		conns = append(conns, c)
		wg.Go(func() {
			io.Copy(io.Discard, c)
			closed <- struct{}{}
		})
	}
	for range 15 {
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			t.Fatal("more half-open connections than allowed")
		}
	}
	select {
	case <-closed:
		t.Error("fewer half-open connections than allowed")
	case <-time.After(50 * time.Millisecond):
	}
	for _, c := range conns {
		c.Close()
	}
	wg.Wait()
	// Those that logged in don't count.
	var in []*bare
	for i := range 8 {
		node := w.Join(t, fmt.Sprint(i))
		rendezvoustest.Until(t, "a place is free", func() bool {
			c, err := rendezvous.Dial(ctx(t), a, rendezvous.ALPNRelay)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		in = append(in, dial(t, s.URL()).as(w, node))
	}
	if n := s.Clients(); n != len(in) {
		t.Errorf("%d clients", n)
	}
}

func TestNewerConnectionReplacesTheOlder(t *testing.T) {
	w := rendezvoustest.NewWorld()
	s := w.Serve(t)
	node, other := w.Join(t, "node"), w.Join(t, "other")
	first := dial(t, s.URL()).as(w, node)
	second := dial(t, s.URL()).as(w, node)
	first.gone()
	from := dial(t, s.URL()).as(w, other)
	from.send(wire.Send, node.Slot[:], []byte("hello"))
	ty, body := second.next()
	if ty != wire.Recv || !bytes.Equal(body, append(other.Slot[:], "hello"...)) {
		t.Errorf("frame %d, %q", ty, body)
	}
	from.send(wire.Send, nobody[:], []byte("hello"))
	if ty, body := from.next(); ty != wire.Gone || !bytes.Equal(body, nobody[:]) {
		t.Errorf("an absent slot: frame %d, %x", ty, body)
	}
	if s.Clients() != 2 {
		t.Errorf("%d clients", s.Clients())
	}
}
