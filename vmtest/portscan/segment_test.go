package portscan

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu/segment"
)

// These tests put hosts of our own making on a segment without a machine; that
// a real kernel answers the same is shown by scan_test.go.

var lab = netip.MustParsePrefix("10.9.8.0/24")

// testSegment is a segment without hosts.
func testSegment(t *testing.T) (*segment.Switch, string) {
	t.Helper()
	sw := segment.New()
	path := filepath.Join(t.TempDir(), "segment")
	if err := sw.Listen(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sw.Close(); err != nil {
			t.Error(err)
		}
	})
	return sw, path
}

// host attaches a station that answers ARP and gives the rest to serve.
func host(t *testing.T, path, addr string, serve func(s *station, p packet)) *station {
	t.Helper()
	s, err := attach(path)
	if err != nil {
		t.Fatal(err)
	}
	s.setIP(netip.MustParseAddr(addr))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range s.in {
			serve(s, p)
		}
	}()
	t.Cleanup(func() { s.close(); <-done })
	return s
}

func drop(*station, packet) {}

func run(t *testing.T, o Options) (Report, error) {
	t.Helper()
	o.Subnet, o.Log = lab, t.Logf
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return Scan(ctx, o)
}

func TestSilentNodePassesOnlyWithAFoundControl(t *testing.T) {
	_, path := testSegment(t)
	host(t, path, "10.9.8.15", drop)
	rep, err := run(t, Options{Segment: path, Control: true})
	if err != nil {
		t.Fatal(err)
	}
	if !rep.OK || !rep.Control.Found || rep.Control.TCPClosed != 65534 {
		t.Errorf("report %+v, control %+v", rep, rep.Control)
	}
	for _, r := range rep.Node {
		if !r.Silent() || r.TCPSilent != 65535 || r.Answers < 2*passes*65535/burst {
			t.Errorf("node: %+v", r)
		}
	}
}

func TestOpenPortsAndLateRepliesAreFound(t *testing.T) {
	_, path := testSegment(t)
	host(t, path, "10.9.8.15", func(s *station, p packet) {
		reply := func(proto byte, seg []byte, sum int) {
			_ = s.send(ip(p.from, s.mac, p.dst, p.src, proto, seg, sum))
		}
		switch {
		case p.proto == protoTCP && p.flags == tcpSYN && (p.dstPort == 1 || p.dstPort == 65535):
			reply(protoTCP, tcp(p.dstPort, p.srcPort, 7, p.seq+1, tcpSYN|tcpACK), sumTCP)
		case p.proto == protoUDP && p.dstPort == 9 && len(p.payload) == 0: // answers only the empty datagram
			reply(protoUDP, udp(p.dstPort, p.srcPort, []byte("x")), sumUDP)
		case p.proto == protoUDP && p.dstPort == 69: // answers from another port, as TFTP does
			reply(protoUDP, udp(3000, p.srcPort, []byte("x")), sumUDP)
		case p.proto == protoUDP && p.dstPort == 65535:
			time.AfterFunc(time.Second, func() { reply(protoUDP, udp(p.dstPort, p.srcPort, nil), sumUDP) })
		}
	})
	rep, err := run(t, Options{Segment: path})
	if err != nil {
		t.Fatal(err)
	}
	r := rep.Node[0]
	if rep.OK || !slices.Equal(r.TCPOpen, []int{1, 65535}) || !slices.Equal(r.UDPReplies, []int{9, 3000, 65535}) {
		t.Errorf("report %+v", rep)
	}
}

func TestOthersAnswersDoNotCount(t *testing.T) {
	_, path := testSegment(t)
	node := host(t, path, "10.9.8.15", drop)
	// Someone who sees everything answers in the node's name, as QEMU's user
	// network would on a hub.
	liar := host(t, path, "10.9.8.77", drop)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for port := uint16(1); ; port++ {
			select {
			case <-stop:
				return
			default:
			}
			own := netip.MustParseAddr("10.9.8.254")
			_ = liar.send(ip(broadcastMAC, liar.mac, node.addr4(), own, protoTCP, tcp(port, 41000, 1, cookie(port)+1, tcpSYN|tcpACK), sumTCP))
			time.Sleep(time.Millisecond)
		}
	}()
	rep, err := run(t, Options{Segment: path, MAC: node.mac.String()})
	close(stop)
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if !rep.OK {
		t.Errorf("report %+v", rep)
	}
}

func TestNothingIsSaidOfANodeThatIsNotThere(t *testing.T) {
	sw, path := testSegment(t)
	if _, err := run(t, Options{Segment: path}); err == nil || !strings.Contains(err.Error(), "is it up") {
		t.Errorf("empty segment: %v", err)
	}
	a := host(t, path, "10.9.8.15", drop)
	host(t, path, "10.9.8.16", drop)
	if _, err := run(t, Options{Segment: path}); err == nil || !strings.Contains(err.Error(), "several") {
		t.Errorf("two machines: %v", err)
	}
	if _, err := run(t, Options{Segment: path, MAC: "02:00:00:00:00:00"}); err == nil {
		t.Error("a machine that is not there was scanned")
	}
	// It ends in the middle: what was not asked is not silent.
	go func() {
		time.Sleep(3 * time.Second)
		_ = sw.Close()
	}()
	if _, err := run(t, Options{Segment: path, MAC: a.mac.String()}); err == nil {
		t.Error("a machine that ended during the scan counts as silent")
	}
	if _, err := run(t, Options{Segment: path + "-missing"}); err == nil {
		t.Error("a segment that is not there was scanned")
	}
}

func TestWhatWeSendIsWhatWeRead(t *testing.T) {
	a, b := segment.MAC{2, 0, 0, 0, 0, 1}, segment.MAC{2, 0, 0, 0, 0, 2}
	for _, c := range []struct{ src, dst string }{{"10.0.0.1", "10.0.0.2"}, {"fe80::1", "fe80::2"}} {
		src, dst := netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst)
		p, ok := parse(ip(b, a, src, dst, protoUDP, udp(5, 6, []byte("hi")), sumUDP))
		if !ok || p.from != a || p.to != b || p.src != src || p.dst != dst || p.srcPort != 5 || p.dstPort != 6 || string(p.payload) != "hi" {
			t.Errorf("%s: %+v", c.src, p)
		}
		p, ok = parse(ip(b, a, src, dst, protoTCP, tcp(5, 6, 7, 8, tcpSYN|tcpACK), sumTCP))
		if !ok || p.seq != 7 || p.ack != 8 || p.flags != tcpSYN|tcpACK {
			t.Errorf("%s: %+v", c.src, p)
		}
	}
	if got := linkLocal(segment.MAC{0x52, 0x54, 0, 0, 0, 7}); got != netip.MustParseAddr("fe80::5054:ff:fe00:7") {
		t.Errorf("link-local address %s", got)
	}
}

func FuzzParse(f *testing.F) {
	m := segment.MAC{2}
	a4, a6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")
	f.Add(arp(arpReply, m, m, a4, m, a4))
	f.Add(ip(m, m, a4, a4, protoTCP, tcp(1, 2, 3, 4, tcpSYN), sumTCP))
	f.Add(ip(m, m, a6, a6, protoICMPv6, neighbour(icmp6Advertise, a6, m), sumICMP))
	f.Add(ip(m, m, a6, a6, protoUDP, udp(1, 2, nil), sumUDP))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parse(b); ok && p.ether != etherARP && p.src.Is4() != p.dst.Is4() {
			t.Errorf("mixed addresses: %+v", p)
		}
	})
}
