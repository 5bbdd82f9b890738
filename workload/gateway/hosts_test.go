package gateway

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/spec/plan"
)

// certified is a certificate that a workload made for itself.
func certified(t testing.TB, host string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(7), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestHostsAreServedByNameAndTheDomainAnswers(t *testing.T) {
	w := newWorld(t)
	d := w.deploy("shop", 1, "web").host("shop.grid.example", plan.ModePassthrough, 8443, "web").host("ended.grid.example", plan.ModeTerminate, 8080, "web").up()
	cert := certified(t, "shop.grid.example")
	var l net.Listener
	in(t, d.place("web"), func() (err error) {
		l, err = tls.Listen("tcp", ":8443", &tls.Config{Certificates: []tls.Certificate{cert}})
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = http.Serve(l, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "the page") }))
	}()
	t.Cleanup(func() { l.Close(); <-done })
	get := func() (string, error) {
		raw, err := w.dial(shared + ":443")
		if err != nil {
			return "", err
		}
		c := tls.Client(raw, &tls.Config{ServerName: "shop.grid.example", InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			return "", err
		}
		if got := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != 7 {
			t.Errorf("the certificate is not the workload's: %d", got)
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: shop.grid.example\r\nConnection: close\r\n\r\n"); err != nil {
			return "", err
		}
		b, err := io.ReadAll(c)
		return string(b), err
	}
	w.await("the page comes", func() bool { page, err := get(); return err == nil && strings.HasSuffix(page, "the page") })
	// Port 80 sends people to the other one.
	c, err := w.dial(shared + ":80")
	must(t, err)
	_, err = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: shop.grid.example\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	resp.Body.Close()
	if at := resp.Header.Get("Location"); at != "https://shop.grid.example/x" {
		t.Errorf("it says %s and leads to %q", resp.Status, at)
	}
	// Without an authority there is no certificate, and nothing else either.
	raw, err := w.dial(shared + ":443")
	must(t, err)
	if err := tls.Client(raw, &tls.Config{ServerName: "ended.grid.example", InsecureSkipVerify: true}).Handshake(); err == nil {
		t.Error("a host without a certificate is served")
	}
	// The grid's domain.
	ask := func() string {
		q := new(mdns.Msg)
		q.SetQuestion("shop.grid.example.", mdns.TypeA)
		raw, err := w.dialUDP(shared + ":53")
		must(t, err)
		must(t, raw.SetDeadline(time.Now().Add(500*time.Millisecond)))
		co := &mdns.Conn{Conn: raw}
		if err := co.WriteMsg(q); err != nil {
			return err.Error()
		}
		m, err := co.ReadMsg()
		if err != nil {
			return err.Error()
		}
		if len(m.Answer) != 1 {
			return m.String()
		}
		a, _ := m.Answer[0].(*mdns.A)
		return a.A.String()
	}
	if got := ask(); got == shared {
		t.Error("a domain is answered for that is none")
	}
	w.set(func(f *fakeFacts) {
		f.zone = &control.Zone{Domain: "grid.example", Serial: 1, NS: []control.ZoneName{{Name: "ns1.grid.example", Addrs: []string{shared}}},
			Names: []control.ZoneName{{Name: "shop", Addrs: []string{shared}}}, TXT: []control.ZoneRecord{}}
	})
	w.await("the domain is answered for", func() bool { return ask() == shared })
	if s := d.status(); s.State != contract.StateRunning {
		t.Errorf("status %+v", s)
	}
}
