package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous/wire"
	"github.com/zero-os/zos/sign"
)

// Limits of a client.
const (
	MaxPacket = 2048 // bytes of one packet
	MaxURLs   = 8    // servers of one client
	MaxTokens = 1024 // tokens that a client watches
)

// Errors of Send. The packet is lost, as packets are.
var (
	ErrNoLink = errors.New("send by rendezvous: no server is connected")
	ErrAbsent = errors.New("send by rendezvous: the other side is connected to no server")
	ErrSize   = errors.New("send by rendezvous: the packet is empty or too large")
)

// ClientConfig is who a client is and which servers it uses.
type ClientConfig struct {
	URLs   []string // 1 to MaxURLs, as ParseURL reads them
	Grid   canon.Hash
	Slot   canon.Hash
	Epoch  uint64
	Signer sign.Signer // the slot's key of that epoch
	// RelayOnly opens no UDP socket at all.
	RelayOnly bool
	// OnPacket takes what came from another slot; from is what the server says.
	// It must be quick, may be called from several goroutines, and must not keep
	// packet.
	OnPacket func(from canon.Hash, packet []byte)
	// OnObserved is told from which outside address a server saw an
	// ObserveProbe. May be nil.
	OnObserved func(token [16]byte, addr netip.AddrPort)
	// OnChange is called when a link comes or goes, or changes between UDP and
	// TLS. It must be quick. May be nil.
	OnChange func()
	Logger   *slog.Logger
	// Periods replaces the times below, each if not 0; for tests.
	Periods Periods
}

// Link is the state of the way to one server, for people.
type Link struct {
	URL   string
	Up    bool
	UDP   bool          // packets go as datagrams now
	RTT   time.Duration // to the server and back; 0: not measured
	Since time.Time     // when Up last changed
	Error string        // why it is not up, one line
}

// Client is the links to all servers of a list.
type Client struct {
	cfg     ClientConfig
	log     *slog.Logger
	start   time.Time // all times below are nanoseconds since then, on the monotonic clock
	links   []*link
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	wake    chan struct{} // something began that tend should look at now
	busy    atomic.Bool   // tend looks often
	buffers wire.Buffers

	mu     sync.RWMutex
	peers  map[canon.Hash]*peer
	tokens map[[wire.TokenSize]byte]struct{}
}

// Connect begins to dial every server and returns at once. It fails only on a
// configuration that can never work.
func Connect(cfg ClientConfig) (*Client, error) {
	if len(cfg.URLs) == 0 || len(cfg.URLs) > MaxURLs {
		return nil, fmt.Errorf("connect to the rendezvous: have %d addresses, want 1 to %d", len(cfg.URLs), MaxURLs)
	}
	if cfg.Grid.IsZero() || cfg.Slot.IsZero() || cfg.Epoch == 0 || cfg.Signer == nil || cfg.OnPacket == nil {
		return nil, errors.New("connect to the rendezvous: grid, slot, epoch, signer and OnPacket are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnObserved == nil {
		cfg.OnObserved = func([16]byte, netip.AddrPort) {}
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func() {}
	}
	cfg.Periods = cfg.Periods.orDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		cfg:    cfg,
		log:    cfg.Logger,
		start:  time.Now(),
		cancel: cancel,
		wake:   make(chan struct{}, 1),
		peers:  map[canon.Hash]*peer{},
		tokens: map[[wire.TokenSize]byte]struct{}{},
	}
	seen := map[string]bool{}
	for _, u := range cfg.URLs {
		a, err := ParseURL(u)
		if err != nil {
			cancel()
			return nil, err
		}
		if seen[a.String()] {
			continue
		}
		seen[a.String()] = true
		c.links = append(c.links, newLink(c, len(c.links), u, a))
	}
	for _, l := range c.links {
		c.wg.Go(func() { l.keep(ctx) })
	}
	c.wg.Go(func() { c.tend(ctx) })
	return c, nil
}

// now is the time on the client's clock.
func (c *Client) now() int64 { return int64(time.Since(c.start)) + 1 } // never 0, which means never

// Send passes a packet of 1 to MaxPacket bytes on towards another slot, over the
// best link on which that slot is. It never blocks and keeps nothing of packet.
// No error is no proof of arrival.
func (c *Client) Send(to canon.Hash, packet []byte) error {
	if len(packet) == 0 || len(packet) > MaxPacket {
		return ErrSize
	}
	p := c.peer(to, true)
	if p == nil {
		return ErrAbsent
	}
	now := c.now()
	p.sentAt.Store(now)
	if c.busy.CompareAndSwap(false, true) {
		c.stir()
	}
	if i := p.route.Load(); i >= 0 && now-p.ways[i].heard.Load() < int64(c.cfg.Periods.Present) {
		l := c.links[i]
		if s := l.session.Load(); s != nil {
			p.ways[i].sent.Add(1)
			s.send(now, to, kindData, packet)
			return nil
		}
	}
	return c.flood(p, to, packet, now)
}

// flood sends a packet over every link on which the peer may be: the way to take
// is not known, and the answers will tell. WireGuard bears doubled packets.
func (c *Client) flood(p *peer, to canon.Hash, packet []byte, now int64) error {
	up, sent := false, false
	for i, l := range c.links {
		s := l.session.Load()
		if s == nil {
			continue
		}
		up = true
		w := &p.ways[i]
		if gone := w.gone.Load(); gone != 0 && now-gone < int64(c.cfg.Periods.Absent) {
			continue
		}
		w.sent.Add(1)
		s.send(now, to, kindData, packet)
		p.probe(c, i, s, now, false)
		sent = true
	}
	switch {
	case sent:
		return nil
	case up:
		return ErrAbsent
	}
	return ErrNoLink
}

// stir makes tend look now.
func (c *Client) stir() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Watch asks all servers to report where an ObserveProbe with this token comes
// from, until Unwatch. Choose tokens at random: who knows one can make the
// servers report his own address for it.
func (c *Client) Watch(token [16]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.tokens[token]; ok {
		return nil
	}
	if len(c.tokens) >= MaxTokens {
		return fmt.Errorf("watch an address by rendezvous: more than %d tokens", MaxTokens)
	}
	c.tokens[token] = struct{}{}
	for _, l := range c.links {
		if s := l.session.Load(); s != nil {
			s.control(wire.Watch, token[:])
		}
	}
	return nil
}

// Unwatch ends Watch.
func (c *Client) Unwatch(token [16]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.tokens[token]; !ok {
		return
	}
	delete(c.tokens, token)
	for _, l := range c.links {
		if s := l.session.Load(); s != nil {
			s.control(wire.Unwatch, token[:])
		}
	}
}

// watched tells whether a token is.
func (c *Client) watched(token [16]byte) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.tokens[token]
	return ok
}

// Servers are the UDP addresses that take an ObserveProbe: those of the servers
// to which there is a link.
func (c *Client) Servers() []netip.AddrPort {
	var out []netip.AddrPort
	for _, l := range c.links {
		if s := l.session.Load(); s != nil {
			out = append(out, s.remote)
		}
	}
	return out
}

// Links tells the state of each link, in the order of the URLs.
func (c *Client) Links() []Link {
	out := make([]Link, 0, len(c.links))
	for _, l := range c.links {
		out = append(out, l.state())
	}
	return out
}

// LinkTo is the link by which packets to a slot go now; false: none is up. A slot
// that was not heard yet is sent to over all of them, of which this is one.
func (c *Client) LinkTo(slot canon.Hash) (Link, bool) {
	c.mu.RLock()
	p := c.peers[slot]
	c.mu.RUnlock()
	if p != nil {
		if i := p.route.Load(); i >= 0 {
			if l := c.links[i].state(); l.Up {
				return l, true
			}
		}
	}
	for _, l := range c.Links() {
		if l.Up {
			return l, true
		}
	}
	return Link{}, false
}

// Poke says that the network changed: links whose own address is gone are dialed
// again at once, others are tested at once, and pauses between dials end.
func (c *Client) Poke() {
	own := ownAddresses()
	for _, l := range c.links {
		l.poke(own)
	}
	c.stir()
}

// Close ends all links and waits until nothing of the client runs. It must not
// be called from one of the functions in ClientConfig.
func (c *Client) Close() {
	c.cancel()
	c.wg.Wait()
}

// ObserveProbe is the datagram that asks a server from which outside address it
// comes: send it from the socket in question to each of Servers, and the answer
// comes as OnObserved for a token that is watched. The server answers nothing to
// the sender.
func ObserveProbe(token [16]byte) []byte {
	return append([]byte{wire.DatagramObserve}, token[:]...)
}

// Periods are the times by which a client judges its links.
type Periods struct {
	Ping     time.Duration // between pings of a link; 15 s
	Answer   time.Duration // a link without an answer for so long is dead; 10 s
	Probe    time.Duration // between probes of a peer with traffic; 500 ms
	Silent   time.Duration // a way that carries traffic and answers nothing is left; 1.2 s
	Absent   time.Duration // how long "gone" is believed; 500 ms
	Present  time.Duration // how long a peer is believed present; 20 s
	RetryMin time.Duration // first pause between dials; 100 ms
	RetryMax time.Duration // longest pause; 5 s
	Dial     time.Duration // for dialing, TLS and login; 10 s
}

// DefaultPeriods are those of a client whose configuration names none.
func DefaultPeriods() Periods { return Periods{}.orDefaults() }

func (p Periods) orDefaults() Periods {
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&p.Ping, 15 * time.Second}, {&p.Answer, 10 * time.Second}, {&p.Probe, 500 * time.Millisecond},
		{&p.Silent, 1200 * time.Millisecond}, {&p.Absent, 500 * time.Millisecond}, {&p.Present, 20 * time.Second},
		{&p.RetryMin, 100 * time.Millisecond}, {&p.RetryMax, 5 * time.Second}, {&p.Dial, 10 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	return p
}
