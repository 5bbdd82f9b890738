package web

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Server ends TLS on connections that it is given, and answers their requests.
type Server struct {
	o      Options
	limits Limits
	tls    *tls.Config
	proxy  *httputil.ReverseProxy
	pools  pools

	one, two, plain *http.Server // HTTP/1 and HTTP/2 in TLS, and port 80
	toOne, toTwo    *inlet
	toPlain         *inlet
	serving         sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	shaking  map[net.Conn]struct{} // connections in a handshake
	upgraded map[net.Conn]struct{} // connections that net/http knows no more
	handling sync.WaitGroup        // handshakes and upgraded connections
}

// connection is what handlers know of theirs.
type connection struct {
	net.Conn
	host    string   // server name in lower case, "" on port 80
	guard   *guard   // nil for HTTP/2
	carrier *carrier // nil if it was given by HandleTLS or HandlePlain
	client  netip.AddrPort
}

// routes are those at the address to which the client came.
func (c *connection) routes(s *Server) Routes {
	if c.carrier != nil {
		return c.carrier.routes
	}
	return s.o.Routes
}

type connectionKey struct{}

// New makes a Server. It serves nothing by itself; end it with Shutdown.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Log == nil {
		o.Log = func(Access) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		o: o, limits: o.Limits.filled(),
		toOne: newInlet(), toTwo: newInlet(), toPlain: newInlet(),
		shaking: map[net.Conn]struct{}{}, upgraded: map[net.Conn]struct{}{},
	}
	s.pools.limits = s.limits
	s.tls = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1", "acme-tls/1"},
		GetCertificate: o.Certificates.GetCertificate,
	}
	s.proxy = s.newProxy()
	s.one = s.newHTTP(http.HandlerFunc(s.serve), func(p *http.Protocols) { p.SetHTTP1(true) })
	s.two = s.newHTTP(http.HandlerFunc(s.serve), func(p *http.Protocols) { p.SetHTTP2(true) })
	s.plain = s.newHTTP(http.HandlerFunc(s.redirect), func(p *http.Protocols) { p.SetHTTP1(true) })
	s.plain.IdleTimeout = s.limits.HeaderTime
	for server, in := range map[*http.Server]*inlet{s.one: s.toOne, s.two: s.toTwo, s.plain: s.toPlain} {
		s.serving.Go(func() { _ = server.Serve(in) })
	}
	return s
}

func (s *Server) newHTTP(h http.Handler, speak func(*http.Protocols)) *http.Server {
	protocols := new(http.Protocols)
	speak(protocols)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: s.limits.HeaderTime,
		IdleTimeout:       s.limits.Idle,
		MaxHeaderBytes:    s.limits.Header,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          int(s.limits.Streams),
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     256 << 10,
			SendPingTimeout:               s.limits.Idle,
			PingTimeout:                   s.limits.HeaderTime,
			WriteByteTimeout:              s.limits.Window,
		},
		ErrorLog: log.New(io.Discard, "", 0), // what clients do wrong is not this machine's trouble
		ConnState: func(c net.Conn, state http.ConnState) {
			if k, two := carrierOf(c); k != nil {
				k.changed(state, two)
			}
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			k := connectionOf(c)
			k.client = addrPort(c.RemoteAddr().String())
			return context.WithValue(ctx, connectionKey{}, k)
		},
	}
}

// carrierOf finds what is below the connection that net/http has, if it is a
// Terminator's, and tells whether HTTP/2 is spoken on it.
func carrierOf(c net.Conn) (k *carrier, two bool) {
	switch c := c.(type) {
	case *connection:
		return c.carrier, false
	case *tls.Conn:
		k, _ = c.NetConn().(*carrier)
		return k, true
	}
	return nil, false
}

// connectionOf finds what Handle put around the connection that net/http has.
func connectionOf(c net.Conn) *connection {
	switch c := c.(type) {
	case *connection:
		return c
	case *tls.Conn:
		carried, _ := carrierOf(c)
		return &connection{Conn: c, host: strings.ToLower(c.ConnectionState().ServerName), carrier: carried}
	}
	return &connection{Conn: c}
}

// HandleTLS serves a connection whose first bytes are a ClientHello. It returns
// when the handshake is over, which takes HandshakeTime at most; conn is closed in
// the end whatever happens.
func (s *Server) HandleTLS(conn net.Conn) {
	if !s.enter(s.shaking, conn) {
		conn.Close()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.limits.HandshakeTime)
	defer cancel()
	t := tls.Server(conn, s.tls)
	err := t.HandshakeContext(ctx)
	state := t.ConnectionState()
	s.leave(s.shaking, conn)
	switch {
	case err != nil || state.NegotiatedProtocol == "acme-tls/1":
		conn.Close() // an authority has seen what it wanted
	case state.NegotiatedProtocol == "h2":
		s.toTwo.put(t)
	default:
		g := newGuard(t, s.limits.Header)
		carried, _ := conn.(*carrier)
		s.toOne.put(&connection{Conn: g, guard: g, host: strings.ToLower(state.ServerName), carrier: carried})
	}
}

// HandlePlain serves a connection to port 80. It does not wait for it.
func (s *Server) HandlePlain(conn net.Conn) {
	g := newGuard(conn, s.limits.Header)
	carried, _ := conn.(*carrier)
	s.toPlain.put(&connection{Conn: g, guard: g, carrier: carried})
}

// Shutdown takes no more connections, lets requests finish until ctx ends, then
// cuts what is left. Nothing of the Server runs after it returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	servers := []*http.Server{s.one, s.two, s.plain}
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, h := range servers {
		wg.Go(func() {
			if errs[i] = h.Shutdown(ctx); errs[i] != nil {
				h.Close()
			}
		})
	}
	wg.Wait()
	done := make(chan struct{})
	go func() { s.handling.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, ctx.Err())
		s.mu.Lock()
		for _, m := range []map[net.Conn]struct{}{s.shaking, s.upgraded} {
			for c := range m {
				c.Close()
			}
		}
		s.mu.Unlock()
		<-done
	}
	s.serving.Wait()
	s.pools.close()
	return errors.Join(errs...)
}

// enter counts c among those that Shutdown waits for and cuts.
func (s *Server) enter(m map[net.Conn]struct{}, c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.handling.Add(1)
	m[c] = struct{}{}
	return true
}

func (s *Server) leave(m map[net.Conn]struct{}, c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(m, c)
	s.handling.Done()
}

// inlet is a listener of connections that others accepted.
type inlet struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newInlet() *inlet { return &inlet{conns: make(chan net.Conn), done: make(chan struct{})} }

func (l *inlet) put(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		c.Close()
	}
}

func (l *inlet) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *inlet) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *inlet) Addr() net.Addr { return &net.TCPAddr{} }
