package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/zero-os/zos/spec/plan"
)

const port = 53

// Limits of a Server. All are per server, which is per network and node.
const (
	maxQuery      = 4096            // bytes of a question
	maxForwards   = 64              // questions at the upstream at one time
	clientForward = 16              // of those, of one workload
	maxTCP        = 64              // connections
	clientTCP     = 8               // of those, of one workload
	tcpQuestions  = 128             // on one connection
	tcpIdle       = 5 * time.Second // to wait for a question, to read it, to write its answer
	perSecond     = 2000            // questions of one workload; more are not answered
	upstreamTime  = 5 * time.Second // for one question
)

// Upstream asks the rest of the world on behalf of a workload with egress
// plan.EgressNode or plan.EgressExit: it sends query and returns the answer, both
// as DNS messages. It must return when ctx ends. The server has made the query
// anew: a new id, one question, none of the asker's options.
type Upstream func(ctx context.Context, egress string, query []byte) ([]byte, error)

// Config of a Server.
type Config struct {
	// NetNS is a file descriptor of the router's namespace, needed only while
	// Serve runs.
	NetNS int
	// Addrs are where it listens, on port 53 by UDP and TCP: the router's
	// addresses, by Gateways. They need not be on an interface yet.
	Addrs []netip.Addr
	Zone  Zone
	// Exit says that this node is the network's exit: then its resolver answers
	// the resolvers of the network's other nodes with egress "node".
	Exit bool
	// Upstream is nil where nothing leaves the node at all.
	Upstream Upstream
	Logger   *slog.Logger

	idle time.Duration    // tcpIdle, unless a test has less time
	now  func() time.Time // time.Now, unless a test has its own
}

// Stats counts questions since the start.
type Stats struct {
	Answered  uint64 // from the zone, "no such name" included
	Refused   uint64
	Forwarded uint64
	Failed    uint64 // no answer from the upstream, or too many at once
	Dropped   uint64 // got no answer: not of the network, not a question, or too many
}

// Server answers one network's questions on one node.
type Server struct {
	cfg   Config
	netns int // our own descriptor
	addrs []netip.AddrPort
	zone  atomic.Pointer[Zone]
	log   *slog.Logger

	stop  context.CancelFunc
	ctx   context.Context
	close []func() error
	work  sync.WaitGroup

	forwards gate
	conns    gate
	mu       sync.Mutex
	rates    map[netip.Addr]*rate.Limiter

	answered, refused, forwarded, failed, dropped atomic.Uint64
}

// Serve opens the sockets and answers until ctx ends or Close.
func Serve(ctx context.Context, cfg Config) (*Server, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("serve a resolver: no address to listen at")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.idle == 0 {
		cfg.idle = tcpIdle
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	netns, err := unix.FcntlInt(uintptr(cfg.NetNS), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("serve a resolver: keep the network namespace: %w", err)
	}
	s := &Server{cfg: cfg, netns: netns, log: cfg.Logger, rates: map[netip.Addr]*rate.Limiter{}}
	s.forwards = gate{all: maxForwards, each: clientForward}
	s.conns = gate{all: maxTCP, each: clientTCP}
	s.zone.Store(&cfg.Zone)
	s.ctx, s.stop = context.WithCancel(ctx)
	var start []func()
	for _, a := range cfg.Addrs {
		at := netip.AddrPortFrom(a, port)
		u, t, err := listen(ctx, netns, at)
		if err != nil {
			s.stop()
			return nil, errors.Join(err, s.release())
		}
		s.addrs = append(s.addrs, at)
		s.close = append(s.close, u.Close, t.Close)
		start = append(start, func() { s.serveUDP(u) }, func() { s.serveTCP(t) })
	}
	for _, f := range start {
		s.work.Go(f)
	}
	s.work.Go(func() {
		<-s.ctx.Done()
		for _, c := range s.close {
			_ = c() // ends the loops; nothing is lost by an error
		}
	})
	return s, nil
}

// release closes what a failed Serve had opened.
func (s *Server) release() error {
	var errs []error
	for _, c := range s.close {
		errs = append(errs, c())
	}
	return errors.Join(append(errs, unix.Close(s.netns))...)
}

// Close ends the server and waits for all that it started. It may be called
// once, also after the context of Serve has ended.
func (s *Server) Close() error {
	s.stop()
	s.work.Wait()
	if err := unix.Close(s.netns); err != nil {
		return fmt.Errorf("close the resolver's namespace: %w", err)
	}
	return nil
}

// SetZone exchanges the zone: every question is answered from the old or the new
// one, whole.
func (s *Server) SetZone(z Zone) {
	s.zone.Store(&z)
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.rates {
		if _, known := z.Egress(a); !known {
			delete(s.rates, a)
		}
	}
}

// Zone returns the zone in use.
func (s *Server) Zone() Zone { return *s.zone.Load() }

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	return Stats{Answered: s.answered.Load(), Refused: s.refused.Load(), Forwarded: s.forwarded.Load(), Failed: s.failed.Load(), Dropped: s.dropped.Load()}
}

// Check asks every address of the server for its own zone, by UDP from inside
// the namespace, and tells what is wrong with the first that does not answer
// within some seconds, a lost packet or two included. A
// firewall without a rule for port 53 at the router's own addresses is no cause:
// these questions come over the loopback.
func (s *Server) Check(ctx context.Context) error {
	origin := s.Zone().origin
	if origin == "" {
		return errors.New("the resolver has no zone")
	}
	q := new(dns.Msg)
	q.SetQuestion(origin, dns.TypeSOA)
	packet, err := q.Pack()
	if err != nil {
		return fmt.Errorf("make a question: %w", err)
	}
	for _, at := range s.addrs {
		b, err := again(ctx, func(ctx context.Context) ([]byte, error) { return exchange(ctx, s.netns, "udp", at, packet) })
		if err != nil {
			return fmt.Errorf("ask the resolver at %s: %w", at, err)
		}
		a := new(dns.Msg)
		if err := a.Unpack(b); err != nil {
			return fmt.Errorf("ask the resolver at %s: %w", at, err)
		}
		if a.Rcode != dns.RcodeSuccess || len(a.Answer) != 1 {
			return fmt.Errorf("ask the resolver at %s: it answers %s", at, dns.RcodeToString[a.Rcode])
		}
	}
	return nil
}

// How often, and for how long each time, a check asks an address.
const (
	checkTries = 4
	checkTime  = 500 * time.Millisecond
)

// again asks until there is an answer, or ctx ends: packets may be lost.
func again(ctx context.Context, ask func(context.Context) ([]byte, error)) (b []byte, err error) {
	for range checkTries {
		try, cancel := context.WithTimeout(ctx, checkTime)
		b, err = ask(try)
		cancel()
		if err == nil || ctx.Err() != nil {
			return b, err
		}
	}
	return nil, err
}

// admit tells whether client may ask now, and its egress.
func (s *Server) admit(z *Zone, client netip.Addr) (egress string, ok bool) {
	egress, ok = z.Egress(client)
	if !ok {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.rates[client]
	if l == nil {
		l = rate.NewLimiter(perSecond, perSecond)
		s.rates[client] = l
	}
	if s.cfg.Exit && z.gateways[client] {
		egress = plan.EgressNode // of the workloads behind that router, which checked theirs
	}
	return egress, l.AllowN(s.cfg.now(), 1)
}

// handle answers one packet of a client. reply is called at most once, before
// handle returns or, for a forwarded question, later from another goroutine; size
// is how much an answer may have.
func (s *Server) handle(client netip.Addr, packet []byte, size func(query *dns.Msg) int, reply func([]byte)) (pending bool) {
	z := s.zone.Load()
	egress, ok := s.admit(z, client)
	if !ok {
		s.dropped.Add(1)
		return false
	}
	v, query, answer := z.judge(egress, packet)
	switch {
	case v == silence:
		s.dropped.Add(1)
		return false
	case v == forward && s.cfg.Upstream == nil:
		answer.Rcode, v = dns.RcodeRefused, answered
		finish(query, answer)
	case v == forward:
		if !s.forwards.enter(client) {
			s.failed.Add(1)
			answer.Rcode = dns.RcodeServerFailure
			finish(query, answer)
			break
		}
		s.work.Go(func() {
			defer s.forwards.leave(client)
			reply(pack(s.ask(egress, query, answer), size(query)))
		})
		return true
	}
	if answer.Rcode == dns.RcodeSuccess || answer.Rcode == dns.RcodeNameError {
		s.answered.Add(1)
	} else if answer.Rcode != dns.RcodeServerFailure {
		s.refused.Add(1)
	}
	reply(pack(answer, size(query)))
	return false
}

// pack encodes an answer in at most size bytes; what does not fit is cut and
// marked, so that the asker comes again by TCP.
func pack(m *dns.Msg, size int) []byte {
	m.Truncate(size)
	b, err := m.Pack()
	if err != nil {
		failed := new(dns.Msg)
		failed.Id, failed.Response, failed.Rcode = m.Id, true, dns.RcodeServerFailure
		b, _ = failed.Pack() // a bare header always packs
	}
	return b
}

// gate lets in so many at one time, and so many of each client.
type gate struct {
	all, each int
	mu        sync.Mutex
	in        int
	of        map[netip.Addr]int
}

func (g *gate) enter(client netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in >= g.all || g.of[client] >= g.each {
		return false
	}
	if g.of == nil {
		g.of = map[netip.Addr]int{}
	}
	g.in++
	g.of[client]++
	return true
}

func (g *gate) leave(client netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.in--
	if g.of[client]--; g.of[client] == 0 {
		delete(g.of, client)
	}
}

// ended tells whether a socket's error is that the server closed it.
func (s *Server) ended(err error) bool {
	return s.ctx.Err() != nil || errors.Is(err, net.ErrClosed)
}
