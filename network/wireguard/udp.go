package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// udpPort is the UDP side of a userspace device: one port, IPv4 and IPv6.
//
// It does what wireguard-go's own conn.StdNetBind does (segmentation by the
// kernel in both directions, answers from the address that was written to), and
// exists beside it for three reasons: that one sends to wrong IPv6 addresses
// once it has sent to an IPv4 address (it copies into a recycled slice before
// it lengthens it); it gathers packets in wireguard-go's 64 KiB buffers, so that
// every page of each is touched in time, where this one lets the kernel gather;
// and it allocates for every packet.
type udpPort struct {
	v4, v6 *udpSocket // v6 is nil where the host has no IPv6
	port   uint16
}

type udpSocket struct {
	conn    *net.UDPConn
	batch   *ipv6.PacketConn // serves IPv4 too: only the messages' type is used
	segment atomic.Bool      // the kernel cuts what is sent (UDP_SEGMENT)
	gather  bool             // the kernel joins what is received (UDP_GRO)
	sends   sync.Pool        // of *outgoing
}

const (
	// socketBuffer is what may wait in the kernel, as with wireguard-go.
	socketBuffer = 7 << 20
	// maxSegments that the kernel takes or gives as one (UDP_MAX_SEGMENTS).
	maxSegments = 64
	maxDatagram = 1<<16 - 1 - 20 - 8 // over IPv4; IPv6 allows a little more
)

// openUDP opens a port; 0: one that is free for both families. It must run in
// the host's namespace.
func openUDP(port uint16) (*udpPort, error) {
	for try := 0; ; try++ {
		p, err := openUDPOnce(port)
		if err == nil || port != 0 || !errors.Is(err, unix.EADDRINUSE) || try == 100 {
			return p, err
		}
	}
}

func openUDPOnce(port uint16) (*udpPort, error) {
	v4, err := openUDPSocket("udp4", port)
	if err != nil {
		return nil, err
	}
	p := &udpPort{v4: v4, port: uint16(v4.conn.LocalAddr().(*net.UDPAddr).Port)}
	p.v6, err = openUDPSocket("udp6", p.port)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		v4.conn.Close()
		return nil, err
	}
	return p, nil
}

func openUDPSocket(network string, port uint16) (*udpSocket, error) {
	s := &udpSocket{}
	listen := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = s.setup(int(fd), network == "udp6") }); e != nil {
			return e
		}
		return err
	}}
	c, err := listen.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d: %w", port, err)
	}
	s.conn = c.(*net.UDPConn)
	s.batch = ipv6.NewPacketConn(s.conn)
	s.sends.New = func() any { return newOutgoing() }
	return s, nil
}

// setup sets a socket's options. Only those that answers depend on must work.
func (s *udpSocket) setup(fd int, v6 bool) error {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)
	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	s.segment.Store(err == nil)
	s.gather = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	if v6 {
		return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

func (p *udpPort) sockets() []*udpSocket {
	if p.v6 == nil {
		return []*udpSocket{p.v4}
	}
	return []*udpSocket{p.v4, p.v6}
}

func (p *udpPort) close() error {
	var err error
	for _, s := range p.sockets() {
		err = errors.Join(err, s.conn.Close())
	}
	return err
}

// directEndpoint is a peer's address, and ours that it wrote to. It never
// changes, but for clear.
type directEndpoint struct {
	to    netip.AddrPort
	from  netip.Addr // zero: whatever the route says
	clear atomic.Bool
}

func (e *directEndpoint) ClearSrc()           { e.clear.Store(true) }
func (e *directEndpoint) SrcToString() string { return e.SrcIP().String() }
func (e *directEndpoint) DstToString() string { return e.to.String() }
func (e *directEndpoint) DstIP() netip.Addr   { return e.to.Addr() }
func (e *directEndpoint) DstToBytes() []byte {
	b, _ := e.to.MarshalBinary() // never fails
	return b
}
func (e *directEndpoint) SrcIP() netip.Addr {
	if e.clear.Load() {
		return netip.Addr{}
	}
	return e.from
}

// outgoing is what one send needs, kept for the next.
type outgoing struct {
	messages []ipv6.Message
	buffers  [][]byte
	to       net.UDPAddr
	ip       [16]byte
	control  []byte // of all messages, controlSpace each
}

const controlSpace = 64 // enough for an address and a segment size; checked by the tests

func newOutgoing() *outgoing {
	return &outgoing{
		messages: make([]ipv6.Message, 0, conn.IdealBatchSize),
		buffers:  make([][]byte, 0, conn.IdealBatchSize),
		control:  make([]byte, controlSpace*conn.IdealBatchSize),
	}
}

// send sends packets to one peer.
func (p *udpPort) send(packets [][]byte, e *directEndpoint) error {
	s := p.v4
	if e.to.Addr().Is6() {
		if s = p.v6; s == nil {
			return unix.EAFNOSUPPORT
		}
	}
	err := s.send(packets, e, e.SrcIP(), s.segment.Load())
	if errors.Is(err, unix.EIO) && s.segment.CompareAndSwap(true, false) {
		// A card that computes no checksums cannot have its packets cut either.
		err = s.send(packets, e, e.SrcIP(), false)
	}
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL) {
		// On this path a packet is sent in fragments, and the kernel cuts nothing that
		// it must fragment.
		err = s.send(packets, e, e.SrcIP(), false)
	}
	if err != nil && e.SrcIP().IsValid() && !errors.Is(err, net.ErrClosed) {
		// The host has lost the address that the peer wrote to.
		if s.send(packets, e, netip.Addr{}, s.segment.Load()) == nil {
			e.ClearSrc()
			return nil
		}
	}
	return err
}

func (s *udpSocket) send(packets [][]byte, e *directEndpoint, from netip.Addr, segment bool) error {
	for len(packets) > conn.IdealBatchSize { // what outgoing has room for
		if err := s.send(packets[:conn.IdealBatchSize], e, from, segment); err != nil {
			return err
		}
		packets = packets[conn.IdealBatchSize:]
	}
	o := s.sends.Get().(*outgoing)
	defer s.sends.Put(o)
	for messages := o.fill(packets, e.to, from, segment); len(messages) > 0; {
		n, err := s.batch.WriteBatch(messages, 0)
		if err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

// fill makes messages of packets: runs of one size, which a shorter one may
// end, become one message for the kernel to cut.
func (o *outgoing) fill(packets [][]byte, to netip.AddrPort, from netip.Addr, segment bool) []ipv6.Message {
	o.ip = to.Addr().As16()
	o.to = net.UDPAddr{IP: o.ip[:], Port: int(to.Port())}
	if to.Addr().Is4() {
		o.to.IP = o.ip[12:]
	}
	o.messages, o.buffers = o.messages[:0], o.buffers[:0]
	for len(packets) > 0 {
		n := 1
		if segment {
			n = run(packets)
		}
		first := len(o.buffers)
		o.buffers = append(o.buffers, packets[:n]...)
		at := len(o.messages) * controlSpace
		control := appendSource(o.control[at:at:at+controlSpace], from)
		if n > 1 {
			control = appendControl(control, unix.IPPROTO_UDP, unix.UDP_SEGMENT, nativeUint16(len(packets[0])))
		}
		o.messages = append(o.messages, ipv6.Message{Buffers: o.buffers[first:], OOB: control, Addr: &o.to})
		packets = packets[n:]
	}
	return o.messages
}

// run counts the packets at the front that can go as one message.
func run(packets [][]byte) int {
	size, total := len(packets[0]), len(packets[0])
	for i, p := range packets[1:] {
		total += len(p)
		if size == 0 || len(p) == 0 || len(p) > size || total > maxDatagram || i+1 == maxSegments {
			return i + 1
		}
		if len(p) < size {
			return i + 2
		}
	}
	return len(packets)
}

// receiver gives wireguard-go what a socket receives. It reads into buffers of
// its own, the size of what the kernel may have joined, and copies single
// packets out.
func (s *udpSocket) receiver() conn.ReceiveFunc {
	count, size := 2, 1<<16
	if !s.gather {
		count, size = 64, MaxPacket
	}
	r := &incoming{socket: s, messages: make([]ipv6.Message, count)}
	for i := range r.messages {
		r.messages[i] = ipv6.Message{Buffers: [][]byte{make([]byte, size)}, OOB: make([]byte, 2*controlSpace)}
	}
	return r.receive
}

// incoming is a socket's receiver; wireguard-go calls it from one goroutine.
type incoming struct {
	socket   *udpSocket
	messages []ipv6.Message
	waiting  []ipv6.Message  // read, not yet given to wireguard-go in full
	rest     []byte          // what is left of waiting[0]
	segment  int             // size of its packets
	from     *directEndpoint // of waiting[0], and of many after it
}

func (r *incoming) receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	if len(r.waiting) == 0 {
		n, err := r.socket.batch.ReadBatch(r.messages, 0)
		if err != nil {
			return 0, err
		}
		r.waiting = r.messages[:n]
		r.open()
	}
	n := 0
	for n < len(packets) && len(r.waiting) > 0 {
		size := min(r.segment, len(r.rest))
		sizes[n], eps[n] = 0, r.from
		if size <= len(packets[n]) { // else it is none of WireGuard's
			sizes[n] = copy(packets[n], r.rest[:size])
		}
		n++
		if r.rest = r.rest[size:]; len(r.rest) == 0 {
			r.waiting = r.waiting[1:]
			r.open()
		}
	}
	return n, nil
}

// open begins with the first waiting message.
func (r *incoming) open() {
	if len(r.waiting) == 0 {
		return
	}
	m := &r.waiting[0]
	r.rest = m.Buffers[0][:m.N]
	segment, to := parseControl(m.OOB[:m.NN])
	r.segment = len(r.rest)
	if segment > 0 {
		r.segment = min(segment, len(r.rest))
	}
	var from netip.AddrPort
	if a, ok := m.Addr.(*net.UDPAddr); ok {
		from = a.AddrPort()
		from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
	}
	// Mostly it is the same peer again; endpoints are shared.
	if r.from == nil || r.from.to != from || r.from.from != to || r.from.clear.Load() {
		r.from = &directEndpoint{to: from, from: to}
	}
}

// appendSource appends the control message that sets a packet's source address.
func appendSource(b []byte, from netip.Addr) []byte {
	switch {
	case from.Is4():
		var info [unix.SizeofInet4Pktinfo]byte // interface, source, and a field for receiving
		a := from.As4()
		copy(info[4:], a[:])
		return appendControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
	case from.Is6():
		var info [unix.SizeofInet6Pktinfo]byte // source, interface
		a := from.As16()
		copy(info[:], a[:])
		return appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
	}
	return b
}

// appendControl appends one control message.
func appendControl(b []byte, level, kind int32, data []byte) []byte {
	at := len(b)
	b = slices.Grow(b, unix.CmsgSpace(len(data)))[:at+unix.CmsgSpace(len(data))]
	clear(b[at:])
	putControl(b[at:], level, kind, data)
	return b
}

// parseControl reads the size of joined packets (0: not joined) and the address
// that they were sent to out of what came with a message.
func parseControl(b []byte) (segment int, to netip.Addr) {
	for len(b) > unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			break
		}
		switch {
		case header.Level == unix.IPPROTO_UDP && header.Type == unix.UDP_GRO && len(data) >= 2:
			segment = int(fromNativeUint16(data))
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			to = netip.AddrFrom4([4]byte(data[4:]))
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			to = netip.AddrFrom16([16]byte(data))
		}
		b = rest
	}
	return segment, to
}
