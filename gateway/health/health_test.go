package health

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zero-os/zos/spec/plan"
)

var addr = netip.MustParseAddrPort("10.0.0.2:80")

// backend plays one: what it does with a connection can be changed.
type backend struct {
	serve atomic.Pointer[func(net.Conn)] // nil: it doesn't answer
	err   atomic.Pointer[error]
	dials atomic.Int64
	open  atomic.Int64
	most  atomic.Int64
}

func (b *backend) dial(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
	b.dials.Add(1)
	if n := b.open.Add(1); n > b.most.Load() {
		b.most.Store(n)
	}
	defer b.open.Add(-1)
	if err := b.err.Load(); err != nil {
		return nil, *err
	}
	f := b.serve.Load()
	if f == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ours, theirs := net.Pipe()
	go func() { defer theirs.Close(); (*f)(theirs) }()
	return ours, nil
}

func (b *backend) answers(f func(net.Conn)) { b.serve.Store(&f) }

func accepts(net.Conn) {}

func says(line string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, line)
		}
	}
}

func TestABackendThatFallsSilentIsKnownForItWithinABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		b.answers(accepts)
		c := New(Options{Dial: b.dial})
		defer c.Close()
		s := c.Watch(Key{Addr: addr, Check: plan.CheckTCP}, false)
		if r := s.Report(); !r.Healthy || r.Checked {
			t.Errorf("before a check: %+v", r)
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if r := s.Report(); !r.Healthy || !r.Checked || r.Error != "" {
			t.Errorf("after ten seconds: %+v", r)
		}
		b.serve.Store(nil)
		began := time.Now()
		for s.Healthy() {
			time.Sleep(10 * time.Millisecond)
			if time.Since(began) > time.Minute {
				t.Fatal("it counts as healthy for ever")
			}
		}
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("known after %s", took)
		}
		b.answers(accepts)
		began = time.Now()
		for !s.Healthy() {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("known to be back after %s", took)
		}
		if r := s.Report(); r.Error == "" || time.Since(r.Since) > time.Second {
			t.Errorf("back: %+v", r)
		}
	})
}

func TestALostPacketIsNoFailedBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		c := New(Options{Dial: func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
			if n.Add(1)%2 == 1 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			ours, _ := net.Pipe()
			return ours, nil
		}})
		defer c.Close()
		s := c.Watch(Key{Addr: addr, Check: plan.CheckTCP}, false)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if !s.Healthy() {
				t.Fatal("one silent connect of two made it fail")
			}
		}
	})
}

func TestAnswersAreJudged(t *testing.T) {
	for line, want := range map[string]bool{
		"HTTP/1.1 200 OK\r\n":         true,
		"HTTP/1.0 204 No Content\r\n": true,
		"HTTP/1.1 399 Odd\r\n":        true,
		"HTTP/1.1 200\n":              true,
		"HTTP/1.1 400 Bad\r\n":        false,
		"HTTP/1.1 503 Down\r\n":       false,
		"HTTP/1.1 101 Switching\r\n":  false,
		"HTTP/1.1 2000\r\n":           true, // its first three digits are the status, as other readers have it
		"HTTP/2 200 OK\r\n":           false,
		"SSH-2.0-OpenSSH\r\n":         false,
		"HTTP/1.1 2x0 OK\r\n":         false,
		"\n":                          false,
		"":                            false,
		strings.Repeat("x", 1<<20):    false,
		"HTTP/1.1 200 " + strings.Repeat("x", 2000) + "\n": false,
	} {
		synctest.Test(t, func(t *testing.T) {
			b := &backend{}
			b.answers(says(line))
			c := New(Options{Dial: b.dial})
			defer c.Close()
			s := c.Watch(Key{Addr: addr, Check: plan.CheckHTTP, Path: "/healthz", Host: "shop.example"}, false)
			time.Sleep(1100 * time.Millisecond)
			synctest.Wait()
			if r := s.Report(); r.Healthy != want || !r.Checked || len(r.Error) > 200 {
				t.Errorf("%.40q: %+v", line, r)
			}
		})
	}
}

func TestAFailedConnectionCountsUntilACheckSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		b.answers(accepts)
		c := New(Options{Dial: b.dial})
		defer c.Close()
		checked := c.Watch(Key{Addr: addr, Check: plan.CheckTCP}, false)
		unchecked := c.Watch(Key{Addr: addr, Check: plan.CheckNone}, false)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		checked.Failed(syscall.ECONNREFUSED)
		unchecked.Failed(syscall.ECONNREFUSED)
		if checked.Healthy() || unchecked.Healthy() {
			t.Fatal("a refusal counts for nothing")
		}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if !checked.Healthy() || unchecked.Healthy() {
			t.Errorf("after a check: %t, without: %t", checked.Healthy(), unchecked.Healthy())
		}
		time.Sleep(1500 * time.Millisecond)
		if !unchecked.Healthy() {
			t.Error("without a check it counts as failed beyond the penalty")
		}
		unchecked.Failed(syscall.ECONNREFUSED)
		unchecked.Worked()
		if !unchecked.Healthy() || unchecked.Report().Error == "" {
			t.Errorf("after a connection: %+v", unchecked.Report())
		}
	})
}

func TestManyBackendsAreAskedLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		b.answers(accepts)
		c := New(Options{Dial: b.dial, Rate: 100})
		defer c.Close()
		for i := range 1000 {
			c.Watch(Key{Addr: netip.AddrPortFrom(addr.Addr(), uint16(i+1)), Check: plan.CheckTCP}, false)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		before := b.dials.Load()
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if n := b.dials.Load() - before; n < 5000 || n > 7000 {
			t.Errorf("%d checks in a minute, want about 6000", n)
		}
	})
}

func TestBackendsWithoutAlternativeAreAskedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		b.answers(accepts)
		c := New(Options{Dial: b.dial})
		defer c.Close()
		k := Key{Addr: addr, Check: plan.CheckTCP}
		alone := c.Watch(k, true)
		time.Sleep(40*time.Second + time.Millisecond)
		synctest.Wait()
		if n := b.dials.Load(); n != 10 && n != 11 {
			t.Errorf("%d checks in 40 s, want 10", n)
		}
		shared := c.Watch(k, false)
		if shared != alone || c.Watched() != 1 {
			t.Error("one backend is watched twice")
		}
		b.dials.Store(0)
		time.Sleep(40 * time.Second)
		synctest.Wait()
		if n := b.dials.Load(); n < 95 || n > 102 {
			t.Errorf("%d checks in 40 s when another route may choose, want about 100", n)
		}
		c.Release(shared, false)
		c.Release(alone, true)
		time.Sleep(5 * time.Second)
		b.dials.Store(0)
		time.Sleep(40 * time.Second)
		if n := b.dials.Load(); n != 0 || c.Watched() != 0 {
			t.Errorf("%d checks of what nobody watches", n)
		}
	})
}

func TestSilentBackendsHoldABoundedNumberOfSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{}
		c := New(Options{Dial: b.dial, AtOnce: 10})
		for i := range 500 {
			c.Watch(Key{Addr: netip.AddrPortFrom(addr.Addr(), uint16(i+1)), Check: plan.CheckTCP}, false)
		}
		time.Sleep(20 * time.Second)
		if n := b.most.Load(); n > 20 { // two tries each
			t.Errorf("%d sockets at once", n)
		}
		c.Close()
		if n := b.open.Load(); n != 0 {
			t.Errorf("%d connects outlive Close", n)
		}
	})
}

func TestAnErrorThatABackendWroteIsShort(t *testing.T) {
	s := &State{c: New(Options{})}
	s.set(errors.New(strings.Repeat("x", 1<<20)), true)
	if n := len(s.Report().Error); n > 200 {
		t.Errorf("%d bytes", n)
	}
}

func FuzzStatus(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\n")
	f.Add("HTTP/1.1 200")
	f.Add("HTTP/1.1 \n")
	f.Fuzz(func(t *testing.T, s string) {
		if err := status(strings.NewReader(s)); err == nil && !strings.HasPrefix(s, "HTTP/1.") {
			t.Errorf("%q is a good answer", s)
		}
	})
}
