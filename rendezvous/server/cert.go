package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/zero-os/zos/problem"
)

// Files in CertDir. One file holds both, so that they can't part.
const (
	identityFile = "rendezvous.pem"
	identityMode = 0o600
	identityLife = 100 * 365 * 24 * time.Hour // the pin is what counts
)

// certificate is the server's own: the given files, or one made once in dir.
func certificate(cfg Config) (tls.Certificate, error) {
	if cfg.CertFile != "" || cfg.KeyFile != "" {
		c, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return c, problem.New("certificate-invalid", "read the rendezvous' certificate: %w", err).
				WithFix("give certificate and key as PEM files that belong together")
		}
		return c, nil
	}
	if cfg.CertDir == "" {
		return tls.Certificate{}, errors.New("start rendezvous: a directory for its certificate is needed")
	}
	return Identity(cfg.CertDir)
}

// Identity is the key and certificate of the server that keeps them in dir; they
// are made if there are none. So a server's pin can be known before it runs.
func Identity(dir string) (tls.Certificate, error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if b, err = makeIdentity(dir, path); err != nil {
			return tls.Certificate{}, fmt.Errorf("make the rendezvous' certificate: %w", err)
		}
	}
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the rendezvous' certificate: %w", err)
	}
	c, err := tls.X509KeyPair(b, b)
	if err != nil {
		return c, problem.New("certificate-invalid", "read the rendezvous' certificate %s: %w", path, err).
			WithFix("remove the file to make another one; every URL of this server then changes")
	}
	return c, nil
}

func makeIdentity(dir, path string) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "zos rendezvous"},
		NotBefore:    now.Add(-24 * time.Hour), // clocks of nodes that just booted
		NotAfter:     now.Add(identityLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, b := range []*pem.Block{{Type: "CERTIFICATE", Bytes: cert}, {Type: "PRIVATE KEY", Bytes: der}} {
		if err := pem.Encode(&out, b); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".rendezvous-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // gone after the rename
	if err := errors.Join(f.Chmod(identityMode), write(f, out.Bytes())); err != nil {
		return nil, err
	}
	// Link, not rename: of two that start at once, one makes the identity.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

func write(f *os.File, b []byte) error {
	_, err := f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
