package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
)

// Config is how a server is started.
type Config struct {
	// Listen is host:port, of TCP and UDP alike; port 0 takes a free one. Empty:
	// 127.0.0.1:0.
	Listen string
	// Advertise is the host:port in URL; empty: the address listened on.
	Advertise string
	// CertDir keeps the server's own key and certificate, made at the first
	// start. Its pin is in URL.
	CertDir string
	// CertFile and KeyFile (PEM) are used instead of CertDir, if given. The pin
	// is of their key: keep the key when the certificate is renewed.
	CertFile, KeyFile string
	Grid              canon.Hash
	// Bound reads the key of a slot from the ledger.
	Bound bus.Bound
	// Routes are the URLs, with pins, of the other servers of the cluster. Each
	// of them must name this server too: both sides prove their keys.
	Routes []string
	// MaxClients bounds connections of each protocol; 0: 10,000.
	MaxClients int
	Logger     *slog.Logger
}

// Server is a running rendezvous.
type Server struct{ cert tls.Certificate }

// Serve starts a server, ready when it returns. The caller ends it with Stop.
func Serve(ctx context.Context, cfg Config) (*Server, error) { return nil, errors.New("not built yet") }

// URL is where clients connect: tls://host:port#pin.
func (s *Server) URL() string { return "" }

// Stop cuts every connection and ends the server. It may be called again.
func (s *Server) Stop() error { return nil }
