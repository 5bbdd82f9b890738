package bus

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
)

// presentPeer is what is known of another node's present run: its clock was at
// least time when ours was at. Messages take time, so the idea of its clock is
// behind and not ahead; what was issued by it in an earlier run of ours is before
// everything that is issued in this one.
type presentPeer struct {
	epoch  uint64
	run    [NonceSize]byte
	time   uint64
	at     uint64
	issued uint64 // the last that was given out
}

func (k *presentPeer) clock(ours uint64) uint64 { return k.time + (ours - min(k.at, ours)) }

// learn notes what a node has signed about its run. corrected says that it has
// refused what we thought of its clock.
func (p *Peers) learn(slot canon.Hash, epoch uint64, run []byte, time uint64, corrected bool) {
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.known[slot]
	if k != nil && k.epoch == epoch && string(k.run[:]) == string(run) && !corrected {
		if k.clock(now) < time {
			k.time, k.at = time, now
		}
		return
	}
	if k == nil && len(p.known) >= peerKnown {
		clear(p.known)
	}
	p.known[slot] = &presentPeer{epoch: epoch, run: [NonceSize]byte(run), time: time, at: now}
}

// issue returns the run that a request to the slot must name, and when it is
// issued by that run's clock.
func (p *Peers) issue(slot canon.Hash, epoch uint64) (run [NonceSize]byte, issued uint64, ok bool) {
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.known[slot]
	if k == nil || k.epoch != epoch {
		return run, 0, false
	}
	k.issued = max(k.clock(now), k.issued+1)
	return k.run, k.issued, true
}

// forget makes the next call greet the slot anew.
func (p *Peers) forget(slot canon.Hash) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, slot)
}

// greet asks which run of a node there is to call. A fresh challenge proves that
// the answer is not an old one.
func (p *Peers) greet(ctx context.Context, slot canon.Hash, to Binding) error {
	var challenge [NonceSize]byte
	rand.Read(challenge[:])
	return p.exchange(ctx, slot, to, challenge[:], func(data []byte) error {
		h, err := openPeerHello(p.cfg.Grid, slot, to, challenge[:], data)
		if err == nil {
			p.learn(slot, h.Epoch, h.Run, h.Time, false)
		}
		return err
	})
}

// helloLife is how long the answer to a challenge is kept for those who bring
// the same one.
const helloLife = uint64(10 * time.Second)

// takeHello answers a challenge.
func (p *Peers) takeHello(ctx context.Context, _ *sync.WaitGroup, key canon.Hash, k *kept, challenge []byte) {
	ctx, cancel := context.WithTimeout(ctx, sendDeadline)
	defer cancel()
	now := p.clock()
	b, err := wire(ctx, PeerHello{
		Header:    header(KindPeerHello, p.cfg.Grid),
		Slot:      p.cfg.Slot,
		Epoch:     p.cfg.Epoch,
		Run:       p.run[:],
		Time:      now,
		Challenge: challenge,
	}, KindPeerHello, p.cfg.Signer)
	if err != nil {
		p.log.Debug("sign peer hello", "error", err)
		p.unkeep(key)
		return
	}
	if err := k.finish(b); err != nil {
		p.log.Debug("peer hello", "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k.expiry = now + helloLife
	p.answers.keep(key, canon.Hash{}, len(b)) // all strangers share one caller's room
}
