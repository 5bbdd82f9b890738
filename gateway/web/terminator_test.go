package web

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/spec/plan"
)

// plainDialer reaches backends on this machine.
type plainDialer struct{}

func (plainDialer) Dial(ctx context.Context, _, proto string, to netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, proto, to.String())
}

// dataPlane runs package gateway's server with a Terminator, at a loopback address
// of the test's own.
func dataPlane(t *testing.T, last byte) (*gateway.Server, *gateway.AccessLog, func(backends ...*recorder) gateway.Route, func(two bool) *http.Client) {
	t.Helper()
	return dataPlaneBy(t, plainDialer{}, last)
}

// dataPlaneBy is dataPlane with a dialer.
func dataPlaneBy(t *testing.T, dialer gateway.Dialer, last byte) (*gateway.Server, *gateway.AccessLog, func(backends ...*recorder) gateway.Route, func(two bool) *http.Client) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	cert, roots := selfSigned(t, host)
	term := NewTerminator(TerminatorOptions{})
	term.tls.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
	log := new(gateway.AccessLog)
	s := gateway.New(gateway.Options{Dialer: dialer, Terminator: term, Access: log, Drain: time.Minute})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		over, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := term.Shutdown(over); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, ignore)
	})
	pid := os.Getpid()
	addr := netip.AddrFrom4([4]byte{127, byte(1 + pid%60), byte(pid / 60), last})
	route := func(backends ...*recorder) gateway.Route {
		r := gateway.Route{
			ID: "c/www/" + host, Contract: canon.Sum([]byte("c")), Workload: "www", Addresses: []netip.Addr{addr}, Host: host,
			Mode: plan.ModeTerminate, Port: 443, Network: "n", Check: plan.CheckNone,
		}
		for _, b := range backends {
			r.Backends = append(r.Backends, gateway.Backend{Name: b.name, Addr: netip.MustParseAddrPort(b.addr)})
		}
		return r
	}
	client := func(two bool) *http.Client {
		p := new(http.Protocols)
		p.SetHTTP1(!two)
		p.SetHTTP2(two)
		tr := &http.Transport{
			Protocols: p, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host},
			DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
				_, port, _ := net.SplitHostPort(to)
				return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(addr.String(), port))
			},
		}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return s, log, route, client
}

func apply(t *testing.T, s *gateway.Server, routes ...gateway.Route) {
	t.Helper()
	if err := s.Apply(gateway.Config{Routes: routes}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(s.Status().Routes) != len(routes); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the configuration is not served")
		}
	}
}

func TestRequestsGoThroughTheWholeGateway(t *testing.T) {
	rec := newRecorder(t, "web1", nil)
	s, log, route, client := dataPlane(t, 1)
	apply(t, s, route(rec))
	for _, two := range []bool{false, true} {
		if status, body := get(t, client(two), "/a?b"); status != 200 || body != "ok" {
			t.Errorf("%d %q", status, body)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		records, err := log.Take(ctx, 1)
		cancel()
		if err != nil || len(records) != 1 {
			t.Fatalf("%v, %v", records, err)
		}
		if r := records[0]; r.Backend != "web1" || r.Path != "/a" || r.Status != 200 || r.Out != 2 || r.Outcome != gateway.OutcomeOK || r.Workload != "www" ||
			!r.Client.IsValid() || r.Host != host || r.Method != "GET" || r.Contract.IsZero() {
			t.Errorf("record %+v", r)
		}
	}
	mustContain(t, "what the backend saw", rec.seen(), "X-Forwarded-For: 127.0.0.1\r\n")
	resp, err := client(false).Get("http://" + host + "/a?b")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "https://"+host+"/a?b" {
		t.Errorf("port 80: %d %q", resp.StatusCode, resp.Header.Get("Location"))
	}
}

func TestRemovedRouteFinishesItsRequestsAndTakesNoMore(t *testing.T) {
	began, finish := make(chan struct{}, 10), make(chan struct{})
	rec := newRecorder(t, "web1", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
		if strings.HasPrefix(r.URL.Path, "/slow") {
			began <- struct{}{}
			<-finish
		}
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		return err == nil
	})
	s, _, route, client := dataPlane(t, 2)
	apply(t, s, route(rec))
	idle, busy := client(false), []*http.Client{client(false), client(true)}
	get(t, idle, "/")
	answers := make(chan string, 2)
	for _, c := range busy {
		go func() {
			resp, err := c.Get("https://" + host + "/slow")
			if err != nil {
				answers <- err.Error()
				return
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				answers <- err.Error()
				return
			}
			answers <- string(b)
		}()
		<-began
	}
	apply(t, s)
	if resp, err := idle.Get("https://" + host + "/"); err == nil {
		resp.Body.Close()
		if resp.StatusCode == 200 {
			t.Error("an idle connection is served on")
		}
	}
	close(finish)
	for range busy {
		if a := <-answers; a != "ok" {
			t.Errorf("a request that was under way: %q", a)
		}
	}
	for _, c := range busy {
		if resp, err := c.Get("https://" + host + "/"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				t.Error("a connection is served on")
			}
		}
	}
}

func TestReplicaThatFailsIsNotNoticedByClients(t *testing.T) {
	good := reply(t, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", true) // a new connection each time
	bad := newRecorder(t, "bad", func(net.Conn, *http.Request, *bufio.Reader) bool { return false })
	s, _, route, client := dataPlane(t, 3)
	r := route(bad, good)
	apply(t, s, r)
	c := client(false)
	for range 20 {
		if status, body := get(t, c, "/"); status != 200 || body != "ok" {
			t.Fatalf("%d %q", status, body)
		}
	}
	if bad.seen() == "" {
		t.Error("the bad one was never asked: the test shows nothing")
	}
}

func TestARouteThatIsRemovedKeepsNoConnection(t *testing.T) {
	rec := newRecorder(t, "web1", nil)
	s, _, route, client := dataPlane(t, 5)
	apply(t, s, route(rec))
	get(t, client(true), "/")
	open := func() int {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		return len(rec.open)
	}
	if open() != 1 {
		t.Fatalf("%d connections wait for a next request", open())
	}
	apply(t, s)
	// Long before the drain's end.
	for end := time.Now().Add(20 * time.Second); open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a connection is kept")
		}
	}
}
