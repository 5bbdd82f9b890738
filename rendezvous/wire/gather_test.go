package wire

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestGatheredDatagramsArriveAsTheyAre(t *testing.T) {
	buffers := new(Buffers)
	for name, below := range map[string]int64{"in one call": 0, "one by one": 1} {
		for _, connected := range []bool{true, false} {
			in, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			TakeMany(in)
			at := netip.MustParseAddrPort(in.LocalAddr().String())
			var out *net.UDPConn
			to := at
			if connected {
				out, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
				to = netip.AddrPort{}
			} else {
				out, err = net.ListenUDP("udp", nil) // of both families, as a server's
			}
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			var g Gather
			var want [][]byte
			for i, size := range []int{1000, 1000, 1000, 999, 999, 100, 1452, 1452, 100, 1452} {
				d := bytes.Repeat([]byte{byte(i + 1)}, size)
				if copy(g.Add(buffers, size), d) != size {
					t.Fatalf("datagram %d does not fit", i)
				}
				want = append(want, d)
			}
			var s Segmenter
			s.below.Store(below)
			g.Write(out, to, &s, buffers)
			if g.Size() != 0 || g.buf != nil {
				t.Error("it still holds memory")
			}
			if s.below.Load() != below {
				t.Error("the kernel refused")
			}
			b := make([]byte, ReadSize)
			if err := in.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			for len(want) > 0 {
				n, size, from, err := ReadUDP(in, b)
				if err != nil {
					t.Fatalf("%s, connected %v: %v", name, connected, err)
				}
				if from.Port() != uint16(out.LocalAddr().(*net.UDPAddr).Port) || !from.Addr().Is4() {
					t.Errorf("from %s", from)
				}
				for p := b[:n]; len(p) > 0; {
					d := p[:min(size, len(p))]
					p = p[len(d):]
					if !bytes.Equal(d, want[0]) {
						t.Fatalf("%s: %d bytes of %d, want %d of %d", name, len(d), d[0], len(want[0]), want[0][0])
					}
					want = want[1:]
				}
			}
		}
	}
}

func TestGatherIsBounded(t *testing.T) {
	buffers := new(Buffers)
	for _, size := range []int{1, 100, 1452, MaxDatagram} {
		var g Gather
		n := 0
		for g.Add(buffers, size) != nil {
			n++
		}
		if n > gatherCount*gatherRuns || g.Size() > gatherMost || n < min(gatherCount*gatherRuns, gatherMost/size) {
			t.Errorf("%d datagrams of %d bytes", n, size)
		}
	}
	var g Gather
	for i := range gatherRuns {
		if len(g.Add(buffers, 100+i)) != 100+i {
			t.Fatalf("%d sizes do not fit", i+1)
		}
	}
	if g.Add(buffers, 1000) != nil {
		t.Error("one size more fits")
	}
}

func FuzzSegment(f *testing.F) {
	var good [24]byte
	binary.NativeEndian.PutUint64(good[:], unix.SizeofCmsghdr+4)
	binary.NativeEndian.PutUint32(good[8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(good[12:], unix.UDP_GRO)
	binary.NativeEndian.PutUint16(good[16:], 1452)
	if n := segment(good[:]); n != 1452 {
		f.Fatalf("%d", n)
	}
	f.Add(good[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := segment(b); n < 0 || n > 1<<16 {
			t.Fatal(n)
		}
	})
}

// TestNothingIsLostWhereTheKernelDoesNotSegment: it refuses once, and what it
// refused goes one by one.
func TestNothingIsLostWhereTheKernelDoesNotSegment(t *testing.T) {
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := net.DialUDP("udp4", nil, in.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	raw, err := out.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// Without checksums the kernel segments nothing, as with a card that can't
	// make them.
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	var buffers Buffers
	var s Segmenter
	for round := range 2 {
		var g Gather
		for i := range 5 {
			g.Add(&buffers, 200)[0] = byte(10*round + i)
		}
		g.Write(out, netip.AddrPort{}, &s, &buffers)
		if s.below.Load() != 200 {
			t.Fatalf("round %d: sizes below %d are segmented, though the kernel refuses 200", round, s.below.Load())
		}
		b := make([]byte, 1000)
		if err := in.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if n, err := in.Read(b); err != nil || n != 200 || b[0] != byte(10*round+i) {
				t.Fatalf("round %d, datagram %d: %d bytes of %d, %v", round, i, n, b[0], err)
			}
		}
	}
}
