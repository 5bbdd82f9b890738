package server

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/zero-os/zos/bus"
	busserver "github.com/zero-os/zos/bus/server"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/wire"
)

// Config is how a server is started.
type Config struct {
	// Listen is host:port, of TCP and UDP alike; port 0 takes a free one. Empty:
	// 127.0.0.1:0.
	Listen string
	// Advertise is the host:port in URL; empty: the address listened on.
	Advertise string
	// CertDir keeps the server's own key and certificate, made at the first
	// start. Its pin is in URL.
	CertDir string
	// CertFile and KeyFile (PEM) are used instead of CertDir, if given. The pin
	// is of their key: keep the key when the certificate is renewed.
	CertFile, KeyFile string
	Grid              canon.Hash
	// Bound reads the key of a slot from the ledger.
	Bound bus.Bound
	// Routes are the URLs, with pins, of the other servers of the cluster. Each
	// of them must name this server too: both sides prove their keys.
	Routes []string
	// MaxClients bounds connections of each protocol; 0: 10,000.
	MaxClients int
	Logger     *slog.Logger
	// Limits replaces the limits and times below, each if not 0.
	Limits Limits
}

// Limits bound what one client may take, and times after which it is cut off.
type Limits struct {
	Rate      int           // bytes/s that one client may send; 128 MiB/s, negative: no bound
	Queue     int           // bytes of packets that wait for one slow client; 512 KiB
	Handshake time.Duration // for TLS and login; 5 s
	Idle      time.Duration // a client that says nothing for so long is cut off; 60 s
	Recheck   time.Duration // how often a client's key is compared with the ledger; 5 min
	HalfOpen  int           // connections that have not logged in; 512
	PerSite   int           // of them from one IPv4 address or IPv6 /64; 64
}

func (l Limits) orDefaults() Limits {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	wait := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	set(&l.Rate, 128<<20)
	set(&l.Queue, 512<<10)
	set(&l.HalfOpen, halfOpenMost)
	set(&l.PerSite, halfOpenPerSite)
	wait(&l.Handshake, 5*time.Second)
	wait(&l.Idle, 60*time.Second)
	wait(&l.Recheck, 5*time.Minute)
	return l
}

const (
	defaultClients = 10_000
	stopDeadline   = 10 * time.Second
)

// Server is a running rendezvous.
type Server struct {
	cfg  Config
	log  *slog.Logger
	url  string
	cert tls.Certificate
	pin  []byte

	ln  net.Listener
	udp *net.UDPConn
	bus *busserver.Server

	guard    *guard
	bindings *bindings
	relay    *relay
	cluster  *cluster

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func() error

	mu    sync.Mutex
	conns map[net.Conn]struct{} // all that are open, to close them at the end
	busy  map[string]int        // connections by protocol
}

// Serve starts a server, ready when it returns. The caller ends it with Stop.
func Serve(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Grid.IsZero() || cfg.Bound == nil {
		return nil, errors.New("start rendezvous: grid and bindings are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.MaxClients == 0 {
		cfg.MaxClients = defaultClients
	}
	cfg.Limits = cfg.Limits.orDefaults()
	s := &Server{cfg: cfg, log: cfg.Logger, conns: map[net.Conn]struct{}{}, busy: map[string]int{}}
	s.guard = newGuard(cfg.Limits.HalfOpen, cfg.Limits.PerSite)
	s.bindings = newBindings(cfg.Bound, cfg.Limits.Recheck, time.Now)
	var err error
	if s.cert, err = certificate(cfg); err != nil {
		return nil, err
	}
	s.pin = rendezvous.Pin(s.cert.Leaf)
	if s.ln, s.udp, err = listen(ctx, cfg.Listen); err != nil {
		return nil, problem.New("address-unavailable", "start rendezvous on %s: %w", cfg.Listen, err).
			WithFix("choose another address with --listen")
	}
	if cfg.Advertise == "" {
		cfg.Advertise = s.ln.Addr().String()
	}
	s.url = "tls://" + cfg.Advertise + "#" + hex.EncodeToString(s.pin)
	if _, err = rendezvous.ParseURL(s.url); err != nil {
		s.ln.Close()
		s.udp.Close()
		return nil, fmt.Errorf("start rendezvous: the address to advertise: %w", err)
	}
	if s.bus, err = busserver.New(ctx, busserver.Config{MaxClients: cfg.MaxClients, Logger: cfg.Logger}); err != nil {
		s.ln.Close()
		s.udp.Close()
		return nil, fmt.Errorf("start rendezvous: %w", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.stop = sync.OnceValue(s.end)
	s.relay = newRelay(s)
	if s.cluster, err = newCluster(s); err == nil {
		for _, r := range cfg.Routes {
			if err = s.AddRoute(r); err != nil {
				break
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	s.wg.Go(s.accept)
	s.wg.Go(s.relay.readUDP)
	s.wg.Go(s.relay.sweep)
	s.log.Info("rendezvous ready", "url", s.url)
	return s, nil
}

// listen takes one port number for both protocols.
func listen(ctx context.Context, addr string) (net.Listener, *net.UDPConn, error) {
	var lc net.ListenConfig
	var last error
	for range 20 { // a free TCP port may be taken on UDP
		ln, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		pc, err := lc.ListenPacket(ctx, "udp", ln.Addr().String())
		if err == nil {
			udp := pc.(*net.UDPConn)
			// As much as the kernel allows; less is only slower.
			udp.SetReadBuffer(udpBuffer)
			udp.SetWriteBuffer(udpBuffer)
			wire.TakeMany(udp)
			return ln, udp, nil
		}
		ln.Close()
		last = err
		if _, port, _ := net.SplitHostPort(addr); port != "0" {
			break
		}
	}
	return nil, nil, last
}

// URL is where clients connect: tls://host:port#pin.
func (s *Server) URL() string { return s.url }

// Clients is the number of slots that are connected to the relay now.
func (s *Server) Clients() int { return s.relay.count() }

// Stop cuts every connection and ends the server. It may be called again.
func (s *Server) Stop() error { return s.stop() }

func (s *Server) end() error {
	s.cancel()
	s.ln.Close()
	s.udp.Close()
	if s.cluster != nil {
		s.cluster.stop()
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	err := s.bus.Stop()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(stopDeadline):
		err = errors.Join(err, fmt.Errorf("stop rendezvous: still running after %s", stopDeadline))
	}
	return err
}

// track notes an open connection, so that Stop closes it. False: too late.
func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) untrack(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// admit counts a connection of a protocol, up to MaxClients.
func (s *Server) admit(protocol string) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[protocol] >= s.cfg.MaxClients {
		return nil, false
	}
	s.busy[protocol]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy[protocol]--
	}, true
}

func addrOf(c net.Conn) netip.AddrPort {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
