package grid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/netlab"
)

// probe is one packet of a scan.
type probe struct {
	src, dst netip.Addr
	protocol int
	port     uint16 // of TCP and UDP
}

// Protocols of probes. Any other number is IP's own, with a payload of nothing.
const (
	tcp  = unix.IPPROTO_TCP
	udp  = unix.IPPROTO_UDP
	echo = -1 // ICMP of the family
)

// scanner sends packets with any source into a namespace's tunnels, and hears all
// that comes out of them, for whomever it is: also errors and resets, so that what is
// found is what was reached, whether something listens there or not.
type scanner struct {
	t       testing.TB
	host    *netlab.Host
	raw     [2]int // sockets that send IPv4 and IPv6 packets
	ear     int
	links   map[int]bool // interfaces that it hears
	found   map[string]bool
	names   map[netip.Addr]string
	next    uint16 // port from which the next canary comes
	sent    uint16
	waiting map[netip.AddrPort]bool // for whom an answer has come, of those a canary waits for
	pace    func()                  // if not nil: waits until what was sent has arrived
}

// newScanner scans through the interfaces whose names begin so.
func newScanner(t testing.TB, h *netlab.Host, links string) *scanner {
	t.Helper()
	s := &scanner{t: t, host: h, links: map[int]bool{}, next: 20_000}
	if err := h.Try(func() (err error) {
		for i, domain := range []int{unix.AF_INET, unix.AF_INET6} {
			if s.raw[i], err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
				return err
			}
			t.Cleanup(func() { unix.Close(s.raw[i]) })
		}
		every := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 255})
		if s.ear, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(every)); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(s.ear) })
		all, err := net.Interfaces()
		for _, i := range all {
			s.links[i.Index] = strings.HasPrefix(i.Name, links)
		}
		return errors.Join(err, unix.SetsockoptInt(s.ear, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20))
	}); err != nil {
		t.Fatalf("scan from %s: %v", h.Name(), err)
	}
	return s
}

// addresses are those of an interface, IPv4 and IPv6.
func (s *scanner) addresses(link string) (out [2]netip.Addr) {
	s.t.Helper()
	if err := s.host.Try(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		all, err := i.Addrs()
		for _, a := range all {
			p, err := netip.ParsePrefix(a.String())
			switch {
			case err != nil:
				return err
			case p.Addr().Is4():
				out[0] = p.Addr()
			case !p.Addr().IsLinkLocalUnicast():
				out[1] = p.Addr()
			}
		}
		return err
	}); err != nil || !out[0].IsValid() || !out[1].IsValid() {
		s.t.Fatalf("addresses of %s: %v, %v", link, out, err)
	}
	return out
}

// canaryEvery is after how many packets the tunnel must be seen to work: no more than
// any queue on the way holds.
const canaryEvery = 48

// paceEvery is after how many packets it waits for those that no canary goes with.
const paceEvery = 240

// scan sends the probes and returns what was found: all that has come meanwhile.
// Again and again, and at the end, it waits until the canaries, which are known to
// listen, answer the address of from: what was sent before has then arrived, or been
// thrown away.
func (s *scanner) scan(from [2]netip.Addr, canaries [2]netip.AddrPort, probes []probe, names map[netip.Addr]string) []string {
	s.t.Helper()
	s.found, s.names = map[string]bool{}, names
	s.sing(from, canaries)
	for i, p := range probes {
		s.send(p, uint16(40_000+i%20_000))
		if i%canaryEvery == canaryEvery-1 {
			s.sing(from, canaries)
		}
		if i%paceEvery == paceEvery-1 && s.pace != nil {
			s.pace()
		}
	}
	// What a busy machine answers late comes before this.
	for range 3 {
		s.sing(from, canaries)
	}
	out := make([]string, 0, len(s.found))
	for f := range s.found {
		// A port that is open also says other things, as that it was left.
		at := f[:strings.LastIndexByte(f, ' ')]
		if !s.found[at+" open"] || f == at+" open" {
			out = append(out, f)
		}
	}
	slices.Sort(out)
	return out
}

// sing waits until both canaries have answered anew.
func (s *scanner) sing(from [2]netip.Addr, canaries [2]netip.AddrPort) {
	s.t.Helper()
	s.waiting = map[netip.AddrPort]bool{}
	mine := [2]netip.AddrPort{}
	for i := range canaries {
		mine[i] = netip.AddrPortFrom(from[i], s.next)
		s.waiting[mine[i]] = false
	}
	if s.next++; s.next == 40_000 {
		s.next = 20_000
	}
	end := time.Now().Add(time.Minute)
	for again := time.Now(); !s.waiting[mine[0]] || !s.waiting[mine[1]]; {
		if now := time.Now(); now.After(end) {
			s.t.Fatalf("%v do not answer %v any more: %v", canaries, from, s.waiting)
		} else if !now.Before(again) {
			again = now.Add(time.Second)
			for i, at := range canaries {
				if !s.waiting[mine[i]] {
					s.send(probe{from[i], at.Addr(), tcp, at.Port()}, mine[i].Port())
				}
			}
		}
		fds := []unix.PollFd{{Fd: int32(s.ear), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && !errors.Is(err, unix.EINTR) {
			s.t.Fatal(err)
		}
		s.hear()
	}
}

// hear takes in what has come.
func (s *scanner) hear() {
	s.t.Helper()
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(s.ear, b, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			s.t.Fatal(err)
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && s.links[l.Ifindex] && l.Pkttype != unix.PACKET_OUTGOING {
			s.take(b[:min(n, len(b))])
		}
	}
}

// take notes what a packet tells.
func (s *scanner) take(b []byte) {
	var src, dst netip.Addr
	var body []byte
	protocol, family := 0, "IPv4"
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		src, dst, protocol, body = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), int(b[9]), b[int(b[0]&15)*4:]
	case len(b) >= 40 && b[0]>>4 == 6:
		src, dst, protocol, body = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), int(b[6]), b[40:]
		family = "IPv6"
	default:
		s.found[fmt.Sprintf("a packet that is not IP: %x", b)] = true
		return
	}
	name := src.String()
	if known := s.names[src]; known != "" {
		name = known
	}
	what := fmt.Sprintf("protocol %d of %s", protocol, name)
	switch {
	case protocol == tcp && len(body) >= 20:
		const reset, synAck = 4, 18
		at := fmt.Sprintf("tcp %s:%d", name, binary.BigEndian.Uint16(body))
		switch flags := body[13]; {
		case flags&reset != 0:
			what = at + " closed"
		case flags&synAck == synAck:
			what = at + " open"
			to := netip.AddrPortFrom(dst, binary.BigEndian.Uint16(body[2:]))
			if _, waits := s.waiting[to]; waits {
				s.waiting[to] = true
			}
		default:
			what = at + " talks" // in a connection that the gateway had, or a scan has begun
		}
	case protocol == udp && len(body) >= 8:
		what = fmt.Sprintf("udp %s:%d answers", name, binary.BigEndian.Uint16(body))
	case protocol == unix.IPPROTO_ICMP && len(body) >= 8:
		what = icmpOf(name, body, 0, 3, 28)
	case protocol == unix.IPPROTO_ICMPV6 && len(body) >= 8:
		what = icmpOf(name, body, 129, 1, 48)
	}
	s.found[family+" "+what] = true
}

// icmpOf tells what ICMP says: that an echo is answered, or a port not served.
func icmpOf(name string, b []byte, reply, unreachable byte, header int) string {
	const portClosed4, portClosed6 = 3, 4
	switch {
	case b[0] == reply:
		return "icmp echo of " + name
	case b[0] == unreachable && (b[1] == portClosed4 || b[1] == portClosed6) && len(b) >= header+4:
		return fmt.Sprintf("udp %s:%d closed", name, binary.BigEndian.Uint16(b[header+2:]))
	}
	return fmt.Sprintf("icmp %d/%d of %s", b[0], b[1], name)
}

// query asks a DNS server for db.back.internal, and is something to send anywhere.
var query = []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x04back\x08internal\x00\x00\x01\x00\x01")

// send sends one probe from a port.
func (s *scanner) send(p probe, from uint16) {
	s.t.Helper()
	s.sent++
	protocol, check, body := p.protocol, -1, make([]byte, 8)
	switch p.protocol {
	case tcp:
		body, check = make([]byte, 20), 16
		binary.BigEndian.PutUint32(body[4:], rand.Uint32())
		body[12], body[13] = 5<<4, 2 // twenty bytes; SYN
		binary.BigEndian.PutUint16(body[14:], 64_000)
	case udp:
		body, check = append(body, query...), 6
		if p.port == 51820 {
			// As long as the first message of WireGuard, and as one begins.
			body = make([]byte, 8+148)
			body[8] = 1
		}
		binary.BigEndian.PutUint16(body[4:], uint16(len(body)))
	case echo:
		protocol, check = unix.IPPROTO_ICMP, 2
		body[0] = 8
		if p.dst.Is6() {
			protocol, body[0] = unix.IPPROTO_ICMPV6, 128
		}
	}
	if p.protocol == tcp || p.protocol == udp {
		binary.BigEndian.PutUint16(body, from)
		binary.BigEndian.PutUint16(body[2:], p.port)
	}
	if check >= 0 {
		binary.BigEndian.PutUint16(body[check:], checksum(p, protocol, body))
	}
	var packet []byte
	var to unix.Sockaddr
	raw := s.raw[0]
	if p.dst.Is4() {
		packet = make([]byte, 20)
		packet[0], packet[8], packet[9] = 0x45, 64, byte(protocol)
		binary.BigEndian.PutUint16(packet[2:], uint16(20+len(body)))
		binary.BigEndian.PutUint16(packet[4:], s.sent)
		copy(packet[12:], p.src.AsSlice())
		copy(packet[16:], p.dst.AsSlice())
		to = &unix.SockaddrInet4{Addr: p.dst.As4()}
	} else {
		raw, packet = s.raw[1], make([]byte, 40)
		packet[0], packet[6], packet[7] = 0x60, byte(protocol), 64
		binary.BigEndian.PutUint16(packet[4:], uint16(len(body)))
		copy(packet[8:], p.src.AsSlice())
		copy(packet[24:], p.dst.AsSlice())
		to = &unix.SockaddrInet6{Addr: p.dst.As16()}
	}
	packet = append(packet, body...)
	for {
		err := unix.Sendto(raw, packet, 0, to)
		switch {
		case err == nil:
			return
		case errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN):
			s.hear()
		default:
			s.t.Fatalf("send %+v: %v", p, err)
		}
	}
}

// checksum is the Internet's, over the pseudo header where the protocol has one.
func checksum(p probe, protocol int, body []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	if protocol != unix.IPPROTO_ICMP {
		add(p.src.AsSlice())
		add(p.dst.AsSlice())
		sum += uint32(protocol) + uint32(len(body))
	}
	add(body)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if out := ^uint16(sum); out != 0 || protocol != udp {
		return out
	}
	return 0xffff
}
