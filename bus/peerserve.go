package bus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// Run answers until ctx ends, then waits for the handlers.
func (p *Peers) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	put := queue(ctx, &wg, peerQueue, peerWorkers, func(m message) { p.take(ctx, &wg, m) })
	stop := p.cfg.Conn.subscribe(PeerSubject(p.cfg.Slot), func(m message) {
		if !put(m) {
			p.refuse(problem.New("node-busy", "peer request: the queue is full"))
		}
	})
	defer stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.sweep()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Peers) sweep() {
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers.sweep(now)
	for k, l := range p.lanes {
		if l.users == 0 && l.expiry <= now {
			delete(p.lanes, k)
		}
	}
}

// take answers a challenge or judges a sealed request. What came before, in the
// same bytes, over another link or between servers, costs no more than a hash.
func (p *Peers) take(ctx context.Context, wg *sync.WaitGroup, m message) {
	if len(m.data) > maxPeer {
		p.refuse(problem.New("request-invalid", "peer request: %d bytes, at most %d are allowed", len(m.data), maxPeer))
		return
	}
	key := canon.Sum(m.data)
	limit, what := p.opens, p.takeCall
	if len(m.data) == NonceSize {
		limit, what = p.hellos, p.takeHello
	}
	p.mu.Lock()
	k := p.answers.by[key]
	switch {
	case k != nil:
		p.mu.Unlock()
		if err := k.join(m); err != nil {
			p.log.Debug("peer reply not sent again", "error", err)
		}
		return
	case !limit.Allow():
		p.mu.Unlock()
		p.refuse(problem.New("node-busy", "peer request: too many"))
		return
	}
	k = &kept{to: []message{m}}
	p.answers.by[key] = k
	p.mu.Unlock()
	what(ctx, wg, key, k, m.data)
}

// takeCall judges one sealed request and starts to answer it. What does not
// open, or is not from who it says, is dropped without a word.
func (p *Peers) takeCall(ctx context.Context, wg *sync.WaitGroup, key canon.Hash, k *kept, data []byte) {
	o, err := openPeerCall(p.cfg.Sealing, p.cfg.Grid, p.cfg.Slot, p.cfg.Epoch, data)
	if err == nil {
		err = p.judge(ctx, o)
	}
	if err != nil {
		p.refuse(err)
		// A refusal is not kept: old requests that somebody repeats would push out
		// the answers to new ones.
		if answerable(code(err)) {
			p.answer(ctx, k, o, nil, err)
		}
		p.unkeep(key)
		return
	}
	// It was meant for this run and comes from a run of the caller that lives or
	// has lived a moment ago: so it tells how to call back.
	p.learn(o.From, o.FromEpoch, o.FromRun, o.FromTime, false)
	p.start(ctx, wg, key, k, o)
}

// unkeep forgets what is not answered, or has been and may be again.
func (p *Peers) unkeep(key canon.Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.answers.by, key)
}

// judge reads who the caller is and decides.
func (p *Peers) judge(ctx context.Context, o peerOpened) error {
	if p.cfg.Known != nil && !p.cfg.Known(o.From) {
		return problem.New("not-permitted", "peer request: node %s is not known here", o.From.Short())
	}
	me := peerSelf{p.cfg.Slot, p.cfg.Epoch, p.run, p.clock()}
	from, err := p.book.getFor(ctx, o.From)
	if err == nil {
		err = judgePeer(o.PeerRequest, o.signer, from, me)
	}
	if code(err) == "node-rekeyed" {
		if from, err = p.book.again(ctx, o.From, true); err == nil {
			me.now = p.clock()
			err = judgePeer(o.PeerRequest, o.signer, from, me)
		}
	}
	return err
}

// start admits a request, once, and runs its handler.
func (p *Peers) start(ctx context.Context, wg *sync.WaitGroup, key canon.Hash, k *kept, o peerOpened) {
	now := p.clock()
	p.mu.Lock()
	k.expiry = o.Expiry
	// Rounded up: an id is forgotten only after judgePeer refuses its request.
	err := p.replay.admit(o.From[:], o.ID, o.Expiry/uint64(time.Second)+1, now/uint64(time.Second))
	if err != nil {
		// The same statement in other bytes: the true answer is on its way.
		delete(p.answers.by, key)
		p.mu.Unlock()
		p.refuse(err)
		return
	}
	method, ok := p.handlers[o.Method]
	switch {
	case !ok:
		err = problem.New("unknown-method", "%q is not answered by this node", o.Method)
	case p.open >= peerOpen || p.openBy[o.From] >= peerPerCaller:
		err = problem.New("node-busy", "%s: too many requests are being answered", o.Method).WithFix("wait a moment")
	}
	if err != nil {
		p.mu.Unlock()
		p.refuse(err)
		p.end(ctx, key, k, o, nil, err)
		return
	}
	p.open++
	p.openBy[o.From]++
	p.mu.Unlock()
	wg.Go(func() {
		hctx, cancel := context.WithTimeout(ctx, time.Duration(o.Expiry-min(now, o.Expiry)))
		defer cancel()
		body, err := p.handleOne(hctx, method, o)
		p.mu.Lock()
		p.open--
		p.openBy.less(o.From)
		p.mu.Unlock()
		p.end(ctx, key, k, o, body, err)
	})
}

func (p *Peers) handleOne(ctx context.Context, method peerMethod, o peerOpened) ([]byte, error) {
	if method.inOrder {
		leave, err := p.enter(ctx, o)
		if err != nil {
			p.refuse(err)
			return nil, err
		}
		defer leave()
	}
	body, err := method.handle(ctx, o.From, o.body)
	if err == nil && len(body) > MaxPeerBody {
		err = problem.New("answer-too-large", "%s: the answer has %d bytes, at most %d are allowed", o.Method, len(body), MaxPeerBody)
	}
	return body, err
}

// end answers, and keeps the answer.
func (p *Peers) end(ctx context.Context, key canon.Hash, k *kept, o peerOpened, body []byte, err error) {
	if size := p.answer(ctx, k, o, body, err); size > 0 {
		p.mu.Lock()
		p.answers.keep(key, o.From, size)
		p.mu.Unlock()
		return
	}
	p.unkeep(key)
}

// answer signs, seals and sends body or err. It returns how many bytes were
// sealed, 0 if that failed.
func (p *Peers) answer(ctx context.Context, k *kept, o peerOpened, body []byte, err error) int {
	ctx, cancel := lastWord(ctx)
	defer cancel()
	r := PeerReply{
		Header:  header(KindPeerReply, p.cfg.Grid),
		From:    p.cfg.Slot,
		Epoch:   p.cfg.Epoch,
		Run:     p.run[:],
		Time:    p.clock(),
		To:      o.From,
		Request: o.hash,
	}
	if err != nil {
		body = nil
		r.Code, r.Message = told(err)
	}
	r.Body = canon.Sum(body)
	sealed, err := func() ([]byte, error) {
		signed, err := contract.Sign(ctx, r, r.Kind, p.cfg.Signer)
		if err != nil {
			return nil, fmt.Errorf("sign peer reply: %w", err)
		}
		a := peerAsked{grid: p.cfg.Grid, self: o.From, slot: p.cfg.Slot, request: o.hash, replyKey: o.ReplyKey}
		return sealPeerReply(a, peerAnswer{signed, body})
	}()
	if err == nil {
		err = k.finish(sealed)
	}
	if err != nil {
		p.log.Debug("peer reply", "to", o.From.Short(), "error", err)
	}
	return len(sealed)
}

// lane is the calls of one caller to one method that is handled in order.
type lane struct {
	turn   chan struct{} // holds one token: whose turn it is
	newest uint64        // highest Issued that was handled
	begun  bool
	expiry uint64 // when everything older has expired
	users  int    // who wait or run; a lane in use is kept
}

type laneKey struct {
	from   canon.Hash
	method string
}

const maxLanes = 16384

// enter waits for the caller's turn and decides whether the request is newer
// than all before it.
func (p *Peers) enter(ctx context.Context, o peerOpened) (leave func(), err error) {
	key := laneKey{o.From, o.Method}
	p.mu.Lock()
	l := p.lanes[key]
	if l == nil {
		if len(p.lanes) >= maxLanes {
			p.mu.Unlock()
			return nil, problem.New("node-busy", "%s: too many callers", o.Method).WithFix("wait a moment")
		}
		l = &lane{turn: make(chan struct{}, 1)}
		p.lanes[key] = l
	}
	l.users++
	p.mu.Unlock()
	leave = func() {
		p.mu.Lock()
		l.users--
		p.mu.Unlock()
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, problem.New("node-busy", "%s: an earlier call is not done: %w", o.Method, ctx.Err())
	}
	done := leave
	leave = func() { <-l.turn; done() }
	if l.begun && o.Issued <= l.newest {
		leave()
		return nil, problem.New("request-old", "%s: a newer call of node %s was answered before", o.Method, o.From.Short())
	}
	p.mu.Lock()
	l.begun, l.newest = true, o.Issued
	l.expiry = max(l.expiry, o.Expiry, o.Issued+uint64(MaxPeerLife))
	p.mu.Unlock()
	return leave, nil
}
