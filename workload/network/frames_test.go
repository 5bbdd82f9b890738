package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/tap"
)

// Frames by hand, as a workload with every capability over its interface could
// send them.

func frame(dst, src []byte, kind uint16, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16(slices.Concat(dst, src), kind), payload...)
}

// tagged puts VLAN tags of a type before the frame's own.
func tagged(f []byte, kind, id uint16) []byte {
	tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, kind), id)
	return slices.Concat(f[:12], tag, f[12:])
}

func sum16(parts ...[]byte) uint16 {
	var n uint32
	b := slices.Concat(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	for i := 0; i < len(b); i += 2 {
		n += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return ^uint16(n)
}

// ip4 makes a packet. frag is the field of flags and offset.
func ip4(src, dst netip.Addr, proto byte, frag uint16, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[4:], 0x4242)
	binary.BigEndian.PutUint16(h[6:], frag)
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], sum16(h))
	return append(h, payload...)
}

func ip6(src, dst netip.Addr, next, hops byte, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, hops
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return append(h, payload...)
}

// above gives what is above IPv6 its checksum, which lies at an offset.
func above(src, dst netip.Addr, proto byte, at int, payload []byte) []byte {
	b := slices.Clone(payload)
	pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), binary.BigEndian.AppendUint32(nil, uint32(len(b))), []byte{0, 0, 0, proto})
	binary.BigEndian.PutUint16(b[at:], sum16(pseudo, b))
	return b
}

func udpBytes(port uint16, text string) []byte {
	h := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(h[0:], 4000)
	binary.BigEndian.PutUint16(h[2:], port)
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(text)))
	return append(h, text...)
}

// udp makes a datagram of the address's family.
func udp(src, dst netip.Addr, port uint16, text string) (kind uint16, packet []byte) {
	if src.Is4() {
		return typeIPv4, ip4(src, dst, unix.IPPROTO_UDP, 0, udpBytes(port, text))
	}
	return typeIPv6, ip6(src, dst, unix.IPPROTO_UDP, 64, above(src, dst, unix.IPPROTO_UDP, 6, udpBytes(port, text)))
}

// icmp6 makes an ICMPv6 message: type, 7 bytes of zeros, then the rest.
func icmp6(src, dst netip.Addr, hops, kind byte, rest ...[]byte) []byte {
	b := slices.Concat(append([][]byte{{kind, 0, 0, 0, 0, 0, 0, 0}}, rest...)...)
	return ip6(src, dst, unix.IPPROTO_ICMPV6, hops, above(src, dst, unix.IPPROTO_ICMPV6, 2, b))
}

func arp(op uint16, senderHW []byte, sender netip.Addr, targetHW []byte, target netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4}, binary.BigEndian.AppendUint16(nil, op), senderHW, sender.AsSlice(), targetHW, target.AsSlice())
}

// wire is a raw socket on an interface.
type wire struct {
	fd    int
	index int
	guest *os.File // instead: the end of a tap that a machine's monitor has
}

// guest takes the place of a machine's monitor.
func (p place) guest(name string) wire {
	p.t.Helper()
	var w wire
	p.in(func() (err error) {
		if w.guest, err = tap.Open(name); err != nil {
			return err
		}
		// The kernel notices a little later that somebody is there.
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		return forwards(ctx, name)
	})
	p.t.Cleanup(func() { w.guest.Close() })
	return w
}

// vnetHeader is before every frame of a tap; zeros: nothing left to do.
const vnetHeader = 10

func htons(n uint16) uint16 { return n<<8 | n>>8 }

// tap opens a raw socket on an interface of the place.
func (p place) tap(name string) wire {
	p.t.Helper()
	var w wire
	p.in(func() error {
		l, err := find(name)
		if err != nil || l == nil {
			return errors.Join(err, errors.New("no "+name))
		}
		w.index = l.Attrs().Index
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: w.index})
	})
	p.t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func (w wire) send(t testing.TB, f []byte) {
	t.Helper()
	if len(f) < 60 {
		f = append(slices.Clone(f), make([]byte, 60-len(f))...)
	}
	if w.guest != nil {
		_, err := w.guest.Write(append(make([]byte, vnetHeader), f...))
		must(t, err)
		return
	}
	must(t, unix.Sendto(w.fd, f, 0, &unix.SockaddrLinklayer{Ifindex: w.index}))
}

// until returns the incoming frames up to one that contains last.
func (w wire) until(t testing.TB, last string) [][]byte {
	t.Helper()
	if w.guest != nil {
		return w.untilGuest(t, last)
	}
	tv := unix.NsecToTimeval(int64(patient))
	must(t, unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	var got [][]byte
	b := make([]byte, 65536)
	for end := time.Now().Add(patient); ; {
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("waiting for a frame with %q: %v", last, err)
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if bytes.Contains(b[:n], []byte(last)) {
			return got
		}
		got = append(got, slices.Clone(b[:n]))
	}
}

func (w wire) untilGuest(t testing.TB, last string) [][]byte {
	t.Helper()
	var got [][]byte
	b := make([]byte, 65536)
	must(t, w.guest.SetReadDeadline(time.Now().Add(patient)))
	for {
		n, err := w.guest.Read(b)
		if err != nil {
			t.Fatalf("waiting for a frame with %q: %v", last, err)
		}
		f := b[min(n, vnetHeader):n]
		if bytes.Contains(f, []byte(last)) {
			return got
		}
		got = append(got, slices.Clone(f))
	}
}
