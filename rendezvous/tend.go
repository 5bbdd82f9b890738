package rendezvous

import (
	"context"
	"time"

	"github.com/zero-os/zos/canon"
)

// tend looks after links and peers: often while there is traffic, else rarely.
func (c *Client) tend(ctx context.Context) {
	often := c.cfg.Periods.Probe / 2
	rarely := max(often, min(time.Second, c.cfg.Periods.Ping/4, c.cfg.Periods.Answer/4))
	timer := time.NewTimer(rarely)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		wait := rarely
		if c.look() {
			wait = often
		}
		timer.Reset(wait)
	}
}

// look is one round of tend. True: there is traffic.
func (c *Client) look() bool {
	now := c.now()
	busy := false
	for _, l := range c.links {
		s := l.session.Load()
		if s == nil {
			continue
		}
		s.check(now)
		busy = busy || s.suspect.Load() != 0
		if s.udp != nil {
			s.udp.check(now)
			busy = busy || now-s.udp.active.Load() < int64(4*c.cfg.Periods.Probe)
		}
	}
	c.mu.RLock()
	peers := make([]*peer, 0, len(c.peers))
	for _, p := range c.peers {
		peers = append(peers, p)
	}
	c.mu.RUnlock()
	for _, p := range peers {
		if p.check(c, now) {
			busy = true
		}
	}
	if len(peers) > 0 && !busy {
		c.mu.Lock()
		c.forget(now, false)
		c.mu.Unlock()
	}
	c.busy.Store(busy) // while it is, the next round is soon and nobody need stir
	return busy
}

// changed lets every peer choose anew after a link came, went or changed, and
// tells the owner.
func (c *Client) changed() {
	now := c.now()
	c.mu.RLock()
	peers := make(map[canon.Hash]*peer, len(c.peers))
	for s, p := range c.peers {
		peers[s] = p
	}
	c.mu.RUnlock()
	for _, p := range peers {
		for i, l := range c.links {
			if l.session.Load() == nil {
				p.reset(i)
			}
		}
		p.choose(c, now)
	}
	c.cfg.OnChange()
}
