package bus

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// Binding is what the ledger says of a slot: whose signature counts, and to
// whom requests are sealed.
type Binding struct {
	Epoch      uint64
	SigningKey sign.PublicKey
	SealingKey []byte
}

func (b Binding) same(o Binding) bool {
	return b.Epoch == o.Epoch && b.SigningKey.Equal(o.SigningKey) && bytes.Equal(b.SealingKey, o.SealingKey)
}

// Bound reads the present binding of a slot, verified, from the ledger.
type Bound func(ctx context.Context, slot canon.Hash) (Binding, error)

// ClientConfig is who asks, and what is known of nodes.
type ClientConfig struct {
	Conn  *Conn // with the role AsPeople(); the caller closes it
	Grid  canon.Hash
	Bound Bound
	// Signer signs each request: the account's key. With a Session it is not
	// used and may be nil.
	Signer  sign.Signer
	Session *Credential
	Logger  *slog.Logger
}

// Client asks nodes. It may be used by several goroutines.
type Client struct {
	cfg   ClientConfig
	log   *slog.Logger
	lease time.Duration

	mu    sync.Mutex
	known map[canon.Hash]presence
}

// presence is what a hello told of a node, and when by our monotonic clock.
type presence struct {
	Heartbeat
	at time.Time
}

const (
	// CallDeadline is how long a call may take when its context sets no deadline.
	CallDeadline = 15 * time.Second

	requestLife = 60 * time.Second // expiry, ahead of the node's clock
	resendEvery = 2 * time.Second
	knownMost   = 4096
)

// NewClient prepares a client.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Conn == nil || cfg.Bound == nil || cfg.Grid.IsZero() {
		return nil, errors.New("bus client: connection, grid and bindings are needed")
	}
	if cfg.Signer == nil && cfg.Session == nil {
		return nil, errors.New("bus client: a signer or a session is needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, log: cfg.Logger, lease: LeaseFor, known: map[canon.Hash]presence{}}, nil
}

// Ask is what to ask of which node.
type Ask struct {
	Slot     canon.Hash
	Contract canon.Hash // zero for methods about the node itself
	Workload string     // of methods that act on one; else it is in the parameters
	Method   string
	Params   []byte
}

// Hello asks the node in a slot whether it is there; the answer is fresh and
// signed by the key that the ledger binds to the slot. Errors have the codes
// "node-silent", "node-rekeyed" and "bus-unreachable".
func (c *Client) Hello(ctx context.Context, slot canon.Hash) (Heartbeat, error) {
	ctx, cancel := deadline(ctx)
	defer cancel()
	to, err := c.cfg.Bound(ctx, slot)
	if err != nil {
		return Heartbeat{}, fmt.Errorf("find the key of node %s: %w", slot.Short(), err)
	}
	return c.hello(ctx, slot, to)
}

func (c *Client) hello(ctx context.Context, slot canon.Hash, to Binding) (Heartbeat, error) {
	hb, err := Hello(ctx, c.cfg.Conn, c.cfg.Grid, slot, to)
	if err != nil {
		return Heartbeat{}, err
	}
	c.mu.Lock()
	if len(c.known) >= knownMost {
		clear(c.known)
	}
	c.known[slot] = presence{hb, time.Now()}
	c.mu.Unlock()
	return hb, nil
}

// Hello asks the node in a slot for a heartbeat that answers a fresh challenge.
func Hello(ctx context.Context, conn *Conn, grid, slot canon.Hash, to Binding) (Heartbeat, error) {
	var challenge [NonceSize]byte
	rand.Read(challenge[:])
	var hb Heartbeat
	var refused error
	err := conn.Ask(ctx, HelloSubject(slot), challenge[:], func(b []byte) bool {
		h, err := openHeartbeat(grid, slot, to, b)
		if err == nil && string(h.Challenge) != string(challenge[:]) {
			err = problem.New("heartbeat-invalid", "heartbeat: it answers another challenge")
		}
		if err != nil {
			refused = err
			return false
		}
		hb = h
		return true
	})
	switch {
	case err == nil:
		return hb, nil
	case problem.Code(err) == "bus-unreachable":
		return Heartbeat{}, err
	case problem.Code(refused) == "node-rekeyed":
		return Heartbeat{}, refused
	}
	p := problem.New("node-silent", "node %s does not answer: %w", slot.Short(), err)
	if refused != nil {
		p = problem.New("node-silent", "node %s does not answer: %w (last refused answer: %v)", slot.Short(), err, refused)
	}
	return Heartbeat{}, p.WithFix("check that the node is on and that it reaches the same bus")
}

// present returns a recent hello of the slot, or asks for one.
func (c *Client) present(ctx context.Context, slot canon.Hash, to Binding) (presence, error) {
	c.mu.Lock()
	p, ok := c.known[slot]
	c.mu.Unlock()
	if ok && p.Epoch == to.Epoch {
		return p, nil
	}
	if _, err := c.hello(ctx, slot, to); err != nil {
		return presence{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[slot], nil
}

func (c *Client) forget(slot canon.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, slot)
}

// sent is a request on its way.
type sent struct {
	client *Client
	ask    Ask
	to     Binding
	p      presence // which told what run to ask
	hash   canon.Hash
	key    *seal.PrivateKey
	sealed []byte
	in     *inbox

	next    uint64 // sequence of the reply that comes next
	refused int    // answers that did not verify
	last    error  // why the last of them did not
}

// send signs, seals and sends a request. The caller ends it with shut.
func (c *Client) send(ctx context.Context, a Ask) (*sent, error) {
	to, err := c.cfg.Bound(ctx, a.Slot)
	if err != nil {
		return nil, fmt.Errorf("find the key of node %s: %w", a.Slot.Short(), err)
	}
	p, err := c.present(ctx, a.Slot, to)
	if err != nil {
		return nil, err
	}
	return c.sendTo(ctx, a, to, p)
}

func (c *Client) sendTo(ctx context.Context, a Ask, to Binding, p presence) (*sent, error) {
	if len(a.Params) > MaxParams || len(a.Method) > MaxMethod {
		return nil, problem.New("request-invalid", "%.64s: parameters or method are too long", a.Method)
	}
	var seed [32]byte
	rand.Read(seed[:])
	key, err := seal.KeyFromSeed(seed)
	if err != nil {
		return nil, err
	}
	clear(seed[:])
	var id [NonceSize]byte
	rand.Read(id[:])
	// In the node's own time, so that neither clock needs to be right.
	expiry := p.Time + uint64((time.Since(p.at)+requestLife)/time.Second)
	req := Request{
		Header:    header(contract.KindRequest, c.cfg.Grid),
		Slot:      a.Slot,
		Epoch:     to.Epoch,
		BootNonce: p.BootNonce,
		Instance:  p.Instance,
		ID:        id[:],
		Method:    a.Method,
		Contract:  a.Contract,
		Params:    a.Params,
		ReplyTo:   key.Public(),
		Expiry:    expiry,
	}
	signer := c.cfg.Signer
	var session []contract.Signed
	if c.cfg.Session != nil {
		signer, session = c.cfg.Session.signer, []contract.Signed{c.cfg.Session.session}
	}
	signed, err := contract.Sign(ctx, req, contract.KindRequest, signer)
	if err != nil {
		return nil, fmt.Errorf("sign request %s: %w", a.Method, err)
	}
	sealed, err := sealCall(to, c.cfg.Grid, a.Slot, call{signed, session})
	if err != nil {
		return nil, err
	}
	s := &sent{client: c, ask: a, to: to, p: p, hash: signed.ID(), key: key, sealed: sealed, in: c.cfg.Conn.open()}
	if err := c.cfg.Conn.Ready(ctx); err != nil {
		s.shut()
		return nil, err
	}
	if err := s.resend(); err != nil { // the link went this moment: sent again soon
		c.log.Debug("bus request not sent", "error", err)
	}
	return s, nil
}

// resend sends the same bytes again. The node takes a request id once, so this
// mends a lost request and does nothing else.
func (s *sent) resend() error {
	return s.client.cfg.Conn.publish(RequestSubject(s.ask.Slot), s.in.subject, s.sealed)
}

func (s *sent) shut() { s.client.cfg.Conn.shut(s.in) }

// take judges one answer. It returns ok false for what must be passed over: what
// does not verify, and a chunk that was had already. An error is the end.
func (s *sent) take(data []byte) (r Reply, body []byte, ok bool, err error) {
	r, body, err = openReply(s.key, s.client.cfg.Grid, s.ask.Slot, s.to, s.hash, data)
	if err != nil {
		// Anyone can put bytes into an inbox; an answer that doesn't verify is no
		// answer, and must not end the wait for the true one.
		s.refused++
		s.last = err
		s.client.log.Debug("bus reply refused", "error", err)
		return r, nil, false, nil
	}
	if r.Sequence < s.next {
		return r, nil, false, nil
	}
	if r.Sequence > s.next {
		return r, nil, false, problem.New("reply-gap", "%s: reply %d came where %d was due: the bus lost or reordered some", s.ask.Method, r.Sequence, s.next).
			WithFix("ask again")
	}
	s.next++
	if r.Code != "" {
		return r, nil, false, heard(s.ask.Slot, r.Code, r.Message)
	}
	return r, body, true, nil
}

// silent is the error for an answer that did not come.
func (s *sent) silent(err error) error {
	p := problem.New("node-silent", "%s: node %s did not answer in time, after %d replies: %w", s.ask.Method, s.ask.Slot.Short(), s.next, err)
	if s.refused > 0 {
		p = problem.New("node-silent", "%s: node %s did not answer in time, %d replies were refused, the last because: %v: %w",
			s.ask.Method, s.ask.Slot.Short(), s.refused, s.last, err)
	}
	return p.WithFix("check that the node is on and that it reaches the same bus")
}

// Call asks and returns the whole answer. Without a deadline in ctx it waits
// CallDeadline. Errors have the node's code, or "node-silent", "node-rekeyed",
// "reply-gap", "bus-unreachable".
func (c *Client) Call(ctx context.Context, a Ask) ([]byte, error) {
	if _, ok := acts[a.Method]; ok {
		var err error
		if a, err = act(a, nil); err != nil {
			return nil, err
		}
	}
	return anew(ctx, c, a, c.call)
}

// anew asks, and asks once more when the node was booted again since our hello.
func anew[T any](ctx context.Context, c *Client, a Ask, ask func(context.Context, Ask) (T, error)) (T, error) {
	ctx, cancel := deadline(ctx)
	defer cancel()
	v, err := ask(ctx, a)
	if problem.Code(err) == "request-stale" {
		c.forget(a.Slot)
		v, err = ask(ctx, a)
	}
	if err != nil && problem.Code(err) != "not-permitted" {
		c.forget(a.Slot)
	}
	return v, err
}

func (c *Client) call(ctx context.Context, a Ask) ([]byte, error) {
	s, err := c.send(ctx, a)
	if err != nil {
		return nil, err
	}
	defer s.shut()
	var body []byte
	last, err := s.until(ctx, func(r Reply, b []byte) (bool, error) {
		if len(body)+len(b) > MaxAnswer {
			return false, problem.New("reply-invalid", "%s: the answer is longer than %d bytes", a.Method, MaxAnswer)
		}
		body = append(body, b...)
		return r.Last, nil
	})
	if err != nil {
		return nil, err
	}
	if !last {
		return nil, s.silent(ctx.Err())
	}
	return body, nil
}

// until reads verified replies in order until done returns true or ctx ends. It
// sends the request again while nothing has come.
func (s *sent) until(ctx context.Context, done func(Reply, []byte) (bool, error)) (bool, error) {
	again := time.NewTicker(resendEvery)
	defer again.Stop()
	for {
		select {
		case data := <-s.in.ch:
			r, body, ok, err := s.take(data)
			if err != nil {
				return false, err
			}
			if !ok {
				continue
			}
			end, err := done(r, body)
			if err != nil || end {
				return end, err
			}
			if r.Last {
				return false, problem.New("reply-invalid", "%s: the answer ended early", s.ask.Method)
			}
		case <-again.C:
			if s.next == 0 {
				if err := s.resend(); err != nil {
					s.client.log.Debug("bus request not sent again", "error", err)
				}
			}
		case <-ctx.Done():
			return false, s.silent(ctx.Err())
		}
	}
}

func deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, CallDeadline)
}
