package netlab_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/netlab"
)

// pair is two hosts on a segment with a UDP socket each.
type pair struct {
	*netlab.Segment
	a, b    *netlab.Host
	ca, cb  *net.UDPConn
	offered chan string // what was sent, once the link has it: sending only gives it to a kernel
}

func newPair(t *testing.T, lab *netlab.Lab) *pair {
	p := &pair{Segment: lab.Segment("link", "192.0.2.0/24", "2001:db8::/64"), offered: make(chan string, 10_000)}
	p.Tap(func(q netlab.Packet) {
		if q.Flow.Proto == "udp" {
			p.offered <- string(q.Frame[42:])
		}
	})
	p.a, p.b = lab.Host("a", p.Segment), lab.Host("b", p.Segment)
	p.ca, p.cb = p.a.ListenPacket("udp4", ":1000"), p.b.ListenPacket("udp4", ":1000")
	t.Cleanup(func() {
		p.ca.Close()
		p.cb.Close()
	})
	return p
}

func (p *pair) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := p.ca.WriteToUDPAddrPort(b, p.b.AddrPort(1000)); err != nil {
		t.Fatal(err)
	}
}

// wait waits until the link was offered the text.
func (p *pair) wait(t *testing.T, text string) {
	t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case got := <-p.offered:
			if got == text {
				return
			}
		case <-timeout:
			t.Fatalf("%q did not get to the link", text)
		}
	}
}

// get reads until the text comes, and returns what came before it.
func (p *pair) get(t *testing.T, last string) []string {
	t.Helper()
	var all []string
	buf := make([]byte, 2000)
	_ = p.cb.SetReadDeadline(time.Now().Add(patience))
	for {
		n, err := p.cb.Read(buf)
		if err != nil {
			t.Fatalf("waiting for %q: %v", last, err)
		}
		if string(buf[:n]) == last {
			return all
		}
		all = append(all, string(buf[:n]))
	}
}

func TestLinksTreatFramesAsTheyAreTold(t *testing.T) {
	lab := netlab.New(t)
	p := newPair(t, lab)
	// Kernels may reorder what waits for a neighbour's address.
	p.send(t, []byte("neighbours know each other"))
	p.get(t, "neighbours know each other")
	const n = 200
	burst := func(sh netlab.Shape) []string {
		t.Helper()
		p.Shape(sh)
		for i := range n {
			p.send(t, fmt.Appendf(nil, "%03d", i))
		}
		p.wait(t, fmt.Sprintf("%03d", n-1))
		// The last one is due later than all that were held back.
		p.Shape(netlab.Shape{Delay: sh.Delay + sh.Jitter + 50*time.Millisecond})
		p.send(t, []byte("last"))
		return p.get(t, "last")
	}
	perfect := burst(netlab.Shape{})
	if len(perfect) != n || !slices.IsSorted(perfect) {
		t.Fatalf("a perfect link delivered %d of %d, sorted %t", len(perfect), n, slices.IsSorted(perfect))
	}
	if got := burst(netlab.Shape{Loss: 0.3}); len(got) < n/2 || len(got) > n*9/10 || !slices.IsSorted(got) {
		t.Errorf("a link that loses 30 %% delivered %d of %d, sorted %t", len(got), n, slices.IsSorted(got))
	}
	if got := burst(netlab.Shape{Reorder: 0.2}); len(got) != n || slices.IsSorted(got) {
		t.Errorf("a link that reorders delivered %d of %d, sorted %t", len(got), n, slices.IsSorted(got))
	}
	began := time.Now()
	if got := burst(netlab.Shape{Delay: 30 * time.Millisecond, Jitter: 30 * time.Millisecond}); len(got) != n || !slices.IsSorted(got) {
		t.Errorf("a slow link delivered %d of %d, sorted %t", len(got), n, slices.IsSorted(got))
	}
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Errorf("a link of 30 ms took %s", took)
	}
	if got := burst(netlab.Shape{Cut: true}); len(got) != 0 {
		t.Errorf("a cut link delivered %d", len(got))
	}
	if got := burst(netlab.Shape{Drop: func(q netlab.Packet) bool { return bytes.Contains(q.Frame, []byte("007")) }}); len(got) != n-1 {
		t.Errorf("a link without one packet delivered %d of %d", len(got), n)
	}
	// 200 frames of 45 bytes are 72 kbit.
	began = time.Now()
	if got := burst(netlab.Shape{Rate: 1_000_000}); len(got) != n {
		t.Errorf("a narrow link delivered %d of %d", len(got), n)
	}
	if took := time.Since(began); took < 60*time.Millisecond {
		t.Errorf("72 kbit over 1 Mbit/s took %s", took)
	}
	if got := burst(netlab.Shape{Rate: 1_000_000, Queue: 1000}); len(got) == n || len(got) == 0 {
		t.Errorf("a narrow link with a short queue delivered %d of %d", len(got), n)
	}
}

func TestAnMTUHoleSwallowsLargePackets(t *testing.T) {
	lab := netlab.New(t)
	p := newPair(t, lab)
	p.Shape(netlab.Shape{MTU: 1300})
	p.send(t, make([]byte, 1300-28+1))
	p.send(t, bytes.Repeat([]byte("x"), 1300-28))
	p.send(t, []byte("last"))
	if got := p.get(t, "last"); len(got) != 1 || len(got[0]) != 1300-28 {
		t.Errorf("%d packets passed", len(got))
	}
}

func TestOnlyOneDirectionOfACableIsCut(t *testing.T) {
	lab := netlab.New(t)
	p := newPair(t, lab)
	p.send(t, []byte("neighbours know each other"))
	p.get(t, "neighbours know each other")
	p.a.NIC(0).Shape(netlab.Shape{}, netlab.Shape{Cut: true})
	if _, err := p.cb.WriteToUDPAddrPort([]byte("lost"), p.a.AddrPort(1000)); err != nil {
		t.Fatal(err)
	}
	p.wait(t, "lost")
	p.send(t, []byte("there"))
	p.get(t, "there")
	p.a.NIC(0).Shape(netlab.Shape{}, netlab.Shape{})
	if _, err := p.cb.WriteToUDPAddrPort([]byte("back"), p.a.AddrPort(1000)); err != nil {
		t.Fatal(err)
	}
	_ = p.ca.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 9)
	if n, err := p.ca.Read(buf); err != nil || string(buf[:n]) != "back" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func TestACaptureFindsMarkersAndFlows(t *testing.T) {
	lab := netlab.New(t)
	p := newPair(t, lab)
	c := netlab.NewCapture([]*netlab.Segment{p.Segment}, "marker-1", "marker-2")
	var pcap bytes.Buffer
	p.WritePCAP(&pcap)
	// What is lost was on the link all the same.
	p.Shape(netlab.Shape{Drop: func(q netlab.Packet) bool { return q.Flow.Proto == "udp" }})
	p.send(t, []byte("there is a marker-1 here"))
	p.wait(t, "there is a marker-1 here")
	p.Shape(netlab.Shape{})
	p.send(t, []byte("last"))
	p.get(t, "last")
	hits := c.Hits()
	if len(hits) != 1 || string(hits[0].Marker) != "marker-1" || hits[0].From != "a/eth0" || hits[0].Flow.Src != p.a.AddrPort(1000) || hits[0].Flow.Dst != p.b.AddrPort(1000) {
		t.Errorf("hits: %v", hits)
	}
	if got := c.Unexpected(netlab.Neighbours, netlab.Either("udp", 1000)); len(got) != 0 {
		t.Errorf("unexpected: %v", got)
	}
	if got := c.Unexpected(netlab.Neighbours, netlab.Either("udp", 1001)); len(got) != 1 || got[0].Frames != 2 {
		t.Errorf("flows that nobody allowed: %v", got)
	}
	if c.Frames() < 3 || !bytes.Contains(pcap.Bytes(), []byte("marker-1")) {
		t.Errorf("%d frames, %d bytes of capture file", c.Frames(), pcap.Len())
	}
	c.Reset()
	if len(c.Hits()) != 0 || c.Frames() != 0 {
		t.Error("a capture remembers after Reset")
	}
}

func TestSomebodyInTheMiddle(t *testing.T) {
	lab := netlab.New(t)
	p := newPair(t, lab)
	p.Middle(func(f []byte) [][]byte {
		if bytes.Contains(f, []byte("twice")) {
			return [][]byte{f, f}
		}
		if bytes.Contains(f, []byte("never")) {
			return nil
		}
		return [][]byte{f}
	})
	for _, s := range []string{"twice", "never", "last"} {
		p.send(t, []byte(s))
	}
	if got := p.get(t, "last"); !slices.Equal(got, []string{"twice", "twice"}) {
		t.Errorf("got %q", got)
	}
}

func TestAHostMovesToAnotherSegment(t *testing.T) {
	lab := netlab.New(t)
	internet := lab.Segment("internet", "198.51.100.0/24", "2001:db8::/64")
	server := lab.Host("server", internet)
	home := lab.Site("home", netlab.SiteConfig{WAN: internet, NAT: netlab.Symmetric, LAN: []string{"192.168.1.0/24", "2001:db8:1::/64"}})
	office := lab.Site("office", netlab.SiteConfig{WAN: internet, NAT: netlab.FullCone, LAN: []string{"10.0.0.0/8"}})
	h := home.Host("laptop")
	for _, network := range []string{"tcp4", "tcp6"} {
		l := server.Listen(network, ":80")
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s", c.RemoteAddr().(*net.TCPAddr).IP)
				c.Close()
			}
		}()
	}
	ask := func(server netip.Addr) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := h.Dial(ctx, "tcp", netip.AddrPortFrom(server, 80).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := ask(server.Addr4()); got != home.Outer(true).String() {
		t.Errorf("seen as %s", got)
	}
	if got := ask(server.Addr6()); got != h.Addr6().String() {
		t.Errorf("seen as %s", got)
	}
	h.NIC(0).Move(office.LAN)
	if got := ask(server.Addr4()); got != office.Outer(true).String() || h.Addr6().IsValid() {
		t.Errorf("seen as %s, has %s", got, h.Addr6())
	}
	before := h.Addr4()
	h.NIC(0).Move(office.LAN)
	if got := ask(server.Addr4()); got != office.Outer(true).String() || h.Addr4() == before {
		t.Errorf("seen as %s, renumbered from %s to %s", got, before, h.Addr4())
	}
	h.NIC(0).Move(internet)
	if got := ask(server.Addr4()); got != h.Addr4().String() {
		t.Errorf("seen as %s", got)
	}
}

func TestServicesOutsideAreReachedThroughAForward(t *testing.T) {
	lab := netlab.New(t)
	p := newPair(t, lab)
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	go func() {
		for {
			c, err := outside.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			_, _ = c.Write(bytes.ToUpper(b))
			c.Close()
		}
	}()
	p.a.Forward(":80", outside.Addr().String())
	c, err := p.b.Dial(t.Context(), "tcp", p.a.AddrPort(80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "HELLO" {
		t.Errorf("got %q, %v", b, err)
	}
}

// What is left in a laboratory is named, and fails its test.
func TestLeftoversAreNamed(t *testing.T) {
	var socket net.Listener
	cmd := exec.Command("sleep", "600")
	err := netlab.Run(func(tb netlab.TB) {
		lab := netlab.New(tb)
		h := lab.Host("messy", lab.Segment("link", "192.0.2.0/24"))
		socket = h.Listen("tcp", ":99")
		if err := h.Start(cmd); err != nil {
			tb.Fatalf("%v", err)
		}
		h.Run("ip", "link", "add", "left0", "type", "bridge")
	}, nil)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	socket.Close()
	for _, want := range []string{"host messy", "socket tcp", fmt.Sprintf("process %d (sleep 600", cmd.Process.Pid), "interface left0"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// Fatalf ends a program's laboratory and keeps its reason; cleanups run.
func TestRunKeepsWhatFailed(t *testing.T) {
	cleaned := false
	err := netlab.Run(func(tb netlab.TB) {
		tb.Cleanup(func() { cleaned = true })
		tb.Errorf("one")
		tb.Fatalf("two")
		tb.Errorf("three")
	}, nil)
	if err == nil || err.Error() != "one\ntwo" || !cleaned {
		t.Errorf("got %v, cleaned %t", err, cleaned)
	}
}

func FuzzFramesOfAnyKindAreRead(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(append(make([]byte, 12), 0x86, 0xdd), make([]byte, 60)...))
	f.Add(append(append(make([]byte, 12), 0x08, 0x00, 0x45), make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, frame []byte) {
		flow, n := netlab.Dissect(frame)
		if n > len(frame) {
			t.Errorf("%d bytes of IP in %d", n, len(frame))
		}
		_ = flow.String()
	})
}
