package certs_test

import (
	"testing"

	"github.com/zero-os/zos/gateway/certs"
)

// TestCertificatesOutliveTheirAuthority changes who certifies while a gateway runs,
// and beneath one that begins anew.
func TestCertificatesOutliveTheirAuthority(t *testing.T) {
	w := newWorld(t)
	host := w.name("shop", "127.0.0.1")
	store := &memory{}
	g := w.newGateway("127.0.0.1", certs.Options{})
	g.Set(publication(store, host))
	first := g.status(host, certified)
	served := func(g *gateway, what, serial string) {
		t.Helper()
		leaf, err := g.leaf(host)
		if err != nil || leaf.SerialNumber.Text(16) != serial {
			t.Errorf("%s: %v, %v, want %s", what, leaf, err, serial)
		}
	}

	if err := g.SetAuthority("http://plain.example/dir", nil, ""); err == nil {
		t.Error("an authority is asked in clear text")
	}
	served(g, "after a change that was refused", first.Serial)

	// Nobody: it is told, and the certificate is served on.
	if err := g.SetAuthority("", nil, ""); err != nil {
		t.Fatal(err)
	}
	unset := func(s certs.Status) bool { return s.Code == "acme-unset" && s.Serial == first.Serial }
	g.status(host, unset)
	served(g, "without an authority", first.Serial)
	g.stop()

	// One that begins with another authority, which does not answer.
	other := w.newGateway("127.0.0.1", certs.Options{Authority: "https://127.0.0.1:1/dir"})
	other.Set(publication(store, host))
	other.status(host, func(s certs.Status) bool { return s.Code == "acme-unreachable" && s.Serial == first.Serial })
	served(other, "with an authority that is away", first.Serial)

	// The next one certifies at once, whatever failed with the one before: to the
	// store it is another one, with its own account.
	if err := other.SetAuthority(w.url+"?next", w.roots, ""); err != nil {
		t.Fatal(err)
	}
	second := other.status(host, func(s certs.Status) bool { return certified(s) && s.Serial != first.Serial })
	served(other, "by the next authority", second.Serial)
	if w.orders.Load() != 2 || w.accounts.Load() != 2 {
		t.Errorf("%d orders, %d accounts", w.orders.Load(), w.accounts.Load())
	}

	// And back: what the first one certified is still there, and nothing is ordered.
	if err := other.SetAuthority(w.url, w.roots, ""); err != nil {
		t.Fatal(err)
	}
	other.status(host, func(s certs.Status) bool { return certified(s) && s.Serial == first.Serial })
	if w.orders.Load() != 2 {
		t.Errorf("%d orders", w.orders.Load())
	}
	other.stop()

	// Without any authority a gateway that begins serves what there is.
	last := w.newGateway("127.0.0.1", certs.Options{Authority: w.url})
	if err := last.SetAuthority("", nil, ""); err != nil {
		t.Fatal(err)
	}
	last.Set(publication(store, host))
	s := last.status(host, func(s certs.Status) bool { return s.Code == "acme-unset" && s.Serial != "" })
	served(last, "from the store", s.Serial)
}
