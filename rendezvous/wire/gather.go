package wire

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bounds of what the kernel takes and gives at once.
const (
	gatherMost  = 63 << 10 // bytes; the largest datagram is 64 KiB with its heads
	gatherCount = 64       // datagrams
	// ReadSize is the room that ReadUDP needs.
	ReadSize = 64 << 10
)

// gatherRuns is how many runs a Gather may have: where sizes alternate, each
// datagram begins one.
const gatherRuns = 32

// Gather is datagrams to one receiver that leave together, in their order. Empty,
// it holds no memory, else one chunk of Buffers.
type Gather struct {
	buf  []byte
	runs [gatherRuns]run
	used int // of runs
}

// run is datagrams that the kernel takes at once: all of one size, of which the
// last may be shorter (UDP_SEGMENT).
type run struct{ size, bytes uint16 }

// takes tells whether n more bytes may follow as a datagram.
func (r run) takes(n int) bool {
	size, bytes := int(r.size), int(r.bytes)
	return n <= size && bytes%size == 0 && bytes/size < gatherCount
}

// Add makes room for one more datagram, of n bytes, and returns it for the caller
// to fill. Nil: it does not fit, write first.
func (g *Gather) Add(buffers *Buffers, n int) []byte {
	at := len(g.buf)
	if at+n > gatherMost {
		return nil
	}
	if g.used == 0 || !g.runs[g.used-1].takes(n) {
		if g.used == gatherRuns {
			return nil
		}
		if g.used == 0 {
			g.buf = buffers.get()
		}
		g.runs[g.used] = run{size: uint16(n)}
		g.used++
	}
	g.runs[g.used-1].bytes += uint16(n)
	g.buf = g.buf[:at+n]
	return g.buf[at:]
}

// Size is the bytes that wait.
func (g *Gather) Size() int { return len(g.buf) }

// Clear gives the memory back.
func (g *Gather) Clear(buffers *Buffers) {
	buffers.put(g.buf)
	*g = Gather{}
}

// Segmenter remembers which sizes the kernel does not segment towards a
// receiver: those above the path's MTU, or all.
type Segmenter struct{ below atomic.Int64 } // 0: not known to be limited

// Write sends everything in g to a receiver (none for a connected socket), and
// clears it. What can't be sent is lost.
func (g *Gather) Write(c *net.UDPConn, to netip.AddrPort, s *Segmenter, buffers *Buffers) {
	defer g.Clear(buffers)
	b := g.buf
	for _, r := range g.runs[:g.used] {
		r.write(c, b[:r.bytes], to, s)
		b = b[r.bytes:]
	}
}

// write sends b, which is the datagrams of a run.
func (r run) write(c *net.UDPConn, b []byte, to netip.AddrPort, s *Segmenter) {
	below := s.below.Load()
	if r.bytes > r.size && (below == 0 || int64(r.size) < below) {
		var control [24]byte // a cmsghdr and two bytes, aligned
		binary.NativeEndian.PutUint64(control[:], unix.SizeofCmsghdr+2)
		binary.NativeEndian.PutUint32(control[8:], unix.SOL_UDP)
		binary.NativeEndian.PutUint32(control[12:], unix.UDP_SEGMENT)
		binary.NativeEndian.PutUint16(control[16:], r.size)
		_, _, err := c.WriteMsgUDPAddrPort(b, control[:], to)
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EMSGSIZE) {
			return
		}
		s.below.Store(int64(r.size)) // nothing has left: one by one
	}
	for len(b) > 0 {
		n := min(int(r.size), len(b))
		if to.IsValid() {
			c.WriteToUDPAddrPort(b[:n], to) // lost, if it fails
		} else {
			c.Write(b[:n])
		}
		b = b[n:]
	}
}

// TakeMany lets the kernel hand over several datagrams of one sender at once, if
// it can (UDP_GRO).
func TakeMany(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { // without it they come one by one
		unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
	})
}

// ReadUDP reads what one sender sent: into each of size bytes, but the last may
// be shorter.
func ReadUDP(c *net.UDPConn, b []byte) (n, size int, from netip.AddrPort, err error) {
	var control [64]byte
	n, cn, _, from, err := c.ReadMsgUDPAddrPort(b, control[:])
	if err != nil {
		return 0, 0, from, err
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if size = segment(control[:cn]); size <= 0 || size > n {
		size = n
	}
	return n, size, from, nil
}

// segment finds the size of datagrams in what the kernel says beside them.
func segment(control []byte) int {
	for len(control) >= unix.SizeofCmsghdr {
		n := binary.NativeEndian.Uint64(control)
		if n < unix.SizeofCmsghdr || n > uint64(len(control)) {
			return 0
		}
		if binary.NativeEndian.Uint32(control[8:]) == unix.SOL_UDP && binary.NativeEndian.Uint32(control[12:]) == unix.UDP_GRO && n >= unix.SizeofCmsghdr+2 {
			return int(binary.NativeEndian.Uint16(control[16:]))
		}
		control = control[min(len(control), int(n+7)&^7):]
	}
	return 0
}

// Broken tells an error of a socket that is closed from one of a datagram, such
// as an ICMP message that came back.
func Broken(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EBADF)
}
