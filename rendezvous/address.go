package rendezvous

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"net/url"
	"strconv"

	"github.com/zero-os/zos/problem"
)

// Protocols that a rendezvous server speaks on its one port (ALPN).
const (
	ALPNBus     = "zos-bus/1"     // the bus, package bus
	ALPNRelay   = "zos-relay/1"   // this package
	ALPNCluster = "zos-cluster/1" // between servers
)

// maxURL bounds a server's URL in bytes.
const maxURL = 512

// Address is where a server is and how it is known.
type Address struct {
	Host string // host:port, for net.Dial
	Pin  []byte // SHA-256 of its SubjectPublicKeyInfo; empty: any certificate that the system trusts for the host
}

// ParseURL reads tls://host:port#pin, where "#pin", 64 hex digits, may be
// missing. Its errors have the code "url-invalid".
func ParseURL(raw string) (Address, error) {
	bad := func(why string) (Address, error) {
		return Address{}, problem.New("url-invalid", "read server address %.100q: %s", raw, why).
			WithFix("write it as the server shows it: tls://host:port#pin")
	}
	if len(raw) > maxURL {
		return bad("too long")
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "tls" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Opaque != "" {
		return bad("not of the form tls://host:port#pin")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || u.Hostname() == "" {
		return bad("host and port are needed")
	}
	a := Address{Host: net.JoinHostPort(u.Hostname(), strconv.FormatUint(port, 10))}
	if u.Fragment != "" {
		if a.Pin, err = hex.DecodeString(u.Fragment); err != nil || len(a.Pin) != sha256.Size {
			return bad("the pin is not 64 hex digits")
		}
	}
	return a, nil
}

// String is the URL that ParseURL reads.
func (a Address) String() string {
	s := "tls://" + a.Host
	if len(a.Pin) > 0 {
		s += "#" + hex.EncodeToString(a.Pin)
	}
	return s
}

// Pin is what a URL says of a certificate.
func Pin(c *x509.Certificate) []byte {
	h := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return h[:]
}

// Dial connects to a server for one of its protocols and proves the server: by
// its pin, or without one by the system's roots. ctx bounds dialing and
// handshake. Codes: "rendezvous-unreachable", "rendezvous-untrusted".
func Dial(ctx context.Context, a Address, alpn string) (net.Conn, error) {
	c, _, err := dial(ctx, a, alpn, func(c net.Conn) net.Conn { return c })
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dial is Dial; TLS speaks over what wrap makes of the connection, which is
// returned too.
func dial[C net.Conn](ctx context.Context, a Address, alpn string, wrap func(net.Conn) C) (*tls.Conn, C, error) {
	var none C
	tcp, err := new(net.Dialer).DialContext(ctx, "tcp", a.Host)
	if err != nil {
		return nil, none, problem.New("rendezvous-unreachable", "connect to %s: %w", a.Host, err).
			WithFix("check that the server runs and that its address is right")
	}
	raw := wrap(tcp)
	c := tls.Client(raw, ClientTLS(a, alpn))
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		if errors.Is(err, errPin) || errors.As(err, new(*tls.CertificateVerificationError)) {
			return nil, none, problem.New("rendezvous-untrusted", "connect to %s: %w", a.Host, err).
				WithFix("take the address with its pin from who runs the server")
		}
		return nil, none, problem.New("rendezvous-unreachable", "connect to %s: TLS: %w", a.Host, err)
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != alpn {
		c.Close()
		return nil, none, problem.New("rendezvous-unreachable", "connect to %s: it does not speak %s", a.Host, alpn)
	}
	return c, raw, nil
}

var errPin = errors.New("the server's key is not the pinned one")

// ClientTLS is the configuration with which Dial proves a server, for those who
// bring their own connection; own certificates are shown to servers that ask.
func ClientTLS(a Address, alpn string, own ...tls.Certificate) *tls.Config {
	host, _, err := net.SplitHostPort(a.Host)
	if err != nil {
		host = a.Host
	}
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{alpn},
		ServerName:   host,
		Certificates: own,
		// Packets queue up: full records from the beginning.
		DynamicRecordSizingDisabled: true,
	}
	if len(a.Pin) > 0 {
		cfg.InsecureSkipVerify = true // the pin replaces names and roots
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(Pin(s.PeerCertificates[0]), a.Pin) {
				return errPin
			}
			return nil
		}
	}
	return cfg
}
