package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

// dialFrom connects to a gateway from an address of loopback.
func (w *world) dialFrom(from netip.Addr, port uint16) (*net.TCPConn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: deadline}
	c, err := d.Dial("tcp", netip.AddrPortFrom(w.addr, port).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// clientAddr is a client's address of its own.
func clientAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 200, byte(i >> 8), byte(i)}) }

func heap() uint64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

func TestTenThousandSlowConnectionsKeepNobodyOut(t *testing.T) {
	const slow = 10_000
	if n := openFiles(); n < 2*slow {
		t.Fatalf("it takes %d open files, and %d are allowed", 2*slow, n)
	}
	w := start(t, func(o *Options) { o.Conns, o.Pending, o.HelloTimeout = 12_000, 8_000, time.Minute })
	w.apply(w.byHost("one.example", w.shop("one")))
	half := helloBytes(t, "one.example")[:100]
	before := heap()
	all := make([]*net.TCPConn, 0, slow)
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for i := range slow {
		c, err := w.dialFrom(clientAddr(i/100), 443)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(half)
		all = append(all, c)
	}
	// Two thousand were more than may wait: the oldest have given way.
	w.until("the oldest gave way", func() bool { s := w.Status(); return s.Refused == 2000 && s.Conns == 8000 })
	if used := heap() - before; used > 80<<20 { // the clients' ends are in it
		t.Errorf("%d MB are taken", used>>20)
	}
	for range 20 {
		c, line, err := w.get("one.example")
		if err != nil || line != "one" {
			t.Fatalf("a client that isn't slow: %q, %v", line, err)
		}
		c.Close()
	}
}

func TestAHelloThatNeverEndsIsEndedAtItsDeadline(t *testing.T) {
	w := start(t, func(o *Options) { o.HelloTimeout = 500 * time.Millisecond })
	w.apply(w.byHost("one.example", w.shop("one")))
	hello := helloBytes(t, "one.example")
	c := w.dial(443)
	began := time.Now()
	for i := 0; ; i = min(i+1, len(hello)-2) {
		if _, err := c.Write(hello[i : i+1]); err != nil {
			break
		}
		if time.Since(began) > deadline {
			t.Fatal("a byte now and then keeps it open")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestAClientsFloodIsItsOwnTrouble(t *testing.T) {
	w := start(t, func(o *Options) { o.PerClient = 50 })
	w.apply(w.byPort(plan.ModeTCP, 5001, w.says("hi")))
	bad := clientAddr(7)
	refused := 0
	for range 200 {
		c, err := w.dialFrom(bad, 5001)
		if err != nil {
			refused++ // it was reset at once
			continue
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(deadline))
		if _, err := readLine(c); err != nil {
			refused++
		}
	}
	if refused != 150 {
		t.Errorf("%d of 200 were refused, want 150", refused)
	}
	good, err := w.dialFrom(clientAddr(8), 5001)
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	if line, err := readLine(good); err != nil || line != "hi" {
		t.Errorf("another client: %q, %v", line, err)
	}
	if s := w.Status(); s.Conns != 51 || s.Refused != 150 {
		t.Errorf("status %+v", s)
	}
}

func TestARouteOrContractThatIsFullLeavesRoomForOthers(t *testing.T) {
	w := start(t, func(o *Options) { o.PerRoute, o.PerContract = 10, 15 })
	backend := w.says("hi")
	var routes []Route
	for i := range 3 {
		r := w.byPort(plan.ModeTCP, uint16(5001+i), backend)
		r.Contract = canon.Hash{1}
		routes = append(routes, r)
	}
	other := w.byPort(plan.ModeTCP, 5009, backend)
	other.Contract = canon.Hash{2}
	w.apply(append(routes, other)...)
	try := func(port uint16) (n int) {
		for range 12 {
			c, err := w.dialFrom(clientAddr(9), port)
			if err != nil {
				continue // reset already
			}
			t.Cleanup(func() { c.Close() })
			_ = c.SetDeadline(time.Now().Add(deadline))
			if _, err := readLine(c); err == nil {
				n++
			}
		}
		return n
	}
	if a, b, c, d := try(5001), try(5002), try(5003), try(5009); a != 10 || b != 5 || c != 0 || d != 10 {
		t.Errorf("%d, %d, %d of one contract and %d of another are served; want 10, 5, 0 and 10", a, b, c, d)
	}
	limits := 0
	for _, r := range w.records(2 + 7 + 12 + 2) {
		if r.Outcome == OutcomeLimit {
			limits++
		}
	}
	if limits != 23 {
		t.Errorf("%d records say so, want 23", limits)
	}
}

func TestAClientOrBackendThatNeverReadsIsCutAndHoldsNoBuffer(t *testing.T) {
	for name, deaf := range map[string]bool{"client": true, "backend": false} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(o *Options) { o.Stall = 500 * time.Millisecond })
			flood := func(c net.Conn) {
				b := make([]byte, 1<<16)
				for {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}
			hang := make(chan struct{})
			defer close(hang)
			if deaf {
				w.apply(w.byPort(plan.ModeTCP, 5001, w.backend(flood)))
				w.dial(5001)
			} else {
				w.apply(w.byPort(plan.ModeTCP, 5001, w.backend(func(net.Conn) { <-hang })))
				c := w.dial(5001)
				go flood(c)
			}
			if r := w.records(1)[0]; r.Outcome != OutcomeStalled {
				t.Errorf("record %+v", r)
			}
			if s := w.Status(); s.Conns != 0 {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestAnIdleConnectionIsCutAtItsBound(t *testing.T) {
	w := start(t, func(o *Options) { o.Idle = 300 * time.Millisecond })
	w.apply(w.byPort(plan.ModeTCP, 5001, w.says("hi")))
	c := w.dial(5001)
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the end is no plain one: %v", err)
	}
	if r := w.records(1)[0]; r.Outcome != OutcomeIdle || r.Out != 3 {
		t.Errorf("record %+v", r)
	}
}

func TestADialerThatHangsHoldsUpNobodyElse(t *testing.T) {
	w := start(t, func(o *Options) { o.DialTotal = 500 * time.Millisecond })
	hung := make(chan struct{}, 1000)
	plainly := &direct{}
	hook := func(ctx context.Context, network, proto string, to netip.AddrPort) (net.Conn, error) {
		if network == "stuck" {
			hung <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return plainly.Dial(ctx, network, proto, to)
	}
	w.dialer.hook.Store(&hook)
	stuck, udp := w.byHost("stuck.example", netip.MustParseAddrPort("10.0.0.1:1")), w.byPort(plan.ModeUDP, 5001, netip.MustParseAddrPort("10.0.0.1:1"))
	stuck.Network, udp.Network = "stuck", "stuck"
	w.apply(stuck, udp, w.byHost("one.example", w.shop("one")))
	for range 20 {
		c := w.dial(443)
		_, _ = c.Write(helloBytes(t, "stuck.example"))
	}
	u, err := net.Dial("udp", netip.AddrPortFrom(w.addr, 5001).String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for range 100 {
		_, _ = u.Write([]byte("x"))
	}
	for range 21 {
		<-hung
	}
	if _, line, err := w.get("one.example"); err != nil || line != "one" {
		t.Errorf("another route: %q, %v", line, err)
	}
	for _, r := range w.records(21) {
		if r.Outcome != OutcomeNoBackend {
			t.Errorf("record %+v", r)
		}
	}
}

func TestADialersOwnFailureIsNoBackends(t *testing.T) {
	w := start(t)
	hook := func(context.Context, string, string, netip.AddrPort) (net.Conn, error) {
		return nil, errors.New("the broker is away")
	}
	w.dialer.hook.Store(&hook)
	w.apply(w.byPort(plan.ModeTCP, 5001, netip.MustParseAddrPort("10.0.0.1:1")))
	if c, err := w.dialFrom(clientAddr(1), 5001); err == nil { // it may be reset already
		_, _ = io.ReadAll(c)
		c.Close()
	}
	if st := w.Status().Routes[0]; !st.Backends[0].Healthy || st.Failures != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestABackendThatIsGoneCostsOneTryAndNobodysConnection(t *testing.T) {
	w := start(t)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	r := w.byPort(plan.ModeTCP, 5001, addrPort(gone.Addr()), w.says("here"))
	r.Check = plan.CheckTCP
	w.apply(r)
	w.until("both were checked", func() bool {
		b := w.Status().Routes[0].Backends
		return b[0].Checked && b[1].Checked && b[0].Healthy && b[1].Healthy
	})
	gone.Close()
	for range 100 {
		c := w.dial(5001)
		if line, err := readLine(c); err != nil || line != "here" {
			t.Fatalf("a client met the failure: %q, %v", line, err)
		}
		c.Close()
	}
	if st := w.Status().Routes[0]; st.Failures != 0 || st.Backends[0].Healthy || !st.Backends[1].Healthy {
		t.Errorf("status %+v", st)
	}
}

func TestABackendThatSwallowsConnectsIsLeftAfterTheBound(t *testing.T) {
	w := start(t, func(o *Options) { o.DialTimeout = 200 * time.Millisecond })
	hole, here := netip.MustParseAddrPort("10.0.0.1:1"), w.says("here")
	plainly := &direct{}
	hook := func(ctx context.Context, network, proto string, to netip.AddrPort) (net.Conn, error) {
		if to == hole {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return plainly.Dial(ctx, network, proto, to)
	}
	w.dialer.hook.Store(&hook)
	w.apply(w.byPort(plan.ModeTCP, 5001, hole, here))
	for range 10 {
		if line, err := readLine(w.dial(5001)); err != nil || line != "here" {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if b := w.Status().Routes[0].Backends[0]; b.Healthy {
		t.Errorf("%+v", b)
	}
}

func TestConnectionsGoWhereThereAreFewest(t *testing.T) {
	w := start(t)
	w.apply(w.byPort(plan.ModeTCP, 5001, w.says("a"), w.says("b"), w.says("c")))
	n := map[string]int{}
	for range 30 {
		line, err := readLine(w.dial(5001))
		if err != nil {
			t.Fatal(err)
		}
		n[line]++
	}
	if n["a"] != 10 || n["b"] != 10 || n["c"] != 10 {
		t.Errorf("%v", n)
	}
}

func TestAnAddressThatIsTakenIsSaidAndTriedAgain(t *testing.T) {
	w := start(t)
	taken, err := net.Listen("tcp", netip.AddrPortFrom(w.addr, 5001).String())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w.apply(w.byPort(plan.ModeTCP, 5001, w.says("hi")), w.byPort(plan.ModeTCP, 5002, w.says("ho")))
	w.until("it is said", func() bool { return w.Status().Routes[0].Problem != "" })
	if line, err := readLine(w.dial(5002)); err != nil || line != "ho" {
		t.Errorf("another port: %q, %v", line, err)
	}
	taken.Close()
	w.until("it listens", func() bool { return w.Status().Routes[0].Problem == "" })
	if line, err := readLine(w.dial(5001)); err != nil || line != "hi" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestTheAccessLogNeverWaitsAndLosesInFairShares(t *testing.T) {
	l := new(AccessLog)
	for range 3 * logPerRoute {
		l.Add(Record{Route: "busy"})
	}
	l.Add(Record{Route: "quiet"})
	if l.Lost() != 2*logPerRoute {
		t.Errorf("%d are lost", l.Lost())
	}
	var all []Record
	for len(all) < logPerRoute+1 {
		r, err := l.Take(t.Context(), 1000)
		if err != nil || len(r) > 1000 {
			t.Fatal(len(r), err)
		}
		all = append(all, r...)
	}
	if r := all[len(all)-1]; r.Route != "quiet" {
		t.Errorf("the quiet route's record is not there but %+v", r)
	}
	l.Add(Record{Route: "busy"})
	if r, err := l.Take(t.Context(), 10); err != nil || len(r) != 1 || r[0].Lost != 2*logPerRoute {
		t.Errorf("%+v, %v", r, err)
	}
	if len(l.of) != 0 {
		t.Errorf("%d routes are kept", len(l.of))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		if _, err := l.Take(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	cancel()
	work.Wait()
}
