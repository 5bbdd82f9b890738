package web

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Backend is one workload that a request can go to.
type Backend interface {
	Name() string // the workload's, unique in the route
	// Dial connects to it in the tenant's network.
	Dial(ctx context.Context) (net.Conn, error)
	// Load is how much it has to do now, for choosing the least loaded one.
	Load() int
}

// Failing is implemented by Backends that are watched.
type Failing interface {
	// Failing returns a context that ends when the backend is found to have failed,
	// and has ended while that stands.
	Failing() context.Context
}

// Route is one terminated host.
type Route struct {
	Host        string // full lower-case name
	Publication string // the contract's id: whose access log
	// Backends returns those that are healthy now, or if none is, all.
	Backends func() []Backend
	Log      func(Access) // like Options.Log, for this route; may be nil
}

// Routes tells what is published; its answers change when configurations do.
type Routes interface {
	// Terminated returns the route of a lower-case host whose TLS ends here.
	Terminated(host string) (*Route, bool)
	// Published tells whether host is published on port 443, in any mode: then port
	// 80 sends its clients there.
	Published(host string) bool
}

// Certificates is package certs as this package sees it.
type Certificates interface {
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ServeChallenge answers a request of an authority, or returns false.
	ServeChallenge(w http.ResponseWriter, r *http.Request) bool
}

// Access is a record of one request.
type Access struct {
	Time        time.Time
	Publication string
	Host        string
	Client      netip.AddrPort
	Method      string // at most 16 bytes
	Path        string // without query, at most 256 bytes
	Protocol    string // "HTTP/1.1", "HTTP/2.0"
	Status      int    // 0: no answer was begun; 101 for an upgrade
	Backend     string // "" if it came to none
	Attempts    int    // backends tried
	In, Out     int64  // bytes of bodies
	Duration    time.Duration
	Error       string // "" or one of the reasons of refusals, in a word
}

// Options are what a Server is made with.
type Options struct {
	Routes       Routes
	Certificates Certificates
	Log          func(Access) // called once per request, must not block; nil: none
	Logger       *slog.Logger // nil: none
	Limits       Limits       // zero values: the defaults
	Now          func() time.Time
}
