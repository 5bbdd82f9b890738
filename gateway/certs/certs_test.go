package certs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zero-os/zos/gateway/certs"
)

func publication(store certs.Store, hosts ...string) []certs.Publication {
	return []certs.Publication{{ID: "contract", Hosts: hosts, Store: store}}
}

func TestCertificateIsObtainedInEachWay(t *testing.T) {
	for _, way := range []string{"http-01", "tls-alpn-01", "dns-01"} {
		t.Run(way, func(t *testing.T) {
			w := newWorld(t)
			host := w.name("shop", "127.0.0.1")
			var g *gateway
			switch way {
			case "http-01":
				g = w.newGateway("127.0.0.1", certs.Options{Zone: gridDomain}, w.httpPort)
			case "tls-alpn-01":
				g = w.newGateway("127.0.0.1", certs.Options{}, w.tlsPort)
			case "dns-01":
				g = w.newGateway("", certs.Options{Zone: gridDomain, Challenges: w})
			}
			store := &memory{}
			g.Set(publication(store, host))
			s := g.status(host, certified)
			leaf, err := g.leaf(host)
			if err != nil || leaf.VerifyHostname(host) != nil {
				t.Fatalf("%v, %v", leaf, err)
			}
			if s.NotAfter.Sub(s.NotBefore) < validity-time.Hour || s.Next.Before(s.NotAfter.Add(-validity/2)) || !s.FailingFrom.IsZero() || s.Error != "" ||
				s.Publication != "contract" || !strings.Contains(s.Issuer, "Pebble") || s.Serial != fmt.Sprintf("%x", leaf.SerialNumber) {
				t.Errorf("status %+v", s)
			}
			if keys, err := store.List(context.Background(), "challenge/"); err != nil || len(keys) > 0 {
				t.Errorf("challenges left: %q, %v", keys, err)
			}
			if w.mu.Lock(); len(w.zone.TXT) > 0 {
				t.Errorf("records left: %v", w.zone.TXT)
			}
			w.mu.Unlock()
			if _, err := g.leaf("other." + gridDomain); err == nil {
				t.Error("another name is served")
			}
		})
	}
}

func TestTwoGatewaysShareOneCertificateAndOneAccount(t *testing.T) {
	w := newWorld(t)
	host := w.name("shop", "127.0.0.1")
	store := &memory{}
	ordered, release := make(chan struct{}, 10), make(chan struct{})
	w.answer(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/order-plz" {
			ordered <- struct{}{}
			<-release
		}
		return false
	})
	// The one that orders can be reached by nobody; the other one answers for it.
	a := w.newGateway("", certs.Options{})
	a.Set(publication(store, host))
	<-ordered
	b := w.newGateway("127.0.0.1", certs.Options{})
	b.Set(publication(store, host))
	close(release)
	a.status(host, certified)
	b.status(host, certified)
	la, erra := a.leaf(host)
	lb, errb := b.leaf(host)
	if erra != nil || errb != nil || !la.Equal(lb) {
		t.Errorf("%v, %v: certificates differ", erra, errb)
	}
	if w.orders.Load() != 1 || w.accounts.Load() != 1 {
		t.Errorf("%d orders, %d accounts", w.orders.Load(), w.accounts.Load())
	}
	// Renewal: whoever comes first orders, once.
	w.clock.to(la.NotAfter.Add(-validity / 3))
	renewed := func(s certs.Status) bool { return s.Serial != fmt.Sprintf("%x", la.SerialNumber) }
	sa, sb := a.status(host, renewed), b.status(host, renewed)
	// The authority's clock is the real one: its certificate is old at once by ours,
	// so each of the two may have come to renew it.
	if n := w.orders.Load(); n > 3 || w.accounts.Load() != 1 || sa.Failures+sb.Failures > 0 {
		t.Errorf("%d orders, %d accounts, %+v, %+v", n, w.accounts.Load(), sa, sb)
	}
}

func TestRestartedGatewayOrdersNothing(t *testing.T) {
	w := newWorld(t)
	host := w.name("shop", "127.0.0.1")
	store := &memory{}
	var serial string
	for range 2 {
		g := w.newGateway("127.0.0.1", certs.Options{})
		g.Set(publication(store, host))
		s := g.status(host, certified)
		if serial != "" && s.Serial != serial {
			t.Error("another certificate")
		}
		serial = s.Serial
		g.stop()
	}
	if w.orders.Load() != 1 {
		t.Errorf("%d orders", w.orders.Load())
	}
}

func TestDamagedCertificateIsOrderedAnew(t *testing.T) {
	w := newWorld(t)
	host := w.name("shop", "127.0.0.1")
	store := &memory{}
	first := w.newGateway("127.0.0.1", certs.Options{})
	first.Set(publication(store, host))
	first.status(host, certified)
	first.stop()
	keys, _ := store.List(context.Background(), "")
	for _, k := range keys {
		if strings.HasSuffix(k, ".key") || strings.HasPrefix(k, "account/") {
			if err := store.Put(context.Background(), k, []byte("nonsense")); err != nil {
				t.Fatal(err)
			}
		}
	}
	second := w.newGateway("127.0.0.1", certs.Options{})
	second.Set(publication(store, host))
	second.status(host, certified)
	if _, err := second.leaf(host); err != nil || w.orders.Load() != 2 || w.accounts.Load() != 2 {
		t.Errorf("%v, %d orders, %d accounts", err, w.orders.Load(), w.accounts.Load())
	}
}

func TestRefusalIsSaidInTheAuthoritysWords(t *testing.T) {
	w := newWorld(t)
	host := w.name("shop", "127.0.0.1")
	if err := w.db.AddBlockedDomain(host); err != nil {
		t.Fatal(err)
	}
	g := w.newGateway("127.0.0.1", certs.Options{})
	g.Set(publication(&memory{}, host))
	s := g.status(host, failing(1))
	if s.Code != "acme-refused" || !strings.Contains(s.Error, "policy") || s.FailingFrom.IsZero() || !s.Next.After(w.clock.now()) || s.Issuer != "" {
		t.Errorf("%+v", s)
	}
}

func TestNameThatPointsElsewhereIsRefusedAndTriedAgain(t *testing.T) {
	w := newWorld(t)
	host := w.name("shop", "127.0.0.9") // nobody is there
	store := &memory{}
	g := w.newGateway("127.0.0.1", certs.Options{})
	g.Set(publication(store, host))
	s := g.status(host, failing(1))
	if s.Code != "acme-refused" || !strings.Contains(s.Error, "127.0.0.9") {
		t.Errorf("%+v", s)
	}
	// Another gateway does not repeat what has just failed.
	before := w.orders.Load()
	other := w.newGateway("", certs.Options{})
	other.Set(publication(store, host))
	if o := other.status(host, failing(1)); o.Error != s.Error || w.orders.Load() != before {
		t.Errorf("%+v, %d orders", o, w.orders.Load()-before)
	}
	w.mu.Lock()
	delete(w.zone.Names, "shop")
	w.mu.Unlock()
	w.name("shop", "127.0.0.1")
	w.clock.to(s.Next.Add(time.Second))
	if s := g.status(host, certified); s.Error != "" || !s.FailingFrom.IsZero() {
		t.Errorf("%+v", s)
	}
}

func TestRateLimitIsHonouredForTheWholeAccount(t *testing.T) {
	w := newWorld(t)
	one, two := w.name("one", "127.0.0.1"), w.name("two", "127.0.0.1")
	asked := make(chan struct{}, 100)
	w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/order-plz" {
			return false
		}
		asked <- struct{}{}
		rw.Header().Set("Retry-After", "7200")
		rw.Header().Set("Content-Type", "application/problem+json")
		rw.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(rw, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many\u001b[2J certificates","status":429}`)
		return true
	})
	store := &memory{}
	g := w.newGateway("127.0.0.1", certs.Options{})
	g.Set(publication(store, one))
	start := w.clock.now()
	s := g.status(one, failing(1))
	if s.Code != "acme-rate-limited" || !strings.Contains(s.Error, "too many") || strings.Contains(s.Error, "\x1b") || s.Next.Before(start.Add(7199*time.Second)) {
		t.Errorf("%+v", s)
	}
	g.Set(publication(store, one, two))
	if s := g.status(two, failing(1)); s.Code != "acme-rate-limited" || s.Next.Before(start.Add(7199*time.Second)) {
		t.Errorf("%+v", s)
	}
	if len(asked) != 1 {
		t.Errorf("%d orders while the authority wanted none", len(asked))
	}
	w.answer(nil)
	w.clock.to(start.Add(7202 * time.Second))
	g.status(one, certified)
	g.status(two, certified)
}

func TestCertificateIsServedToItsEndAndTroubleToldFromDayOne(t *testing.T) {
	w := newWorld(t)
	host := w.name("shop", "127.0.0.1")
	g := w.newGateway("127.0.0.1", certs.Options{})
	g.Set(publication(&memory{}, host))
	s := g.status(host, certified)
	w.answer(func(rw http.ResponseWriter, _ *http.Request) bool { // away
		c, _, err := rw.(http.Hijacker).Hijack()
		if err == nil {
			c.Close()
		}
		return true
	})
	w.clock.to(s.NotAfter.Add(-7 * 24 * time.Hour)) // as if it had been away for three weeks
	dayOne := w.clock.now()
	for n := 1; w.clock.now().Before(s.NotAfter); n++ {
		f := g.status(host, failing(n))
		if f.Code != "acme-unreachable" || f.FailingFrom.Unix() != dayOne.Unix() || f.NotAfter != s.NotAfter || f.Serial != s.Serial {
			t.Fatalf("after %d failures: %+v", n, f)
		}
		if leaf, err := g.leaf(host); err != nil || fmt.Sprintf("%x", leaf.SerialNumber) != s.Serial {
			t.Fatalf("at %v of %v: %v", w.clock.now(), s.NotAfter, err)
		}
		if n > 100 {
			t.Fatal("it is tried too often")
		}
		if n > 8 { // the rest of the week in larger steps
			w.clock.to(later(f.Next, min2(w.clock.now().Add(24*time.Hour), s.NotAfter.Add(-time.Second))))
		} else {
			w.clock.to(f.Next)
		}
	}
	if _, err := g.leaf(host); err == nil {
		t.Error("it is served after its end")
	}
	w.answer(nil)
	// The authority certifies by the real time: what it gives now has expired too, by
	// our clock, and is refused for that.
	if f := g.status(host, func(s certs.Status) bool {
		w.clock.to(s.Next)
		return s.Code == "acme-answer-invalid"
	}); !strings.Contains(f.Error, "expired") {
		t.Errorf("%+v", f)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func min2(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func TestWrongAnswersOfAnAuthorityAreRefused(t *testing.T) {
	w := newWorld(t)
	other := w.name("other", "127.0.0.1")
	g := w.newGateway("127.0.0.1", certs.Options{})
	store := &memory{}
	g.Set(publication(store, other))
	g.status(other, certified)
	var foreign []byte
	keys, _ := store.List(context.Background(), "certificates/")
	for _, k := range keys {
		if strings.HasSuffix(k, ".crt") {
			foreign, _ = store.Get(context.Background(), k)
		}
	}
	g.stop()
	if len(foreign) == 0 {
		t.Fatalf("no certificate among %q", keys)
	}
	n := 0
	for name, c := range map[string]struct {
		path, code string
		body       []byte
		status     int
	}{
		"a page for a directory":          {"/dir", "", []byte("<html>hello"), 200},
		"an endless directory":            {"/dir", "", []byte(`{"newNonce":"` + strings.Repeat("x", 4<<20)), 200},
		"an empty directory":              {"/dir", "", []byte(`{}`), 200},
		"a certificate for another key":   {"/certZ/", "acme-answer-invalid", foreign, 200},
		"no certificate":                  {"/certZ/", "", []byte("hello"), 200},
		"a server error":                  {"/order-plz", "", []byte("oops"), 500},
		"an order that says nothing":      {"/order-plz", "", []byte("{}"), 201},
		"a problem that is no problem":    {"/order-plz", "", []byte("{"), 400},
		"a challenge that leads nowhere":  {"/authZ/", "", []byte(`{"status":"pending","identifier":{"type":"dns","value":"x"},"challenges":[]}`), 200},
		"an authorization for ever vague": {"/authZ/", "", []byte(`{"status":"confused"}`), 200},
	} {
		t.Run(name, func(t *testing.T) {
			host := w.name(fmt.Sprint("h", n), "127.0.0.1")
			n++
			w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, c.path) {
					return false
				}
				if c.path == "/certZ/" {
					rw.Header().Set("Content-Type", "application/pem-certificate-chain")
				} else {
					rw.Header().Set("Content-Type", "application/json")
				}
				rw.Header().Set("Replay-Nonce", "nonsense")
				rw.WriteHeader(c.status)
				_, _ = rw.Write(c.body)
				return true
			})
			// The library remembers directories by their URL.
			g := w.newGateway("127.0.0.1", certs.Options{Authority: fmt.Sprint(w.url, "?", n)})
			g.Set(publication(&memory{}, host))
			s := g.status(host, failing(1))
			if s.Code == "" || c.code != "" && s.Code != c.code || s.Error == "" || len(s.Error) > 1000 || s.Issuer != "" {
				t.Errorf("%+v", s)
			}
			w.answer(nil)
			g.stop()
		})
	}
}

// broken is a store whose locks nobody gets.
type broken struct{ certs.Store }

func (broken) Lock(context.Context, string) error { return errors.New("the other gateways are silent") }

func TestTroubleWithTheStoreIsTold(t *testing.T) {
	w := newWorld(t)
	host := w.name("shop", "127.0.0.1")
	g := w.newGateway("127.0.0.1", certs.Options{})
	g.Set(publication(broken{&memory{}}, host))
	s := g.status(host, failing(1))
	if s.Code != "certificates-unavailable" || !strings.Contains(s.Error, "silent") || !s.Next.After(w.clock.now()) {
		t.Errorf("%+v", s)
	}
	g.Set(publication(&memory{}, host)) // it works again
	g.status(host, certified)
}

// counted counts what is put under the grid's domain; with fail nothing can be.
type counted struct {
	*world
	fail     error
	presents atomic.Int64
}

func (c *counted) Present(ctx context.Context, name, text string) error {
	c.presents.Add(1)
	if c.fail != nil {
		return c.fail
	}
	return c.world.Present(ctx, name, text)
}

// TestARecordIsTheLastResort: as long as gateways can be reached nothing is put on
// the ledger, which need not be there for a renewal.
func TestARecordIsTheLastResort(t *testing.T) {
	refuse := func(kind string) func(http.ResponseWriter, *http.Request) bool {
		return func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/order-plz" {
				return false
			}
			rw.Header().Set("Content-Type", "application/problem+json")
			rw.Header().Set("Replay-Nonce", "x")
			rw.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(rw, `{"type":"urn:ietf:params:acme:error:%s","detail":"no"}`, kind)
			return true
		}
	}
	for name, c := range map[string]struct {
		addr     string // where the gateway is reached
		host     string // label, or a name elsewhere
		answer   func(http.ResponseWriter, *http.Request) bool
		fail     error
		presents int64
		ok       bool
		says     string
	}{
		"reached":                    {addr: "127.0.0.1", host: "shop", ok: true},
		"not reached":                {host: "shop", presents: 1, ok: true},
		"not reached, deeper":        {host: "www.shop", presents: 1, ok: true},
		"not reached, and no record": {host: "shop", presents: 1, fail: errors.New("the ledger is away"), says: "the ledger is away"},
		"refused by policy":          {host: "shop", answer: refuse("rejectedIdentifier")},
		"refused for a while":        {host: "shop", answer: refuse("rateLimited")},
		"not under the domain":       {host: "shop.example"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.answer(c.answer)
			host := c.host
			if !strings.Contains(host, ".") {
				host = w.name(host, "127.0.0.1")
			} else if strings.HasPrefix(host, "www.") {
				host += "." + gridDomain
			}
			ch := &counted{world: w, fail: c.fail}
			g := w.newGateway(c.addr, certs.Options{Zone: gridDomain, Challenges: ch})
			g.Set(publication(&memory{}, host))
			want := certified
			if !c.ok {
				want = failing(1)
			}
			s := g.status(host, want)
			if n := ch.presents.Load(); n != c.presents {
				t.Errorf("%d records were put, want %d; status %+v", n, c.presents, s)
			}
			if !strings.Contains(s.Error, c.says) {
				t.Errorf("it says %q", s.Error)
			}
		})
	}
}

// TestAnAuthorityThatWantsRecordsAloneGetsThem: some offer no other way.
func TestAnAuthorityThatWantsRecordsAloneGetsThem(t *testing.T) {
	w := newWorld(t)
	w.answer(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/authZ/") {
			return false
		}
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		var authz map[string]any
		if err := json.Unmarshal(rec.Body.Bytes(), &authz); err != nil {
			t.Error(err)
		}
		all, _ := authz["challenges"].([]any)
		authz["challenges"] = slices.DeleteFunc(all, func(c any) bool { one, _ := c.(map[string]any); return one["type"] != "dns-01" })
		for k, v := range rec.Header() {
			if k != "Content-Length" {
				rw.Header()[k] = v
			}
		}
		rw.WriteHeader(rec.Code)
		if err := json.NewEncoder(rw).Encode(authz); err != nil {
			t.Error(err)
		}
		return true
	})
	host := w.name("shop", "127.0.0.1")
	ch := &counted{world: w}
	g := w.newGateway("127.0.0.1", certs.Options{Zone: gridDomain, Challenges: ch})
	g.Set(publication(&memory{}, host))
	g.status(host, certified)
	if n := ch.presents.Load(); n != 1 {
		t.Errorf("%d records were put", n)
	}
}
