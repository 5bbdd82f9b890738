package certs

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/problem"
)

// authority is who certifies. It is never changed.
type authority struct {
	url       string // "": nobody
	key       string // names its folders in the Store
	zone      string
	roots     *x509.CertPool
	transport *watched
}

// SetAuthority replaces who certifies; an empty url is nobody. What another one
// certified is served to its end, or until the new one has certified its host; it
// is told apart in the Store by the URL. An order that is under way ends first.
// Roots and zone are as in Options. Code: "option-invalid"; then nothing changes.
func (m *Manager) SetAuthority(directory string, roots *x509.CertPool, zone string) error {
	if u, err := url.Parse(directory); directory != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return problem.New("option-invalid", "certificates: %.200q is no https URL of an authority's directory", directory).
			WithFix("correct the authority in the pool's statement")
	}
	h := sha256.Sum256([]byte(directory))
	next := &authority{url: directory, key: fmt.Sprintf("%x", h[:8]), zone: zone, roots: roots}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.by; old != nil && old.url == directory && old.zone == zone && sameRoots(old.roots, roots) {
		return nil
	}
	next.transport = newTransport(m.o, roots)
	m.by = next
	for _, e := range m.hosts {
		e.fail, e.next = failure{}, time.Time{}
	}
	m.poke()
	return nil
}

func sameRoots(a, b *x509.CertPool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}

// poke has Run look at what is due.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Roots makes a pool of certificates in DER; of none it is nil, which means those
// of the system. Code: "option-invalid".
func Roots(ders [][]byte) (*x509.CertPool, error) {
	if len(ders) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, problem.New("option-invalid", "certificates: the authority's root: %w", err).
				WithFix("correct the roots in the pool's statement")
		}
		pool.AddCert(c)
	}
	return pool, nil
}

// borrow serves what another authority certified, while there is nothing better:
// the authority was changed, and this process began after that.
func (m *Manager) borrow(ctx context.Context, e *entry) {
	m.mu.Lock()
	have := e.cert != nil && m.o.Now().Before(e.cert.Leaf.NotAfter)
	m.mu.Unlock()
	if have {
		return
	}
	const folder = "certificates/" // certmagic's
	keys, err := e.store.List(ctx, folder)
	if err != nil {
		return // what comes next says so
	}
	var tried []string
	for _, k := range keys {
		key, host, _ := strings.Cut(strings.TrimPrefix(k, folder), "/")
		if host, _, _ = strings.Cut(host, "/"); host != e.host || slices.Contains(tried, key) {
			continue
		}
		tried = append(tried, key)
		pair, err := m.load(ctx, key, e)
		if pair == nil || err != nil {
			continue
		}
		m.mu.Lock()
		if e.cert == nil || e.cert.Leaf.NotAfter.Before(pair.Leaf.NotAfter) {
			e.cert, e.from = pair, key
		}
		m.mu.Unlock()
	}
}

// nobody is what stands in the status of a host that nobody certifies.
func (m *Manager) nobody(e *entry) failure {
	now := m.o.Now()
	p := problem.New("acme-unset", "certify %s: its gateway's pool names no authority", e.host).
		WithFix("name one in the pool's statement, or let TLS end at the workload: passthrough")
	m.mu.Lock()
	defer m.mu.Unlock()
	f := failure{Since: now.Unix(), Next: now.Add(24 * time.Hour).Unix(), Count: 1, Code: p.Code, Error: p.Error()}
	if e.fail.Code == p.Code {
		f.Since = e.fail.Since
	}
	return f
}
