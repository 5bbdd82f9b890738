package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Bounds of a Server.
const (
	maxTCP      = 256             // connections at a time
	maxQueries  = 64              // of one connection
	tcpTimeout  = 5 * time.Second // between queries, and for an answer to be taken
	maxUDP      = 1232            // bytes of an answer over UDP (DNS Flag Day 2020)
	maxDatagram = 1500            // bytes of a query over UDP
)

// Options of a Server.
type Options struct {
	// Rate is the answers per second to one client network over UDP, an IPv4 /24 or
	// an IPv6 /56; 0: 50. Of those beyond it, every second one is answered by asking the
	// client to come by TCP, the others not at all.
	Rate int
	Now  func() time.Time // nil: time.Now
	Log  *slog.Logger     // nil: none
}

// Server answers for one zone.
type Server struct {
	zone  atomic.Pointer[records]
	limit *limiter
	log   *slog.Logger
}

// New makes a Server that knows no zone, and refuses everything until SetZone.
func New(o Options) *Server {
	if o.Rate == 0 {
		o.Rate = 50
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{limit: newLimiter(o.Rate, o.Now), log: o.Log}
}

// SetZone replaces the zone for all queries from now on. Code: "zone-data-invalid";
// the zone that stood before is then kept. One without a Domain refuses everything.
func (s *Server) SetZone(z Zone) error {
	if z.Domain == "" {
		s.zone.Store(nil)
		return nil
	}
	r, err := compile(z)
	if err != nil {
		return err
	}
	s.zone.Store(r)
	return nil
}

// ServeUDP answers datagrams until ctx ends, which closes c.
func (s *Server) ServeUDP(ctx context.Context, c net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	b := make([]byte, maxDatagram)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			continue // an ICMP error of an earlier answer
		}
		answer := s.Answer(b[:n], maxUDP)
		if answer == nil {
			continue
		}
		switch s.limit.take(from) {
		case drop:
			continue
		case slip:
			if answer = truncated(b[:n]); answer == nil {
				continue
			}
		}
		_, _ = c.WriteTo(answer, from) // the client asks again
	}
}

// ServeTCP answers connections until ctx ends, which closes l and all of them.
func (s *Server) ServeTCP(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	slots := make(chan struct{}, maxTCP)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			select { // no descriptors: wait until some are free
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s.serveConn(ctx, c)
		})
	}
}

func (s *Server) serveConn(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	var head [2]byte
	for range maxQueries {
		_ = c.SetDeadline(time.Now().Add(tcpTimeout))
		if _, err := readFull(c, head[:]); err != nil {
			return
		}
		b := make([]byte, min(maxDatagram, int(head[0])<<8|int(head[1])))
		if len(b) == maxDatagram {
			return // no question is that long
		}
		if _, err := readFull(c, b); err != nil {
			return
		}
		answer := s.Answer(b, dns.MaxMsgSize)
		if answer == nil {
			return
		}
		if _, err := c.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)); err != nil {
			return
		}
	}
}

func readFull(c net.Conn, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, err := c.Read(b[n:])
		n += k
		if err != nil && n < len(b) {
			return n, err
		}
	}
	return n, nil
}

// Answer returns the answer to a query, at most size bytes, or nil if it deserves
// none: it is itself an answer, or not even a header.
func (s *Server) Answer(query []byte, size int) []byte {
	var q dns.Msg
	if len(query) < 12 || query[2]&0x80 != 0 {
		return nil
	}
	r := new(dns.Msg)
	if err := q.Unpack(query); err != nil || len(q.Question) != 1 || len(q.Answer) > 0 || len(q.Ns) > 0 {
		r.Id = uint16(query[0])<<8 | uint16(query[1])
		r.Response, r.Rcode = true, dns.RcodeFormatError
		if q.Opcode = int(query[2]>>3) & 0xf; q.Opcode != dns.OpcodeQuery {
			r.Opcode, r.Rcode = q.Opcode, dns.RcodeNotImplemented
		}
		return pack(r)
	}
	r.SetReply(&q)
	r.RecursionAvailable = false
	r.Compress = true
	opt := q.IsEdns0()
	limit := dns.MinMsgSize
	if opt != nil {
		limit = max(dns.MinMsgSize, int(opt.UDPSize()))
		r.SetEdns0(maxUDP, false)
	}
	if size == dns.MaxMsgSize {
		limit = size // TCP
	}
	limit = min(limit, size)
	question := q.Question[0]
	switch {
	case opt != nil && opt.Version() != 0:
		r.Rcode = dns.RcodeBadVers
	case q.Opcode != dns.OpcodeQuery:
		r.Rcode = dns.RcodeNotImplemented
	case question.Qclass != dns.ClassINET && question.Qclass != dns.ClassANY:
		r.Rcode = dns.RcodeRefused
	case question.Qtype == dns.TypeAXFR || question.Qtype == dns.TypeIXFR:
		r.Rcode = dns.RcodeRefused
	default:
		z := s.zone.Load()
		if z == nil || !z.covers(question.Name) {
			r.Rcode = dns.RcodeRefused
			break
		}
		z.answer(r, strings.ToLower(question.Name), question.Qtype)
	}
	r.Truncate(limit)
	return pack(r)
}

// truncated is the smallest answer that makes a client come by TCP.
func truncated(query []byte) []byte {
	var q dns.Msg
	if q.Unpack(query) != nil {
		return nil
	}
	r := new(dns.Msg)
	r.SetReply(&q)
	r.RecursionAvailable, r.Truncated = false, true
	return pack(r)
}

func pack(r *dns.Msg) []byte {
	b, err := r.Pack()
	if err != nil {
		f := &dns.Msg{MsgHdr: dns.MsgHdr{Id: r.Id, Response: true, Opcode: r.Opcode, Rcode: dns.RcodeServerFailure}}
		b, _ = f.Pack() // a header alone can be packed
	}
	return b
}
