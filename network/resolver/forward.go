package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"github.com/zero-os/zos/linux/netns"
)

// ask takes a question to the upstream and turns its answer into ours; reply is
// what is told when there is none.
func (s *Server) ask(egress string, query, reply *dns.Msg) *dns.Msg {
	ctx, cancel := context.WithTimeout(s.ctx, upstreamTime)
	defer cancel()
	got, err := s.upstream(ctx, egress, query)
	if err != nil {
		s.failed.Add(1)
		s.log.Debug("ask the upstream", "error", err)
		reply.Rcode = dns.RcodeServerFailure
		finish(query, reply)
		return reply
	}
	s.forwarded.Add(1)
	reply.Rcode, reply.Answer, reply.Ns = got.Rcode, got.Answer, got.Ns
	// Its OPT record is between it and us; the asker gets one of ours.
	reply.Extra = slices.DeleteFunc(got.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	if opt := query.IsEdns0(); opt != nil {
		reply.SetEdns0(maxUDP, opt.Do())
	}
	return reply
}

// upstream sends the question anew and checks that what comes answers it.
func (s *Server) upstream(ctx context.Context, egress string, query *dns.Msg) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(query.Question[0].Name, query.Question[0].Qtype)
	q.Id = newID()
	q.CheckingDisabled = query.CheckingDisabled
	opt := query.IsEdns0()
	q.SetEdns0(maxUDP, opt != nil && opt.Do())
	packet, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("make the question: %w", err)
	}
	b, err := s.cfg.Upstream(ctx, egress, packet)
	if err != nil {
		return nil, err
	}
	got := new(dns.Msg)
	if err := got.Unpack(b); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if err := answers(q, got); err != nil {
		return nil, err
	}
	if got.Rcode > 0xF {
		return nil, fmt.Errorf("the upstream answers %s", dns.RcodeToString[got.Rcode])
	}
	return got, nil
}

func newID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return binary.BigEndian.Uint16(b[:])
}

// answers tells whether got answers q and not another question.
func answers(q, got *dns.Msg) error {
	switch {
	case !got.Response || got.Id != q.Id:
		return errors.New("what came is no answer to the question")
	case len(got.Question) != 1 || got.Question[0].Qtype != q.Question[0].Qtype ||
		dns.CanonicalName(got.Question[0].Name) != dns.CanonicalName(q.Question[0].Name):
		return errors.New("what came answers another question")
	}
	return nil
}

// oneServer is how long one server may take before the next is asked.
const oneServer = 1500 * time.Millisecond

// Forward makes an Upstream that asks servers, one after the other, with sockets
// in the namespace of the file descriptor ns; -1 is the caller's own. servers
// is called for each question: what a node's lease says may change. An answer
// that was cut is asked for again by TCP.
//
// For egress "exit" the server is the exit node's resolver (its router's address)
// and the namespace this router's, so that the question crosses the network
// encrypted and leaves the grid where the workload's packets do.
func Forward(ns int, servers func() []netip.AddrPort) Upstream {
	return func(ctx context.Context, _ string, query []byte) ([]byte, error) {
		list := servers()
		if len(list) == 0 {
			return nil, errors.New("no server is known to ask")
		}
		var errs []error
		for _, at := range list[:min(len(list), maxNameservers)] {
			b, err := forwardTo(ctx, ns, at, query)
			if err == nil {
				return b, nil
			}
			errs = append(errs, fmt.Errorf("ask %s: %w", at, err))
			if ctx.Err() != nil {
				break
			}
		}
		return nil, errors.Join(errs...)
	}
}

func forwardTo(ctx context.Context, ns int, at netip.AddrPort, query []byte) ([]byte, error) {
	wait, cancel := context.WithTimeout(ctx, oneServer)
	defer cancel()
	b, err := exchange(wait, ns, "udp", at, query)
	if err != nil {
		return nil, err
	}
	const truncated = 0x02
	if len(b) > 2 && b[2]&truncated != 0 {
		again, cancel := context.WithTimeout(ctx, oneServer)
		defer cancel()
		return exchange(again, ns, "tcp", at, query)
	}
	if len(b) > 3 {
		switch int(b[3] & 0xF) {
		case dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented:
			return nil, fmt.Errorf("it answers %s", dns.RcodeToString[int(b[3]&0xF)])
		}
	}
	return b, nil
}

// exchange sends one query from a socket of its own, so that each has a port that
// nobody knows, and returns the first answer with its id.
func exchange(ctx context.Context, ns int, network string, at netip.AddrPort, query []byte) ([]byte, error) {
	c, err := dial(ctx, ns, network+family(at.Addr()), at)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		return overTCP(ctx, c, query)
	}
	if _, err := c.Write(query); err != nil {
		return nil, because(ctx, err)
	}
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, because(ctx, err)
		}
		if n >= 12 && buf[0] == query[0] && buf[1] == query[1] && buf[2]&0x80 != 0 {
			return buf[:n], nil
		}
	}
}

func overTCP(ctx context.Context, c net.Conn, query []byte) ([]byte, error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, because(ctx, err)
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, because(ctx, err)
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, because(ctx, err)
	}
	return b, nil
}

// because prefers the reason why a socket was given up to what the socket says.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// dial makes a connected socket in a namespace. Its address is literal, so Go
// makes it on the calling thread.
func dial(ctx context.Context, ns int, network string, at netip.AddrPort) (c net.Conn, err error) {
	connect := func() error {
		c, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, at.String())
		return err
	}
	if ns < 0 {
		err = connect()
		return c, err
	}
	err = netns.Do(ns, connect)
	return c, err
}
