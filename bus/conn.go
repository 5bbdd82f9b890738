package bus

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous"
)

// ConnConfig is how a Conn reaches the bus.
type ConnConfig struct {
	// URLs of rendezvous servers, tls://host:port#pin. One link is kept to each of
	// them: so that two operators, of whom one drops messages, still serve.
	URLs []string
	Role Role
	// Logger may be nil.
	Logger *slog.Logger

	ping time.Duration // pingEvery, if 0; for tests
}

// Conn is the links to all bus servers of a list. Links are tried again for
// ever; nothing in a Conn is trusted.
type Conn struct {
	token  string
	log    *slog.Logger
	ping   time.Duration
	cancel context.CancelFunc
	wg     sync.WaitGroup
	next   atomic.Uint64 // inbox numbers

	mu      sync.Mutex
	links   []*link
	subs    map[*subscription]struct{}
	inboxes map[string]*inbox
	changed chan struct{} // closed and replaced when a link comes or goes
	closed  bool
}

// message is what came in on a subject; link is where an answer goes back.
type message struct {
	subject string
	reply   string
	data    []byte
	link    *link
}

type subscription struct {
	subject string
	fn      func(message)
}

// link is one connection to one server; nc is nil while there is none, and up
// once the server has taken all subscriptions.
type link struct {
	conn *Conn
	url  string
	to   rendezvous.Address
	poke chan struct{} // holds one: look at the link now

	// Under the Conn's lock:
	nc      *nats.Conn
	up      bool
	subs    map[*subscription]*nats.Subscription
	redial  context.CancelFunc // ends a dial that is under way; nil: none is
	problem error              // why the last attempt failed
}

// inbox gathers the answers to one request.
type inbox struct {
	subject string
	ch      chan []byte
	dropped atomic.Uint64
}

const (
	maxURLs     = 8
	dialTimeout = 5 * time.Second
	pokeTimeout = 2 * time.Second // for a link to prove that it lives
	// A link that answers nothing is given up when the third ping is due: after
	// 15 s.
	pingEvery  = 5 * time.Second
	pingsOut   = 2
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
	inboxDepth = 2 * Window
)

// Connect starts to dial every URL and returns at once; Ready waits. It fails
// only on a configuration that can never work.
func Connect(cfg ConnConfig) (*Conn, error) {
	if len(cfg.URLs) == 0 || len(cfg.URLs) > maxURLs {
		return nil, fmt.Errorf("connect to the bus: have %d URLs, want 1 to %d", len(cfg.URLs), maxURLs)
	}
	addresses := map[string]rendezvous.Address{}
	for _, u := range cfg.URLs {
		a, err := rendezvous.ParseURL(u)
		if err != nil {
			return nil, fmt.Errorf("connect to the bus: %w", err)
		}
		addresses[u] = a
	}
	if pub, _ := cfg.Role.Subjects(""); pub == nil {
		return nil, errors.New("connect to the bus: no role given")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var token [tokenSize]byte
	rand.Read(token[:]) // never fails, see crypto/rand
	ctx, cancel := context.WithCancel(context.Background())
	c := &Conn{
		token:   hex.EncodeToString(token[:]),
		log:     log,
		ping:    cmp.Or(cfg.ping, pingEvery),
		cancel:  cancel,
		subs:    map[*subscription]struct{}{},
		inboxes: map[string]*inbox{},
		changed: make(chan struct{}),
	}
	c.subs[&subscription{subjectInbox + c.token + ".>", c.deliver}] = struct{}{}
	seen := map[string]bool{}
	for _, u := range cfg.URLs {
		if seen[u] {
			continue
		}
		seen[u] = true
		l := &link{conn: c, url: u, to: addresses[u], poke: make(chan struct{}, 1), subs: map[*subscription]*nats.Subscription{}}
		c.links = append(c.links, l)
		c.wg.Go(func() { l.keep(ctx, cfg.Role) })
	}
	return c, nil
}

// Close cuts all links and waits until nothing of the Conn runs.
func (c *Conn) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
}

// Ready waits until at least one link is up. Its error has the code
// "bus-unreachable".
func (c *Conn) Ready(ctx context.Context) error {
	for {
		c.mu.Lock()
		closed, changed := c.closed, c.changed
		c.mu.Unlock()
		if c.Up() > 0 {
			return nil
		}
		if closed {
			return problem.New("bus-unreachable", "wait for the bus: connection is closed")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return c.unreachable(ctx.Err())
		}
	}
}

// unreachable says which server was last found away, and why.
func (c *Conn) unreachable(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	why := ""
	for _, l := range c.links {
		if l.problem != nil {
			why = fmt.Sprintf(" (%v)", l.problem)
		}
	}
	return problem.New("bus-unreachable", "wait for the bus at %s: %w%s", c.links[0].url, err, why).
		WithFix("check that the rendezvous runs and that its address is right")
}

// Poke says that the network changed: links that are down are dialed at once,
// those that are up must prove it within two seconds or are dialed anew.
func (c *Conn) Poke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.links {
		select {
		case l.poke <- struct{}{}:
		default:
		}
		if l.redial != nil {
			l.redial() // it may be waiting for an answer by a way that is gone
		}
	}
}

// Up is the number of servers to which there is a link now.
func (c *Conn) Up() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, l := range c.links {
		if l.up {
			n++
		}
	}
	return n
}

// publishOne sends a question over one of the links that are up, the nth counted
// in circles.
func (c *Conn) publishOne(n int, subject, reply string, data []byte) error {
	up := c.up()
	if len(up) == 0 {
		return problem.New("bus-unreachable", "send on the bus: no server is connected")
	}
	if err := up[n%len(up)].PublishRequest(subject, reply, data); err != nil {
		return problem.New("bus-unreachable", "send on the bus: %w", err)
	}
	return nil
}

// Publish sends data over every link that is up. Its error has the code
// "bus-unreachable" when none took it; no error is no proof of arrival.
func (c *Conn) Publish(subject string, data []byte) error { return c.publish(subject, "", data) }

func (c *Conn) publish(subject, reply string, data []byte) error {
	var errs []error
	sent := false
	for _, nc := range c.up() {
		var err error
		if reply == "" {
			err = nc.Publish(subject, data)
		} else {
			err = nc.PublishRequest(subject, reply, data)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sent = true
	}
	if sent {
		return nil
	}
	if len(errs) == 0 {
		return problem.New("bus-unreachable", "send on the bus: no server is connected")
	}
	return problem.New("bus-unreachable", "send on the bus: %w", errors.Join(errs...))
}

func (c *Conn) up() []*nats.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ncs []*nats.Conn
	for _, l := range c.links {
		if l.up {
			ncs = append(ncs, l.nc)
		}
	}
	return ncs
}

// Subscribe calls fn for each message on subject, over all links and all
// reconnections, until the returned function is called. fn must not block; calls
// for one link don't overlap, calls for different links may. Give respond the
// answer; it goes back over the link that brought the message.
func (c *Conn) Subscribe(subject string, fn func(subject string, data []byte, respond func([]byte) error)) (stop func()) {
	return c.subscribe(subject, func(m message) { fn(m.subject, m.data, m.respond) })
}

func (c *Conn) subscribe(subject string, fn func(message)) (stop func()) {
	s := &subscription{subject, fn}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs[s] = struct{}{}
	for _, l := range c.links {
		if l.nc != nil {
			l.subscribe(s)
		}
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subs, s)
		for _, l := range c.links {
			if ns := l.subs[s]; ns != nil {
				ns.Unsubscribe() // fails only when the link is gone, and the subscription with it
				delete(l.subs, s)
			}
		}
	}
}

func (m message) respond(data []byte) error {
	if m.reply == "" {
		return errors.New("answer on the bus: the asker gave no inbox")
	}
	m.link.conn.mu.Lock()
	nc := m.link.nc
	m.link.conn.mu.Unlock()
	if nc == nil {
		return problem.New("bus-unreachable", "answer on the bus: %s is not connected", m.link.url)
	}
	if err := nc.Publish(m.reply, data); err != nil {
		return problem.New("bus-unreachable", "answer on the bus: %w", err)
	}
	return nil
}

// open makes an inbox; the caller ends it with shut.
func (c *Conn) open() *inbox {
	in := &inbox{
		subject: subjectInbox + c.token + "." + strconv.FormatUint(c.next.Add(1), 36),
		ch:      make(chan []byte, inboxDepth),
	}
	c.mu.Lock()
	c.inboxes[in.subject] = in
	c.mu.Unlock()
	return in
}

func (c *Conn) shut(in *inbox) {
	c.mu.Lock()
	delete(c.inboxes, in.subject)
	c.mu.Unlock()
}

// deliver hands an answer to its inbox, or drops it: replies are numbered, so
// that the reader of a full inbox finds the gap.
func (c *Conn) deliver(m message) {
	c.mu.Lock()
	in := c.inboxes[m.subject]
	c.mu.Unlock()
	if in == nil {
		return
	}
	select {
	case in.ch <- m.data:
	default:
		in.dropped.Add(1)
	}
}

// Ask publishes data with an inbox and passes each answer to accept until that
// returns true. It sends again every second while nothing acceptable came,
// since who is asked may not be connected yet. The context ends it.
func (c *Conn) Ask(ctx context.Context, subject string, data []byte, accept func(answer []byte) bool) error {
	in := c.open()
	defer c.shut(in)
	again := time.NewTicker(time.Second)
	defer again.Stop()
	var refused int
	for {
		if err := c.Ready(ctx); err != nil {
			return err
		}
		if err := c.publish(subject, in.subject, data); err != nil {
			c.log.Debug("ask on the bus", "error", err)
		}
	wait:
		for {
			select {
			case b := <-in.ch:
				if accept(b) {
					return nil
				}
				refused++
			case <-again.C:
				break wait
			case <-ctx.Done():
				return fmt.Errorf("wait for an answer (%d refused): %w", refused, ctx.Err())
			}
		}
	}
}

// keep holds the link up until ctx ends.
func (l *link) keep(ctx context.Context, role Role) {
	delay := retryFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := l.once(ctx, role)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*retryMost {
			delay = retryFirst
		}
		l.conn.mu.Lock()
		l.problem = err
		l.conn.mu.Unlock()
		l.conn.log.Debug("bus link down", "url", l.url, "error", err, "again_in", delay)
		again := time.NewTimer(delay)
		select {
		case <-again.C:
			delay = min(2*delay, retryMost)
		case <-l.poke:
			delay = retryFirst
		case <-ctx.Done():
		}
		again.Stop()
	}
}

// once dials, subscribes everything, and stays until the connection ends.
func (l *link) once(ctx context.Context, role Role) error {
	ended := make(chan struct{})
	d := &dialer{ctx: ctx, to: l.to}
	dctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.dial = dctx
	l.dialing(cancel)
	nc, err := nats.Connect(noHost,
		nats.Name("zos"),
		nats.UserInfo(role.String(), l.conn.token),
		nats.NoReconnect(), // we dial again ourselves, and only what was listed
		nats.IgnoreDiscoveredServers(),
		nats.Timeout(dialTimeout),
		nats.SetCustomDialer(d),
		nats.PingInterval(l.conn.ping),
		nats.MaxPingsOutstanding(pingsOut),
		nats.ClosedHandler(func(*nats.Conn) { close(ended) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			l.conn.log.Debug("bus link", "url", l.url, "error", err)
		}),
	)
	l.dialing(nil)
	if err != nil {
		if d.failed != nil {
			return d.failed
		}
		return fmt.Errorf("connect to bus %s: %w", l.url, err)
	}
	l.set(nc, false)
	// One round trip after the subscriptions: when Ready returns they stand.
	if err := nc.FlushTimeout(dialTimeout); err != nil {
		l.set(nil, false)
		nc.Close()
		<-ended
		return fmt.Errorf("subscribe on bus %s: %w", l.url, err)
	}
	l.set(nc, true)
	l.conn.log.Debug("bus link up", "url", l.url)
	err = l.stay(ctx, nc, ended)
	l.set(nil, false)
	if err == nil {
		err = nc.LastError()
	}
	nc.Close()
	<-ended
	return err
}

// stay waits until the connection ends, ctx ends, or the link fails to prove
// that it lives when it is poked.
func (l *link) stay(ctx context.Context, nc *nats.Conn, ended <-chan struct{}) error {
	for {
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return nil
		case <-l.poke:
			if err := nc.FlushTimeout(pokeTimeout); err != nil {
				return fmt.Errorf("bus %s after the network changed: %w", l.url, err)
			}
		}
	}
}

// dialing keeps what ends the dial that is under way; nil: it is over.
func (l *link) dialing(end context.CancelFunc) {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	l.redial = end
}

// set makes nc the link's connection and subscribes everything on it; nil takes
// the connection away. When up changes, who waits for a link is told.
func (l *link) set(nc *nats.Conn, up bool) {
	c := l.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if nc != l.nc {
		l.nc = nc
		clear(l.subs)
		if nc != nil {
			for s := range c.subs {
				l.subscribe(s)
			}
		}
	}
	l.up = up
	close(c.changed)
	c.changed = make(chan struct{})
}

// subscribe asks the server for s; the Conn is locked.
func (l *link) subscribe(s *subscription) {
	ns, err := l.nc.Subscribe(s.subject, func(m *nats.Msg) {
		s.fn(message{subject: m.Subject, reply: m.Reply, data: m.Data, link: l})
	})
	if err != nil {
		l.conn.log.Debug("subscribe on the bus", "subject", s.subject, "error", err)
		return
	}
	l.subs[s] = ns
}

// noHost is what the NATS client is told to dial. The dialer knows where to go:
// from a name the client would look up addresses by itself, without an end.
const noHost = "nats://127.0.0.1:1"

// dialer brings one proven connection for the bus. Dialing ends with dial, the
// connection with ctx.
type dialer struct {
	ctx, dial context.Context
	to        rendezvous.Address
	failed    error
}

// Dial ignores the address: where to go, and who must be there, is the link's.
func (d *dialer) Dial(string, string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.dial, dialTimeout)
	defer cancel()
	c, err := rendezvous.Dial(ctx, d.to, rendezvous.ALPNBus)
	if err != nil {
		d.failed = err
		return nil, err
	}
	stop := context.AfterFunc(d.ctx, func() { c.Close() })
	return &stopConn{c, stop}, nil
}

// SkipTLSHandshake says that the connection is encrypted already.
func (d *dialer) SkipTLSHandshake() bool { return true }

type stopConn struct {
	net.Conn
	stop func() bool
}

func (c *stopConn) Close() error {
	c.stop()
	return c.Conn.Close()
}
