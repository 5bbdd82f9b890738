package server

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// plain is a listener without TLS, for tests and for everything in one machine.
type plain struct {
	ln net.Listener
	wg sync.WaitGroup
}

// Serve is New with a listener of its own, which speaks NATS in the clear on
// cfg.Listen (host:port; port 0 takes a free one; empty: 127.0.0.1:0). What is
// meant for other machines belongs behind package rendezvous/server.
func Serve(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("start bus on %s: %w", cfg.Listen, err)
	}
	s, err := New(ctx, cfg)
	if err != nil {
		ln.Close()
		return nil, err
	}
	s.plain = &plain{ln: ln}
	s.plain.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.plain.wg.Go(func() {
				if err := s.ServeConn(c); err != nil {
					s.log.Debug("bus", "error", err)
				}
			})
		}
	})
	return s, nil
}

// URL is where clients of Serve connect, nats://host:port; "" after New.
func (s *Server) URL() string {
	if s.plain == nil {
		return ""
	}
	return "nats://" + s.plain.ln.Addr().String()
}

// stop ends accepting. Connections end with the server.
func (p *plain) stop() { p.ln.Close() }
