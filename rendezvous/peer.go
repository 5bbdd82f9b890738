package rendezvous

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/canon"
)

// Bounds of what is remembered of peers.
const (
	maxPeers   = 4096
	peerForget = int64(2 * time.Minute) // without a packet either way
	// badFor is how long a way that lost packets is avoided while there is
	// another.
	badFor    = int64(30 * time.Second)
	probeSize = 1 + 8
	echoSize  = probeSize + 8
	// lossFrom is the fewest packets by which loss is judged, muteFrom the fewest
	// by which a way on which nothing arrives is: a TCP connection that waits
	// longer and longer sends so many within a second, and then hardly any.
	lossFrom, muteFrom = 8, 3
)

// peer is what is known of one other slot.
type peer struct {
	slot   canon.Hash
	route  atomic.Int32 // the link in use; -1: not known
	sentAt atomic.Int64 // when a packet was sent to it
	seenAt atomic.Int64 // when anything came from it
	ways   [MaxURLs]way

	mu sync.Mutex // of probes and of choosing
}

// way is a peer as it is reached by one link.
type way struct {
	heard    atomic.Int64  // when anything came from it, or it answered, this way; 0: never
	brought  atomic.Int64  // when data came from it this way; 0: never
	gone     atomic.Int64  // when the server said that it is not there; 0: it is
	sent     atomic.Uint64 // data packets, by this session of the link
	received atomic.Uint64

	// What follows is guarded by peer.mu.
	rtt      int64
	badUntil int64
	asked    int64  // when the oldest probe without an answer was sent; 0: none
	last     int64  // when the last probe was sent
	lastSeq  uint64 // of that probe
	atProbe  uint64 // data packets sent before it
	hadSent  uint64 // the same, of the last probe that was answered
	hadRecv  uint64 // what its answer said
	counted  bool   // hadSent and hadRecv are set
	lossy    int    // answers in a row that told of loss
	mute     int    // answers in a row that told that nothing arrives
}

// peer finds or begins the state of a slot; nil if there are too many. sending: a
// packet is to go there. Those to whom none went give way to it, since a server may
// invent as many as it likes.
func (c *Client) peer(slot canon.Hash, sending bool) *peer {
	c.mu.RLock()
	p := c.peers[slot]
	c.mu.RUnlock()
	if p != nil {
		return p
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p = c.peers[slot]; p != nil {
		return p
	}
	if len(c.peers) >= maxPeers && !c.forget(c.now(), sending) {
		return nil
	}
	p = &peer{slot: slot}
	p.route.Store(-1)
	p.seenAt.Store(c.now())
	c.peers[slot] = p
	return p
}

// forget drops peers that were not talked to for long or, if sending, never sent
// to; c.mu is held. True: some were.
func (c *Client) forget(now int64, sending bool) bool {
	n := len(c.peers)
	for slot, p := range c.peers {
		if sent := p.sentAt.Load(); sending && sent == 0 || now-max(sent, p.seenAt.Load()) > peerForget {
			delete(c.peers, slot)
		}
	}
	return len(c.peers) < n
}

// heardOn notes that something came from the peer over a link.
func (p *peer) heardOn(c *Client, i int, now int64, data bool) {
	w := &p.ways[i]
	p.seenAt.Store(now)
	if data {
		w.received.Add(1)
		w.brought.Store(now)
	}
	before := w.heard.Swap(now)
	w.gone.Store(0)
	if before == 0 || now-before > int64(c.cfg.Periods.Present) || p.route.Load() < 0 {
		p.choose(c, now)
	}
}

// gone notes that a server does not have the slot.
func (c *Client) gone(slot canon.Hash, i int) {
	c.mu.RLock()
	p := c.peers[slot]
	c.mu.RUnlock()
	if p == nil {
		return
	}
	now := c.now()
	p.ways[i].gone.Store(now)
	p.ways[i].heard.Store(0)
	p.mu.Lock()
	p.ways[i].asked = 0
	p.mu.Unlock()
	p.choose(c, now)
}

// probe asks the peer, over a link, what has arrived there. Not again within the
// period unless force is set.
func (p *peer) probe(c *Client, i int, s *session, now int64, force bool) {
	p.mu.Lock()
	w := &p.ways[i]
	if !force && w.last != 0 && now-w.last < int64(c.cfg.Periods.Probe) {
		p.mu.Unlock()
		return
	}
	w.last = now
	if w.asked == 0 {
		w.asked = now
	}
	w.atProbe = w.sent.Load()
	// The sequence is the time: it rises, and the echo tells the round trip.
	w.lastSeq = max(w.lastSeq+1, uint64(now))
	var body [probeSize]byte
	body[0] = byte(i)
	binary.BigEndian.PutUint64(body[1:], w.lastSeq)
	p.mu.Unlock()
	s.send(now, p.slot, kindProbe, body[:])
}

// answer tells a peer what has arrived from it on the link of its probe.
func (p *peer) answer(s *session, to canon.Hash, body []byte, now int64) {
	if len(body) != probeSize {
		return
	}
	var out [echoSize]byte
	copy(out[:], body)
	binary.BigEndian.PutUint64(out[probeSize:], p.ways[s.link.index].received.Load())
	s.send(now, to, kindEcho, out[:])
}

// echoed takes the answer to a probe: the peer can be reached by that link, and
// this much of what was sent has arrived. The answer itself may have come by
// another one, when servers of a cluster pass packets on.
func (p *peer) echoed(c *Client, body []byte) {
	if len(body) != echoSize || int(body[0]) >= len(c.links) {
		return
	}
	i := body[0]
	body = body[1:]
	now := c.now()
	seq, arrived := binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
	p.mu.Lock()
	w := &p.ways[i]
	if seq != w.lastSeq || w.asked == 0 {
		// An older one still proves that the way answers.
		if seq < w.lastSeq && w.asked != 0 && seq >= uint64(w.asked) {
			w.asked = w.last
		}
		p.mu.Unlock()
		return
	}
	w.asked = 0
	w.rtt = max(1, now-int64(seq))
	w.heard.Store(now)
	w.gone.Store(0)
	w.judge(now, arrived)
	p.mu.Unlock()
	p.choose(c, now)
}

// judge compares what had arrived, by the answer to the last probe, with what was
// sent before that probe. Packets may still be on the way, since probes overtake
// data when datagrams and TLS are mixed: it takes two answers in a row.
func (w *way) judge(now int64, arrived uint64) {
	if !w.counted || arrived < w.hadRecv { // a restarted peer counts from 0
		w.hadSent, w.hadRecv, w.counted = w.atProbe, arrived, true
		if w.lossy == 0 && w.mute == 0 {
			w.badUntil = 0
		}
		return
	}
	sent, had := w.atProbe-w.hadSent, arrived-w.hadRecv
	enough := sent >= lossFrom
	switch {
	case had == 0 && sent >= muteFrom:
		w.mute++
	case had > 0:
		w.mute = 0
	}
	switch {
	case enough && had < sent/2:
		w.lossy++
	case enough:
		w.lossy = 0
	}
	switch {
	case w.lossy >= 2 && enough || w.mute >= 2 && had == 0 && sent >= muteFrom:
		w.badUntil = now + badFor
		enough = true // by these it has been judged; more must tell
	case w.lossy == 0 && w.mute == 0:
		w.badUntil = 0
	}
	if enough {
		w.hadSent, w.hadRecv = w.atProbe, arrived
	}
}

// choose takes the best way to the peer.
func (p *peer) choose(c *Client, now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ways [MaxURLs]candidate
	for i, l := range c.links {
		w := &p.ways[i]
		s := l.session.Load()
		heard := w.heard.Load()
		ways[i] = candidate{
			up:      s != nil,
			present: heard != 0 && now-heard < int64(c.cfg.Periods.Present),
			bad:     now < w.badUntil,
			rtt:     w.rtt,
		}
		if s != nil && s.udp != nil {
			ways[i].udp = s.udp.most.Load() > 0
		}
	}
	p.route.Store(int32(best(int(p.route.Load()), ways[:len(c.links)])))
}

// check probes the peer where it is time and judges its ways; tend calls it.
// True: there is traffic.
func (p *peer) check(c *Client, now int64) bool {
	per := c.cfg.Periods
	at := p.sentAt.Load()
	busy := at != 0 && now-at < int64(4*per.Probe)
	if at == 0 || now-at > int64(per.Present) {
		return false
	}
	route := int(p.route.Load())
	for i, l := range c.links {
		s := l.session.Load()
		w := &p.ways[i]
		if s == nil {
			continue
		}
		p.mu.Lock()
		// A way that answers nothing is bad; slow ones have more time, and those
		// that bring other packets from the peer.
		limit := max(int64(per.Silent), 4*w.rtt)
		if w.heard.Load() >= w.asked {
			limit *= 3
		}
		if w.asked != 0 && now-w.asked > limit {
			w.badUntil = now + badFor
			w.asked = 0
			w.heard.Store(0)
		}
		last, sent := w.last, w.sent.Load()-w.atProbe
		p.mu.Unlock()
		wait := int64(per.Present) / 4 // others are asked now and then, to be known when needed
		// The way in use is asked when what was sent has brought no data back yet, or
		// is enough to judge loss by: a peer that answers by itself is not asked.
		if i == route && busy && (sent >= lossFrom || sent > 0 && w.brought.Load() < at) {
			wait = int64(per.Probe)
		}
		if now-last >= wait {
			p.probe(c, i, s, now, true)
		}
	}
	p.choose(c, now)
	return busy
}

// reset forgets what belongs to a session of a link that has ended.
func (p *peer) reset(i int) {
	w := &p.ways[i]
	w.heard.Store(0)
	w.brought.Store(0)
	w.gone.Store(0)
	p.mu.Lock()
	defer p.mu.Unlock()
	w.asked, w.last, w.badUntil, w.lossy, w.mute, w.rtt, w.counted = 0, 0, 0, 0, 0, 0, false
}

func putTime(b []byte, t int64) { binary.BigEndian.PutUint64(b, uint64(t)) }

func getTime(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }
