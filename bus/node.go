package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// Bounds of a Node.
const (
	// HeartbeatEvery is the time between heartbeats.
	HeartbeatEvery = 10 * time.Second
	// LeaseFor is how long a stream lives without a renewal.
	LeaseFor = 30 * time.Second
	// Window is how many chunks of a stream may be on the way.
	Window = 64
	// MaxAnswer bounds the answer to a call, in bytes.
	MaxAnswer = Window * MaxChunk

	workers       = 4
	queueDepth    = 256 // sealed requests that wait for a worker
	maxOpen       = 64  // requests being answered at once
	maxPerCaller  = 16  // of them for one account
	factsDeadline = 5 * time.Second
	callDeadline  = 60 * time.Second
	sendDeadline  = 5 * time.Second
)

// NodeConfig is what a node is on the bus.
type NodeConfig struct {
	Conn      *Conn // with the role AsNode(Slot); the caller closes it
	Grid      canon.Hash
	Slot      canon.Hash
	Epoch     uint64
	BootNonce [NonceSize]byte
	Signer    sign.Signer
	Sealing   *seal.PrivateKey
	// Release is the sequence of the OS release that runs.
	Release uint64
	// Facts returns what the node has proven from the ledger about a contract
	// (zero: none) at this moment. It is called for each request and for each
	// renewal of a stream.
	Facts func(ctx context.Context, contract canon.Hash) (Facts, error)
	// Status is called for each heartbeat and must be quick. May be nil.
	Status func() Status
	// HeartbeatEvery replaces the default, if not 0.
	HeartbeatEvery time.Duration
	Logger         *slog.Logger
	// Now is the node's clock; nil means time.Now.
	Now func() time.Time
}

// Query is a request that passed every test: who asks, and for what.
type Query struct {
	Caller   sign.PublicKey // the account's key
	Contract canon.Hash
	// Workload is set for methods that act on one: the caller may do this to it.
	Workload string
	Method   string
	Params   []byte
	Request  canon.Hash // of the signed request: what a record of it can name
}

// CallHandler answers with one value of at most MaxAnswer bytes. An error that
// carries a problem code reaches the asker with its code and text.
type CallHandler func(ctx context.Context, q Query) ([]byte, error)

// StreamHandler answers with chunks of 1 to MaxChunk bytes each, until it returns
// or ctx ends: because the asker left, lost the right, or let the lease lapse.
// send blocks while the asker has Window chunks to read.
type StreamHandler func(ctx context.Context, q Query, send func([]byte) error) error

// Node answers requests for one slot.
type Node struct {
	refusals
	cfg      NodeConfig
	log      *slog.Logger
	instance [NonceSize]byte
	hellos   *rate.Limiter
	lease    time.Duration
	clock    rising

	mu       sync.Mutex
	calls    map[string]CallHandler
	streams  map[string]StreamHandler
	duplexes map[string]DuplexHandler
	talking  int               // duplex streams
	talks    tally[canon.Hash] // of them, by contract
	replay   *replay
	sequence uint64 // of heartbeats
	open     map[canon.Hash]*stream
	callers  tally[string] // requests being answered, by caller
}

// NewNode prepares a node; register handlers, then Run it.
func NewNode(cfg NodeConfig) (*Node, error) {
	switch {
	case cfg.Conn == nil || cfg.Signer == nil || cfg.Sealing == nil || cfg.Facts == nil:
		return nil, errors.New("bus node: connection, signer, sealing key and facts are needed")
	case cfg.Grid.IsZero() || cfg.Slot.IsZero() || cfg.Epoch == 0:
		return nil, errors.New("bus node: grid, slot and epoch are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.HeartbeatEvery == 0 {
		cfg.HeartbeatEvery = HeartbeatEvery
	}
	if cfg.Status == nil {
		cfg.Status = func() Status { return Status{} }
	}
	n := &Node{
		refusals: newRefusals(cfg.Logger),
		cfg:      cfg,
		log:      cfg.Logger,
		hellos:   rate.NewLimiter(20, 100),
		lease:    LeaseFor,
		calls:    map[string]CallHandler{},
		streams:  map[string]StreamHandler{},
		duplexes: map[string]DuplexHandler{},
		replay:   newReplay(),
		open:     map[canon.Hash]*stream{},
		callers:  tally[string]{},
		talks:    tally[canon.Hash]{},
	}
	rand.Read(n.instance[:])
	return n, nil
}

// HandleCall answers a method with one value.
func (n *Node) HandleCall(method string, h CallHandler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls[method] = h
}

// HandleStream answers a method with a stream.
func (n *Node) HandleStream(method string, h StreamHandler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[method] = h
}

// Run sends heartbeats and answers until ctx ends, then waits for the handlers.
// A bus that can't be reached is no error: the Conn goes on trying.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	put := queue(ctx, &wg, queueDepth, workers, func(m message) { n.take(ctx, &wg, m) })
	stop := n.cfg.Conn.subscribe(RequestSubject(n.cfg.Slot), func(m message) {
		if stream, ok := frameOf(m.data); ok {
			n.frame(stream, m)
			return
		}
		if !put(m) {
			n.refuse(problem.New("node-busy", "request: the queue is full"))
		}
	})
	defer stop()
	stopHello := n.cfg.Conn.subscribe(HelloSubject(n.cfg.Slot), func(m message) { n.hello(ctx, m) })
	defer stopHello()
	n.heartbeats(ctx)
	return ctx.Err()
}

// take judges one sealed request and starts to answer it. What does not open is
// dropped without a word: there is nobody to answer to.
func (n *Node) take(ctx context.Context, wg *sync.WaitGroup, m message) {
	o, err := openCall(n.cfg.Sealing, n.cfg.Grid, n.cfg.Slot, n.cfg.Epoch, m.data)
	if err != nil {
		n.refuse(err)
		return
	}
	a := &answer{node: n, to: m, replyTo: o.ReplyTo, request: o.hash}
	now := n.now()
	err = judge(o, self{n.cfg.Slot, n.cfg.Epoch, n.cfg.BootNonce, n.instance, now})
	if err == nil && o.session != nil && !reads(o.Method) {
		err = problem.New("not-permitted", "%s: a session may only read", o.Method)
	}
	if err != nil {
		n.refuse(err)
		// A signed refusal helps an honest asker with an old nonce or a wrong
		// clock. Whoever replays old bytes gets it sealed to the first asker.
		if c := code(err); c == "request-stale" || c == "request-expired" || c == "session-expired" || c == "session-invalid" || c == "not-permitted" {
			a.finish(ctx, nil, err)
		}
		return
	}
	if o.Method == MethodRenew {
		n.renew(ctx, o, now)
		return
	}
	q := Query{Caller: o.account, Contract: o.Contract, Method: o.Method, Params: o.Params, Request: o.hash}
	var asked Act
	if right, ok := acts[o.Method]; ok {
		if asked, err = decodeAct(o.Params, right.duplex); err != nil {
			n.refuse(err)
			a.finish(ctx, nil, err)
			return
		}
		q.Workload, q.Params = asked.Workload, asked.Params
	}
	if err := n.allowed(ctx, q); err != nil {
		// Before its id is remembered: who may not ask can't fill the memory.
		n.refuse(err)
		a.finish(ctx, nil, err)
		return
	}
	n.mu.Lock()
	err = n.replay.admit(o.account, o.ID, o.Expiry, now)
	call, stream, duplex := n.calls[o.Method], n.streams[o.Method], n.duplexes[o.Method]
	if len(asked.Secret) == 0 {
		duplex = nil
	}
	if err == nil && call == nil && stream == nil && duplex == nil {
		err = problem.New("unknown-method", "%q is not answered by this node", o.Method)
	}
	if err == nil && (len(n.open) >= maxOpen || n.callers[string(o.account)] >= maxPerCaller ||
		duplex != nil && (n.talking >= maxDuplexes || n.talks[o.Contract] >= maxPerContract)) {
		err = problem.New("node-busy", "%s: too many requests are being answered", o.Method).WithFix("wait a moment")
	}
	if err != nil {
		open := n.open[o.hash]
		n.mu.Unlock()
		n.refuse(err)
		if code(err) != "request-replayed" { // the true answer is on its way
			a.finish(ctx, nil, err)
		} else if open != nil && open.duplex != nil {
			open.duplex.greetAgain(m)
		}
		return
	}
	s := newStream(ctx, n, a, q, o.session, stream != nil || duplex != nil)
	if duplex != nil {
		s.duplex = &duplexEnd{stream: s, handler: duplex, secret: asked.Secret, frames: make(chan message, 2*DuplexWindow), via: m}
		n.talking++
		n.talks[o.Contract]++
	}
	n.open[o.hash] = s
	n.callers[string(o.account)]++
	n.mu.Unlock()
	wg.Go(func() {
		defer func() {
			n.mu.Lock()
			delete(n.open, o.hash)
			n.callers.less(string(o.account))
			if s.duplex != nil {
				n.talking--
				n.talks.less(o.Contract)
			}
			n.mu.Unlock()
			s.cancel(nil)
		}()
		if s.duplex != nil {
			s.duplex.run(ctx)
			return
		}
		if call != nil {
			cctx, cancel := context.WithTimeout(s.ctx, callDeadline)
			defer cancel()
			body, err := call(cctx, q)
			a.finish(ctx, body, err)
			return
		}
		s.run(ctx, stream)
	})
}

// allowed asks for the facts of this moment and decides.
func (n *Node) allowed(ctx context.Context, q Query) error {
	ctx, cancel := context.WithTimeout(ctx, factsDeadline)
	defer cancel()
	f, err := n.cfg.Facts(ctx, q.Contract)
	if err != nil {
		return problem.New("node-not-ready", "%s: the node cannot prove rights now: %w", q.Method, err)
	}
	return Allowed(q.Caller, q.Method, q.Contract, q.Workload, f)
}

// renew judges the rights of an open stream anew and prolongs it, or ends it.
func (n *Node) renew(ctx context.Context, o opened, now uint64) {
	var r Renewal
	if err := canon.UnmarshalLimit(o.Params, MaxParams, &r); err != nil {
		n.refuse(problem.New("request-invalid", "decode renewal: %w", err))
		return
	}
	n.mu.Lock()
	s := n.open[r.Stream]
	if s == nil || s.lease == nil || s.duplex != nil || !s.query.Caller.Equal(o.account) {
		// Says nothing about streams of others, and remembers nothing.
		n.mu.Unlock()
		n.refuse(problem.New("stream-unknown", "renewal: its caller has no such stream"))
		return
	}
	err := n.replay.admit(o.account, o.ID, o.Expiry, now)
	n.mu.Unlock()
	if err != nil {
		n.refuse(err)
		return
	}
	if r.End {
		s.cancel(errLeft)
		return
	}
	if err := n.allowed(ctx, s.query); err != nil {
		n.refuse(err)
		s.cancel(err)
		return
	}
	s.renewed(o.session, r.Received)
}

// now is the node's clock in Unix seconds.
func (n *Node) now() uint64 { return n.clock.read(n.cfg.Now().Unix()) }

// hello answers a challenge with a heartbeat that carries it.
func (n *Node) hello(ctx context.Context, m message) {
	if len(m.data) != NonceSize || !n.hellos.Allow() {
		n.refuse(problem.New("hello-refused", "hello: too many, or %d bytes, want %d", len(m.data), NonceSize))
		return
	}
	b, err := n.heartbeat(ctx, m.data)
	if err == nil {
		err = m.respond(b)
	}
	if err != nil {
		n.log.Debug("bus hello", "error", err)
	}
}

// heartbeats broadcasts until ctx ends.
func (n *Node) heartbeats(ctx context.Context) {
	tick := time.NewTicker(n.cfg.HeartbeatEvery)
	defer tick.Stop()
	// The first one goes out as soon as there is a link.
	if n.cfg.Conn.Ready(ctx) != nil {
		return
	}
	for {
		b, err := n.heartbeat(ctx, nil)
		if err == nil {
			err = n.cfg.Conn.Publish(HeartbeatSubject(n.cfg.Slot), b)
		}
		if err != nil {
			n.log.Debug("bus heartbeat", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) heartbeat(ctx context.Context, challenge []byte) ([]byte, error) {
	st := n.cfg.Status()
	if len(st.Problems) > MaxProblems {
		st.Problems = st.Problems[:MaxProblems]
	}
	now := n.now()
	n.mu.Lock()
	n.sequence++
	seq := n.sequence
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sendDeadline)
	defer cancel()
	b, err := wire(ctx, Heartbeat{
		Header:    header(contract.KindHeartbeat, n.cfg.Grid),
		Slot:      n.cfg.Slot,
		Epoch:     n.cfg.Epoch,
		BootNonce: n.cfg.BootNonce[:],
		Instance:  n.instance[:],
		Sequence:  seq,
		Time:      now,
		Release:   n.cfg.Release,
		Status:    st,
		Challenge: challenge,
	}, contract.KindHeartbeat, n.cfg.Signer)
	if err != nil {
		return nil, fmt.Errorf("sign heartbeat: %w", err)
	}
	return b, nil
}
