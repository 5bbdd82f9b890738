package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const host = "shop.example.org"

// front is a Server with listeners of its own, and what its clients need.
type front struct {
	*Server
	t          testing.TB
	tls, plain net.Listener
	roots      *x509.CertPool
	routes     *routes
	mu         sync.Mutex
	log        []Access
	logged     chan struct{}
	challenges map[string]string
	cert       tls.Certificate
}

func (f *front) GetCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &f.cert, nil
}

func (f *front) ServeChallenge(w http.ResponseWriter, r *http.Request) bool {
	text, ok := f.challenges[r.Host+r.URL.Path]
	if ok {
		_, _ = io.WriteString(w, text)
	}
	return ok
}

type routes struct {
	mu        sync.Mutex
	routes    map[string]*Route
	published []string
}

func (r *routes) Terminated(h string) (*Route, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	route, ok := r.routes[h]
	return route, ok
}

func (r *routes) Published(h string) bool { return slices.Contains(r.published, h) }

// dialer is a Backend at an address.
type dialer struct {
	name, addr string
	load       int
}

func (d *dialer) Name() string { return d.name }
func (d *dialer) Load() int    { return d.load }
func (d *dialer) Dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", d.addr)
}

func newFront(t testing.TB, limits Limits, backends ...Backend) *front {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	f := &front{t: t, challenges: map[string]string{}, logged: make(chan struct{}, 10000)}
	f.routes = &routes{routes: map[string]*Route{}, published: []string{host, "other.example.org"}}
	f.route(host, backends...)
	f.cert, f.roots = selfSigned(t, host, "other.example.org")
	f.Server = New(Options{Routes: f.routes, Certificates: f, Limits: limits, Log: func(a Access) {
		f.mu.Lock()
		f.log = append(f.log, a)
		f.mu.Unlock()
		f.logged <- struct{}{}
	}})
	var wg sync.WaitGroup
	accept := func(handle func(net.Conn)) net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { handle(c) })
			}
		})
		return l
	}
	f.tls, f.plain = accept(f.HandleTLS), accept(f.HandlePlain)
	t.Cleanup(func() {
		f.tls.Close()
		f.plain.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = f.Shutdown(ctx)
		wg.Wait()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		goleak.VerifyNone(t, ignore)
	})
	return f
}

func (f *front) route(h string, backends ...Backend) {
	f.routes.mu.Lock()
	defer f.routes.mu.Unlock()
	f.routes.routes[h] = &Route{Host: h, Publication: "contract", Backends: func() []Backend { return backends }}
}

// access waits for the next record.
func (f *front) access() Access {
	f.t.Helper()
	select {
	case <-f.logged:
	case <-time.After(10 * time.Second):
		f.t.Fatal("no access record")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.log[0]
	f.log = f.log[1:]
	return a
}

// dial connects with TLS and the given protocols.
func (f *front) dial(protocols ...string) *tls.Conn {
	f.t.Helper()
	c, err := tls.Dial("tcp", f.tls.Addr().String(), &tls.Config{ServerName: host, RootCAs: f.roots, NextProtos: protocols})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// client speaks HTTP/2 if two, else HTTP/1.1, with the front whatever the URL's host.
func (f *front) client(two bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!two)
	p.SetHTTP2(two)
	tr := &http.Transport{
		Protocols: p, TLSClientConfig: &tls.Config{RootCAs: f.roots, ServerName: host}, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", f.tls.Addr().String())
		},
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// raw sends bytes over a connection of its own and returns all that comes back.
func (f *front) raw(request string) string {
	f.t.Helper()
	c := f.dial("http/1.1")
	go func() { _, _ = io.WriteString(c, request) }()
	b, _ := io.ReadAll(io.LimitReader(c, 1<<20))
	return string(b)
}

// recorder is a backend that writes down the requests it sees, as a strict and a
// lenient reader would find them in the bytes.
type recorder struct {
	dialer
	mu    sync.Mutex
	bytes bytes.Buffer
	conns sync.WaitGroup
	open  map[net.Conn]struct{}
}

// newRecorder answers each request with answer, or with 200 and the body "ok".
func newRecorder(t *testing.T, name string, answer func(c net.Conn, r *http.Request, br *bufio.Reader) bool) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newRecorderAt(t, name, l, answer)
}

// newRecorderAt is newRecorder with a listener.
func newRecorderAt(t *testing.T, name string, l net.Listener, answer func(c net.Conn, r *http.Request, br *bufio.Reader) bool) *recorder {
	t.Helper()
	rec := &recorder{dialer: dialer{name: name, addr: l.Addr().String()}, open: map[net.Conn]struct{}{}}
	if answer == nil {
		answer = func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return false
			}
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			return err == nil
		}
	}
	rec.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			rec.mu.Lock()
			rec.open[c] = struct{}{}
			rec.mu.Unlock()
			rec.conns.Go(func() {
				defer func() {
					c.Close()
					rec.mu.Lock()
					delete(rec.open, c)
					rec.mu.Unlock()
				}()
				br := bufio.NewReader(io.TeeReader(c, rec))
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					if !answer(c, r, br) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		rec.mu.Lock()
		for c := range rec.open {
			c.Close()
		}
		rec.mu.Unlock()
		rec.conns.Wait()
	})
	return rec
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes.Write(p)
}

func (r *recorder) seen() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes.String()
}

// reply is a backend that sends the same bytes to every request and, if so told,
// ends the connection.
func reply(t *testing.T, text string, end bool) *recorder {
	return newRecorder(t, "web", func(c net.Conn, r *http.Request, _ *bufio.Reader) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		_, err := io.WriteString(c, text)
		return err == nil && !end
	})
}

func selfSigned(t testing.TB, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}

func get(t *testing.T, c *http.Client, path string) (int, string) {
	t.Helper()
	resp, err := c.Get("https://" + host + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func fieldOf(seen, name string) []string {
	var out []string
	for _, l := range strings.Split(seen, "\r\n") {
		n, v, ok := strings.Cut(l, ": ")
		if ok && strings.EqualFold(n, name) {
			out = append(out, v)
		}
	}
	return out
}

func mustContain(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s lacks %q:\n%s", what, w, text)
		}
	}
}
