package certs

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/netip"
	"time"
)

// Options are what a Manager is made with, one per gateway process.
type Options struct {
	// Authority is the ACME directory URL, https; "": nobody certifies until
	// SetAuthority says who.
	Authority string
	// Roots check the authority's own certificate; nil: those of the system.
	Roots *x509.CertPool
	// Transport reaches the authority; nil: a plain one with Roots and timeouts.
	Transport http.RoundTripper
	// Resolve looks up the authority's host for the plain Transport; nil: the
	// system does.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Zone is the grid's domain: hosts under it are proven by DNS-01 if Challenges is
	// there and HTTP-01 and TLS-ALPN-01 failed. "" or nil: these two only.
	Zone       string
	Challenges Challenges
	// Now and After are the clock; nil: the system's.
	Now   func() time.Time
	After func(time.Duration) <-chan time.Time
	Log   *slog.Logger // nil: none
}

// Publication is the terminated hosts of one contract and what its gateways share.
type Publication struct {
	ID    string   // the contract's id
	Hosts []string // full lower-case names, each in one publication only
	Store Store    // shared by the publication's gateways
}

// Status is what people see of a host's certificate.
type Status struct {
	Publication string
	Host        string
	Issuer      string    // "" as long as there is no certificate
	NotBefore   time.Time // zero as long as there is none
	NotAfter    time.Time
	Serial      string    // hex
	Next        time.Time // when it is renewed, or tried again
	Error       string    // of the last attempt, "" if it went well
	Code        string    // the error's code, "" if it went well
	FailingFrom time.Time // of the first failure since the last success; zero: all is well
	Failures    int       // since then
}
