package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/rendezvous/wire"
)

// acceptPause follows a failure to accept, e.g. for want of file descriptors.
const acceptPause = 50 * time.Millisecond

func (s *Server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if s.ctx.Err() != nil {
				return
			}
			s.log.Warn("rendezvous can't accept", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		leave, ok := s.guard.enter(addrOf(c).Addr())
		if !ok || !s.track(c) {
			c.Close()
			if ok {
				leave()
			}
			continue
		}
		s.wg.Go(func() {
			defer s.untrack(c)
			defer leave()
			defer c.Close()
			if err := s.serve(c, leave); err != nil && s.ctx.Err() == nil {
				s.log.Debug("rendezvous connection", "from", c.RemoteAddr(), "error", err)
			}
		})
	}
}

// serve speaks TLS on c and hands it to the protocol that it asks for. proven is
// to be called once the connection has proven what it must.
func (s *Server) serve(raw net.Conn, proven func()) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Limits.Handshake)
	defer cancel()
	// The deadline is the connection's, too: a login is read after the handshake.
	if err := raw.SetDeadline(time.Now().Add(s.cfg.Limits.Handshake)); err != nil {
		return err
	}
	under := wire.NewConn(raw, &s.relay.buffers)
	c := tls.Server(under, s.tls())
	if err := c.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	protocol := c.ConnectionState().NegotiatedProtocol
	leave, ok := s.admit(protocol)
	if !ok {
		return fmt.Errorf("%s: the server is full", protocol)
	}
	defer leave()
	switch protocol {
	case rendezvous.ALPNBus:
		// Whoever speaks TLS is let through: the bus bounds the time to say a role.
		proven()
		if err := raw.SetDeadline(time.Time{}); err != nil {
			return err
		}
		return s.bus.ServeConn(c)
	case rendezvous.ALPNRelay:
		return s.relay.serve(ctx, c, under, proven)
	case rendezvous.ALPNCluster:
		return s.cluster.serve(c, under, proven)
	}
	return errors.New("no protocol was asked for")
}

// tls is the configuration for those who dial in. A certificate is asked of
// other servers only.
func (s *Server) tls() *tls.Config {
	protocols := []string{rendezvous.ALPNBus, rendezvous.ALPNRelay}
	cfg := &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{s.cert},
		NextProtos:                  protocols,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // packets queue up: full records
	}
	cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Contains(h.SupportedProtos, rendezvous.ALPNCluster) {
			return nil, nil
		}
		peer := cfg.Clone()
		peer.GetConfigForClient = nil
		peer.NextProtos = []string{rendezvous.ALPNCluster}
		peer.ClientAuth = tls.RequireAnyClientCert
		peer.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 || !s.cluster.knows(rendezvous.Pin(cs.PeerCertificates[0])) {
				return errors.New("it is no server of this cluster")
			}
			return nil
		}
		return peer, nil
	}
	return cfg
}
