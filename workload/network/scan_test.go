package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scanned is in every packet of a scan.
const scanned = "SCANNED"

// ears hear what is delivered in a namespace, behind its filters, whether somebody
// listens at that port or not.
type ears struct {
	t    testing.TB
	name string
	raw  []ear
	got  map[string]bool // "udp 53 from 10.20.1.2"
}

type ear struct {
	fd    int
	six   bool
	proto int
}

func (p place) ears() *ears {
	p.t.Helper()
	e := &ears{t: p.t, name: p.name, got: map[string]bool{}}
	p.in(func() error {
		for _, six := range []bool{false, true} {
			domain, icmp := unix.AF_INET, unix.IPPROTO_ICMP
			if six {
				domain, icmp = unix.AF_INET6, unix.IPPROTO_ICMPV6
			}
			for _, proto := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP, icmp, unix.IPPROTO_SCTP, unix.IPPROTO_ESP} {
				fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
				if err != nil {
					return err
				}
				e.raw = append(e.raw, ear{fd, six, proto})
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20); err != nil {
					return err
				}
			}
		}
		return nil
	})
	p.t.Cleanup(func() {
		for _, r := range e.raw {
			unix.Close(r.fd)
		}
	})
	return e
}

// listen takes in what has come, and tells whether text was in any of it.
func (e *ears) listen(text string) bool {
	e.t.Helper()
	heard := false
	b := make([]byte, 4096)
	for _, r := range e.raw {
		for {
			n, from, err := unix.Recvfrom(r.fd, b, 0)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			must(e.t, err)
			p := b[:n]
			var src netip.Addr
			switch a := from.(type) {
			case *unix.SockaddrInet4:
				src = netip.AddrFrom4(a.Addr)
				p = p[int(p[0]&15)*4:]
			case *unix.SockaddrInet6:
				src = netip.AddrFrom16(a.Addr)
			}
			heard = heard || bytes.Contains(p, []byte(text))
			if !bytes.Contains(p, []byte(scanned)) {
				continue
			}
			e.got[describe(r.proto, p)+" from "+src.String()] = true
		}
	}
	return heard
}

func describe(proto int, p []byte) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return fmt.Sprintf("tcp %d", binary.BigEndian.Uint16(p[2:]))
	case unix.IPPROTO_UDP:
		return fmt.Sprintf("udp %d", binary.BigEndian.Uint16(p[2:]))
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return fmt.Sprintf("icmp type %d", p[0])
	}
	return fmt.Sprintf("protocol %d", proto)
}

// until listens until text has come.
func (e *ears) until(text string) {
	e.t.Helper()
	for end := time.Now().Add(patient); !e.listen(text); {
		if time.Now().After(end) {
			e.t.Fatalf("%s has not heard %q", e.name, text)
		}
		time.Sleep(time.Millisecond)
	}
}

// heard are what has been delivered, sorted.
func (e *ears) heard() string {
	var out []string
	for s := range e.got {
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// scanner sends packets into a router's tunnels as somebody could who holds the
// node: with any source, past its filters.
type scanner struct {
	t     testing.TB
	wires []wire
}

func (p place) scanner() scanner {
	p.t.Helper()
	s := scanner{t: p.t}
	for i := range 8 {
		name := fmt.Sprintf("wg%d", i)
		there := false
		p.in(func() error {
			l, err := find(name)
			there = l != nil
			return err
		})
		if there {
			s.wires = append(s.wires, p.tap(name))
		}
	}
	return s
}

// send sends a packet to every node that this one knows.
func (s scanner) send(kind uint16, packet []byte) {
	s.t.Helper()
	for _, w := range s.wires {
		// Whichever of the ends this is.
		w.send(s.t, frame([]byte{2, 0, 0, 0, 0, 2}, []byte{2, 0, 0, 0, 0, 1}, kind, packet))
		w.send(s.t, frame([]byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}, kind, packet))
	}
}

// probe makes a packet to a port.
func probe(src, dst netip.Addr, proto byte, from, port uint16, text string) (kind uint16, packet []byte) {
	var b []byte
	at := 0
	switch proto {
	case unix.IPPROTO_TCP:
		b = make([]byte, 20)
		binary.BigEndian.PutUint16(b[0:], from)
		binary.BigEndian.PutUint16(b[2:], port)
		binary.BigEndian.PutUint32(b[4:], 7)
		b[12], b[13], b[14], b[15] = 5<<4, 2, 0x20, 0 // a SYN
		at = 16
	case unix.IPPROTO_UDP:
		b = make([]byte, 8)
		binary.BigEndian.PutUint16(b[0:], from)
		binary.BigEndian.PutUint16(b[2:], port)
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(text)))
		at = 6
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6: // port is the type
		b = []byte{byte(port), 0, 0, 0, byte(from >> 8), byte(from), 0, 1}
		at = 2
	default:
		b = make([]byte, 8)
		binary.BigEndian.PutUint16(b[0:], from)
		binary.BigEndian.PutUint16(b[2:], port)
		at = -1
	}
	b = append(b, text...)
	if src.Is4() {
		if proto == unix.IPPROTO_ICMP {
			binary.BigEndian.PutUint16(b[2:], sum16(b))
		} else if at >= 0 {
			pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, proto}, binary.BigEndian.AppendUint16(nil, uint16(len(b))))
			binary.BigEndian.PutUint16(b[at:], sum16(pseudo, b))
		}
		return typeIPv4, ip4(src, dst, proto, 0, b)
	}
	if at >= 0 {
		b = above(src, dst, proto, at, b)
	}
	return typeIPv6, ip6(src, dst, proto, 64, b)
}

// scan sends everything from src to dst: TCP and UDP to the ports, from the source
// ports; ICMP of all kinds, other protocols, and what comes in fragments.
func (s scanner) scan(src, dst netip.Addr, sources []uint16, ports []uint16) {
	s.t.Helper()
	for _, port := range ports {
		for _, from := range sources {
			for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				s.send(probe(src, dst, proto, from, port, scanned))
			}
		}
	}
	icmp := byte(unix.IPPROTO_ICMP)
	if src.Is6() {
		icmp = unix.IPPROTO_ICMPV6
	}
	for kind := range uint16(256) {
		s.send(probe(src, dst, icmp, 4000, kind, scanned))
	}
	for _, proto := range []byte{unix.IPPROTO_SCTP, unix.IPPROTO_ESP} {
		s.send(probe(src, dst, proto, 4000, 8443, scanned))
	}
	for _, port := range sparse() {
		s.fragments(src, dst, port, scanned)
	}
}

// fragments sends a datagram in three parts: its ports, then its end, then what is
// between.
func (s scanner) fragments(src, dst netip.Addr, port uint16, text string) {
	s.t.Helper()
	kind, whole := probe(src, dst, unix.IPPROTO_UDP, 4000, port, strings.Repeat("x", 24)+text)
	for _, part := range []struct{ from, to int }{{0, 8}, {24, len(whole)}, {8, 24}} {
		if kind == typeIPv4 {
			data := whole[20:]
			to := min(part.to, len(data))
			flags := uint16(part.from / 8)
			if to < len(data) {
				flags |= 0x2000
			}
			p := ip4(src, dst, unix.IPPROTO_UDP, flags, data[part.from:to])
			binary.BigEndian.PutUint16(p[4:], port)
			p[10], p[11] = 0, 0
			binary.BigEndian.PutUint16(p[10:], sum16(p[:20]))
			s.send(kind, p)
			continue
		}
		data := whole[40:]
		to := min(part.to, len(data))
		flags := uint16(part.from)
		if to < len(data) {
			flags |= 1
		}
		h := slices.Concat([]byte{unix.IPPROTO_UDP, 0}, binary.BigEndian.AppendUint16(nil, flags), []byte{0, 0, byte(port >> 8), byte(port)})
		s.send(kind, ip6(src, dst, unix.IPPROTO_FRAGMENT, 64, append(h, data[part.from:to]...)))
	}
}

// sparse are ports of which some are open to somebody in these tests.
func sparse() []uint16 {
	return []uint16{1, 22, 53, 80, 443, 5432, 7000, 7001, 8442, 8443, 8444, beacon, 51819, 51820, 51821, 65535}
}

// all are all ports.
func all() []uint16 {
	out := make([]uint16, 0, 65536)
	for port := range 65536 {
		out = append(out, uint16(port))
	}
	return out
}
