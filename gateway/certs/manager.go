package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

const (
	lookupTime  = 5 * time.Second // for a challenge in the Store
	maxOrders   = 16              // at a time, of a process
	maxOrdersOf = 2               // of one publication: one that waits for a lock keeps no other waiting
	minInterval = time.Minute     // between two looks at a host, whatever happens
)

// errNone says that a host has no certificate, or is not terminated here.
var errNone = errors.New("no certificate for this name")

// Manager holds the certificates of a gateway process.
type Manager struct {
	o     Options
	cache *certmagic.Cache // of Run

	mu    sync.Mutex
	by    *authority // who certifies now
	hosts map[string]*entry
	wake  chan struct{}
}

// entry is a host.
type entry struct {
	host        string
	publication string
	store       Store
	seen        challenges

	// Under Manager.mu.
	cert *tls.Certificate // nil: none; its Leaf is there
	from string           // key of the authority that certified cert
	next time.Time        // when it is looked at again
	fail failure
	busy bool
}

// New makes a Manager; Run makes it work. Code: "option-invalid".
func New(o Options) (*Manager, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{o: o, hosts: map[string]*entry{}, wake: make(chan struct{}, 1)}
	if err := m.SetAuthority(o.Authority, o.Roots, o.Zone); err != nil {
		return nil, err
	}
	return m, nil
}

// Set replaces the publications. Hosts that stay keep their certificate; new ones
// are looked up in their Store, and ordered if they aren't there.
func (m *Manager) Set(publications []Publication) {
	hosts := map[string]*entry{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range publications {
		for _, h := range p.Hosts {
			if _, twice := hosts[h]; twice {
				continue // the first one has it
			}
			if e := m.hosts[h]; e != nil && e.publication == p.ID && e.store == p.Store {
				hosts[h] = e
				continue
			}
			hosts[h] = &entry{host: h, publication: p.ID, store: p.Store}
		}
	}
	m.hosts = hosts
	m.poke()
}

// Run obtains and renews until ctx ends, and returns when all of it has stopped. It
// is called once.
func (m *Manager) Run(ctx context.Context) error {
	// certmagic renews what is in its cache by the system's clock. Ours stays empty:
	// this loop decides, by the clock that it is given.
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return nil, errNone },
		Logger:           zap.NewNop(),
	})
	defer m.cache.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{}, maxOrders)
	running := 0
	for {
		due, next := m.due(maxOrders - running)
		for _, e := range due {
			running++
			wg.Go(func() {
				m.look(ctx, e)
				done <- struct{}{}
			})
		}
		var timer <-chan time.Time
		if running < maxOrders && !next.IsZero() {
			timer = m.o.After(max(0, next.Sub(m.o.Now())))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			running--
		case <-m.wake:
		case <-timer:
		}
	}
}

// due marks up to n hosts whose time has come, those first that wait longest, and
// returns when the next one's comes. One publication has at most maxOrdersOf: its
// others wait, not those of somebody else.
func (m *Manager) due(n int) (due []*entry, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.o.Now()
	waiting, busy := []*entry{}, map[string]int{}
	for _, e := range m.hosts {
		if e.busy {
			busy[e.publication]++
		} else {
			waiting = append(waiting, e)
		}
	}
	slices.SortFunc(waiting, func(a, b *entry) int {
		if c := a.next.Compare(b.next); c != 0 {
			return c
		}
		return strings.Compare(a.host, b.host)
	})
	for _, e := range waiting {
		if e.next.After(now) || len(due) == n {
			return due, e.next
		}
		if busy[e.publication] == maxOrdersOf {
			continue // the end of one of them looks again
		}
		busy[e.publication]++
		e.busy = true
		due = append(due, e)
	}
	return due, time.Time{}
}

// GetCertificate is for tls.Config: the certificate of the name that a client asks
// for, up to its last second, or what an authority wants to see.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := strings.ToLower(hello.ServerName)
	if slices.Equal(hello.SupportedProtos, []string{"acme-tls/1"}) {
		return m.alpnCertificate(hello, host)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.hosts[host]
	if e == nil || e.cert == nil || !m.o.Now().Before(e.cert.Leaf.NotAfter) {
		return nil, errNone
	}
	return e.cert, nil
}

// Status returns the state of every host, sorted by name.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Status, 0, len(m.hosts))
	for _, e := range m.hosts {
		s := Status{
			Publication: e.publication, Host: e.host, Next: e.next,
			Error: e.fail.Error, Code: e.fail.Code, Failures: e.fail.Count,
		}
		if e.fail.Count > 0 {
			s.FailingFrom = time.Unix(e.fail.Since, 0)
		}
		if e.cert != nil {
			l := e.cert.Leaf
			s.Issuer, s.NotBefore, s.NotAfter, s.Serial = l.Issuer.CommonName, l.NotBefore, l.NotAfter, fmt.Sprintf("%x", l.SerialNumber)
			if s.Issuer == "" {
				s.Issuer = l.Issuer.String()
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Host, b.Host) })
	return out
}
