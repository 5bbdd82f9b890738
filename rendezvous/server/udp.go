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
	b := new(wire.Buffer)
	for {
		n, from, err := r.server.udp.ReadFromUDPAddrPort(b.B[:])
		if err != nil {
			if r.server.ctx.Err() != nil {
				return
			}
			continue // of one datagram, e.g. an ICMP error that came back
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		switch {
		case n == wire.ObserveSize && b.B[0] == wire.DatagramObserve:
			r.observed([wire.TokenSize]byte(b.B[1:wire.ObserveSize]), from)
		default:
			r.datagram(b, n, from)
		}
	}
}

// datagram takes a sealed one. Whoever is not of a session gets no answer.
func (r *relay) datagram(b *wire.Buffer, n int, from netip.AddrPort) {
	session, ok := wire.Session(b.B[:n])
	if !ok {
		return
	}
	r.mu.RLock()
	c := r.sessions[session]
	r.mu.RUnlock()
	if c == nil {
		return
	}
	t, body, newest, err := c.opener.Open(b, n)
	if err != nil {
		return
	}
	now := time.Now().UnixNano()
	c.last.Store(now)
	c.udpAt.Store(now)
	// A client that moved is followed to where its newest datagram came from.
	if old := c.udp.Load(); newest && old != nil && *old != from {
		c.udp.CompareAndSwap(old, &from)
	}
	switch t {
	case wire.Send:
		if to, packet, err := wire.Packet(body); err == nil {
			r.pass(c, to, packet)
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

// datagram sends a packet by UDP. False: UDP is not believed in any more.
func (c *client) datagram(to netip.AddrPort, from canon.Hash, packet []byte) bool {
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
	_, err := c.relay.server.udp.WriteToUDPAddrPort(d, to)
	return err == nil
}
