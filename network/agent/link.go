package agent

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network/exchange"
	"github.com/zero-os/zos/network/path"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

// Rhythms of a link.
const (
	// keepalive keeps the session young, so that it always has the newest keys;
	// the initiator's is enough.
	keepalive = 25 * time.Second
	// awaitHandshake is how long a first handshake is looked for closely, and how
	// long the responder of an exchange leaves it to the initiator.
	//
	// WireGuard has nothing for two that ask each other at the same time: each
	// answers and forgets that it asked, both answers are for nothing, and it waits
	// five seconds. With packets waiting on both sides they do ask at the same
	// time, as one exchange gives both their keys. So what the responder's
	// WireGuard asks meanwhile is lost, which hinders it neither in answering nor
	// in sending, then, what waits. (A peer without an endpoint would ask nothing
	// either, but the kernel drops what waits for such a one.) The initiator's
	// keepalive makes it ask in any case; after that time whoever can does.
	awaitHandshake = 10 * time.Second
	// firstHandshake is when one that did not come is begun anew, where exchanges
	// are not slow too. WireGuard itself waits five seconds.
	firstHandshake = 1500 * time.Millisecond
	maxRetriggers  = 4
	// silent is the age of a handshake that says the peer is away: with our
	// keepalive, every two minutes there is a new one.
	silent = 210 * time.Second
	// adoptedPath is how long a direct path of an earlier daemon is kept without
	// keys to ask whether it still is one.
	adoptedPath = 10 * time.Second
)

// link is a peer on one device. Its fields are the tenant's mu's.
type link struct {
	device    *device
	slot      canon.Hash
	initiator bool // this node begins the exchanges
	gone      bool

	// The exchange.
	busy     bool // one is under way
	due      time.Time
	fails    int
	failure  error
	sequence uint64 // newest accepted from the peer
	theirs   exchange.Theirs
	told     uint64        // number of the last exchange's message of the peer
	begunAt  time.Time     // last time the peer asked to begin
	begunGap time.Duration // before it may again
	calledAt time.Time     // when the exchange under way began
	cancel   func()        // ends it
	again    bool          // it was ended so that another begins

	// The peer in the device.
	key        wireguard.Key // zero: not installed
	ips        []netip.Prefix
	psk        wireguard.Key
	pskAt      time.Time // agreed; zero: unknown, of an earlier daemon
	pskExpiry  time.Time
	pskExpired bool
	installed  time.Time
	yields     time.Time // until then the first handshake is the peer's to begin
	retriggers int
	handshake  time.Time
	rx, tx     uint64
	moved      bool // packets to the peer go by a newer device

	// The path. Channels: the newest, and the one before it.
	machine   *path.Machine
	path      netip.AddrPort
	adopted   time.Time // when a direct path of an earlier daemon ends, zero: none
	newest    *lane
	before    *lane
	confirmed bool // the peer has shown that it has newest
}

func newLink(d *device, slot canon.Hash, now time.Time) *link {
	l := &link{device: d, slot: slot, initiator: d.tenant.agent.initiates(slot), due: now}
	if !l.initiator {
		l.due = now.Add(l.backoff()) // most initiators come by themselves
	}
	return l
}

// step does what is due for one peer.
func (l *link) step(ctx context.Context, now time.Time) time.Time {
	next := now.Add(idle)
	sooner := func(at time.Time) {
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	if !l.busy {
		if !now.Before(l.due) {
			l.begin(ctx, now)
		}
		if !l.busy && now.Before(l.due) {
			sooner(l.due)
		}
	}
	if !l.key.IsZero() {
		if !l.pskExpired {
			if !now.Before(l.pskExpiry) {
				l.expire()
			} else {
				sooner(l.pskExpiry)
			}
		}
		if at := l.retriggerAt(); !at.IsZero() {
			if !now.Before(at) {
				l.retrigger()
				at = l.retriggerAt()
			}
			sooner(at)
		}
	}
	if l.machine != nil {
		l.do(now, l.machine.Tick(now))
		sooner(l.machine.Next())
	}
	if !l.adopted.IsZero() {
		if !now.Before(l.adopted) {
			l.adopted = time.Time{}
			l.setPath(now, netip.AddrPort{})
		}
		sooner(l.adopted)
	}
	return next
}

// allow sets the peer's addresses in the device after the topology changed.
// Without grow only those are left that it keeps.
func (l *link) allow(grow bool) error {
	ips := l.device.tenant.allowed(l.slot)
	if !grow {
		ips = slices.DeleteFunc(ips, func(p netip.Prefix) bool { return !slices.Contains(l.ips, p) })
	}
	if l.key.IsZero() || slices.Equal(ips, l.ips) {
		return nil
	}
	return l.setPeer(ips)
}

// setPeer makes the device's peer what the link says.
func (l *link) setPeer(ips []netip.Prefix) error {
	p := wireguard.Peer{PublicKey: l.key, PresharedKey: l.psk, AllowedIPs: ips}
	if l.initiator && !l.moved {
		p.Keepalive = keepalive
	}
	if err := l.device.wg.SetPeer(p); err != nil {
		return fmt.Errorf("install peer %s: %w", l.slot.Short(), err)
	}
	l.ips = ips
	return nil
}

// install puts the keys of an exchange in force.
func (l *link) install(now time.Time, theirs exchange.Theirs, keys exchange.Keys, tell path.Tell) error {
	d := l.device
	key := theirs.Key()
	if key == d.wg.PublicKey() {
		return problem.New("binding-refused", "slot %s claims this node's own WireGuard key", l.slot.Short())
	}
	for _, o := range d.links {
		if o != l && o.key == key {
			return problem.New("binding-refused", "slot %s claims the WireGuard key of slot %s", l.slot.Short(), o.slot.Short())
		}
	}
	if !l.key.IsZero() && l.key != key {
		if err := d.wg.RemovePeer(l.key); err != nil {
			return err
		}
		l.clear()
	}
	first := l.key.IsZero()
	before := l.psk
	l.key, l.psk = key, keys.PSK
	if !l.initiator && l.handshake.IsZero() {
		l.yields = now.Add(awaitHandshake)
	}
	d.index() // its first packet goes out while it is being installed
	if err := l.setPeer(d.tenant.allowed(l.slot)); err != nil {
		l.psk = before
		if first {
			l.key = wireguard.Key{}
			d.index()
		}
		return err
	}
	a := d.tenant.agent
	l.theirs, l.pskAt, l.pskExpired = theirs, now, false
	l.pskExpiry = now.Add(a.cfg.Periods.MaxPSKAge)
	l.fails, l.failure = 0, nil
	if first {
		l.installed, l.retriggers = now, 0
		d.statsAt = now.Add(min(statsAwaiting, 20*time.Millisecond))
	}
	l.due, l.told = now.Add(l.renewal()), tell.Number
	l.openChannel(now, keys)
	if l.machine != nil {
		l.do(now, l.machine.Told(now, tell))
	}
	l.adopted = time.Time{}
	return nil
}

// renewal is when the next exchange is due: the initiator's; the responder
// reminds it if that did not come.
func (l *link) renewal() time.Duration {
	renew := l.device.tenant.agent.cfg.Periods.Renew
	if !l.initiator {
		renew = renew * 5 / 4
	}
	return renew - rand.N(max(renew/10, 1))
}

// clear forgets a peer that has other keys now.
func (l *link) clear() {
	l.closeChannels()
	l.key, l.psk, l.machine, l.path = wireguard.Key{}, wireguard.Key{}, nil, netip.AddrPort{}
	l.ips, l.handshake, l.rx, l.tx = nil, time.Time{}, 0, 0
	l.device.index()
}

// expire makes sure that no session goes on without fresh post-quantum keys:
// without a new exchange, no handshake succeeds any more.
func (l *link) expire() {
	secret(&l.psk)
	err := l.setPeer(l.ips)
	a := l.device.tenant.agent
	l.pskExpired = true
	if err != nil {
		// Better no peer than one with old keys.
		err = errors.Join(err, l.device.wg.RemovePeer(l.key))
		l.clear()
	}
	a.log.Warn("the preshared key of a peer could not be renewed and is void", "network", l.device.tenant.name, "peer", l.slot.Short(), "error", err)
}

func secret(k *wireguard.Key) { crand.Read(k[:]) } // never fails, see crypto/rand

// leave lets the session end when the peer is done with it too: nothing of ours
// keeps it alive any more.
func (l *link) leave() {
	if l.moved {
		return
	}
	l.moved = true
	if l.key.IsZero() || !l.initiator {
		return
	}
	if err := l.setPeer(l.ips); err != nil {
		l.device.tenant.agent.log.Debug("end the keepalive of an old key", "peer", l.slot.Short(), "error", err)
	}
}

// retriggerAt is when a first handshake that did not come is begun anew; zero:
// not at all.
func (l *link) retriggerAt() time.Time {
	if !l.initiator || l.installed.IsZero() || !l.handshake.IsZero() || l.retriggers >= maxRetriggers {
		return time.Time{}
	}
	first := max(firstHandshake, 4*l.device.tenant.agent.callTime())
	return l.installed.Add(first<<(l.retriggers+1) - first)
}

// retrigger begins the first handshake again: there is no session to lose yet.
func (l *link) retrigger() {
	l.retriggers++
	d := l.device
	if err := d.wg.RemovePeer(l.key); err == nil {
		err = l.setPeer(l.ips)
		if err == nil && l.path.IsValid() {
			err = d.wg.SetPath(l.key, l.path)
		}
		if err != nil {
			d.tenant.agent.log.Warn("begin a handshake again", "network", d.tenant.name, "peer", l.slot.Short(), "error", err)
		}
	}
}

// awaits tells whether a handshake is expected any moment.
func (l *link) awaits(now time.Time) bool {
	return !l.key.IsZero() && l.handshake.IsZero() && now.Sub(l.installed) < awaitHandshake
}

func (l *link) direct() bool { return l.path.IsValid() }

// counted takes what the device says of the peer.
func (l *link) counted(now time.Time, s *wireguard.PeerStats) {
	sent := s.TxBytes > l.tx && l.tx > 0
	if s.RxBytes > l.rx {
		l.device.heardAt = now
	}
	l.handshake, l.rx, l.tx = s.LastHandshake, s.RxBytes, s.TxBytes
	if sent && l.machine != nil {
		l.machine.Traffic(now)
	}
	// WireGuard follows the peer by itself to where it hears it from; which way
	// packets take is decided here.
	have := s.Endpoint
	if s.Relayed {
		have = netip.AddrPort{}
	}
	if have != l.path {
		l.setPath(now, l.path)
	}
}

// setPath sends the peer's packets to an address, or through the relay.
func (l *link) setPath(now time.Time, to netip.AddrPort) {
	l.path = to
	if l.handshake.IsZero() && now.Before(l.yields) {
		return // what goes directly cannot be held back; counted sets the path later
	}
	if err := l.device.wg.SetPath(l.key, to); err != nil {
		l.device.tenant.agent.log.Debug("set the path of a peer", "peer", l.slot.Short(), "error", err)
	}
}

// openChannel begins to use the path keys of an exchange.
func (l *link) openChannel(now time.Time, keys exchange.Keys) {
	a := l.device.tenant.agent
	if a.cfg.RelayOnly {
		return
	}
	send, receive := keys.ToResponder, keys.ToInitiator
	if !l.initiator {
		send, receive = receive, send
	}
	// The one that both are known to have stays; an unconfirmed one goes.
	if l.newest != nil {
		drop := l.before
		if l.before == nil || l.initiator || l.confirmed {
			l.before = l.newest
		} else {
			drop = l.newest
		}
		if drop != nil {
			a.channels.Delete(drop.channel.ID())
		}
	}
	l.newest = &lane{link: l, channel: path.NewChannel(keys.PathID, send, receive)}
	l.confirmed = false
	a.channels.Store(l.newest.channel.ID(), l.newest)
	if l.machine == nil {
		l.machine = path.NewMachine(path.Timing{})
		if l.path.IsValid() {
			l.do(now, l.machine.Assume(now, l.path))
		}
	} else if l.initiator {
		// The responder uses the new keys when it has seen them used.
		l.say(l.device.tell(now))
	}
}

func (l *link) closeChannels() {
	for _, c := range []*lane{l.newest, l.before} {
		if c != nil {
			l.device.tenant.agent.channels.Delete(c.channel.ID())
		}
	}
	l.newest, l.before, l.confirmed = nil, nil, false
}

// sending is the channel that the peer surely has.
func (l *link) sending() *path.Channel {
	if !l.initiator && !l.confirmed && l.before != nil {
		return l.before.channel
	}
	return l.newest.channel
}

// heard takes an authentic message of the peer.
func (l *link) heard(now time.Time, e event) {
	if l.gone || l.machine == nil || (e.lane != l.newest && e.lane != l.before) {
		return
	}
	if e.lane == l.newest {
		l.confirmed = true
	}
	var out []path.Effect
	switch e.msg.Type {
	case path.TypePing:
		out = l.machine.Ping(now, e.from, e.msg.ID, e.msg.Full)
	case path.TypePong:
		out = l.machine.Pong(now, e.from, e.msg.ID)
	case path.TypeTell:
		out = l.machine.Told(now, e.msg.Tell)
	}
	l.do(now, out)
	l.do(now, l.machine.Tick(now))
}

// do carries out what the machine decided.
func (l *link) do(now time.Time, effects []path.Effect) {
	d := l.device
	a := d.tenant.agent
	for _, e := range effects {
		switch e.Op {
		case path.OpPing:
			l.probe(e.Addr, path.Message{Type: path.TypePing, ID: e.ID, Full: e.Full})
		case path.OpPong:
			l.probe(e.Addr, path.Message{Type: path.TypePong, ID: e.ID, Full: e.Full})
		case path.OpPath:
			l.setPath(now, e.Addr)
			a.log.Info("path of a peer", "network", d.tenant.name, "peer", l.slot.Short(), "direct", e.Addr.IsValid(), "address", e.Addr)
			if e.Addr.IsValid() && d.statsAt.After(now.Add(statsDirect)) {
				d.statsAt = now.Add(statsDirect)
			}
		case path.OpTell:
			tell := d.tell(now)
			tell.Relay, tell.Punch = e.Relay, e.Punch
			l.say(tell)
		case path.OpObserve:
			d.observe(now)
		}
	}
}

func (l *link) probe(to netip.AddrPort, m path.Message) {
	b := l.sending().Seal([]byte(wireguard.ProbeMagic), m)
	if err := l.device.wg.SendProbe(to, b); err != nil {
		l.device.tenant.agent.log.Debug("send a probe", "to", to, "error", err)
	}
}

// say sends a path message through the relay.
func (l *link) say(t path.Tell) {
	b := l.sending().Seal(nil, path.Message{Type: path.TypeTell, Tell: t})
	if err := l.device.relay(framePath, l.slot, b); err != nil {
		l.device.tenant.agent.log.Debug("tell a peer of addresses", "peer", l.slot.Short(), "error", err)
	}
}

func (l *link) announce(now time.Time) {
	if l.machine != nil {
		l.do(now, l.machine.Announce(now))
	}
}

func (l *link) rejoined(now time.Time) {
	if l.machine != nil {
		l.do(now, l.machine.Rejoined(now))
	}
}

func (l *link) movedAway(now time.Time) {
	if l.machine != nil {
		l.do(now, l.machine.Moved(now))
		return
	}
	if l.path.IsValid() {
		l.adopted = time.Time{}
		l.setPath(now, netip.AddrPort{})
	}
}
