package server

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous/wire"
)

// udpBuffer is the kernel's room for datagrams, in bytes.
const udpBuffer = 4 << 20

// readUDP takes datagrams until the socket is closed.
func (r *relay) readUDP() {
	in := make([]byte, wire.ReadSize)
	out := newOutgoing(r, receivers)
	for {
		n, size, from, err := wire.ReadUDP(r.server.udp, in)
		if err != nil {
			if r.server.ctx.Err() != nil || wire.Broken(err) {
				return
			}
			continue // of one datagram, e.g. an ICMP error that came back
		}
		for b := in[:n]; len(b) > 0; {
			d := b[:min(size, len(b))]
			b = b[len(d):]
			if len(d) == wire.ObserveSize && d[0] == wire.DatagramObserve {
				r.observed([wire.TokenSize]byte(d[1:]), from)
				continue
			}
			r.datagram(d, from, out)
		}
		out.flush()
	}
}

// receivers is for how many clients datagrams are gathered at once by who reads
// packets of many: the datagrams of all clients, or another server's. Each takes
// 66 KiB until the batch is sent. Who reads one client's TLS gathers for one.
const receivers = 8

// outgoing is datagrams that one goroutine gathers for some clients.
type outgoing struct {
	relay *relay
	nonce wire.Nonce
	to    []receiver
	used  int   // of to
	now   int64 // Unix nanoseconds, of clock; 0: not known
}

func newOutgoing(r *relay, receivers int) *outgoing {
	return &outgoing{relay: r, to: make([]receiver, receivers)}
}

// clock is the time in Unix nanoseconds, read once for each batch: on some
// machines that is not cheap.
func (o *outgoing) clock() int64 {
	if o.now == 0 {
		o.now = time.Now().UnixNano()
	}
	return o.now
}

// receiver is one client, and the address where it was when the first datagram
// was gathered.
type receiver struct {
	client *client
	at     netip.AddrPort
	gather wire.Gather
}

// add seals a datagram of n bytes for a client. False: it can't be sealed.
func (o *outgoing) add(c *client, at netip.AddrPort, n int, t wire.Type, x, y []byte) bool {
	if n > wire.MaxDatagram || c.sealer.Spent() {
		return false
	}
	c.sealer.Seal(o.room(c, at, n), &o.nonce, t, x, y)
	return true
}

// room is where the next n bytes to a client go.
func (o *outgoing) room(c *client, at netip.AddrPort, n int) []byte {
	for i := range o.to[:o.used] {
		if r := &o.to[i]; r.client == c && r.at == at {
			if d := r.gather.Add(&o.relay.buffers, n); d != nil {
				return d
			}
			o.write(r)
			return r.gather.Add(&o.relay.buffers, n)
		}
	}
	if o.used == len(o.to) {
		o.flush()
	}
	r := &o.to[o.used]
	o.used++
	r.client, r.at = c, at
	return r.gather.Add(&o.relay.buffers, n)
}

func (o *outgoing) write(r *receiver) {
	r.gather.Write(o.relay.server.udp, r.at, &r.client.segments, &o.relay.buffers)
}

// flush sends what was gathered; whoever delivers calls it before waiting for
// more.
func (o *outgoing) flush() {
	for i := range o.to[:o.used] {
		o.write(&o.to[i])
		o.to[i].client = nil
	}
	o.used, o.now = 0, 0
}

// datagram takes a sealed one. Whoever is not of a session gets no answer.
func (r *relay) datagram(d []byte, from netip.AddrPort, out *outgoing) {
	session, ok := wire.Session(d)
	if !ok {
		return
	}
	r.mu.RLock()
	c := r.sessions[session]
	r.mu.RUnlock()
	if c == nil {
		return
	}
	t, body, newest, err := c.opener.Open(d)
	if err != nil {
		return
	}
	now := out.clock()
	c.last.Store(now)
	c.udpAt.Store(now)
	// A client that moved is followed to where its newest datagram came from.
	if old := c.udp.Load(); newest && old != nil && *old != from {
		moved := from
		c.udp.CompareAndSwap(old, &moved)
	}
	switch t {
	case wire.Send:
		if to, packet, err := wire.Packet(body); err == nil {
			r.pass(c, to, packet, out)
		}
	case wire.Ping:
		c.ping(body, from, newest, out)
	}
}

// ping answers a datagram that asks whether this size passes, with one of the
// same size, and learns up to which size the client wants datagrams: 0 for none.
//
//	token (8), size (2), padding
func (c *client) ping(body []byte, from netip.AddrPort, newest bool, out *outgoing) {
	if len(body) < 10 || !c.bucket.take(len(body), time.Now) {
		return
	}
	if newest {
		if most := int64(binary.BigEndian.Uint16(body[8:])); most == 0 {
			c.udp.Store(nil)
		} else {
			c.udpMax.Store(most)
			c.udp.Store(&from)
		}
	}
	out.add(c, from, wire.Overhead+len(body), wire.Pong, body[:8], nil)
}

// datagram sends a packet by UDP, at the latest when out is flushed. False: UDP
// is not believed in any more, or the key is spent.
func (c *client) datagram(to netip.AddrPort, from canon.Hash, packet []byte, out *outgoing) bool {
	now := out.clock()
	quiet := time.Duration(now - c.udpAt.Load())
	if quiet > udpFresh {
		return false
	}
	if told := c.toldAt.Load(); quiet > udpQuiet && time.Duration(now-told) > udpTell && c.toldAt.CompareAndSwap(told, now) {
		c.queue.Push(wire.UDPUsed, nil, nil, nil)
	}
	return out.add(c, to, wire.PacketOverhead+len(packet), wire.Recv, from[:], packet)
}
