package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/gateway/hello"
	"github.com/zero-os/zos/gateway/web"
	"github.com/zero-os/zos/spec/plan"

	// Authorities of the internet, for a process that sees no file.
	_ "golang.org/x/crypto/x509roots/fallback"
)

// terminator ends TLS for the data plane: package web with certificates of
// package certs. It implements gateway.Terminator.
type terminator struct {
	log     *slog.Logger
	process *control.Process
	web     *web.Server

	mu        sync.Mutex
	hosts     map[string]string          // published hosts and their modes
	pubs      []certs.Publication        // of terminated hosts
	targets   map[string]*gateway.Target // by terminated host, once a client came
	counts    map[string]*counter        // by route
	authority authority
}

// authority is who certifies, and the manager of what it certified.
type authority struct {
	url   string
	roots [][]byte
	m     *certs.Manager // nil: nobody certifies
	stop  func()
}

// counter counts requests of a route.
type counter struct{ requests, errors uint64 }

func newTerminator(p *control.Process, log *slog.Logger) *terminator {
	t := &terminator{log: log, process: p, hosts: map[string]string{}, targets: map[string]*gateway.Target{}, counts: map[string]*counter{}}
	t.web = web.New(web.Options{Routes: t, Certificates: t, Log: t.record, Logger: log})
	return t
}

// close ends all connections and orders.
func (t *terminator) close(ctx context.Context) {
	t.mu.Lock()
	stop := t.authority.stop
	t.mu.Unlock()
	if stop != nil {
		stop()
	}
	_ = t.web.Shutdown(ctx)
}

// certify changes who certifies. What an earlier authority certified is in the
// stores, and goes on being served if the next one's manager finds it there.
func (t *terminator) certify(url string, roots [][]byte, domain string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.authority.url == url && slices.EqualFunc(t.authority.roots, roots, slices.Equal) {
		return nil
	}
	var next authority
	if url != "" {
		pool, err := poolOf(roots)
		if err != nil {
			return err
		}
		m, err := certs.New(certs.Options{Authority: url, Roots: pool, Transport: t.transport(pool), Zone: domain, Log: t.log})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = m.Run(ctx) }()
		next = authority{url, roots, m, func() { cancel(); <-done }}
		m.Set(t.pubs)
	}
	if t.authority.stop != nil {
		go t.authority.stop() // an order may take a while to end
	}
	t.authority = next
	return nil
}

func poolOf(roots [][]byte) (*x509.CertPool, error) {
	if len(roots) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, der := range roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the authority's root: %w", err)
		}
		pool.AddCert(c)
	}
	return pool, nil
}

// transport reaches an authority whose name the daemon resolves.
func (t *terminator) transport(roots *x509.CertPool) http.RoundTripper {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second, IdleConnTimeout: 30 * time.Second,
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
			defer cancel()
			host, port, err := net.SplitHostPort(to)
			if err != nil {
				return nil, err
			}
			if net.ParseIP(host) != nil {
				return new(net.Dialer).DialContext(ctx, network, to)
			}
			addrs, err := t.process.Resolve(ctx, host)
			if err != nil {
				return nil, fmt.Errorf("look up %s: %w", host, err)
			}
			err = errors.New("it has no address")
			for _, a := range addrs {
				var c net.Conn
				if c, err = new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
					return c, nil
				}
			}
			return nil, fmt.Errorf("connect to %s: %w", host, err)
		},
	}
}

// Update implements gateway.Terminator.
func (t *terminator) Update(c gateway.Config) {
	hosts := map[string]string{}
	byContract := map[string]int{}
	var pubs []certs.Publication
	for _, r := range c.Routes {
		if r.Host == "" || r.Problem != "" {
			continue
		}
		if _, taken := hosts[r.Host]; taken {
			continue // the first one has it
		}
		hosts[r.Host] = r.Mode
		if r.Mode != plan.ModeTerminate {
			continue
		}
		id := r.Contract.String()
		at, known := byContract[id]
		if !known {
			at = len(pubs)
			byContract[id] = at
			pubs = append(pubs, certs.Publication{ID: id, Store: sharedStore{t.process, r.Contract}})
		}
		pubs[at].Hosts = append(pubs[at].Hosts, r.Host)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hosts, t.pubs = hosts, pubs
	for h := range t.targets {
		if hosts[h] != plan.ModeTerminate {
			delete(t.targets, h)
		}
	}
	if t.authority.m != nil {
		t.authority.m.Set(pubs)
	}
}

// watchedConn tells when it was closed.
type watchedConn struct {
	*net.TCPConn
	once   sync.Once
	closed chan struct{}
}

func (c *watchedConn) Close() error {
	err := c.TCPConn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

// wait waits until the connection is closed, or closes it when ctx ends.
func (c *watchedConn) wait(ctx context.Context) {
	select {
	case <-c.closed:
	case <-ctx.Done():
		c.Close()
	}
}

// ServeTLS implements gateway.Terminator.
func (t *terminator) ServeTLS(ctx context.Context, c *net.TCPConn, _ hello.Hello, to *gateway.Target, _ gateway.Names) {
	t.mu.Lock()
	if host := to.Route().Host; t.hosts[host] == plan.ModeTerminate {
		t.targets[host] = to
	}
	t.mu.Unlock()
	w := &watchedConn{TCPConn: c, closed: make(chan struct{})}
	t.web.HandleTLS(w)
	w.wait(ctx)
}

// ServePlain implements gateway.Terminator.
func (t *terminator) ServePlain(ctx context.Context, c *net.TCPConn, _ gateway.Names) {
	w := &watchedConn{TCPConn: c, closed: make(chan struct{})}
	t.web.HandlePlain(w)
	w.wait(ctx)
}

// balanced is one try at a target's backends: the target chooses which.
type balanced struct {
	to *gateway.Target
	n  int
}

// Name implements web.Backend. Which one it was the target knows; of one alone it
// can be said.
func (b balanced) Name() string {
	if all := b.to.Route().Backends; len(all) == 1 {
		return all[0].Name
	}
	return fmt.Sprintf("any-%d", b.n+1)
}

func (b balanced) Dial(ctx context.Context) (net.Conn, error) { return b.to.Dial(ctx) }
func (b balanced) Load() int                                  { return 0 }

// Terminated implements web.Routes.
func (t *terminator) Terminated(host string) (*web.Route, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	to := t.targets[host]
	if to == nil || t.hosts[host] != plan.ModeTerminate {
		return nil, false
	}
	return &web.Route{Host: host, Publication: to.Route().Contract.String(), Backends: func() []web.Backend {
		var out []web.Backend
		for i := range min(len(to.Route().Backends), 3) {
			out = append(out, balanced{to, i})
		}
		return out
	}}, true
}

// Published implements web.Routes.
func (t *terminator) Published(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.hosts[host]
	return ok
}

func (t *terminator) manager() *certs.Manager {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.authority.m
}

// GetCertificate implements web.Certificates.
func (t *terminator) GetCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if m := t.manager(); m != nil {
		return m.GetCertificate(h)
	}
	return nil, errors.New("nobody certifies what this gateway terminates")
}

// ServeChallenge implements web.Certificates.
func (t *terminator) ServeChallenge(w http.ResponseWriter, r *http.Request) bool {
	m := t.manager()
	return m != nil && m.ServeChallenge(w, r)
}

// record takes what package web says of a request.
func (t *terminator) record(a web.Access) {
	t.mu.Lock()
	to := t.targets[a.Host]
	if to != nil {
		n := t.counts[to.Route().ID]
		if n == nil {
			n = &counter{}
			t.counts[to.Route().ID] = n
		}
		n.requests++
		if a.Status >= 500 || a.Status == 0 {
			n.errors++
		}
	}
	t.mu.Unlock()
	if to == nil {
		return
	}
	outcome := gateway.OutcomeOK
	if a.Error != "" {
		outcome = a.Error
	}
	to.Record(gateway.Record{
		Time: a.Time, Client: a.Client, Backend: a.Backend, In: uint64(max(0, a.In)), Out: uint64(max(0, a.Out)), Duration: a.Duration, Outcome: outcome,
		Method: a.Method, Host: a.Host, Path: a.Path, Status: a.Status,
	})
}

// requests tells how many requests of a route there were, and how many failed.
func (t *terminator) requests(route string) (requests, failed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.counts[route]; n != nil {
		return n.requests, n.errors
	}
	return 0, 0
}

// certificates are those of a contract's hosts.
func (t *terminator) certificates(contract string) []control.CertificateStatus {
	out := []control.CertificateStatus{}
	m := t.manager()
	if m == nil {
		return out
	}
	for _, s := range m.Status() {
		if s.Publication != contract || len(out) == control.MaxListed {
			continue
		}
		out = append(out, control.CertificateStatus{
			Host: control.Short(s.Host), Issuer: control.Short(s.Issuer), Serial: control.Short(s.Serial), NotBefore: control.Unix(s.NotBefore), NotAfter: control.Unix(s.NotAfter),
			Code: control.Short(s.Code), Error: control.Short(s.Error), Failing: control.Unix(s.FailingFrom),
		})
	}
	return out
}
