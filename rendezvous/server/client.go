package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous/wire"
	"github.com/zero-os/zos/sign"
)

const (
	tokensMost  = 1024    // of one client
	observeCost = 4 << 10 // of an observation, as bytes of the client's rate
	maxRefusal  = 512     // bytes of a refusal's text

	// UDP to a client is believed in for so long after its last datagram.
	udpFresh = 40 * time.Second
	// A client whose datagrams are not heard for a while is told, over TLS, that
	// some are sent to it: then it finds out whether they arrive.
	udpQuiet = 2 * time.Second
	udpTell  = time.Second
)

// client is one connection that proved its slot.
type client struct {
	relay   *relay
	conn    *tls.Conn
	under   *wire.Conn
	slot    canon.Hash
	epoch   uint64
	key     sign.PublicKey
	session [wire.SessionSize]byte
	queue   *wire.Queue
	bucket  *bucket
	tokens  map[[wire.TokenSize]byte]struct{} // guarded by relay.mu
	checked time.Time                         // the sweeper's
	last    atomic.Int64                      // Unix nanoseconds of the last frame or datagram
	once    sync.Once
	why     string

	sealer   *wire.Sealer
	opener   *wire.Opener
	udp      atomic.Pointer[netip.AddrPort] // where datagrams go; nil: use TLS
	udpMax   atomic.Int64                   // bytes of the largest datagram that passes
	udpAt    atomic.Int64                   // Unix nanoseconds of the last datagram
	toldAt   atomic.Int64                   // … of the last UDPUsed
	segments wire.Segmenter
}

// serve logs a client in and passes its packets until it leaves.
func (r *relay) serve(ctx context.Context, conn *tls.Conn, under *wire.Conn, proven func()) error {
	in := wire.NewReader(conn)
	c, err := r.login(ctx, conn, under, in)
	if err != nil {
		text := err.Error()
		code := problem.Code(err)
		if code != "" {
			conn.Write(wire.Append(nil, wire.Refused, []byte(code), []byte{0}, []byte(text[:min(len(text), maxRefusal)])))
			conn.CloseWrite()
		}
		return err
	}
	proven()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	r.enter(c)
	defer r.leave(c)
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	err = c.read(in)
	c.end("")
	<-written
	if c.why != "" {
		return fmt.Errorf("client %s: cut off: %s", c.slot.Short(), c.why)
	}
	return err
}

// login is the exchange that proves a slot.
func (r *relay) login(ctx context.Context, conn *tls.Conn, under *wire.Conn, in *wire.Reader) (*client, error) {
	var challenge [wire.ChallengeSize]byte
	rand.Read(challenge[:])
	if _, err := conn.Write(wire.Append(nil, wire.Hello, challenge[:], nil, nil)); err != nil {
		return nil, err
	}
	t, body, err := in.Next()
	if err != nil {
		return nil, fmt.Errorf("wait for a login: %w", err)
	}
	if t != wire.LoginFrame {
		return nil, fmt.Errorf("a frame of type %d came before the login", t)
	}
	channel, err := wire.Channel(conn)
	if err != nil {
		return nil, err
	}
	l, by, err := wire.OpenLogin(body, r.server.cfg.Grid)
	if err != nil {
		return nil, err
	}
	want := wire.Expected{Grid: r.server.cfg.Grid, Challenge: challenge[:], Channel: channel}
	if err := r.server.bindings.fits(ctx, l, by, want); err != nil {
		return nil, err
	}
	c := &client{
		relay: r, conn: conn, under: under, slot: l.Slot, epoch: l.Epoch, key: by,
		queue:   wire.NewQueue(r.server.cfg.Limits.Queue, 0, &r.buffers),
		bucket:  newBucket(r.server.cfg.Limits.Rate, time.Now()),
		tokens:  map[[wire.TokenSize]byte]struct{}{},
		checked: time.Now(),
	}
	rand.Read(c.session[:])
	c.last.Store(time.Now().UnixNano())
	theirs, ours, err := wire.DatagramKeys(conn)
	if err != nil {
		return nil, err
	}
	if c.opener, err = wire.NewOpener(theirs); err != nil {
		return nil, err
	}
	if c.sealer, err = wire.NewSealer(c.session, ours); err != nil {
		return nil, err
	}
	c.queue.Control(wire.Welcome, c.session[:], nil, nil)
	return c, nil
}

// read takes frames until the connection ends.
func (c *client) read(in *wire.Reader) error {
	out := newOutgoing(c.relay, 1)
	for {
		waits := !in.Buffered() // once for each batch
		if waits {
			out.flush()
		}
		t, body, err := in.Next()
		if err != nil {
			return err
		}
		if waits {
			c.last.Store(out.clock())
		}
		switch t {
		case wire.Send:
			to, packet, err := wire.Packet(body)
			if err != nil {
				return err
			}
			c.relay.pass(c, to, packet, out)
		case wire.Watch, wire.Unwatch:
			token, err := wire.Token(body)
			if err != nil {
				return err
			}
			if t == wire.Watch {
				c.relay.watch(c, token)
			} else {
				c.relay.unwatch(c, token)
			}
		case wire.UDPOff:
			c.udp.Store(nil)
		default:
			return fmt.Errorf("a frame of type %d is not a client's", t)
		}
	}
}

// write sends what waits, as much at once as there is.
func (c *client) write() {
	if err := c.queue.Drain(c.conn, c.under); err != nil {
		c.end("")
	}
}

// deliver sends a packet to the client, as a datagram if that passes.
func (c *client) deliver(from canon.Hash, packet []byte, out *outgoing) {
	if to := c.udp.Load(); to != nil && int64(len(packet)+wire.PacketOverhead) <= c.udpMax.Load() && c.datagram(*to, from, packet, out) {
		return
	}
	c.queue.Push(wire.Recv, from[:], packet, nil)
}

// heard is when the client last said something.
func (c *client) heard() time.Time { return time.Unix(0, c.last.Load()) }

// end cuts the client off; why is for the log.
func (c *client) end(why string) {
	c.once.Do(func() {
		c.why = why
		c.queue.Close()
		// The network connection first: closing TLS would wait for a write that a
		// client which does not read holds up.
		c.conn.NetConn().Close()
		c.conn.Close()
	})
}
