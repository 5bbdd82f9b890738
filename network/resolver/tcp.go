package resolver

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// serveTCP answers what comes by TCP: one question after another on each
// connection, of which there are few, and none that waits for long.
func (s *Server) serveTCP(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			if s.ended(err) {
				return
			}
			s.log.Debug("accept a connection", "error", err)
			if !s.pause() {
				return
			}
			continue
		}
		client := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
		if _, known := s.zone.Load().Egress(client); !known || !s.conns.enter(client) {
			s.dropped.Add(1)
			_ = c.SetLinger(0) // leaves no half-closed connection behind
			_ = c.Close()
			continue
		}
		s.work.Go(func() {
			defer s.conns.leave(client)
			s.converse(c, client)
		})
	}
}

// converse answers the questions of one connection. A client that is slow to
// ask, to finish a question or to take its answer is left.
func (s *Server) converse(c *net.TCPConn, client netip.Addr) {
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-s.ctx.Done():
		case <-ended:
		}
		_ = c.Close()
	})
	defer watch.Wait()
	defer close(ended)
	for range tcpQuestions {
		if c.SetReadDeadline(time.Now().Add(s.cfg.idle)) != nil {
			return
		}
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > maxQuery {
			s.dropped.Add(1)
			return
		}
		packet := make([]byte, n)
		if _, err := io.ReadFull(c, packet); err != nil {
			return
		}
		said := make(chan []byte, 1)
		if pending := s.handle(client, packet, tcpSize, func(b []byte) { said <- b }); !pending && len(said) == 0 {
			return // nothing that deserves an answer
		}
		b := <-said // a forwarded question ends with its own time limit
		if c.SetWriteDeadline(time.Now().Add(s.cfg.idle)) != nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			return
		}
	}
}

func tcpSize(*dns.Msg) int { return dns.MaxMsgSize }
