package gateway

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/zero-os/zos/gateway/hello"
	"github.com/zero-os/zos/spec/plan"
)

// packets serves datagrams with f, which returns the answer or nil.
func (w *world) packets(f func(b []byte, from net.Addr) []byte) netip.AddrPort {
	w.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := f(buf[:n], from); answer != nil {
				_, _ = c.WriteTo(answer, from)
			}
		}
	})
	w.Cleanup(func() { c.Close(); work.Wait() })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func echo(b []byte, _ net.Addr) []byte { return b }

// udp is a client's socket towards a port of the gateway.
func (w *world) udp(from netip.Addr, port uint16) *net.UDPConn {
	w.Helper()
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.addr, port)))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { c.Close() })
	return c
}

// ask sends a datagram and waits for one; it sends again, since datagrams may be
// lost.
func ask(c *net.UDPConn, text string) (string, error) {
	buf := make([]byte, maxDatagram)
	end := time.Now().Add(deadline)
	for {
		if _, err := c.Write([]byte(text)); err != nil {
			return "", err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		if err == nil || time.Now().After(end) {
			return string(buf[:n]), err
		}
	}
}

func TestDatagramsOfEachClientAreAFlowOfTheirOwn(t *testing.T) {
	w := start(t)
	backend := w.packets(func(b []byte, from net.Addr) []byte { return []byte(from.String() + " " + string(b)) })
	w.apply(w.byPort(plan.ModeUDP, 5001, backend))
	seen := map[string]int{}
	for i := range 5 {
		c := w.udp(clientAddr(i), 5001)
		for k := range 3 {
			got, err := ask(c, fmt.Sprint("hello ", k))
			if err != nil {
				t.Fatal(err)
			}
			var from, word string
			var n int
			if _, err := fmt.Sscan(got, &from, &word, &n); err != nil || word != "hello" || n != k {
				t.Errorf("got %q", got)
			}
			seen[from]++
		}
	}
	if len(seen) != 5 {
		t.Errorf("the backend saw %v", seen)
	}
	if s := w.Status(); s.Flows != 5 || s.Routes[0].Conns != 5 || s.Routes[0].Out < 15*8 {
		t.Errorf("status %+v", s)
	}
}

func TestTheLargestAndTheEmptyDatagramPass(t *testing.T) {
	w := start(t)
	w.apply(w.byPort(plan.ModeUDP, 5001, w.packets(echo)))
	c := w.udp(clientAddr(1), 5001)
	for _, n := range []int{1, 0, 1400, 9000, 65507} {
		want := string(bytes.Repeat([]byte{byte(n)}, n))
		if got, err := ask(c, want); err != nil || got != want {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
	}
}

func TestAnIdleFlowEndsAndIsRecorded(t *testing.T) {
	w := start(t, func(o *Options) { o.FlowIdle = 200 * time.Millisecond })
	w.apply(w.byPort(plan.ModeUDP, 5001, w.packets(echo)))
	if _, err := ask(w.udp(clientAddr(1), 5001), "abc"); err != nil {
		t.Fatal(err)
	}
	if r := w.records(1)[0]; r.Outcome != OutcomeOK || r.In < 3 || r.Out < 3 || r.Backend != "web1" {
		t.Errorf("record %+v", r)
	}
	w.until("no flow is left", func() bool { return w.Status().Flows == 0 })
}

func TestAFullTableOfFlowsKeepsThoseThatWereAnswered(t *testing.T) {
	w := start(t, func(o *Options) { o.Flows, o.ClientFlows = 20, 15 })
	w.apply(w.byPort(plan.ModeUDP, 5001, w.packets(func(b []byte, _ net.Addr) []byte {
		if string(b) == "junk" {
			return nil
		}
		return b
	})))
	good := w.udp(clientAddr(1), 5001)
	if _, err := ask(good, "hello"); err != nil {
		t.Fatal(err)
	}
	// Sources that are never answered: more than one client may have, and more
	// than the table holds.
	for i := range 200 {
		_, _ = w.udp(clientAddr(2+i/20), 5001).Write([]byte("junk"))
	}
	w.until("the table is full", func() bool { return w.Status().Routes[0].Failures > 0 })
	if s := w.Status(); s.Flows > 20 {
		t.Errorf("%d flows", s.Flows)
	}
	if got, err := ask(good, "still"); err != nil || got != "still" {
		t.Errorf("the one that was answered: %q, %v", got, err)
	}
	// A new one finds room by the oldest that was never answered.
	if got, err := ask(w.udp(clientAddr(99), 5001), "new"); err != nil || got != "new" {
		t.Errorf("a new one: %q, %v", got, err)
	}
	if got, err := ask(good, "still"); err != nil || got != "still" {
		t.Errorf("the one that was answered, after that: %q, %v", got, err)
	}
}

func TestAFlowWhoseBackendIsGoneFindsAnother(t *testing.T) {
	w := start(t)
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := gone.LocalAddr().(*net.UDPAddr).AddrPort()
	gone.Close()
	w.apply(w.byPort(plan.ModeUDP, 5001, at, w.packets(echo)))
	for i := range 4 {
		if got, err := ask(w.udp(clientAddr(i), 5001), "hello"); err != nil || got != "hello" {
			t.Fatal(got, err)
		}
	}
}

func TestBackendsAreToldTheClientsAddress(t *testing.T) {
	client4, public4 := netip.MustParseAddrPort("192.0.2.7:1234"), netip.MustParseAddrPort("198.51.100.1:443")
	client6, public6 := netip.MustParseAddrPort("[2001:db8::7]:1234"), netip.MustParseAddrPort("[2001:db8::1]:443")
	for version := 1; version <= 2; version++ {
		for _, c := range [][2]netip.AddrPort{{client4, public4}, {client6, public6},
			{netip.AddrPortFrom(netip.AddrFrom16(client4.Addr().As16()), 1234), public4}} {
			h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(proxyHeader(version, false, c[0], c[1]))))
			if err != nil {
				t.Fatalf("version %d, %v: %v", version, c, err)
			}
			from, to := h.SourceAddr.(*net.TCPAddr).AddrPort(), h.DestinationAddr.(*net.TCPAddr).AddrPort()
			if from.Addr().Unmap() != c[0].Addr().Unmap() || from.Port() != c[0].Port() || to.Addr().Unmap() != c[1].Addr() || to.Port() != c[1].Port() || int(h.Version) != version {
				t.Errorf("version %d, %v: reads as %v", version, c, h)
			}
		}
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(proxyHeader(2, true, client4, public4))))
	if err != nil || h.TransportProtocol != proxyproto.UDPv4 || h.SourceAddr.(*net.UDPAddr).AddrPort() != client4 {
		t.Errorf("udp: %v, %v", h, err)
	}
	w := start(t)
	told := w.backend(func(c net.Conn) {
		r := bufio.NewReader(c)
		if h, err := proxyproto.Read(r); err == nil {
			rest, _ := r.Peek(1)
			fmt.Fprintf(c, "%d %s %s %d\n", h.Version, h.SourceAddr, h.DestinationAddr, rest[0])
		}
	})
	udp := w.byPort(plan.ModeUDP, 5001, w.packets(func(b []byte, _ net.Addr) []byte { return b }))
	one, two := w.byPort(plan.ModeTCP, 5001, told), w.byHost("one.example", told)
	one.Proxy, two.Proxy, udp.Proxy = 1, 2, 2
	w.apply(one, two, udp)
	c := w.dial(5001)
	_, _ = c.Write([]byte("x"))
	if got, err := readLine(c); err != nil || got != fmt.Sprintf("1 %s %s:5001 %d", c.LocalAddr(), w.addr, 'x') {
		t.Errorf("version 1: %q, %v", got, err)
	}
	c = w.dial(443)
	_, _ = c.Write(helloBytes(t, "one.example"))
	if got, err := readLine(c); err != nil || got != fmt.Sprintf("2 %s %s:443 22", c.LocalAddr(), w.addr) {
		t.Errorf("version 2: %q, %v", got, err)
	}
	u := w.udp(clientAddr(1), 5001)
	got, err := ask(u, "first")
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(bytes.NewReader([]byte(got)))
	h, err = proxyproto.Read(r)
	rest, _ := io.ReadAll(r)
	if err != nil || h.SourceAddr.String() != u.LocalAddr().String() || string(rest) != "first" {
		t.Errorf("udp: %q, %v", got, err)
	}
	if got, err = ask(u, "second"); err != nil || got != "second" {
		t.Errorf("the second datagram: %q, %v", got, err)
	}
}

// terminator plays one that answers with what it was given.
type terminator struct {
	updates int
	hold    chan struct{} // ServeTLS waits for it, or for the end
}

func (x *terminator) Update(Config) { x.updates++ }

func (x *terminator) ServeTLS(ctx context.Context, c *net.TCPConn, h hello.Hello, t *Target, names Names) {
	defer c.Close()
	b, err := t.Choices()[0].Dial(ctx)
	if err != nil {
		fmt.Fprintf(c, "no backend: %v\n", err)
		return
	}
	defer b.Close()
	fmt.Fprintf(c, "%s %v %s %s other %t\n", h.Name, h.Protocols, t.Route().ID, t.Choices()[0].Name(), names.Lookup("other.example") != nil)
	if x.hold != nil {
		<-ctx.Done()
		close(x.hold)
	}
}

func (x *terminator) ServePlain(_ context.Context, c *net.TCPConn, names Names) {
	fmt.Fprintf(c, "plain %t\n", names.Lookup("one.example") != nil)
}

func TestTerminatedNamesAndPort80AreTheTerminators(t *testing.T) {
	x := &terminator{hold: make(chan struct{})}
	w := start(t, func(o *Options) { o.Terminator, o.Drain = x, 200*time.Millisecond })
	one := w.byHost("one.example", w.says("hi"))
	one.Mode = plan.ModeTerminate
	w.apply(one, w.byHost("other.example", w.says("hi")))
	c := w.dial(443)
	_, _ = c.Write(helloBytes(t, "one.example"))
	if got, err := readLine(c); err != nil || got != "one.example [h2 http/1.1] c/www/one.example web1 other true" {
		t.Errorf("got %q, %v", got, err)
	}
	if st := w.Status().Routes[0]; st.Conns != 1 || st.Backends[0].Conns != 1 {
		t.Errorf("status %+v", st)
	}
	if got, err := readLine(w.dial(80)); err != nil || got != "plain true" {
		t.Errorf("port 80: %q, %v", got, err)
	}
	w.apply()
	select {
	case <-x.hold:
	case <-time.After(deadline):
		t.Error("the drain's end doesn't reach it")
	}
	if x.updates != 3 && x.updates != 2 {
		t.Errorf("it was told %d configurations", x.updates)
	}
}
