package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"

	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/gateway/dns"
	"github.com/zero-os/zos/gateway/web"
)

const (
	gridDomain = "grid.example"
	validity   = 90 * 24 * time.Hour
)

// world is an authority (pebble), the name server of the grid's domain that it
// asks, and the ports at which it looks for gateways.
type world struct {
	t         *testing.T
	db        *db.MemoryStore
	ca        *ca.CAImpl
	url       string
	roots     *x509.CertPool // of the authority's own server
	issued    *x509.CertPool // of what it certifies
	dns       *dns.Server
	zone      dns.Zone
	mu        sync.Mutex
	httpPort  int
	tlsPort   int
	intercept atomic.Pointer[func(http.ResponseWriter, *http.Request) bool] // returns true if it has answered
	orders    atomic.Int64
	accounts  atomic.Int64
	clock     *clock
	handler   http.Handler // the authority's own
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	w := &world{t: t, clock: newClock()}
	w.httpPort, w.tlsPort = freePort(t), freePort(t)

	w.zone = dns.Zone{
		Domain: gridDomain, Serial: 1, NS: []dns.NameServer{{Name: "ns." + gridDomain, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}},
		Names: map[string][]netip.Addr{}, TXT: map[string][]string{},
	}
	w.dns = dns.New(dns.Options{})
	w.set()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.dns.ServeTCP(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })

	quiet := log.New(io.Discard, "", 0)
	w.db = db.NewMemoryStore()
	w.ca = ca.New(quiet, w.db, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "tests", ValidityPeriod: uint64(validity / time.Second)}})
	v := va.New(quiet, w.httpPort, w.tlsPort, false, l.Addr().String(), w.db)
	front := wfe.New(quiet, w.db, v, w.ca, []string{"ca.example"}, false, false, 0, 0)
	handler := front.Handler()
	w.handler = handler
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if f := w.intercept.Load(); f != nil && (*f)(rw, r) {
			return
		}
		switch r.URL.Path {
		case "/order-plz":
			w.orders.Add(1)
		case "/sign-me-up":
			w.accounts.Add(1)
		}
		handler.ServeHTTP(rw, r)
	}))
	srv.Config.ErrorLog = quiet
	t.Cleanup(srv.Close)
	w.url = srv.URL + wfe.DirectoryPath
	w.roots = x509.NewCertPool()
	w.roots.AddCert(srv.Certificate())
	w.issued = x509.NewCertPool()
	w.issued.AddCert(w.ca.GetRootCert(0).Cert)
	return w
}

// set gives the zone to its server.
func (w *world) set() {
	if err := w.dns.SetZone(w.zone); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) name(label string, addrs ...string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range addrs {
		w.zone.Names[label] = append(w.zone.Names[label], netip.MustParseAddr(a))
	}
	w.zone.Serial++
	w.set()
	return label + "." + gridDomain
}

// Present and CleanUp make the world's zone certs.Challenges.
func (w *world) Present(_ context.Context, name, text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.zone.TXT[name] = append(w.zone.TXT[name], text)
	w.set()
	return nil
}

func (w *world) CleanUp(_ context.Context, name, _ string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.zone.TXT, name)
	w.set()
	return nil
}

func (w *world) answer(f func(http.ResponseWriter, *http.Request) bool) {
	if f == nil {
		w.intercept.Store(nil)
		return
	}
	w.intercept.Store(&f)
}

// gateway is a process: a manager, and a web server on the authority's ports.
type gateway struct {
	*certs.Manager
	w    *world
	addr string
	stop func()
}

// newGateway starts one at a loopback address, with both ports or only some; "" is
// one that nobody reaches.
func (w *world) newGateway(addr string, o certs.Options, only ...int) *gateway {
	w.t.Helper()
	if o.Authority == "" {
		o.Authority = w.url
	}
	o.Roots, o.Now, o.After = w.roots, w.clock.now, w.clock.after
	m, err := certs.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	g := &gateway{Manager: m, w: w, addr: addr}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	if addr != "" {
		s := web.New(web.Options{Routes: nothing{}, Certificates: m})
		for port, handle := range map[int]func(net.Conn){w.httpPort: s.HandlePlain, w.tlsPort: s.HandleTLS} {
			if len(only) > 0 && !slices.Contains(only, port) {
				continue
			}
			l, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
			if err != nil {
				w.t.Fatal(err)
			}
			context.AfterFunc(ctx, func() { l.Close() })
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					wg.Go(func() { handle(c) })
				}
			})
		}
		context.AfterFunc(ctx, func() { _ = s.Shutdown(ctx) })
	}
	g.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	w.t.Cleanup(g.stop)
	return g
}

type nothing struct{}

func (nothing) Terminated(string) (*web.Route, bool) { return nil, false }
func (nothing) Published(string) bool                { return false }

// status waits until host's is as wanted.
func (g *gateway) status(host string, ok func(certs.Status) bool) certs.Status {
	g.w.t.Helper()
	var last certs.Status
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, s := range g.Status() {
			if s.Host == host {
				if last = s; ok(s) {
					return s
				}
			}
		}
	}
	g.w.t.Fatalf("status of %s is %+v", host, last)
	return last
}

func certified(s certs.Status) bool { return s.Issuer != "" && s.Failures == 0 }
func failing(n int) func(certs.Status) bool {
	return func(s certs.Status) bool { return s.Failures == n }
}

// leaf returns the certificate that clients see, checked at the clock's time (or
// the real one, by which the authority certifies, if that is later).
func (g *gateway) leaf(host string) (*x509.Certificate, error) {
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	go func() { _ = tls.Server(s, &tls.Config{GetCertificate: g.GetCertificate}).Handshake() }()
	t := tls.Client(c, &tls.Config{ServerName: host, RootCAs: g.w.issued, Time: func() time.Time { return later(g.w.clock.now(), time.Now()) }})
	_ = t.SetDeadline(time.Now().Add(10 * time.Second))
	if err := t.Handshake(); err != nil {
		return nil, err
	}
	return t.ConnectionState().PeerCertificates[0], nil
}

// clock is moved by the test.
type clock struct {
	mu     sync.Mutex
	at     time.Time
	timers map[chan time.Time]time.Time
}

func newClock() *clock { return &clock{at: time.Now(), timers: map[chan time.Time]time.Time{}} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) after(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	if d <= 0 {
		ch <- c.at
		return ch
	}
	c.timers[ch] = c.at.Add(d)
	return ch
}

func (c *clock) to(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.at) {
		c.at = t
	}
	for ch, at := range c.timers {
		if !at.After(c.at) {
			ch <- c.at
			delete(c.timers, ch)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
