package server

import (
	"net/netip"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/rendezvous/wire"
)

// shards split the table of clients, so that packets of many don't wait for one
// lock.
const shards = 64

// sweepEvery is how often clients are looked after.
const sweepEvery = 5 * time.Second

// relay is the table of who is connected, and passes packets between them.
type relay struct {
	server *Server
	table  [shards]shard

	mu       sync.RWMutex
	sessions map[[wire.SessionSize]byte]*client
	tokens   map[[wire.TokenSize]byte]*client
	buffers  wire.Buffers
}

type shard struct {
	mu      sync.RWMutex
	clients map[canon.Hash]*client
}

func newRelay(s *Server) *relay {
	r := &relay{
		server:   s,
		sessions: map[[wire.SessionSize]byte]*client{},
		tokens:   map[[wire.TokenSize]byte]*client{},
	}
	for i := range r.table {
		r.table[i].clients = map[canon.Hash]*client{}
	}
	return r
}

func (r *relay) shard(slot canon.Hash) *shard { return &r.table[slot[0]%shards] }

func (r *relay) find(slot canon.Hash) *client {
	s := r.shard(slot)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.clients[slot]
}

func (r *relay) count() int {
	n := 0
	for i := range r.table {
		r.table[i].mu.RLock()
		n += len(r.table[i].clients)
		r.table[i].mu.RUnlock()
	}
	return n
}

// all is every client now.
func (r *relay) all() []*client {
	var out []*client
	for i := range r.table {
		s := &r.table[i]
		s.mu.RLock()
		for _, c := range s.clients {
			out = append(out, c)
		}
		s.mu.RUnlock()
	}
	return out
}

// enter makes c the client of its slot; an older connection of the slot ends.
func (r *relay) enter(c *client) {
	r.mu.Lock()
	r.sessions[c.session] = c
	r.mu.Unlock()
	s := r.shard(c.slot)
	s.mu.Lock()
	old := s.clients[c.slot]
	s.clients[c.slot] = c
	// Told under the lock, so that others hear of coming and going in order.
	if old == nil {
		r.server.cluster.joined(c.slot)
	}
	s.mu.Unlock()
	if old != nil {
		old.end("another connection of its slot replaced it")
	}
}

// leave takes c out of all tables.
func (r *relay) leave(c *client) {
	s := r.shard(c.slot)
	s.mu.Lock()
	if s.clients[c.slot] == c {
		delete(s.clients, c.slot)
		r.server.cluster.left(c.slot)
	}
	s.mu.Unlock()
	r.mu.Lock()
	delete(r.sessions, c.session)
	for t := range c.tokens {
		if r.tokens[t] == c {
			delete(r.tokens, t)
		}
	}
	r.mu.Unlock()
}

// pass brings a packet from a client to another slot: here, or by the cluster.
func (r *relay) pass(from *client, to canon.Hash, packet []byte, out *outgoing) {
	if !from.bucket.take(len(packet), time.Now) {
		return
	}
	if to == from.slot { // a ping of its link, which is of TLS
		from.queue.Push(wire.Recv, to[:], packet, nil)
		return
	}
	if c := r.find(to); c != nil {
		c.deliver(from.slot, packet, out)
		return
	}
	if r.server.cluster.forward(from.slot, to, packet) {
		return
	}
	from.queue.Push(wire.Gone, to[:], nil, nil)
}

// passed brings a packet that another server forwarded to a client here, and
// nowhere else: so nothing goes in circles.
func (r *relay) passed(from, to canon.Hash, packet []byte, out *outgoing) {
	if c := r.find(to); c != nil {
		c.deliver(from, packet, out)
	}
}

// watch lets a token's observations go to c.
func (r *relay) watch(c *client, token [wire.TokenSize]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(c.tokens) >= tokensMost {
		return
	}
	// Another connection's token is taken over only by the same slot: tokens are
	// random, and who knows another one's shall not silence it.
	if other := r.tokens[token]; other != nil && other.slot != c.slot {
		return
	}
	c.tokens[token] = struct{}{}
	r.tokens[token] = c
}

func (r *relay) unwatch(c *client, token [wire.TokenSize]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(c.tokens, token)
	if r.tokens[token] == c {
		delete(r.tokens, token)
	}
}

// observed tells the client who watches the token where it came from.
func (r *relay) observed(token [wire.TokenSize]byte, from netip.AddrPort) {
	r.mu.RLock()
	c := r.tokens[token]
	r.mu.RUnlock()
	if c == nil || !c.bucket.take(observeCost, time.Now) {
		return
	}
	c.queue.Push(wire.Observed, wire.ObservedBody(token, from), nil, nil)
}

// sweep ends clients that are silent, or whose key the ledger has replaced.
func (r *relay) sweep() {
	tick := time.NewTicker(min(sweepEvery, r.server.cfg.Limits.Idle/4, r.server.cfg.Limits.Recheck/4))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.server.ctx.Done():
			return
		}
		now := time.Now()
		for _, c := range r.all() {
			if now.Sub(c.heard()) > r.server.cfg.Limits.Idle {
				c.end("it was silent")
				continue
			}
			if c.sealer.Spent() {
				c.end("the key of its datagrams is spent") // it will log in again
				continue
			}
			if now.Sub(c.checked) < r.server.cfg.Limits.Recheck {
				continue
			}
			c.checked = now // only this goroutine looks at it
			if err := r.server.bindings.still(r.server.ctx, c.slot, c.epoch, c.key); err != nil {
				c.end(err.Error())
			}
		}
	}
}
