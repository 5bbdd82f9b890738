package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous/wire"
)

// The first byte of what is relayed says what it is to the other client. The
// server sees it and has no use for it.
const (
	kindData  = 0
	kindProbe = 1 // the asker's number of the link (1), sequence (8)
	kindEcho  = 2 // the same two, and how many data packets came on this link (8)
	kindSelf  = 3 // a link's ping, to oneself: sequence (8)
)

// queueSize is the bytes of packets that wait for one server: half a second at
// 4 Mbit/s. More would only make what waits old.
const queueSize = 256 << 10

// link is the way to one server, whether there is a connection or not.
type link struct {
	client *Client
	index  int
	url    string
	addr   Address
	retry  chan struct{} // ends a pause between dials

	session atomic.Pointer[session] // nil while the link is down

	mu    sync.Mutex
	since time.Time
	err   error
}

func newLink(c *Client, index int, url string, a Address) *link {
	return &link{client: c, index: index, url: url, addr: a, retry: make(chan struct{}, 1), since: time.Now()}
}

// state is the link as people see it.
func (l *link) state() Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := Link{URL: l.url, Since: l.since}
	if s := l.session.Load(); s != nil {
		out.Up, out.RTT = true, time.Duration(s.rtt.Load())
		if u := s.udp; u != nil {
			out.UDP = u.most.Load() > 0
		}
	} else if l.err != nil {
		out.Error = l.err.Error()
	}
	return out
}

// keep holds the link up until ctx ends.
func (l *link) keep(ctx context.Context) {
	p := l.client.cfg.Periods
	pause := p.RetryMin
	for ctx.Err() == nil {
		began := time.Now()
		err := l.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*p.RetryMax {
			pause = p.RetryMin
		}
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
		l.client.log.Debug("rendezvous link down", "server", l.addr.Host, "error", err, "again_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			pause = min(2*pause, p.RetryMax)
		case <-l.retry: // the network changed: at once
			pause = p.RetryMin
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// once dials, logs in, and passes packets until the connection ends.
func (l *link) once(ctx context.Context) error {
	select { // what was asked for before this dial is being done
	case <-l.retry:
	default:
	}
	s, err := l.login(ctx)
	if err != nil {
		return err
	}
	c := l.client
	l.set(s)
	c.mu.RLock() // those that were watched before; later ones Watch sends itself
	for token := range c.tokens {
		s.control(wire.Watch, token[:])
	}
	c.mu.RUnlock()
	c.log.Debug("rendezvous link up", "server", l.addr.Host)
	s.ping(c.now())

	stop := context.AfterFunc(ctx, func() { s.end(nil) })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(s.write)
	if s.udp != nil {
		wg.Go(s.udp.read)
		wg.Go(s.udp.drain)
		s.udp.pingAll(c.now())
	}
	err = s.read()
	l.set(nil)
	s.end(err)
	wg.Wait()
	return s.why()
}

// set makes s the link's session; nil takes it away.
func (l *link) set(s *session) {
	l.mu.Lock()
	l.session.Store(s)
	l.since = time.Now()
	l.mu.Unlock()
	l.client.changed()
}

// login dials and proves the slot to the server.
func (l *link) login(ctx context.Context) (*session, error) {
	c := l.client
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Periods.Dial)
	defer cancel()
	conn, under, err := dial(ctx, l.addr, ALPNRelay, func(n net.Conn) *wire.Conn { return wire.NewConn(n, &c.buffers) })
	if err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			conn.NetConn().Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	defer stop()
	in := wire.NewReader(conn)
	challenge, err := expect(in, wire.Hello, wire.ChallengeSize)
	if err != nil {
		return nil, l.refused(err)
	}
	channel, err := wire.Channel(conn)
	if err != nil {
		return nil, err
	}
	login := wire.Login{Slot: c.cfg.Slot, Epoch: c.cfg.Epoch, Challenge: challenge, Channel: channel}
	login.Grid = c.cfg.Grid
	body, err := wire.SignLogin(ctx, login, c.cfg.Signer)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(wire.Append(nil, wire.LoginFrame, body, nil, nil)); err != nil {
		return nil, l.refused(err)
	}
	welcome, err := expect(in, wire.Welcome, wire.SessionSize)
	if err != nil {
		return nil, l.refused(err)
	}
	s := &session{link: l, client: c, conn: conn, under: under, in: in, queue: wire.NewQueue(queueSize, 0, &c.buffers)}
	if a, isTCP := conn.RemoteAddr().(*net.TCPAddr); isTCP {
		s.remote = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), uint16(a.Port))
	}
	if !c.cfg.RelayOnly {
		ours, theirs, err := wire.DatagramKeys(conn)
		if err != nil {
			return nil, err
		}
		if s.udp, err = newUDP(s, [wire.SessionSize]byte(welcome), ours, theirs); err != nil {
			c.log.Debug("rendezvous without UDP", "server", l.addr.Host, "error", err)
		}
	}
	if !stop() { // the deadline came at the last moment
		if s.udp != nil {
			s.udp.close()
		}
		return nil, l.refused(ctx.Err())
	}
	ok = true
	return s, nil
}

// refused says what was attempted, and keeps the code of what the server said.
func (l *link) refused(err error) error {
	if problem.Code(err) != "" {
		return fmt.Errorf("log in to %s: %w", l.addr.Host, err)
	}
	return problem.New("rendezvous-unreachable", "log in to %s: %w", l.addr.Host, err).
		WithFix("check that the server runs and that its address is right")
}

// expect reads one frame of the login.
func expect(in *wire.Reader, want wire.Type, size int) ([]byte, error) {
	t, body, err := in.Next()
	if err != nil {
		return nil, err
	}
	if t == wire.Refused {
		return nil, wire.ParseRefusal(body)
	}
	if t != want || len(body) != size {
		return nil, errors.New("the server does not keep to the protocol")
	}
	return append([]byte(nil), body...), nil
}

// poke reacts to a change of the network; own are the addresses of this machine.
func (l *link) poke(own map[netip.Addr]bool) {
	select {
	case l.retry <- struct{}{}:
	default:
	}
	s := l.session.Load()
	if s == nil {
		return
	}
	if a, ok := s.conn.LocalAddr().(*net.TCPAddr); ok && own != nil && !own[a.AddrPort().Addr().Unmap().WithZone("")] {
		s.end(errors.New("this machine's address has changed"))
		return
	}
	s.suspect.Store(s.client.now())
}

// ownAddresses are those of this machine; nil if they can't be read.
func ownAddresses() map[netip.Addr]bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	own := map[netip.Addr]bool{}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	return own
}

// session is one logged-in connection of a link.
type session struct {
	link   *link
	client *Client
	conn   *tls.Conn
	under  *wire.Conn
	in     *wire.Reader
	queue  *wire.Queue
	remote netip.AddrPort
	udp    *udp // nil: TLS only

	rtt     atomic.Int64 // nanoseconds; 0: not measured
	heard   atomic.Int64 // when anything came by TLS
	sent    atomic.Int64 // when anything was sent by TLS
	pinged  atomic.Int64 // when the oldest ping without an answer was sent; 0: none
	lastOut atomic.Int64 // when the last ping was sent
	seq     atomic.Uint64
	suspect atomic.Int64 // since when it must answer a ping soon, or be dead; 0: it need not

	once sync.Once
	err  error
	done atomic.Bool
}

// send passes a packet on by UDP if that passes, else by TLS. Neither waits.
func (s *session) send(now int64, to canon.Hash, kind byte, packet []byte) {
	if s.udp != nil && s.udp.send(now, to, kind, packet) {
		return
	}
	s.sendTLS(now, to, kind, packet)
}

func (s *session) sendTLS(now int64, to canon.Hash, kind byte, packet []byte) {
	s.sent.Store(now)
	s.queue.Push(wire.Send, to[:], kinds[kind:kind+1], packet)
}

// kinds are the first bytes, as slices of nothing that is allocated.
var kinds = [...]byte{kindData, kindProbe, kindEcho, kindSelf}

func (s *session) control(t wire.Type, body []byte) {
	if !s.queue.Control(t, body, nil, nil) {
		s.end(errors.New("the server reads nothing"))
	}
}

// ping goes through the server's relay and back to here.
func (s *session) ping(now int64) {
	s.pinged.CompareAndSwap(0, now)
	s.lastOut.Store(now)
	s.seq.Add(1)
	var body [8]byte
	putTime(body[:], now)
	s.sendTLS(now, s.client.cfg.Slot, kindSelf, body[:])
}

// read takes frames until the connection ends.
func (s *session) read() error {
	var now int64
	for {
		waits := !s.in.Buffered()
		t, body, err := s.in.Next()
		if err != nil {
			return fmt.Errorf("link to %s: %w", s.link.addr.Host, err)
		}
		if waits {
			now = s.client.now()
			s.heard.Store(now)
		}
		if err := s.take(t, body, now); err != nil {
			return err
		}
	}
}

// take handles one frame that came by TLS.
func (s *session) take(t wire.Type, body []byte, now int64) error {
	switch t {
	case wire.Recv:
		from, packet, err := wire.Packet(body)
		if err != nil {
			return err
		}
		s.received(from, packet, now)
	case wire.Gone:
		slot, _, err := wire.Slot(body)
		if err != nil {
			return err
		}
		s.client.gone(slot, s.link.index)
	case wire.Observed:
		token, addr, err := wire.ParseObserved(body)
		if err != nil {
			return err
		}
		if s.client.watched(token) {
			s.client.cfg.OnObserved(token, addr)
		}
	case wire.UDPUsed:
		if s.udp != nil {
			s.udp.used(now)
		}
	case wire.Refused:
		return wire.ParseRefusal(body)
	default:
		return fmt.Errorf("link to %s: a frame of type %d is not a server's", s.link.addr.Host, t)
	}
	return nil
}

// received handles a relayed packet, whichever way it came. now is when it was
// read, with others.
func (s *session) received(from canon.Hash, packet []byte, now int64) {
	kind, rest := packet[0], packet[1:]
	c := s.client
	if kind == kindSelf {
		if from == c.cfg.Slot && len(rest) == 8 {
			s.ponged(rest)
		}
		return
	}
	if from == c.cfg.Slot {
		return
	}
	p := c.peer(from, false)
	if p == nil {
		return
	}
	switch kind {
	case kindData:
		p.heardOn(c, s.link.index, now, true)
		if len(rest) > 0 {
			c.cfg.OnPacket(from, rest)
		}
	case kindProbe:
		p.heardOn(c, s.link.index, now, false)
		p.answer(s, from, rest, now)
	case kindEcho:
		p.heardOn(c, s.link.index, now, false)
		p.echoed(c, rest)
	}
}

func (s *session) ponged(body []byte) {
	now := s.client.now()
	at := getTime(body)
	if at <= 0 || at > now || at > s.lastOut.Load() {
		return
	}
	s.pinged.Store(0)
	if since := s.suspect.Load(); at >= since { // not one that was on the way before
		s.suspect.CompareAndSwap(since, 0)
	}
	s.rtt.Store(now - at)
}

// write sends what waits, as much at once as there is.
func (s *session) write() {
	if err := s.queue.Drain(s.conn, s.under); err != nil {
		s.end(fmt.Errorf("link to %s: %w", s.link.addr.Host, err))
	}
}

// end cuts the connection; the first reason stands.
func (s *session) end(why error) {
	s.once.Do(func() {
		s.err = why
		s.done.Store(true)
		s.queue.Close()
		s.conn.NetConn().Close() // not by TLS, which would wait for a blocked write
		if s.udp != nil {
			s.udp.close()
		}
	})
}

func (s *session) why() error {
	if !s.done.Load() {
		return nil
	}
	return s.err
}

// check judges the connection by its pings; tend calls it. It returns how soon
// it wants to be called again at the latest.
func (s *session) check(now int64) {
	p := s.client.cfg.Periods
	pinged, heard, sent := s.pinged.Load(), s.heard.Load(), s.sent.Load()
	// Anything that came after the ping was sent is a sign of life, but only the
	// ping's own return proves that packets pass: it has half as long again.
	limit := int64(p.Answer)
	if heard > pinged {
		limit += limit / 2
	}
	suspect := s.suspect.Load()
	if suspect != 0 {
		pinged, limit = suspect, int64(2*p.Silent)
	}
	switch {
	case pinged != 0 && now-pinged > limit:
		s.end(problem.New("rendezvous-unreachable", "link to %s: no ping came back for %s", s.link.addr.Host, time.Duration(now-pinged).Round(time.Millisecond)))
	case now-s.lastOut.Load() >= int64(p.Ping), s.lastOut.Load() < suspect:
		s.ping(now)
	case pinged != 0 && now-s.lastOut.Load() > int64(p.Answer)/4:
		s.ping(now) // our own queue may have pushed it out
	case sent > heard && now-heard > int64(2*p.Silent) && now-s.lastOut.Load() > int64(2*p.Silent):
		s.ping(now) // traffic without any answer
	}
}
