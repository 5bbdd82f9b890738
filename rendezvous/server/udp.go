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
	in, scratch := make([]byte, wire.ReadSize), new(wire.Buffer)
	out := &outgoing{relay: r}
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
			r.datagram(scratch, d, from, out)
		}
		out.flush()
	}
}

// outgoing is datagrams that one goroutine gathers for one client.
type outgoing struct {
	relay  *relay
	client *client
	to     netip.AddrPort
	gather wire.Gather
}

func (o *outgoing) add(c *client, to netip.AddrPort, d []byte) {
	if o.client != c || o.to != to || !o.gather.Add(&o.relay.queues, d) {
		o.flush()
		o.client, o.to = c, to
		o.gather.Add(&o.relay.queues, d)
	}
}

// flush sends what was gathered; whoever delivers calls it before waiting for
// more.
func (o *outgoing) flush() {
	if !o.gather.Empty() {
		o.gather.Write(o.relay.server.udp, o.to, &o.client.segments, &o.relay.queues)
	}
}

// datagram takes a sealed one. Whoever is not of a session gets no answer.
func (r *relay) datagram(b *wire.Buffer, d []byte, from netip.AddrPort, out *outgoing) {
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
	t, body, newest, err := c.opener.Open(b, d)
	if err != nil {
		return
	}
	now := time.Now().UnixNano()
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
		c.ping(body, from, newest)
	}
}

// ping answers a datagram that asks whether this size passes, with one of the
// same size, and learns up to which size the client wants datagrams: 0 for none.
//
//	token (8), size (2), padding
func (c *client) ping(body []byte, from netip.AddrPort, newest bool) {
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
	b := c.relay.buffers.Get().(*wire.Buffer)
	defer c.relay.buffers.Put(b)
	if d := c.sealer.Seal(b, wire.Pong, body[:8], nil, len(body)-8); d != nil {
		c.relay.server.udp.WriteToUDPAddrPort(d, from) // lost, if it fails
	}
}

// datagram sends a packet by UDP, at the latest when out is flushed. False: UDP is not believed in any more.
func (c *client) datagram(to netip.AddrPort, from canon.Hash, packet []byte, out *outgoing) bool {
	now := time.Now().UnixNano()
	quiet := time.Duration(now - c.udpAt.Load())
	if quiet > udpFresh {
		return false
	}
	if told := c.toldAt.Load(); quiet > udpQuiet && time.Duration(now-told) > udpTell && c.toldAt.CompareAndSwap(told, now) {
		c.queue.Push(wire.UDPUsed, nil, nil, nil)
	}
	b := c.relay.buffers.Get().(*wire.Buffer)
	defer c.relay.buffers.Put(b)
	d := c.sealer.Seal(b, wire.Recv, from[:], packet, 0)
	if d == nil {
		return false
	}
	out.add(c, to, d)
	return true
}
