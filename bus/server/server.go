// Package server is the bus that nodes dial out to: an embedded NATS server that
// passes sealed messages on and keeps nothing.
//
// It is a package of its own so that a node, which is only ever a client, does
// not carry a server. It listens to nobody: the rendezvous (package
// rendezvous/server) hands it the connections that asked for the bus. It knows
// nobody either: what a connection may publish and subscribe to follows from the
// role that it claims (see bus.Role), so that one client can't listen to the
// inbox of another; everything else is settled by signatures and seals that the
// server takes no part in. Package bus says what metadata it sees.
package server

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
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
	// MaxClients bounds connections; 0 means DefaultClients.
	MaxClients int
	Logger     *slog.Logger
}

// Server is a running bus.
type Server struct {
	nats   *nats.Server
	log    *slog.Logger
	secret string // of the server's own connection, see Join

	spliced spliced
}

// New starts a bus that is fed connections by ServeConn. The caller ends it with
// Stop.
func New(ctx context.Context, cfg Config) (*Server, error) {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxClients == 0 {
		cfg.MaxClients = DefaultClients
	}
	var secret [32]byte
	rand.Read(secret[:]) // never fails, see crypto/rand
	s := &Server{log: log, secret: hex.EncodeToString(secret[:])}
	s.spliced.init()
	engine, err := nats.NewServer(&nats.Options{
		ServerName:                 "zos-bus",
		DontListen:                 true,
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
		CustomClientAuthentication: roles{log, s.secret},
	})
	if err != nil {
		return nil, fmt.Errorf("start bus: %w", err)
	}
	s.nats = engine
	engine.SetLoggerV2(&logger{log}, false, false, false)
	engine.Start()
	wait := startDeadline
	if d, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(d))
	}
	if !engine.ReadyForConnections(wait) {
		engine.Shutdown()
		engine.WaitForShutdown()
		return nil, fmt.Errorf("start bus: not ready after %s", wait.Round(time.Millisecond))
	}
	return s, nil
}

// Clients is the number of connections now.
func (s *Server) Clients() int { return s.nats.NumClients() }

// Stop cuts every connection and ends the server. It may be called again.
func (s *Server) Stop() error {
	s.nats.Shutdown()
	s.spliced.stop()
	done := make(chan struct{})
	go func() { s.nats.WaitForShutdown(); s.spliced.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(stopDeadline):
		return fmt.Errorf("stop bus: still running after %s", stopDeadline)
	}
}

// roles gives each connection the subjects of the role that it claims.
type roles struct {
	log    *slog.Logger
	secret string // of the server's own connection
}

func (r roles) Check(c nats.ClientAuthentication) bool {
	if c.Kind() != nats.CLIENT {
		return false
	}
	opts := c.GetOpts()
	if opts.Username == ownUser {
		if subtle.ConstantTimeCompare([]byte(opts.Password), []byte(r.secret)) != 1 {
			return false
		}
		c.RegisterUser(&nats.User{Username: ownUser})
		return true
	}
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
