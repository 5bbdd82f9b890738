package rendezvous

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous/wire"
)

// tiers are the sizes of datagrams that are tried, in bytes: of the smallest
// path that IPv6 allows, of Ethernet, and of a full WireGuard packet, which needs
// two fragments on Ethernet. Packets larger than what passes go by TLS.
var tiers = [...]int{1232, 1452, 1600}

// waitingMost is how many gathers wait for one server. Where sizes alternate they
// are not full, and would otherwise hold more memory than queueSize: 8 hold at
// most 528 KiB, and at least 256 datagrams before the oldest ones go.
const waitingMost = 8

// firstTries is how often each size is tried at once; later it is with each ping.
const firstTries = 4

// udp is the datagrams of one session.
type udp struct {
	session *session
	conn    *net.UDPConn
	sealer  *wire.Sealer
	opener  *wire.Opener
	most    atomic.Int64 // bytes of the largest datagram that passes; 0: use TLS
	active  atomic.Int64 // when a packet went or came by UDP, or is said to have

	mu       sync.Mutex // of what follows
	wake     sync.Cond
	nonce    wire.Nonce
	waiting  []wire.Gather // the oldest first
	size     int           // bytes in it
	ended    bool
	segments wire.Segmenter
	tier     [len(tiers)]tier
}

// tier is what is known of one size.
type tier struct {
	asked int64 // when the oldest ping without an answer was sent; 0: none
	last  int64 // when the last one was sent
	tries int   // pings so far
	alive bool
}

func newUDP(s *session, id [wire.SessionSize]byte, ours, theirs wire.Key) (*udp, error) {
	if !s.remote.IsValid() {
		return nil, errors.New("the server's address is not known")
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.remote))
	if err != nil {
		return nil, err
	}
	u := &udp{session: s, conn: conn}
	u.wake.L = &u.mu
	if u.sealer, err = wire.NewSealer(id, ours); err == nil {
		u.opener, err = wire.NewOpener(theirs)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetReadBuffer(1 << 20) // as much as the kernel allows
	wire.TakeMany(conn)
	return u, nil
}

// send sends a packet, if datagrams of its size pass.
func (u *udp) send(now int64, to canon.Hash, kind byte, packet []byte) bool {
	if int64(wire.PacketOverhead+1+len(packet)) > u.most.Load() {
		return false
	}
	u.active.Store(now)
	var head [canon.HashSize + 1]byte
	copy(head[:], to[:])
	head[canon.HashSize] = kind
	return u.write(wire.Send, head[:], packet, 0)
}

// write seals a datagram and lets drain send it soon, with others; pad zero bytes
// follow the parts.
func (u *udp) write(t wire.Type, x, y []byte, pad int) bool {
	n := wire.Overhead + len(x) + len(y) + pad
	u.mu.Lock()
	defer u.mu.Unlock()
	if n > wire.MaxDatagram || u.ended || u.sealer.Spent() {
		return false
	}
	buffers := &u.session.client.buffers
	for u.size+n > queueSize { // as in a network, the oldest go
		u.drop()
	}
	var d []byte
	if last := len(u.waiting) - 1; last >= 0 {
		d = u.waiting[last].Add(buffers, n)
	}
	if d == nil {
		if len(u.waiting) == waitingMost {
			u.drop()
		}
		u.waiting = append(u.waiting, wire.Gather{})
		d = u.waiting[len(u.waiting)-1].Add(buffers, n)
	}
	u.sealer.Seal(d, &u.nonce, t, x, y)
	u.size += n
	if len(u.waiting) == 1 {
		u.wake.Signal()
	}
	return true
}

// drop loses the oldest; u is locked.
func (u *udp) drop() {
	u.size -= u.waiting[0].Size()
	u.waiting[0].Clear(&u.session.client.buffers)
	u.shift()
}

// shift takes the oldest out of the list; u is locked.
func (u *udp) shift() {
	n := copy(u.waiting, u.waiting[1:])
	u.waiting[n] = wire.Gather{}
	u.waiting = u.waiting[:n]
}

// drain sends what waits until close.
func (u *udp) drain() {
	for {
		u.mu.Lock()
		for len(u.waiting) == 0 && !u.ended {
			u.wake.Wait()
		}
		if u.ended {
			u.mu.Unlock()
			return
		}
		g := u.waiting[0]
		u.shift()
		u.size -= g.Size()
		u.mu.Unlock()
		g.Write(u.conn, netip.AddrPort{}, &u.segments, &u.session.client.buffers)
	}
}

// close ends drain and read.
func (u *udp) close() {
	u.mu.Lock()
	u.ended = true
	for i := range u.waiting {
		u.waiting[i].Clear(&u.session.client.buffers)
	}
	u.waiting = nil
	u.wake.Broadcast()
	u.mu.Unlock()
	u.conn.Close()
}

// read takes datagrams until the socket is closed.
func (u *udp) read() {
	in := make([]byte, wire.ReadSize)
	for {
		n, size, _, err := wire.ReadUDP(u.conn, in)
		if err != nil {
			if wire.Broken(err) {
				return
			}
			continue // an ICMP error of an earlier datagram
		}
		now := u.session.client.now() // once: on some machines it is not cheap
		for b := in[:n]; len(b) > 0; {
			d := b[:min(size, len(b))]
			b = b[len(d):]
			u.take(d, now)
		}
	}
}

func (u *udp) take(d []byte, now int64) {
	t, body, _, err := u.opener.Open(d)
	if err != nil {
		return
	}
	switch t {
	case wire.Recv:
		if from, packet, err := wire.Packet(body); err == nil {
			u.active.Store(now)
			u.session.received(from, packet, now)
		}
	case wire.Pong:
		u.ponged(len(d), body, now)
	}
}

// used says that the server sends datagrams here.
func (u *udp) used(now int64) {
	u.active.Store(now)
	u.session.client.busy.Store(true)
	u.session.client.stir()
}

// pingAll asks about every size.
func (u *udp) pingAll(now int64) {
	for i := range tiers {
		u.ping(i, now)
	}
}

// ping asks whether datagrams of a size pass, both ways, and tells the server up
// to which size it may send.
func (u *udp) ping(i int, now int64) {
	u.mu.Lock()
	t := &u.tier[i]
	if t.asked == 0 {
		t.asked = now
	}
	t.last = now
	t.tries++
	u.mu.Unlock()
	var body [10]byte
	putTime(body[:], now)
	binary.BigEndian.PutUint16(body[8:], uint16(u.most.Load()))
	u.write(wire.Ping, body[:], nil, tiers[i]-wire.Overhead-len(body))
}

// ponged notes that datagrams of n bytes pass.
func (u *udp) ponged(n int, body []byte, now int64) {
	if len(body) < 8 {
		return
	}
	u.mu.Lock()
	for i, size := range tiers {
		if n == size {
			t := &u.tier[i]
			if at := getTime(body); at > 0 && at <= t.last {
				t.asked, t.alive = 0, true
			}
		}
	}
	u.mu.Unlock()
	if u.settle() {
		u.ping(0, now) // tells the server
	}
}

// settle works out which sizes pass; true if that has changed.
func (u *udp) settle() bool {
	u.mu.Lock()
	var most int64
	for i, size := range tiers {
		if !u.tier[i].alive {
			break
		}
		most = int64(size)
	}
	changed := u.most.Swap(most) != most
	u.mu.Unlock()
	if changed {
		u.session.client.changed()
	}
	return changed
}

// check asks again where it is time, and gives up sizes that are silent; tend
// calls it.
func (u *udp) check(now int64) {
	if u.sealer.Spent() { // what is sent meanwhile goes by TLS
		u.session.end(errors.New("the key of its datagrams is spent"))
		return
	}
	p := u.session.client.cfg.Periods
	every := int64(p.Ping)
	busy := u.most.Load() > 0 && now-u.active.Load() < int64(4*p.Probe)
	if busy {
		every = int64(p.Probe)
	}
	var ask []int
	u.mu.Lock()
	top := 0
	for i := range u.tier {
		t := &u.tier[i]
		if t.alive {
			top = i
		}
		if t.alive && t.asked != 0 && now-t.asked > int64(p.Silent) {
			t.alive = false
		}
	}
	for i := range u.tier {
		t := &u.tier[i]
		wait := every
		if busy && i != 0 && i != top {
			wait = int64(p.Ping) // only what is in use is asked about often
		}
		// At first, and when an answer is due, it is asked again soon.
		if t.tries < firstTries || t.alive && t.asked != 0 {
			wait = min(wait, int64(p.Probe))
		}
		if now-t.last >= wait {
			if !t.alive {
				t.asked = 0
			}
			ask = append(ask, i)
		}
	}
	u.mu.Unlock()
	had := u.most.Load()
	if u.settle() && u.most.Load() < had {
		if u.most.Load() == 0 {
			u.session.control(wire.UDPOff, nil)
		} else {
			u.ping(0, now)
		}
	}
	for _, i := range ask {
		u.ping(i, now)
	}
}
