package web

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway"
	"github.com/zero-os/zos/gateway/certs"
	"github.com/zero-os/zos/gateway/hello"
	"github.com/zero-os/zos/spec/plan"
)

// TerminatorOptions are what a Terminator is made with.
type TerminatorOptions struct {
	// Certs holds the certificates; nil: no authority is known, nothing of mode
	// terminate can be served. The caller runs it.
	Certs *certs.Manager
	// Store returns what the gateways of a contract share. It is called once
	// for as long as the contract has routes of mode terminate.
	Store  func(contract canon.Hash) certs.Store
	Logger *slog.Logger
	Limits Limits
}

// Terminator is a Server for package gateway's.
type Terminator struct {
	*Server
	o TerminatorOptions
	// calm is never read or written, and costs no memory: counted as part of the
	// heap, it has the garbage collector wait for a few megabytes of what requests
	// leave behind, where a process with little to keep would run without a pause.
	calm []byte

	mu     sync.Mutex
	stores map[canon.Hash]certs.Store
}

var _ gateway.Terminator = (*Terminator)(nil)

// calmSize is that of Terminator.calm. The memory limit of a process counts it.
const calmSize = 16 << 20

// NewTerminator makes a Terminator. End it with Shutdown, after package gateway's
// Server has ended.
func NewTerminator(o TerminatorOptions) *Terminator {
	var c Certificates = noCertificates{}
	if o.Certs != nil {
		c = o.Certs
	}
	return &Terminator{
		Server: New(Options{Routes: noRoutes{}, Certificates: c, Logger: o.Logger, Limits: o.Limits}),
		o:      o, calm: make([]byte, calmSize), stores: map[canon.Hash]certs.Store{},
	}
}

// Update is gateway.Terminator's: it has the hosts' certificates obtained.
func (t *Terminator) Update(c gateway.Config) {
	if t.o.Certs == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	hosts, order := map[canon.Hash][]string{}, []canon.Hash{}
	for _, r := range c.Routes {
		if r.Mode != plan.ModeTerminate || r.Problem != "" {
			continue
		}
		if hosts[r.Contract] == nil {
			order = append(order, r.Contract)
		}
		hosts[r.Contract] = append(hosts[r.Contract], r.Host)
	}
	var all []certs.Publication
	for _, id := range order {
		if t.stores[id] == nil {
			t.stores[id] = t.o.Store(id)
		}
		all = append(all, certs.Publication{ID: id.String(), Hosts: hosts[id], Store: t.stores[id]})
	}
	for id := range t.stores {
		if hosts[id] == nil {
			delete(t.stores, id)
		}
	}
	t.o.Certs.Set(all)
}

// ServeTLS is gateway.Terminator's.
func (t *Terminator) ServeTLS(ctx context.Context, c *net.TCPConn, _ hello.Hello, target *gateway.Target, names gateway.Names) {
	k := newCarrier(c, published{names})
	go t.HandleTLS(k) // ends by its own bound, or when k is closed
	draining := target.Draining()
	for {
		select {
		case <-draining:
			k.drain()
			draining = nil
		case <-ctx.Done():
			k.Close()
			k.stop()
			return
		case <-k.done:
			k.stop()
			return
		}
	}
}

// ServePlain is gateway.Terminator's.
func (t *Terminator) ServePlain(ctx context.Context, c *net.TCPConn, names gateway.Names) {
	k := newCarrier(c, published{names})
	defer context.AfterFunc(ctx, func() { k.Close() })()
	t.HandlePlain(k)
	<-k.done
}

// carrier is a client's connection, below TLS.
type carrier struct {
	net.Conn
	routes Routes
	done   chan struct{} // closed with the connection
	once   sync.Once

	mu       sync.Mutex
	idle     bool // no request is under way
	two      bool // speaks HTTP/2
	draining bool
	end      *time.Timer
}

// flushTime is how long after its last stream an HTTP/2 connection is ended:
// net/http calls it idle before the end of that stream has been sent.
const flushTime = time.Second

func newCarrier(c net.Conn, r Routes) *carrier {
	return &carrier{Conn: c, routes: r, done: make(chan struct{})}
}

func (k *carrier) Close() error {
	err := k.Conn.Close()
	k.once.Do(func() { close(k.done) })
	return err
}

// changed is told what net/http does with the connection.
func (k *carrier) changed(state http.ConnState, two bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.idle, k.two = state == http.StateIdle, two
	k.endIdle()
}

// drain ends the connection as soon as no request is under way.
func (k *carrier) drain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.draining = true
	k.endIdle()
}

// endIdle ends an idle connection that drains. Under mu.
func (k *carrier) endIdle() {
	if k.end != nil {
		k.end.Stop()
	}
	if !k.idle || !k.draining {
		return
	}
	if k.two {
		k.end = time.AfterFunc(flushTime, func() { k.Close() })
		return
	}
	k.Close()
}

// stop ends what waits to end a connection that has ended.
func (k *carrier) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.end != nil {
		k.end.Stop()
	}
}

func (k *carrier) isDraining() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.draining
}

// published is gateway.Names as Routes.
type published struct{ names gateway.Names }

func (p published) Published(host string) bool { return p.names.Lookup(host) != nil }

func (p published) Terminated(host string) (*Route, bool) {
	t := p.names.Lookup(host)
	if t == nil {
		return nil, false
	}
	r := t.Route()
	if r.Mode != plan.ModeTerminate {
		return nil, false
	}
	return &Route{
		Host: host, Publication: r.Contract.String(), Log: func(a Access) { t.Record(record(a)) },
		Backends: func() []Backend {
			var all []Backend
			for _, c := range t.Choices() {
				all = append(all, choice{c})
			}
			return all
		},
	}, true
}

// choice is one of a Target's backends. The connections to it are all of this
// package's making, which counts their requests itself.
type choice struct{ gateway.Choice }

func (choice) Load() int { return 0 }

// record is an Access as package gateway logs it.
func record(a Access) gateway.Record {
	outcome := gateway.OutcomeOK
	switch a.Error {
	case "":
	case reasonBackend:
		outcome, a.Backend = gateway.OutcomeNoBackend, ""
	case reasonSlow:
		outcome = gateway.OutcomeStalled
	case reasonClient, reasonResponse, reasonCut:
		outcome = gateway.OutcomeReset
	}
	if a.Error == reasonClient && a.Status >= 500 {
		a.Status = 0 // it was written to nobody, and is no fault of this side
	}
	return gateway.Record{
		Time: a.Time, Client: a.Client, Backend: a.Backend, In: uint64(a.In), Out: uint64(a.Out), Duration: max(a.Duration, time.Duration(0)),
		Outcome: outcome, Method: a.Method, Host: a.Host, Path: a.Path, Status: a.Status,
	}
}

type noRoutes struct{}

func (noRoutes) Terminated(string) (*Route, bool) { return nil, false }
func (noRoutes) Published(string) bool            { return false }

type noCertificates struct{}

func (noCertificates) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("no authority certifies names at this gateway")
}

func (noCertificates) ServeChallenge(http.ResponseWriter, *http.Request) bool { return false }
