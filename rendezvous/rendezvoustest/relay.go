package rendezvoustest

import (
	"crypto/rand"
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/server"
	"github.com/zero-os/zos/rendezvous/wire"
)

// Packet is what one client sends to another, as a relay sees it: Bytes begins
// with one byte of the client itself, 0 for data.
type Packet struct {
	From, To canon.Hash
	Bytes    []byte
}

// IsData tells data from the clients' own pings and probes.
func (p Packet) IsData() bool { return len(p.Bytes) > 0 && p.Bytes[0] == 0 }

// Policy is what a relay makes of each packet: deliver may be called any number
// of times, now or later, from any goroutine, with any packet.
type Policy func(p Packet, deliver func(Packet))

// Relay is the operator of a rendezvous who lies. It lets in everyone, without
// asking a ledger, and does with packets what its policy says; it speaks no UDP.
type Relay struct {
	url string
	ln  net.Listener
	wg  sync.WaitGroup

	mu      sync.Mutex
	policy  Policy
	clients map[canon.Hash]*relayed
	conns   map[net.Conn]struct{}
}

type relayed struct {
	mu   sync.Mutex
	conn net.Conn
}

// NewRelay starts a relay with a policy; the test's end stops it.
func NewRelay(t testing.TB, policy Policy) *Relay {
	t.Helper()
	cert, err := server.Identity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{rendezvous.ALPNRelay},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{
		url: rendezvous.Address{Host: ln.Addr().String(), Pin: rendezvous.Pin(cert.Leaf)}.String(),
		ln:  ln, policy: policy, clients: map[canon.Hash]*relayed{}, conns: map[net.Conn]struct{}{},
	}
	r.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			if r.conns == nil {
				c.Close()
			} else {
				r.conns[c] = struct{}{}
				r.wg.Go(func() { r.serve(c) })
			}
			r.mu.Unlock()
		}
	})
	t.Cleanup(r.Close)
	return r
}

// URL is where clients connect.
func (r *Relay) URL() string { return r.url }

// SetPolicy replaces the policy.
func (r *Relay) SetPolicy(p Policy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.policy = p
}

// Deliver hands a packet to its receiver, whoever made it.
func (r *Relay) Deliver(p Packet) {
	r.mu.Lock()
	c := r.clients[p.To]
	r.mu.Unlock()
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.Write(wire.Append(nil, wire.Recv, p.From[:], p.Bytes, nil))
}

// Close cuts all connections.
func (r *Relay) Close() {
	r.ln.Close()
	r.mu.Lock()
	for c := range r.conns {
		c.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *Relay) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		r.mu.Lock()
		delete(r.conns, conn)
		r.mu.Unlock()
	}()
	challenge := make([]byte, wire.ChallengeSize)
	rand.Read(challenge)
	conn.Write(wire.Append(nil, wire.Hello, challenge, nil, nil))
	in := wire.NewReader(conn)
	ty, body, err := in.Next()
	if err != nil || ty != wire.LoginFrame {
		return
	}
	slot, err := slotOf(body)
	if err != nil {
		return
	}
	conn.Write(wire.Append(nil, wire.Welcome, make([]byte, wire.SessionSize), nil, nil))
	me := &relayed{conn: conn}
	r.mu.Lock()
	r.clients[slot] = me
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.clients[slot] == me {
			delete(r.clients, slot)
		}
	}()
	for {
		ty, body, err := in.Next()
		if err != nil {
			return
		}
		if ty != wire.Send {
			continue
		}
		to, b, err := wire.Packet(body)
		if err != nil {
			return
		}
		p := Packet{From: slot, To: to, Bytes: append([]byte(nil), b...)}
		r.mu.Lock()
		policy := r.policy
		r.mu.Unlock()
		policy(p, r.Deliver)
	}
}
