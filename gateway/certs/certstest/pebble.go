// Package certstest runs a real certificate authority for tests: pebble, the
// small one that Let's Encrypt makes for that. It is a process of its own, so
// that it can live in a network namespace of a laboratory.
package certstest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Authority is a running pebble.
type Authority struct {
	Directory string // URL, for contract.Pool's ACME
	Root      []byte // DER, for contract.Pool's Roots
	at        netip.Addr
	tls       *tls.Config
}

// Ports at which it listens.
const (
	port       = 14000
	management = 15000
)

// Start builds pebble and starts it at an address, by start: in a namespace that
// has the address. It looks up hosts at the DNS server, and finds them at ports
// 80 and 443. The test's end is its end.
func Start(t testing.TB, at netip.Addr, dnsServer netip.AddrPort, start func(*exec.Cmd) error) *Authority {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "pebble")
	cmd := exec.Command("go", "build", "-o", program, "github.com/letsencrypt/pebble/v2/cmd/pebble")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build pebble: %v: %s", err, b)
	}
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("start pebble: %v", err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{at.AsSlice()}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	root, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	fail(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	fail(err)
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		fail(os.WriteFile(path, b, 0o600))
		return path
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": netip.AddrPortFrom(at, port).String(), "managementListenAddress": netip.AddrPortFrom(at, management).String(),
		"httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
		"certificate": write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})),
		"privateKey":  write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}})
	fail(err)
	var said bytes.Buffer
	cmd = exec.Command(program, "-config", write("config.json", config), "-dnsserver", dnsServer.String())
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	fail(start(cmd))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	own, err := x509.ParseCertificate(root)
	fail(err)
	pool := x509.NewCertPool()
	pool.AddCert(own)
	return &Authority{Directory: fmt.Sprintf("https://%s/dir", netip.AddrPortFrom(at, port)), Root: root, at: at, tls: &tls.Config{RootCAs: pool}}
}

// Issued is the root of what it certifies, PEM, asked by dial: from a namespace
// that reaches the authority.
func (a *Authority) Issued(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error)) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: a.tls, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s/roots/0", netip.AddrPortFrom(a.at, management)), nil)
	if err != nil {
		return nil, err
	}
	r, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the authority for its root: %w", err)
	}
	defer r.Body.Close()
	return io.ReadAll(io.LimitReader(r.Body, 64<<10))
}
