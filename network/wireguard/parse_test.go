//go:build !invm

package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func TestKeysReadBackAsTheyWereWritten(t *testing.T) {
	for range 100 {
		k := NewPrivateKey()
		back, err := ParseKey(k.String())
		if err != nil || back != k {
			t.Fatalf("%v came back as %v, %v", k, back, err)
		}
		if k.Public().IsZero() || k.Public() == k {
			t.Fatalf("public key %v", k.Public())
		}
	}
	// RFC 7748, section 6.1, Alice.
	private := Key{0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a}
	if got := fmt.Sprintf("%x", [32]byte(private.Public())); got != "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a" {
		t.Errorf("public key %s", got)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(NewPrivateKey().String())
	f.Add("")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nAAA=")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Errorf("%q was read, and is written %q", s, k)
		}
	})
}

// vm runs the probe filter as the kernel would.
func vm(t testing.TB, v4 bool) *bpf.VM {
	t.Helper()
	program, ok := bpf.Disassemble(probeFilter(v4))
	if !ok {
		t.Fatal("the filter does not disassemble")
	}
	m, err := bpf.NewVM(program)
	must(t, err)
	return m
}

// FuzzProbe: what the filter and the parser take is a probe and nothing else,
// and of whatever the parser takes, the filter took it.
func FuzzProbe(f *testing.F) {
	udp := func(body string) []byte {
		b := make([]byte, udpHeader, udpHeader+len(body))
		binary.BigEndian.PutUint16(b[4:], uint16(udpHeader+len(body)))
		return append(b, body...)
	}
	f.Add(udp(ProbeMagic), byte(5))
	f.Add(udp(ProbeMagic+"body"), byte(15))
	f.Add(udp(ProbeMagic[:7]), byte(5))
	f.Add(udp("\x04\x00\x00\x00wireguard"), byte(5))
	f.Add([]byte{}, byte(0))
	f.Fuzz(func(t *testing.T, packet []byte, header byte) {
		_, _, probe, ok := parseProbe(packet)
		if ok && (!bytes.HasPrefix(probe, []byte(ProbeMagic)) || len(probe) > MaxProbe || len(probe) > len(packet)-udpHeader) {
			t.Errorf("taken: %q", probe)
		}
		words := max(5, int(header&15))
		ip := append(make([]byte, 4*words), packet...)
		ip[0] = 0x40 | byte(words)
		for v4, seen := range map[bool][]byte{true: ip, false: packet} {
			n, err := vm(t, v4).Run(seen)
			if err != nil {
				n = 0 // beyond the packet's end: the kernel drops it
			}
			if passed := n > 0; ok && !passed {
				t.Errorf("the filter (IPv4 %t) dropped a probe: %x", v4, packet)
			} else if passed && !bytes.HasPrefix(packet[udpHeader:], []byte(ProbeMagic)) {
				t.Errorf("the filter (IPv4 %t) passed %x", v4, packet)
			}
		}
	})
}

func FuzzParseControl(f *testing.F) {
	f.Add(appendControl(nil, unix.IPPROTO_UDP, unix.UDP_GRO, nativeUint16(1312)))
	f.Add(appendSource(nil, netip.MustParseAddr("192.0.2.1")))
	f.Add(appendSource(nil, netip.MustParseAddr("2001:db8::1")))
	f.Add(bytes.Repeat([]byte{0}, 32))
	f.Fuzz(func(t *testing.T, b []byte) { parseControl(b) })
}

func TestControlMessagesReadBack(t *testing.T) {
	for _, from := range []string{"192.0.2.1", "2001:db8::1"} {
		a := netip.MustParseAddr(from)
		b := appendControl(appendSource(nil, a), unix.IPPROTO_UDP, unix.UDP_GRO, nativeUint16(1312))
		if len(b) > controlSpace {
			t.Errorf("%d bytes do not fit into controlSpace", len(b))
		}
		// The kernel tells the local address in the field that it is set by.
		if segment, to := parseControl(b); segment != 1312 || to != a {
			t.Errorf("%s: read %d, %v", from, segment, to)
		}
	}
}

func FuzzParseStats(f *testing.F) {
	f.Add("private_key=00\nlisten_port=1\npublic_key=" + fmt.Sprintf("%064x", 7) + "\nendpoint=192.0.2.1:7\nlast_handshake_time_sec=1\nlast_handshake_time_nsec=2\ntx_bytes=3\nrx_bytes=4\nallowed_ip=10.0.0.0/8\n")
	f.Add("public_key=" + fmt.Sprintf("%064x", 7) + "\nendpoint=relay:00\n")
	f.Fuzz(func(t *testing.T, s string) { parseStats(s) })
}

func FuzzParseEndpoint(f *testing.F) {
	e := relayEndpoint{1, 2, 3}
	f.Add(e.DstToString())
	f.Add("192.0.2.1:7")
	f.Add("relay:")
	f.Fuzz(func(t *testing.T, s string) {
		for _, only := range []bool{false, true} {
			e, err := (&bind{only: only}).ParseEndpoint(s)
			if err != nil {
				continue
			}
			again, err := (&bind{only: only}).ParseEndpoint(e.DstToString())
			if err != nil || again.DstToString() != e.DstToString() || again.DstIP() != e.DstIP() {
				t.Errorf("%q became %q and then %v, %v", s, e.DstToString(), again, err)
			}
			if _, direct := e.(*directEndpoint); direct && only {
				t.Errorf("relay-only took %q", s)
			}
		}
	})
}

// FuzzMessages: whatever packets are sent, the messages hold them all, in order,
// and are such as the kernel cuts into the same packets again.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{1, 1, 1, 1, 2, 2, 2, 1, 0, 0, 5}, true)
	f.Add(bytes.Repeat([]byte{7}, 128), true)
	f.Add(bytes.Repeat([]byte{255}, 128), true)
	f.Fuzz(func(t *testing.T, sizes []byte, segment bool) {
		sizes = sizes[:min(len(sizes), 128)]
		var packets [][]byte
		for i, s := range sizes {
			packets = append(packets, bytes.Repeat([]byte{byte(i)}, int(s)*7))
		}
		to, from := netip.MustParseAddrPort("192.0.2.2:7"), netip.MustParseAddr("192.0.2.1")
		var got [][]byte
		for _, m := range newOutgoing().fill(packets, to, from, segment) {
			all := bytes.Join(m.Buffers, nil)
			size, source := parseSent(m.OOB)
			if source != from || len(all) > maxDatagram || len(m.Buffers) > maxSegments || (len(m.Buffers) > 1) != (size > 0) {
				t.Fatalf("message of %d bytes, %d buffers, size %d, from %v", len(all), len(m.Buffers), size, source)
			}
			if size == 0 {
				got = append(got, all)
				continue
			}
			for len(all) > 0 {
				n := min(size, len(all))
				got, all = append(got, all[:n]), all[n:]
			}
		}
		if len(got) != len(packets) {
			t.Fatalf("%d packets became %d", len(packets), len(got))
		}
		for i := range got {
			if !bytes.Equal(got[i], packets[i]) {
				t.Fatalf("packet %d of %d bytes became %d bytes", i, len(packets[i]), len(got[i]))
			}
		}
	})
}

// parseSent reads what fill wrote.
func parseSent(b []byte) (size int, from netip.Addr) {
	for len(b) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return -1, from
		}
		if header.Level == unix.IPPROTO_UDP && header.Type == unix.UDP_SEGMENT {
			size = int(fromNativeUint16(data))
		} else {
			_, from = parseControl(b[:len(b)-len(rest)])
		}
		b = rest
	}
	return size, from
}

func TestChecksum(t *testing.T) {
	// Computed by hand after RFC 768: the sum of all words, with the checksum, is
	// all ones.
	for _, body := range []string{"", "x", "xy", "odd", "\xff\xff\xff\xff"} {
		packet := append([]byte{0x12, 0x34, 0x56, 0x78, 0, byte(8 + len(body)), 0, 0}, body...)
		src, dst := [4]byte{192, 0, 2, 1}, [4]byte{192, 0, 2, 2}
		sum := udpChecksum(src, dst, packet)
		binary.BigEndian.PutUint16(packet[6:], sum)
		if again := udpChecksum(src, dst, packet); sum == 0 || again != 0xffff {
			t.Errorf("%q: checksum %#x, over all %#x", body, sum, again)
		}
	}
}

func TestGateLetsInOnlyWhatThereIsRoomFor(t *testing.T) {
	done := make(chan struct{})
	g := newGate(10, time.Hour, done)
	g.wait()
	g.enter(10)
	for range 3 {
		passed := make(chan struct{}, 2)
		for range 2 {
			go func() { g.wait(); passed <- struct{}{} }()
		}
		select {
		case <-passed:
			t.Fatal("let in though full")
		case <-time.After(20 * time.Millisecond):
		}
		g.leave(3)
		<-passed
		<-passed
		g.enter(3)
	}
	close(done)
	g.wait() // a device that closes waits for nothing
}

func TestGateOpensByItselfWhenNothingComesOut(t *testing.T) {
	stuck := 0
	g := newGate(10, time.Millisecond, nil)
	g.stuck = func() { stuck++ }
	for range 5 {
		g.enter(25) // and they are lost inside
		g.wait()
	}
	if stuck != 5 {
		t.Errorf("told %d times", stuck)
	}
	g.leave(100) // late: they count for nothing
	g.enter(9)
	g.wait()
	if n := g.inside.Load(); n != 9 {
		t.Errorf("%d inside", n)
	}
}
