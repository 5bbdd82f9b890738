package gateway

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
)

// pebble runs a real authority in the internet, that validates through the name
// server and the ports that the gateway has there. It returns its directory and
// root.
func (w *world) pebble() (url string, root []byte) {
	t := w.t
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "pebble")
	cmd := exec.Command("go", "build", "-o", program, "github.com/letsencrypt/pebble/v2/cmd/pebble")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build pebble: %v: %s", err, b)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(8, 8, 8, 8)}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	root, err = x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, b, 0o600))
		return path
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": "8.8.8.8:14000", "managementListenAddress": "8.8.8.8:15000", "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
		"certificate": write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})),
		"privateKey":  write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}})
	must(t, err)
	var said bytes.Buffer
	cmd = exec.Command(program, "-config", write("config.json", config), "-dnsserver", shared+":53")
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	must(t, netns.Do(int(w.internet.Fd()), cmd.Start))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	return "https://8.8.8.8:14000/dir", root
}

// TestTLSEndsHereWithACertificateThatOutlivesTheProcess goes all the way: the
// process orders from a real authority, which looks the host up at the gateway's
// own name server; what it got is with the daemon, encrypted.
func TestTLSEndsHereWithACertificateThatOutlivesTheProcess(t *testing.T) {
	w := newWorldWith(t, func(w *world) {
		w.ports = []uint16{14000}
		var err error
		w.store, err = NewShared(filepath.Join(w.dir, "data"), [32]byte{1}, canon.Sum([]byte("slot")), nil, discard())
		must(t, err)
	})
	url, root := w.pebble()
	w.set(func(f *fakeFacts) {
		f.pool.ACME, f.pool.Roots = url, [][]byte{root}
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
	st := w.kind.State(limited(t), d.contract)
	if len(st.Status.Certificates) != 1 || st.Status.Certificates[0].NotAfter == 0 || st.Status.Routes[0].Requests == 0 {
		t.Errorf("status %+v", st.Status)
	}
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
	if s := d.status(); s.State != contract.StateRunning {
		t.Errorf("status %+v", s)
	}
}
