package wireguard

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// bind is the encrypted side of a userspace device: a UDP port in the host's
// namespace (none when relay-only), and beside it the relay. Probes are taken
// out of what the port receives.
type bind struct {
	host    int // descriptor of the namespace of the sockets
	only    bool
	toRelay func(Key, []byte)
	onProbe func(netip.AddrPort, []byte)

	in, out *gate        // packets towards the tenant, and from it
	relayed chan relayed // what the relay brought
	holds   sync.Map     // Key → hold
	spare   sync.Pool    // of *[MaxPacket]byte

	udp  atomic.Pointer[udpPort] // nil: not open, or relay only
	port atomic.Uint32           // the last port, open or not
	mu   sync.Mutex
	done chan struct{} // closed by Close; nil: not open
}

// relayQueue bounds what waits from the relay, in packets: 4 MiB when full,
// which is about what a TCP sender has under way.
const relayQueue = 2048

type relayed struct {
	from Key
	buf  *[MaxPacket]byte
	size int
}

func newBind(host int, c *Config, in, out *gate) *bind {
	b := &bind{host: host, in: in, out: out, only: c.RelayOnly, toRelay: c.ToRelay, onProbe: c.OnProbe, relayed: make(chan relayed, relayQueue)}
	b.spare.New = func() any { return new([MaxPacket]byte) }
	return b
}

// relayEndpoint is the peer behind the relay.
type relayEndpoint Key

const relayPrefix = "relay:"

func (e *relayEndpoint) ClearSrc()           {}
func (e *relayEndpoint) SrcToString() string { return "" }
func (e *relayEndpoint) DstToString() string { return relayPrefix + hex.EncodeToString(e[:]) }
func (e *relayEndpoint) DstToBytes() []byte  { return e[:] }
func (e *relayEndpoint) SrcIP() netip.Addr   { return netip.Addr{} }

// DstIP is what wireguard-go limits handshakes by when it is flooded with them:
// an address for each relayed peer, from a range that no packet can come from
// (fc00::/8 is defined by nobody), so that one cannot use up another's share.
func (e *relayEndpoint) DstIP() netip.Addr {
	var a [16]byte
	copy(a[1:], e[:])
	a[0] = 0xfc
	return netip.AddrFrom16(a)
}

// ParseEndpoint reads an address and port, or what DstToString of a relayed
// peer says.
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	if key, ok := strings.CutPrefix(s, relayPrefix); ok {
		k, err := hex.DecodeString(key)
		if err != nil || len(k) != len(Key{}) {
			return nil, fmt.Errorf("relayed peer %.80q is no key", key)
		}
		e := relayEndpoint(k)
		return &e, nil
	}
	to, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	if b.only {
		return nil, fmt.Errorf("%s is not the relay, and this device knows no other path", to)
	}
	return &directEndpoint{to: to}, nil
}

// Open opens the sockets and returns a receiver for each, and one for the relay.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	var receivers []conn.ReceiveFunc
	if !b.only {
		var udp *udpPort
		err := within(b.host, func() (err error) {
			udp, err = openUDP(port)
			return err
		})
		if err != nil {
			return nil, 0, err
		}
		for _, s := range udp.sockets() {
			receivers = append(receivers, b.admit(s.receiver()))
		}
		b.udp.Store(udp)
		b.port.Store(uint32(udp.port))
	}
	done := make(chan struct{})
	b.done = done
	return append(receivers, b.receiveRelayed(done)), uint16(b.port.Load()), nil
}

// admit takes probes out of what receive brings, and lets in no more than the
// device can work on.
func (b *bind) admit(receive conn.ReceiveFunc) conn.ReceiveFunc {
	return func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		b.in.wait()
		n, err := receive(packets, sizes, eps)
		data := 0
		for i := range n {
			p := packets[i][:sizes[i]]
			if isData(p) {
				data++
			} else if isProbe(p) {
				b.onProbe(eps[i].(*directEndpoint).to, p)
				sizes[i] = 0 // wireguard-go passes over it
			}
		}
		b.in.enter(data)
		return n, err
	}
}

// isData tells whether p is a message that carries a packet. Keepalives, which
// are data messages that carry none, are not.
func isData(p []byte) bool {
	return len(p) > device.MessageKeepaliveSize && p[0] == device.MessageTransportType
}

// receiveRelayed gives wireguard-go what came over the relay, until done.
func (b *bind) receiveRelayed(done chan struct{}) conn.ReceiveFunc {
	return func(packets [][]byte, sizes []int, eps []conn.Endpoint) (n int, err error) {
		b.in.wait()
		take := func(r relayed) {
			sizes[n] = copy(packets[n], r.buf[:r.size])
			if isData(r.buf[:r.size]) {
				b.in.enter(1)
			}
			eps[n] = b.source(r.from)
			n++
			b.spare.Put(r.buf)
		}
		select {
		case r := <-b.relayed:
			take(r)
		case <-done:
			return 0, net.ErrClosed
		}
		for n < len(packets) {
			select {
			case r := <-b.relayed:
				take(r)
			default:
				return n, nil
			}
		}
		return n, nil
	}
}

// hold keeps a peer on the direct path that was just set for it.
type hold struct {
	path  *directEndpoint
	until time.Time
}

// holdTime is for how long packets that come over the relay do not move a peer
// off a direct path that was just set. They are the ones that were under way:
// without it each moves its receiver back, whose answers then move the sender
// back, and under load the two may never agree.
const holdTime = 2 * time.Second

// source is what wireguard-go takes for the source of a packet from the relay.
func (b *bind) source(peer Key) conn.Endpoint {
	if h, ok := b.holds.Load(peer); ok {
		if h := h.(hold); time.Now().Before(h.until) {
			return h.path
		}
		b.holds.CompareAndDelete(peer, h)
	}
	e := relayEndpoint(peer)
	return &e
}

// fromRelay queues a packet of peer; it is lost when the queue is full.
func (b *bind) fromRelay(peer Key, packet []byte) {
	buf := b.spare.Get().(*[MaxPacket]byte)
	select {
	case b.relayed <- relayed{from: peer, buf: buf, size: copy(buf[:], packet)}:
	default:
		b.spare.Put(buf)
	}
}

// Send sends packets to a peer's address or into the relay.
func (b *bind) Send(packets [][]byte, to conn.Endpoint) error {
	if len(packets) > 0 && isData(packets[0]) { // all are of one kind
		defer b.out.leave(len(packets))
	}
	switch e := to.(type) {
	case *relayEndpoint:
		for _, p := range packets {
			b.toRelay(Key(*e), p)
		}
		return nil
	case *directEndpoint:
		udp := b.udp.Load()
		if udp == nil {
			return net.ErrClosed
		}
		return udp.send(packets, e)
	}
	return conn.ErrWrongEndpointType
}

// sendProbe sends one packet that is not WireGuard's from the device's port.
func (b *bind) sendProbe(to netip.AddrPort, probe []byte) error {
	if b.only {
		return fmt.Errorf("send a probe to %s: the device is relay-only and has no UDP port", to)
	}
	if err := b.Send([][]byte{probe}, &directEndpoint{to: to}); err != nil {
		return fmt.Errorf("send a probe to %s: %w", to, err)
	}
	return nil
}

// Close closes the sockets and ends the receivers.
func (b *bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done != nil {
		close(b.done)
		b.done = nil
	}
	if udp := b.udp.Swap(nil); udp != nil {
		return udp.close()
	}
	return nil
}

// SetMark is not used: packets of a device are told by their port.
func (b *bind) SetMark(uint32) error { return unix.EOPNOTSUPP }

func (b *bind) BatchSize() int { return batch }
