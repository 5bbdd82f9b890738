package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network/exchange"
	"github.com/zero-os/zos/network/path"
	"github.com/zero-os/zos/problem"
)

// Rhythms of exchanges.
const (
	// A responder whose initiator does not come reminds it: first by a frame
	// through the relay, which costs nothing, then by a call.
	remindFrames = 5
	// beginGap is between two reminders that are obeyed; it grows for who sends
	// many. Frames are not authentic: a relay must not make work by forging them.
	beginGap    = 300 * time.Millisecond
	maxBeginGap = 30 * time.Second
	// callCounts is how long an exchange counts as one of those under way, or four
	// times as long as they take of late: who is away keeps nobody else waiting.
	callCounts = time.Second
	// givenUp is the age at which an exchange is given up for another that the
	// peer asks for. Before, it reaches the peer by itself: its request is sent
	// again and again.
	givenUp = 2 * time.Second
)

// begin starts an exchange, or reminds the peer to. A link is due. When as many as
// may be are under way it does nothing, and stays due: who ends pokes.
func (l *link) begin(ctx context.Context, now time.Time) {
	a := l.device.tenant.agent
	if !l.initiator && l.fails < remindFrames {
		number := binary.BigEndian.AppendUint64(nil, a.sequence())
		if err := l.device.relay(frameBegin, l.slot, number); err != nil {
			a.log.Debug("remind a peer to exchange keys", "peer", l.slot.Short(), "error", err)
		}
		l.fails++
		l.due = now.Add(l.backoff())
		return
	}
	select {
	case a.calls <- struct{}{}:
	default:
		return
	}
	l.busy, l.again, l.calledAt = true, false, now
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Periods.Call)
	l.cancel = cancel
	ended := sync.OnceFunc(func() { <-a.calls; a.poke() })
	late := time.AfterFunc(max(callCounts, 4*a.callTime()), ended)
	a.work.Go(func() {
		defer a.poke()
		defer late.Stop()
		defer ended()
		defer cancel()
		call := l.remind
		if l.initiator {
			call = l.exchange
		}
		err := call(ctx)
		if err == nil {
			a.took(a.cfg.Now().Sub(now))
		}
		l.finish(err)
	})
}

// callTime is how long exchanges take of late, at most callCounts: a peer that is
// slow on purpose changes little for others.
func (a *Agent) callTime() time.Duration { return time.Duration(a.calling.Load()) }

func (a *Agent) took(d time.Duration) {
	d = min(d, callCounts)
	for {
		old := a.calling.Load()
		if a.calling.CompareAndSwap(old, old+(int64(d)-old)/8) {
			return
		}
	}
}

// finish plans the next exchange after one that ended with err.
func (l *link) finish(err error) {
	t := l.device.tenant
	now := t.agent.cfg.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	l.busy = false
	if l.gone {
		return
	}
	switch {
	case l.again:
		l.due, l.fails = now, 0
		return
	case !l.initiator && l.pskAt.After(l.calledAt):
		return // while it was reminded, it came
	}
	if err != nil {
		if problem.Code(err) == "" {
			err = problem.New("peer-silent", "slot %s does not answer: %w", l.slot.Short(), err).
				WithFix("it is tried again for ever; is that node up, and has it this network?")
		}
		if l.fails == 0 || problem.Code(err) != problem.Code(l.failure) {
			t.agent.log.Warn("exchange of keys", "network", t.name, "peer", l.slot.Short(), "code", problem.Code(err), "error", err)
		}
		l.failure = err
		l.fails++
		l.due = now.Add(l.backoff())
		return
	}
	if !l.initiator {
		// It was asked. Whether it comes is seen when its request is here.
		l.fails++
		l.due = now.Add(l.backoff())
	}
}

// backoff is how long to wait after the last of fails failures.
func (l *link) backoff() time.Duration {
	p := l.device.tenant.agent.cfg.Periods
	wait := min(p.Retry<<min(max(l.fails-1, 0), 20), p.MaxRetry)
	return wait - rand.N(max(wait/4, 1))
}

// expected is what the peer's binding must fit.
func (l *link) expected(id Identity, now time.Time) exchange.Expected {
	e := exchange.Expected{
		Network: l.device.tenant.id, Slot: l.slot, KeyEpoch: l.device.epoch, SlotEpoch: id.Epoch, Key: id.Key, Now: now,
	}
	if l.theirs.SlotEpoch == id.Epoch {
		e.KnownSequence, e.KnownID = l.theirs.Sequence, l.theirs.ID
	}
	return e
}

// exchange is the initiator's side, in a goroutine of its own.
func (l *link) exchange(ctx context.Context) error {
	d := l.device
	t, a := d.tenant, d.tenant.agent
	own, err := d.binding(ctx)
	if err != nil {
		return err
	}
	sequence := a.sequence()
	t.mu.Lock()
	paths := d.tell(a.cfg.Now()).Encode()
	t.mu.Unlock()
	raw, err := exchange.Ask(own, sequence, paths)
	if err != nil {
		return err
	}
	b, err := a.cfg.Messenger.Call(ctx, l.slot, MethodExchange, raw)
	if err != nil {
		return err
	}
	answer, err := exchange.DecodeAnswer(b)
	if err != nil {
		return err
	}
	tell, err := path.DecodeTell(answer.Paths)
	if err != nil {
		return problem.New("exchange-refused", "answer with keys: %w", err)
	}
	id, err := a.cfg.Bound(ctx, l.slot)
	if err != nil {
		return fmt.Errorf("read the key of slot %s: %w", l.slot.Short(), err)
	}
	t.mu.Lock()
	expected := l.expected(id, a.cfg.Now())
	t.mu.Unlock()
	theirs, err := a.verifier.Open(answer.Binding, expected)
	if err != nil {
		return err
	}
	keys, err := exchange.Complete(own, theirs, raw, sequence, answer)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.gone {
		return errStopped
	}
	return l.install(a.cfg.Now(), theirs, keys, tell)
}

// remind asks the initiator to begin.
func (l *link) remind(ctx context.Context) error {
	d := l.device
	a := d.tenant.agent
	raw, err := exchange.Request{
		Ask: exchange.AskBegin, Network: d.tenant.id, KeyEpoch: d.epoch, Sequence: a.sequence(),
	}.Encode()
	if err != nil {
		return err
	}
	_, err = a.cfg.Messenger.Call(ctx, l.slot, MethodExchange, raw)
	return err
}

// asked takes a reminder that came through the relay, so perhaps from anyone.
func (l *link) asked(now time.Time, number uint64) {
	if !l.initiator {
		return
	}
	since := now.Sub(l.begunAt)
	// One that crossed the exchange that it asks for is obeyed no more: the numbers
	// of all that a peer says rise.
	if since < l.begunGap || number <= l.told {
		return
	}
	if since > 2*maxBeginGap {
		l.begunGap = 0
	}
	if !l.busy && !now.Before(l.due) {
		return // it waits for its turn
	}
	l.begunAt, l.begunGap = now, min(max(2*l.begunGap, beginGap), maxBeginGap)
	l.beginNow(now)
}

// beginNow begins an exchange as soon as may be. One that is under way, to a
// node that perhaps was not there yet, is given up.
func (l *link) beginNow(now time.Time) {
	switch {
	case !l.busy:
		l.due = now
	case now.Sub(l.calledAt) > givenUp:
		l.again = true
		l.cancel()
	}
	l.device.tenant.agent.poke()
}

// serve answers another agent. Who is not of the network learns nothing about it.
func (a *Agent) serve(ctx context.Context, from canon.Hash, body []byte) ([]byte, error) {
	r, err := exchange.DecodeRequest(body)
	if err != nil {
		return nil, err
	}
	unknown := problem.New("network-unknown", "exchange of keys: this node has no such network with slot %s", from.Short())
	t := a.tenant(r.Network)
	if t == nil {
		return nil, unknown
	}
	l, err := t.called(from, r, unknown)
	if err != nil || r.Ask == exchange.AskBegin {
		return nil, err
	}
	answer, err := a.respond(ctx, l, r, body)
	if err != nil {
		t.mu.Lock()
		l.failure = err
		t.mu.Unlock()
	}
	return answer, err
}

// called finds the link that a request is for.
func (t *tenant) called(from canon.Hash, r exchange.Request, unknown error) (*link, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.agent
	now := a.cfg.Now()
	if t.gone || t.peers[from] == nil {
		return nil, unknown
	}
	d := t.device(r.KeyEpoch)
	if d == nil {
		if t.epochs.early(r.KeyEpoch, now) {
			t.wanted = r.KeyEpoch
			a.poke()
		}
		return nil, problem.New("key-epoch-unknown", "exchange of keys: this node has no device of key epoch %d", r.KeyEpoch).
			WithFix("it is tried again; if this stays, compare the clocks of both nodes")
	}
	l := d.link(from, now)
	if l.initiator != (r.Ask == exchange.AskBegin) {
		return nil, problem.New("exchange-refused", "exchange of keys: the node with the lower slot begins it")
	}
	if err := exchange.JudgeSequence(r.Sequence, l.sequence, now); err != nil {
		return nil, err
	}
	if r.Ask == exchange.AskBegin {
		l.sequence = r.Sequence
		if now.Sub(l.begunAt) >= beginGap {
			l.begunAt = now
			l.beginNow(now)
		}
	}
	return l, nil
}

// respond is the responder's side.
func (a *Agent) respond(ctx context.Context, l *link, r exchange.Request, raw []byte) ([]byte, error) {
	d := l.device
	t := d.tenant
	tell, err := path.DecodeTell(r.Paths)
	if err != nil {
		return nil, problem.New("exchange-refused", "request for keys: %w", err)
	}
	id, err := a.cfg.Bound(ctx, l.slot)
	if err != nil {
		return nil, fmt.Errorf("read the key of slot %s: %w", l.slot.Short(), err)
	}
	t.mu.Lock()
	expected := l.expected(id, a.cfg.Now())
	paths := d.tell(a.cfg.Now()).Encode()
	t.mu.Unlock()
	theirs, err := a.verifier.Open(r.Binding, expected)
	if err != nil {
		return nil, err
	}
	own, err := d.binding(ctx)
	if err != nil {
		return nil, err
	}
	answer, keys, err := exchange.Respond(own, theirs, raw, r.Sequence, paths)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := a.cfg.Now()
	if l.gone {
		return nil, errStopped
	}
	// Another request may have been answered meanwhile: judged again, and only
	// now is this one's sequence used up.
	if err := errors.Join(exchange.JudgeSequence(r.Sequence, l.sequence, now), exchange.Judge(theirs, l.expected(id, now))); err != nil {
		return nil, err
	}
	l.sequence = r.Sequence
	// In force before the answer leaves: the initiator's handshake finds it.
	if err := l.install(now, theirs, keys, tell); err != nil {
		return nil, err
	}
	a.poke()
	return answer, nil
}
