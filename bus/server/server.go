// Package server is the bus that nodes dial out to: an embedded NATS server that
// passes sealed messages on and keeps nothing.
//
// It is a package of its own so that a node, which is only ever a client, does
// not carry a server. It knows nobody: what a connection may publish and
// subscribe to follows from the role that it claims (see bus.Role), so that one
// client can't listen to the inbox of another; everything else is settled by
// signatures and seals that the server takes no part in. Package bus says what
// metadata it sees.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"

	"github.com/zero-os/zos/bus"
)

// Limits of a server.
const (
	MaxPayload     = 1 << 20  // bytes of one message
	DefaultClients = 10_000   // connections at once
	maxPending     = 32 << 20 // bytes queued for one slow client before it is cut off
	maxControlLine = 1024
	maxSubs        = 16 // per connection; a node needs four
	startDeadline  = 10 * time.Second
	stopDeadline   = 10 * time.Second
)

// Config is how a server is started.
type Config struct {
	// Listen is host:port; port 0 takes a free one. Empty: 127.0.0.1:0.
	Listen string
	// MaxClients bounds connections; 0 means DefaultClients.
	MaxClients int
	Logger     *slog.Logger
}

// Server is a running bus.
type Server struct {
	nats *nats.Server
	url  string
}

// Serve starts a server, ready when it returns. The caller ends it with Stop.
func Serve(ctx context.Context, cfg Config) (*Server, error) {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.MaxClients == 0 {
		cfg.MaxClients = DefaultClients
	}
	host, portText, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("start bus on %q: %w", cfg.Listen, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("start bus on %q: port: %w", cfg.Listen, err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	natsPort := int(port)
	if port == 0 {
		natsPort = nats.RANDOM_PORT
	}
	s, err := nats.NewServer(&nats.Options{
		ServerName:                 "zos-bus",
		Host:                       host,
		Port:                       natsPort,
		MaxConn:                    cfg.MaxClients,
		MaxSubs:                    maxSubs,
		MaxPayload:                 MaxPayload,
		MaxPending:                 maxPending,
		MaxControlLine:             maxControlLine,
		MaxClosedClients:           1,
		MaxTracedMsgLen:            1,
		AuthTimeout:                5,
		PingInterval:               20 * time.Second,
		MaxPingsOut:                2,
		WriteDeadline:              5 * time.Second,
		NoHeaderSupport:            true,
		NoSystemAccount:            true,
		NoSigs:                     true,
		DisableJetStreamBanner:     true,
		CustomClientAuthentication: roles{log},
	})
	if err != nil {
		return nil, fmt.Errorf("start bus on %s: %w", cfg.Listen, err)
	}
	s.SetLoggerV2(&logger{log}, false, false, false)
	s.Start()
	wait := startDeadline
	if d, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(d))
	}
	if !s.ReadyForConnections(wait) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("start bus on %s: not ready after %s; is the port taken?", cfg.Listen, wait.Round(time.Millisecond))
	}
	addr := s.Addr()
	if addr == nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, errors.New("start bus: it has no address")
	}
	log.Info("bus ready", "address", addr.String())
	return &Server{nats: s, url: "nats://" + addr.String()}, nil
}

// URL is where clients connect, nats://host:port.
func (s *Server) URL() string { return s.url }

// Clients is the number of connections now.
func (s *Server) Clients() int { return s.nats.NumClients() }

// Stop cuts every connection and ends the server. It may be called again.
func (s *Server) Stop() error {
	s.nats.Shutdown()
	done := make(chan struct{})
	go func() { s.nats.WaitForShutdown(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(stopDeadline):
		return fmt.Errorf("stop bus: still running after %s", stopDeadline)
	}
}

// roles gives each connection the subjects of the role that it claims.
type roles struct{ log *slog.Logger }

func (r roles) Check(c nats.ClientAuthentication) bool {
	if c.Kind() != nats.CLIENT {
		return false
	}
	opts := c.GetOpts()
	role, err := bus.ParseRole(opts.Username)
	if err == nil {
		err = bus.CheckToken(opts.Password)
	}
	if err != nil {
		r.log.Debug("bus refuses a connection", "from", c.RemoteAddress(), "error", err)
		return false
	}
	publish, subscribe := role.Subjects(opts.Password)
	c.RegisterUser(&nats.User{
		Username: role.String(),
		Permissions: &nats.Permissions{
			Publish:   &nats.SubjectPermission{Allow: publish},
			Subscribe: &nats.SubjectPermission{Allow: subscribe},
		},
	})
	return true
}

// logger hands the engine's lines to slog. Its notices are of no interest to
// who runs a grid, so they are debug lines.
type logger struct{ log *slog.Logger }

func (l *logger) Noticef(f string, v ...any) { l.log.Debug("bus: " + fmt.Sprintf(f, v...)) }
func (l *logger) Warnf(f string, v ...any)   { l.log.Warn("bus: " + fmt.Sprintf(f, v...)) }
func (l *logger) Errorf(f string, v ...any)  { l.log.Warn("bus: " + fmt.Sprintf(f, v...)) }
func (l *logger) Fatalf(f string, v ...any)  { l.log.Error("bus: " + fmt.Sprintf(f, v...)) }
func (l *logger) Debugf(f string, v ...any)  { l.log.Debug("bus: " + fmt.Sprintf(f, v...)) }
func (l *logger) Tracef(f string, v ...any)  {}
