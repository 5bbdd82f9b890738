package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/zero-os/zos/problem"
)

// failure is what is kept of attempts that failed, so that gateways don't repeat
// each other's. Count 0: all is well.
type failure struct {
	Since int64  `json:"since"` // Unix seconds of the first
	Next  int64  `json:"next"`  // when to try again
	Count int    `json:"count"`
	Code  string `json:"code"`
	Error string `json:"error"`
}

func (a *authority) failureKey(host string) string { return "failure/" + a.key + "/" + host + ".json" }

// pauseKey is where gateways tell each other until when an authority wants
// nothing of their account.
func (a *authority) pauseKey() string { return "pause/" + a.key + ".json" }

type pause struct {
	Until int64 `json:"until"` // Unix seconds
}

// renewAt is when a certificate is renewed: when a third of its life is left, less
// up to a thirtieth that depends on the name, so that not all come at once.
func renewAt(notBefore, notAfter time.Time, host string) time.Time {
	life := notAfter.Sub(notBefore)
	h := sha256.Sum256([]byte(host))
	early := time.Duration(float64(life) / 30 * float64(binary.BigEndian.Uint16(h[:])) / (1 << 16))
	return notAfter.Add(-life/3 - early)
}

// backoff is the pause after the n-th failure in a row. Authorities allow about
// five failures of a name in an hour.
func backoff(n int) time.Duration {
	steps := []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour}
	return steps[min(max(n, 1), len(steps))-1]
}

// look brings a host up to date: with what is in the Store, or by an order.
func (m *Manager) look(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(ctx, LockLease)
	defer cancel()
	m.mu.Lock()
	by := m.by
	m.mu.Unlock()
	fail, err := m.update(ctx, by, e)
	now := m.o.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	e.busy = false
	switch {
	case err != nil: // of the Store, or the process ends; nobody else knows of it
		p := problem.New("certificates-unavailable", "certificate of %s: what its gateways share can't be used: %s", e.host, oneLine(err.Error())).
			WithFix("look at the nodes that run this publication's gateways")
		if c := problem.Code(err); c != "" {
			p.Code = c
		}
		if e.fail.Count == 0 {
			e.fail.Since = now.Unix()
		}
		e.fail.Count++
		e.fail.Code, e.fail.Error = p.Code, p.Error()
		e.next = now.Add(min(backoff(e.fail.Count), 15*time.Minute))
		m.o.Log.Warn("certificate store", "host", e.host, "err", err)
	case fail.Count > 0:
		e.fail = fail
		e.next = later(now.Add(minInterval), time.Unix(fail.Next, 0))
	default:
		e.fail = failure{}
		e.next = later(now.Add(minInterval), renewAt(e.cert.Leaf.NotBefore, e.cert.Leaf.NotAfter, e.host))
	}
	if by != m.by {
		e.fail, e.next = failure{}, time.Time{} // another authority has come meanwhile
	}
}

// update returns the standing failure of the host's order, if there is one, and an
// error if the Store can't be used.
func (m *Manager) update(ctx context.Context, by *authority, e *entry) (failure, error) {
	if ok, err := m.adopt(ctx, by, e); ok || err != nil && !broken(err) {
		return failure{}, err
	}
	m.borrow(ctx, e)
	if by.url == "" {
		return m.nobody(e), nil
	}
	name := "host/" + e.host
	if err := e.store.Lock(ctx, name); err != nil {
		return failure{}, fmt.Errorf("lock: %w", err)
	}
	defer unlock(ctx, e.store, name)
	// Another gateway may have been here while this one waited.
	found, err := m.adopt(ctx, by, e)
	if found || err != nil && !broken(err) {
		return failure{}, err
	}
	if err != nil {
		// Half of a certificate, or one that somebody altered: begin anew.
		m.o.Log.Warn("certificate in the store is unusable", "host", e.host, "err", err)
		if err := m.forget(ctx, by, e); err != nil {
			return failure{}, err
		}
	}
	fail, err := read[failure](ctx, e.store, by.failureKey(e.host))
	if err != nil {
		return failure{}, err
	}
	now := m.o.Now()
	if fail.Count > 0 && now.Unix() < fail.Next {
		return fail, nil // another gateway has tried
	}
	stop, err := read[pause](ctx, e.store, by.pauseKey())
	if err != nil {
		return failure{}, err
	}
	var orderErr error
	if now.Unix() < stop.Until {
		orderErr = problem.New("acme-rate-limited", "the authority wants no orders before %s", time.Unix(stop.Until, 0).UTC().Format(time.RFC3339)).
			WithFix("nothing; it is tried again then")
	} else if orderErr = m.order(ctx, by, e); orderErr == nil {
		if _, orderErr = m.adopt(ctx, by, e); orderErr == nil {
			m.o.Log.Info("certificate obtained", "host", e.host)
			return failure{}, e.store.Delete(ctx, by.failureKey(e.host))
		}
	}
	if ctx.Err() != nil && m.o.Now().Sub(now) < LockLease && errors.Is(ctx.Err(), context.Canceled) {
		return failure{}, ctx.Err() // the process ends; that is no failure of the order
	}
	return m.failed(context.WithoutCancel(ctx), by, e, fail, stop, orderErr)
}

// failed writes down for all gateways that an order failed.
func (m *Manager) failed(ctx context.Context, by *authority, e *entry, fail failure, stop pause, cause error) (failure, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	now := m.o.Now()
	p := explain(e.host, cause)
	if fail.Count == 0 {
		fail.Since = now.Unix()
	}
	fail.Count++
	fail.Code, fail.Error = p.Code, p.Error()
	next := now.Add(backoff(fail.Count))
	if until := by.transport.pause(); p.Code == "acme-rate-limited" && until.After(now) && until.Unix() > stop.Until {
		stop.Until = until.Unix()
		if err := write(ctx, e.store, by.pauseKey(), stop); err != nil {
			return failure{}, err
		}
	}
	fail.Next = max(next.Unix(), stop.Until)
	m.o.Log.Warn("certificate not obtained", "host", e.host, "failures", fail.Count, "code", fail.Code, "err", fail.Error, "next", time.Unix(fail.Next, 0))
	return fail, write(ctx, e.store, by.failureKey(e.host), fail)
}

// order gets a new certificate into the Store. The host's lock is held.
func (m *Manager) order(ctx context.Context, by *authority, e *entry) error {
	cfg := m.config(by, e)
	m.mu.Lock()
	have := e.cert != nil && e.from == by.key
	m.mu.Unlock()
	if have {
		// By our clock it is time, whatever certmagic's says.
		return cfg.RenewCertSync(ctx, e.host, true)
	}
	return cfg.ObtainCertSync(ctx, e.host)
}

func (m *Manager) config(by *authority, e *entry) *certmagic.Config {
	return certmagic.New(m.cache, certmagic.Config{
		Issuers: []certmagic.Issuer{issuer{m, by, e.store}}, Storage: storage{e.store}, KeySource: certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		DisableStorageCheck: true, DisableARI: true, OCSP: certmagic.OCSPConfig{DisableStapling: true}, Logger: zap.NewNop(),
	})
}

// unusable is a certificate or account in the Store that can't be used.
type unusable struct{ error }

func broken(err error) bool {
	var u unusable
	return errors.As(err, &u)
}

// adopt takes over what is in the Store, and tells whether that needs no order now.
func (m *Manager) adopt(ctx context.Context, by *authority, e *entry) (bool, error) {
	if by.url == "" {
		return false, nil
	}
	pair, err := m.load(ctx, by.key, e)
	if pair == nil || err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	leaf := pair.Leaf
	if e.cert != nil && e.from == by.key && leaf.NotAfter.Before(e.cert.Leaf.NotAfter) {
		// Somebody put an older one back; what is served stays, and is renewed in time.
		leaf = e.cert.Leaf
	} else {
		e.cert, e.from = pair, by.key
	}
	return m.o.Now().Before(renewAt(leaf.NotBefore, leaf.NotAfter, e.host)), nil
}

// load reads the certificate that an authority gave a host; nil: there is none.
func (m *Manager) load(ctx context.Context, key string, e *entry) (*tls.Certificate, error) {
	chain, err := e.store.Get(ctx, certmagic.StorageKeys.SiteCert(key, e.host))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var private []byte
	if err == nil {
		private, err = e.store.Get(ctx, certmagic.StorageKeys.SitePrivateKey(key, e.host))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, unusable{err}
	case err != nil:
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, private)
	if err != nil {
		return nil, unusable{err}
	}
	if pair.Leaf, err = checkChain(chain, e.host, pair.Leaf.PublicKey, m.o.Now()); err != nil {
		return nil, unusable{err}
	}
	return &pair, nil
}

// forget removes what there is of a host's certificate.
func (m *Manager) forget(ctx context.Context, by *authority, e *entry) error {
	folder := certmagic.StorageKeys.CertsSitePrefix(by.key, e.host)
	return storage{e.store}.Delete(ctx, folder)
}

// read returns the value at key, or a zero one if there is none or it is damaged.
func read[T any](ctx context.Context, s Store, key string) (v T, err error) {
	b, err := s.Get(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	if json.Unmarshal(b, &v) != nil {
		var zero T
		return zero, nil // it holds nothing that can't be found out again
	}
	return v, nil
}

func write(ctx context.Context, s Store, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.Put(ctx, key, b)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
