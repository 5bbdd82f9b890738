package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/wire"
)

// What a connection between servers is for. Each has its own, so that large
// messages of the bus hold up no packet.
const (
	purposeRelay byte = 1
	purposeBus   byte = 2
)

const (
	maxRoutes      = 16
	clusterQueue   = 4 << 20  // bytes of packets that wait for another server
	clusterControl = 16 << 20 // of joins and lefts: 400,000 of them
	clusterSlots   = 200_000  // that one other server may have
	clusterAlive   = 5 * time.Second
	clusterSilent  = 3 * clusterAlive
	redialMin      = 100 * time.Millisecond
	redialMax      = 5 * time.Second
)

// cluster is the connections to the other servers: who is connected there, and
// packets and messages for them. Servers trust each other with metadata and with
// dropping, as clients trust each of them. What came from another server is
// delivered here or nowhere, so that nothing goes in circles.
type cluster struct {
	server *Server
	bus    *busLinks

	mu     sync.RWMutex
	routes map[string]struct{}     // pins of the other servers
	local  map[canon.Hash]struct{} // slots that are connected here
	links  []*clusterLink
}

// clusterLink is one connection that carries packets. Both servers dial, so that
// there are two when both can be dialed; either is enough.
type clusterLink struct {
	pin   string
	queue *wire.Queue

	mu    sync.RWMutex
	slots map[canon.Hash]struct{} // connected at the other end
}

func newCluster(s *Server) (*cluster, error) {
	return &cluster{
		server: s,
		bus:    newBusLinks(s),
		routes: map[string]struct{}{},
		local:  map[canon.Hash]struct{}{},
	}, nil
}

func (c *cluster) stop() { c.bus.stop() }

// AddRoute joins another server, which must name this one too, while both run.
// The URL needs its pin. A server's own URL is passed over, so that all servers
// of a cluster may be given the same list.
func (s *Server) AddRoute(url string) error {
	a, err := rendezvous.ParseURL(url)
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	if len(a.Pin) == 0 {
		return problem.New("url-invalid", "join the cluster: %.100q has no pin", url).
			WithFix("take the whole address that the other server shows: tls://host:port#pin")
	}
	if bytes.Equal(a.Pin, s.pin) {
		return nil
	}
	c := s.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ctx.Err() != nil {
		return errors.New("join the cluster: the server is stopping")
	}
	if _, ok := c.routes[string(a.Pin)]; ok {
		return nil
	}
	if len(c.routes) >= maxRoutes {
		return fmt.Errorf("join the cluster: more than %d other servers", maxRoutes)
	}
	if err := c.bus.start(); err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	c.routes[string(a.Pin)] = struct{}{}
	for _, purpose := range []byte{purposeRelay, purposeBus} {
		s.wg.Go(func() { c.keep(a, purpose) })
	}
	return nil
}

// knows tells whether a pin is of a server of this cluster.
func (c *cluster) knows(pin []byte) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.routes[string(pin)]
	return ok
}

// keep holds a dialed connection until the server stops.
func (c *cluster) keep(a rendezvous.Address, purpose byte) {
	pause := redialMin
	for c.server.ctx.Err() == nil {
		began := time.Now()
		err := c.dial(a, purpose)
		if c.server.ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*redialMax {
			pause = redialMin
		}
		c.server.log.Debug("link to another rendezvous down", "to", a.Host, "error", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-c.server.ctx.Done():
		}
		pause = min(2*pause, redialMax)
	}
}

func (c *cluster) dial(a rendezvous.Address, purpose byte) error {
	ctx, cancel := context.WithTimeout(c.server.ctx, c.server.cfg.Limits.Handshake)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", a.Host)
	if err != nil {
		return err
	}
	defer raw.Close()
	if !c.server.track(raw) {
		return net.ErrClosed
	}
	defer c.server.untrack(raw)
	under := wire.NewConn(raw, &c.server.relay.buffers)
	conn := tls.Client(under, rendezvous.ClientTLS(a, rendezvous.ALPNCluster, c.server.cert))
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if _, err := conn.Write(wire.Append(nil, wire.ClusterHello, []byte{purpose}, nil, nil)); err != nil {
		return err
	}
	// With TLS 1.3 a dialer is done before the other side has judged its key:
	// only this tells that it is let in.
	in := wire.NewReader(conn)
	if err := raw.SetReadDeadline(time.Now().Add(c.server.cfg.Limits.Handshake)); err != nil {
		return err
	}
	t, body, err := in.Next()
	if err != nil {
		return fmt.Errorf("server of the cluster: %w", err)
	}
	if t != wire.ClusterHello || len(body) != 1 || body[0] != purpose {
		return fmt.Errorf("server of the cluster: a frame of type %d came first", t)
	}
	return c.run(conn, under, in, purpose, string(a.Pin))
}

// serve takes a connection of another server; TLS has proven which.
func (c *cluster) serve(conn *tls.Conn, under *wire.Conn, proven func()) error {
	pin := rendezvous.Pin(conn.ConnectionState().PeerCertificates[0])
	in := wire.NewReader(conn)
	t, body, err := in.Next()
	if err != nil {
		return fmt.Errorf("server of the cluster: %w", err)
	}
	if t != wire.ClusterHello || len(body) != 1 {
		return fmt.Errorf("server of the cluster: a frame of type %d came first", t)
	}
	purpose := body[0]
	if _, err := conn.Write(wire.Append(nil, wire.ClusterHello, []byte{purpose}, nil, nil)); err != nil {
		return err
	}
	proven()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return c.run(conn, under, in, purpose, string(pin))
}

func (c *cluster) run(conn *tls.Conn, under *wire.Conn, in *wire.Reader, purpose byte, pin string) error {
	switch purpose {
	case purposeRelay:
		return c.runRelay(conn, under, in, pin)
	case purposeBus:
		return c.bus.run(conn, in, pin)
	}
	return fmt.Errorf("server of the cluster: purpose %d is not known", purpose)
}

// runRelay passes packets on one connection until it ends.
func (c *cluster) runRelay(conn *tls.Conn, under *wire.Conn, in *wire.Reader, pin string) error {
	l := &clusterLink{pin: pin, queue: wire.NewQueue(clusterQueue, clusterControl, &c.server.relay.buffers), slots: map[canon.Hash]struct{}{}}
	c.mu.Lock()
	for slot := range c.local {
		l.queue.Control(wire.ClusterJoin, slot[:], nil, nil)
	}
	c.links = append(c.links, l)
	c.mu.Unlock()
	c.server.log.Info("joined with another rendezvous", "at", conn.RemoteAddr())
	written := make(chan struct{})
	go func() {
		defer close(written)
		defer conn.NetConn().Close()
		l.queue.Drain(conn, under) // however it ends, the connection does
	}()
	stop := every(clusterAlive, func() { l.queue.Control(wire.ClusterAlive, nil, nil, nil) })
	err := c.readRelay(conn, in, l)
	stop()
	c.mu.Lock()
	c.links = slices.DeleteFunc(c.links, func(x *clusterLink) bool { return x == l })
	c.mu.Unlock()
	l.queue.Close()
	conn.NetConn().Close()
	<-written
	return err
}

// every calls fn at intervals until the returned function is called and has
// returned.
func every(d time.Duration, fn func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				fn()
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

func (c *cluster) readRelay(conn *tls.Conn, in *wire.Reader, l *clusterLink) error {
	out := newOutgoing(c.server.relay, receivers)
	for {
		if !in.Buffered() {
			out.flush()
			if err := conn.SetReadDeadline(time.Now().Add(clusterSilent)); err != nil {
				return err
			}
		}
		t, body, err := in.Next()
		if err != nil {
			return fmt.Errorf("server of the cluster: %w", err)
		}
		if t == wire.ClusterAlive {
			continue
		}
		slot, rest, err := wire.Slot(body)
		if err != nil {
			return err
		}
		switch t {
		case wire.ClusterJoin:
			if !l.add(slot) {
				return fmt.Errorf("server of the cluster: it says that more than %d slots are there", clusterSlots)
			}
		case wire.ClusterLeft:
			l.remove(slot)
		case wire.ClusterRelay:
			to, packet, err := wire.Packet(rest)
			if err != nil {
				return err
			}
			c.server.relay.passed(slot, to, packet, out)
		default:
			return fmt.Errorf("server of the cluster: a frame of type %d", t)
		}
	}
}

func (l *clusterLink) add(slot canon.Hash) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.slots) >= clusterSlots {
		return false
	}
	l.slots[slot] = struct{}{}
	return true
}

func (l *clusterLink) remove(slot canon.Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.slots, slot)
}

func (l *clusterLink) has(slot canon.Hash) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, ok := l.slots[slot]
	return ok
}

// joined and left tell the other servers who is connected here.
func (c *cluster) joined(slot canon.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.local[slot] = struct{}{}
	c.tell(wire.ClusterJoin, slot)
}

func (c *cluster) left(slot canon.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.local, slot)
	c.tell(wire.ClusterLeft, slot)
}

func (c *cluster) tell(t wire.Type, slot canon.Hash) {
	for _, l := range c.links {
		if !l.queue.Control(t, slot[:], nil, nil) {
			l.queue.Close() // it reads nothing; it learns anew when it dials again
		}
	}
}

// forward sends a packet to a server where the slot is. False: it is at none.
func (c *cluster) forward(from, to canon.Hash, packet []byte) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, l := range c.links {
		if l.has(to) {
			l.queue.Push(wire.ClusterRelay, from[:], to[:], packet)
			return true
		}
	}
	return false
}

// Peers is the number of other servers to which there is a link now.
func (s *Server) Peers() int {
	s.cluster.mu.RLock()
	defer s.cluster.mu.RUnlock()
	pins := map[string]bool{}
	for _, l := range s.cluster.links {
		pins[l.pin] = true
	}
	return len(pins)
}
