package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
)

// Times between the sendings of one request: soon again, since the other side
// may connect this moment, or a server may drop what it should pass on; but not
// before answers come these days, or who is slow would be asked ever more. The
// first goes over one link, the second over the next, and those after them over
// all: what passes the first time, as nearly all does, costs the servers one
// message.
const (
	peerAgainFirst = 250 * time.Millisecond
	peerAgainMost  = time.Second
	peerOneLink    = 2 // sendings over one link
	peerTries      = 6 // new requests in one call, after what was learned
)

// errRebound says that the ledger has other keys of the callee than those by
// which it was asked.
var errRebound = errors.New("the slot has new keys")

// Call asks the node in a slot and returns its answer. It goes out over one link
// after the other, then over all, until an answer comes; the other side runs it
// once. Without a deadline in ctx it waits CallDeadline, and never longer than
// MaxPeerLife. Errors have the code that the other node gave, or "node-silent",
// "node-rekeyed", "bus-unreachable", "request-invalid", or that of the ledger.
//
// An error without an answer of the other node does not tell whether it ran.
func (p *Peers) Call(ctx context.Context, slot canon.Hash, method string, body []byte) ([]byte, error) {
	switch {
	case len(body) > MaxPeerBody || len(method) > MaxMethod || method == "":
		return nil, problem.New("request-invalid", "%.64s: the body has %d bytes, at most %d are allowed; or the method none or too many", method, len(body), MaxPeerBody)
	case slot == p.cfg.Slot || slot.IsZero():
		return nil, problem.New("request-invalid", "%s: a node calls other nodes only", method)
	}
	ctx, cancel := deadline(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, MaxPeerLife)
	defer stop()
	select {
	case p.calls <- struct{}{}:
		defer func() { <-p.calls }()
	case <-ctx.Done():
		return nil, problem.New("node-busy", "%s: too many calls are open: %w", method, ctx.Err())
	}
	var out []byte
	var err error
	for range peerTries {
		out, err = p.try(ctx, slot, method, body)
		switch {
		case errors.Is(err, errRebound):
		case code(err) == "request-stale" || code(err) == "request-expired":
			// The refusal told of the run and clock that there are now.
		default:
			return out, err
		}
	}
	return nil, problem.New("node-silent", "%s: node %s refuses again and again: %w", method, slot.Short(), err)
}

// try makes one request and sends it until it is answered.
func (p *Peers) try(ctx context.Context, slot canon.Hash, method string, body []byte) ([]byte, error) {
	to, err := p.book.get(ctx, slot)
	if err != nil {
		return nil, fmt.Errorf("%s: find the key of node %s: %w", method, slot.Short(), err)
	}
	run, issued, ok := p.issue(slot, to.Epoch)
	if !ok {
		if err := p.greet(ctx, slot, to); err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
		if run, issued, ok = p.issue(slot, to.Epoch); !ok {
			return nil, problem.New("node-silent", "%s: node %s: forgotten at once", method, slot.Short())
		}
	}
	asked, sealed, err := p.request(ctx, slot, to, run, issued, method, body)
	if err != nil {
		return nil, err
	}
	var reply PeerReply
	var answer []byte
	err = p.exchange(ctx, slot, to, sealed, func(data []byte) error {
		r, b, err := openPeerReply(asked, data)
		if err == nil {
			reply, answer = r, b
		}
		return err
	})
	if err != nil {
		if !errors.Is(err, errRebound) {
			p.forget(slot)
		}
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	corrected := reply.Code == "request-stale" || reply.Code == "request-expired"
	p.learn(slot, reply.Epoch, reply.Run, reply.Time, corrected)
	if reply.Code != "" {
		return nil, heard(slot, reply.Code, reply.Message)
	}
	return answer, nil
}

// request signs and seals a request.
func (p *Peers) request(ctx context.Context, slot canon.Hash, to Binding, run [NonceSize]byte, issued uint64, method string, body []byte) (peerAsked, []byte, error) {
	var secret [NonceSize + replyKeySize]byte
	rand.Read(secret[:])
	life := MaxPeerLife
	if d, ok := ctx.Deadline(); ok {
		life = max(min(life, time.Until(d)), time.Millisecond)
	}
	r := PeerRequest{
		Header:    header(KindPeerRequest, p.cfg.Grid),
		From:      p.cfg.Slot,
		FromEpoch: p.cfg.Epoch,
		FromRun:   p.run[:],
		FromTime:  p.clock(),
		To:        slot,
		ToEpoch:   to.Epoch,
		ToRun:     run[:],
		ID:        secret[:NonceSize],
		Method:    method,
		Issued:    issued,
		Expiry:    issued + uint64(life),
		ReplyKey:  secret[NonceSize:],
		Body:      canon.Sum(body),
	}
	signed, err := contract.Sign(ctx, r, r.Kind, p.cfg.Signer)
	if err != nil {
		return peerAsked{}, nil, fmt.Errorf("sign %s: %w", method, err)
	}
	sealed, err := sealPeerCall(to, p.cfg.Grid, slot, peerCall{signed, body})
	if err != nil {
		return peerAsked{}, nil, fmt.Errorf("seal %s to node %s: %w", method, slot.Short(), err)
	}
	return peerAsked{p.cfg.Grid, p.cfg.Slot, slot, to, signed.ID(), r.ReplyKey}, sealed, nil
}

// exchange sends data to a slot, again and again, until take returns nil for an
// answer. When the ledger turns out to have other keys of the slot than to, it
// returns errRebound.
func (p *Peers) exchange(ctx context.Context, slot canon.Hash, to Binding, data []byte, take func([]byte) error) error {
	in := p.cfg.Conn.open()
	defer p.cfg.Conn.shut(in)
	began, first := time.Now(), mrand.IntN(maxURLs)
	pause := p.patience()
	var refused int
	var last error
	for sent := 1; ; sent++ {
		if err := p.cfg.Conn.Ready(ctx); err != nil {
			return err
		}
		if err := p.send(slot, in.subject, data, first, sent); err != nil {
			p.log.Debug("peer request not sent", "error", err) // the link went this moment
		}
		again := time.NewTimer(pause)
	wait:
		for {
			select {
			case b := <-in.ch:
				err := take(b)
				if err == nil {
					again.Stop()
					p.took(time.Since(began))
					return nil
				}
				// Anyone can put bytes into an inbox: they are no answer.
				refused, last = refused+1, err
				if code(err) == "node-rekeyed" && p.rebound(ctx, slot, to) {
					again.Stop()
					return errRebound
				}
			case <-again.C:
				break wait
			case <-ctx.Done():
				again.Stop()
				return silentPeer(slot, ctx.Err(), refused, last)
			}
		}
		pause = min(2*pause, peerAgainMost)
		// Who was given new keys cannot open what was sealed to the old ones, and
		// so is silent. Look less and less often: most who are silent are off.
		if sent&(sent-1) == 0 && sent > 1 && p.rebound(ctx, slot, to) {
			return errRebound
		}
	}
}

// took notes how long an answer took; patience is how long to wait before a
// request is sent again, from peerAgainFirst to peerAgainMost. It is a mean as in
// RFC 6298, of bounded samples: a node that is slow for once, or a server that
// swallows answers, makes nobody wait longer for others.
func (p *Peers) took(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answerTime += (min(d, peerAgainMost/4) - p.answerTime) / 8
}

func (p *Peers) patience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(4*p.answerTime, peerAgainFirst)
}

// send sends a request for the nth time. Calls spread over the links: which one is
// first is drawn, so that no server can know that it is asked alone.
func (p *Peers) send(slot canon.Hash, reply string, data []byte, first, nth int) error {
	if nth <= peerOneLink {
		return p.cfg.Conn.publishOne(first+nth, PeerSubject(slot), reply, data)
	}
	return p.cfg.Conn.publish(PeerSubject(slot), reply, data)
}

// rebound looks whether the ledger has other keys of the slot now.
func (p *Peers) rebound(ctx context.Context, slot canon.Hash, to Binding) bool {
	now, err := p.book.again(ctx, slot, false)
	return err == nil && !now.same(to)
}

func silentPeer(slot canon.Hash, err error, refused int, last error) error {
	p := problem.New("node-silent", "node %s does not answer: %w", slot.Short(), err)
	if code(last) == "node-rekeyed" {
		p = problem.New("node-rekeyed", "node %s does not answer with the key that the ledger binds: %w (%d answers refused)", slot.Short(), err, refused)
	} else if refused > 0 {
		p = problem.New("node-silent", "node %s does not answer: %w (%d answers refused, the last because: %v)", slot.Short(), err, refused, last)
	}
	return p.WithFix("check that the node is on and that it reaches the same rendezvous")
}
