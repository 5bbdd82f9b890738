package certs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// atGateways are the ways to prove a host at the gateways that its name leads to,
// any of which may be asked.
func (i issuer) atGateways() map[string]acmez.Solver {
	s := storeSolver{i.store}
	return map[string]acmez.Solver{acme.ChallengeTypeHTTP01: s, acme.ChallengeTypeTLSALPN01: s}
}

// byRecord is the way to prove a host under the grid's domain, whose name servers we
// are; nil for others.
func (i issuer) byRecord(host string) map[string]acmez.Solver {
	if i.m.o.Challenges == nil || i.by.zone == "" || !strings.HasSuffix(host, "."+i.by.zone) {
		return nil
	}
	return map[string]acmez.Solver{acme.ChallengeTypeDNS01: recordSolver{i.m.o.Challenges}}
}

// otherWay tells whether an order failed because the authority could not be shown
// that the host is ours, so that it may be shown in another way.
func otherWay(err error) bool {
	var p acme.Problem
	if errors.As(err, &p) {
		_, of := p.Resource.(acme.Authorization) // of a challenge, not of the order
		return of && p.Type != acme.ProblemTypeCAA && p.Type != acme.ProblemTypeRateLimited
	}
	// It offers no way that we tried, or nothing could be presented. One that does
	// not answer is asked no more.
	var away net.Error
	return !errors.As(err, &away)
}

// bothWays is what went wrong at a host's gateways and then by its record, as what
// the authority said last.
func bothWays(gateways, record error) error {
	var p, q acme.Problem
	byRecord, atGateways := errors.As(record, &p), errors.As(gateways, &q)
	switch {
	case byRecord && atGateways:
		p.Detail += "; at its gateways: " + detail(q)
		return p
	case byRecord:
		p.Detail += "; at its gateways: " + gateways.Error()
		return p
	case atGateways:
		q.Detail += "; by a record: " + record.Error()
		return q
	}
	return fmt.Errorf("%w; by a record: %w", gateways, record)
}

// recordSolver presents DNS-01.
type recordSolver struct{ c Challenges }

func (s recordSolver) Present(ctx context.Context, c acme.Challenge) error {
	return s.c.Present(ctx, c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
}

func (s recordSolver) CleanUp(ctx context.Context, c acme.Challenge) error {
	return s.c.CleanUp(context.WithoutCancel(ctx), c.DNS01TXTRecordName(), c.DNS01KeyAuthorization())
}

// storeSolver presents HTTP-01 and TLS-ALPN-01 where every gateway finds them.
type storeSolver struct{ store Store }

// challenge is what a gateway needs to answer an authority.
type challenge struct {
	Token            string `json:"token"`
	KeyAuthorization string `json:"key_authorization"`
}

func challengeKey(host, kind string) string { return "challenge/" + host + "/" + kind }

func (s storeSolver) Present(ctx context.Context, c acme.Challenge) error {
	b, err := json.Marshal(challenge{c.Token, c.KeyAuthorization})
	if err != nil {
		return err
	}
	return s.store.Put(ctx, challengeKey(c.Identifier.Value, c.Type), b)
}

func (s storeSolver) CleanUp(ctx context.Context, c acme.Challenge) error {
	return s.store.Delete(context.WithoutCancel(ctx), challengeKey(c.Identifier.Value, c.Type))
}

// challenge finds what some gateway of the publication has presented for host.
func (m *Manager) challenge(ctx context.Context, host, kind string) (challenge, bool) {
	m.mu.Lock()
	e := m.hosts[host]
	m.mu.Unlock()
	if e == nil {
		return challenge{}, false
	}
	return e.seen.find(ctx, kind, func(ctx context.Context) (challenge, bool) {
		b, err := e.store.Get(ctx, challengeKey(host, kind))
		if err != nil {
			return challenge{}, false
		}
		var c challenge
		if err := json.Unmarshal(b, &c); err != nil || c.Token == "" || c.KeyAuthorization == "" {
			return challenge{}, false
		}
		return c, true
	})
}

// challenges are what was last found of a host's. Whoever asks makes us ask the
// Store, and that other nodes: not too often. Yet nobody who asks all the time may
// keep the authority from its answer, so askers share a look rather than be
// refused one. The zero value knows nothing.
type challenges struct {
	mu   sync.Mutex
	last map[string]*found // by kind
}

// found is what a look finds.
type found struct {
	began time.Time
	done  chan struct{} // closed when the look has ended
	c     challenge
	ok    bool
}

// lookEvery is the time between two looks for one challenge, and how old what was
// found may be: less than it takes from its being presented to an authority's question.
const lookEvery = 100 * time.Millisecond

// find returns what a look finds that began when it was called, or hardly before.
func (s *challenges) find(ctx context.Context, kind string, look func(context.Context) (challenge, bool)) (challenge, bool) {
	came := time.Now()
	for {
		s.mu.Lock()
		f := s.last[kind]
		if f == nil || f.began.Before(came.Add(-lookEvery)) && f.ended() {
			f = &found{began: time.Now(), done: make(chan struct{})}
			if s.last == nil {
				s.last = map[string]*found{}
			}
			s.last[kind] = f
			s.mu.Unlock()
			// Others wait for it too: it goes on when this one has gone away.
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTime)
			f.c, f.ok = look(limited)
			cancel()
			close(f.done)
			return f.c, f.ok
		}
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return challenge{}, false
		}
		if f.ok || !f.began.Before(came.Add(-lookEvery)) {
			return f.c, f.ok
		}
	}
}

func (f *found) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// challengePath is where HTTP-01 is asked for (RFC 8555 §8.3).
const challengePath = "/.well-known/acme-challenge/"

// ServeChallenge answers an authority's HTTP-01 request on port 80 for a host that
// is terminated here. It returns false, and has written nothing, for all else.
func (m *Manager) ServeChallenge(w http.ResponseWriter, r *http.Request) bool {
	token, ok := strings.CutPrefix(r.URL.Path, challengePath)
	if !ok || r.Method != http.MethodGet || !validToken(token) {
		return false
	}
	host := strings.ToLower(r.Host)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	c, ok := m.challenge(r.Context(), host, acme.ChallengeTypeHTTP01)
	if !ok || c.Token != token {
		return false
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = io.WriteString(w, c.KeyAuthorization)
	return true
}

// validToken tells whether s is of the alphabet of base64url, and not endless.
func validToken(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// alpnCertificate answers a TLS-ALPN-01 handshake, which offers that protocol
// alone (RFC 8737 §3).
func (m *Manager) alpnCertificate(hello *tls.ClientHelloInfo, host string) (*tls.Certificate, error) {
	c, ok := m.challenge(hello.Context(), host, acme.ChallengeTypeTLSALPN01)
	if !ok {
		return nil, errNone
	}
	return acmez.TLSALPN01ChallengeCert(acme.Challenge{
		Type: acme.ChallengeTypeTLSALPN01, Token: c.Token, KeyAuthorization: c.KeyAuthorization,
		Identifier: acme.Identifier{Type: "dns", Value: host},
	})
}
