package resolver

import (
	"net"
	"time"

	"github.com/miekg/dns"
)

// serveUDP answers what comes by UDP. Names of the zone are answered in this
// loop: that is as fast as it reads, and needs no bound.
func (s *Server) serveUDP(c *net.UDPConn) {
	buf := make([]byte, maxQuery)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			if s.ended(err) {
				return
			}
			// What the kernel has to say about an answer sent before, such as that
			// nobody was there to take it.
			s.log.Debug("read a question", "error", err)
			if !s.pause() {
				return
			}
			continue
		}
		client := from.Addr().Unmap().WithZone("")
		s.handle(client, buf[:n], udpSize, func(b []byte) {
			_, _ = c.WriteToUDPAddrPort(b, from) // who does not get it asks again
		})
	}
}

// pause keeps an error that repeats itself from taking a processor.
func (s *Server) pause() bool {
	t := time.NewTimer(time.Millisecond)
	defer t.Stop()
	select {
	case <-s.ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// udpSize is how large an answer the asker takes (RFC 6891).
func udpSize(query *dns.Msg) int {
	if query == nil {
		return dns.MinMsgSize
	}
	if opt := query.IsEdns0(); opt != nil {
		return min(maxUDP, max(dns.MinMsgSize, int(opt.UDPSize())))
	}
	return dns.MinMsgSize
}
