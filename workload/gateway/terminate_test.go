package gateway

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/certs/certstest"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload/logs"
)

// pebble runs a real authority in the internet, which validates through the name
// server and the ports that the gateway has there. It returns when it listens: what
// fails once is tried again a minute later.
func (w *world) pebble() *certstest.Authority {
	w.t.Helper()
	a := certstest.Start(w.t, netip.MustParseAddr("8.8.8.8"), netip.MustParseAddrPort(shared+":53"), func(c *exec.Cmd) error {
		return netns.Do(int(w.internet.Fd()), c.Start)
	})
	w.await("the authority listens", func() bool {
		return netns.Do(int(w.internet.Fd()), func() error {
			c, err := net.Dial("tcp", "8.8.8.8:14000")
			if err == nil {
				c.Close()
			}
			return err
		}) == nil
	})
	return a
}

// TestTLSEndsHereWithACertificateThatOutlivesTheProcess goes all the way: the
// process orders from a real authority, which looks the host up at the gateway's
// own name server; what it got is with the daemon, encrypted.
func TestTLSEndsHereWithACertificateThatOutlivesTheProcess(t *testing.T) {
	w := newWorldWith(t, func(w *world) {
		var err error
		w.store, err = NewShared(filepath.Join(w.dir, "data"), [32]byte{1}, canon.Sum([]byte("slot")), nil, discard())
		must(t, err)
	})
	authority := w.pebble()
	w.set(func(f *fakeFacts) {
		f.pool.ACME, f.pool.Roots = authority.Directory, [][]byte{authority.Root}
		f.zone = &control.Zone{Domain: "grid.example", Serial: 1, NS: []control.ZoneName{{Name: "ns1.grid.example", Addrs: []string{shared}}},
			Names: []control.ZoneName{{Name: "shop", Addrs: []string{shared}}}, TXT: []control.ZoneRecord{}}
	})
	d := w.deploy("shop", 1, "web").host("shop.grid.example", plan.ModeTerminate, 8080, "web").up()
	var l net.Listener
	in(t, d.place("web"), func() (err error) { l, err = net.Listen("tcp", ":8080"); return err })
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = http.Serve(l, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(rw, "the page for "+r.Header.Get("X-Forwarded-For"))
		}))
	}()
	t.Cleanup(func() { l.Close(); <-done })
	get := func() (serial, page string) {
		raw, err := w.dial(shared + ":443")
		if err != nil {
			return "", ""
		}
		c := tls.Client(raw, &tls.Config{ServerName: "shop.grid.example", InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			return "", ""
		}
		if _, err := io.WriteString(c, "GET /x HTTP/1.1\r\nHost: shop.grid.example\r\nConnection: close\r\n\r\n"); err != nil {
			return "", ""
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return "", ""
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), string(b)
	}
	var serial, page string
	w.await("the host has a certificate", func() bool { serial, page = get(); return serial != "" && strings.HasPrefix(page, "the page") })
	if page != "the page for "+router {
		t.Errorf("the backend says %q", page)
	}
	r := logs.NewReader(w.kind.LogDir(d.id()))
	w.await("the access log names the backend", func() bool {
		records, _, err := r.Read(1, 100)
		must(t, err)
		return slices.ContainsFunc(records, func(r logs.Record) bool { return bytes.Contains(r.Data, []byte("backend=web outcome=ok")) })
	})
	st := w.kind.State(limited(t), d.contract)
	if len(st.Status.Certificates) != 1 || st.Status.Certificates[0].NotAfter == 0 || st.Status.Routes[0].Requests == 0 {
		t.Errorf("status %+v", st.Status)
	}
	// The pool names another authority, which is away: that is told, and what there
	// is is served.
	w.set(func(f *fakeFacts) { f.pool.ACME = "https://8.8.8.8:443/elsewhere" })
	away := func() bool {
		again, _ := get()
		if again != "" && again != serial {
			t.Fatalf("it has another certificate: %s, was %s", again, serial)
		}
		c := w.kind.State(limited(t), d.contract).Status.Certificates
		return again == serial && len(c) == 1 && c[0].Code != "" && c[0].NotAfter > 0
	}
	w.await("another authority is asked, and the certificate served", away)
	// Another process shows the very same.
	before := w.inside()
	must(t, before.End(limited(t), 0))
	w.await("another process serves with the same certificate", func() bool {
		again, _ := get()
		if again != "" && again != serial {
			t.Fatalf("it has another certificate: %s, was %s", again, serial)
		}
		return again == serial
	})
	w.await("the trouble is told again", away)
	if s := d.status(); s.State != contract.StateRunning {
		t.Errorf("status %+v", s)
	}
}
