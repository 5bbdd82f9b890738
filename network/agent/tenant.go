package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network"
)

// tenant is one network on this node.
type tenant struct {
	agent  *Agent
	id     canon.Hash
	name   string
	epochs epochs

	// ensure is held while devices are made or closed, which takes time; mu never
	// for long. ensure before mu.
	ensure sync.Mutex

	slots atomic.Pointer[map[canon.Hash]bool] // of peers, read without a lock

	mu       sync.Mutex
	topo     network.Topology
	router   router // nil before the first Ensure
	devices  []*device
	peers    map[canon.Hash]*peer
	routes   map[route]string // as they are in the kernel
	gone     bool
	wanted   uint64    // an epoch that another node has begun already
	begun    bool      // it has had a device: one that is missing is made again
	rotating bool      // a goroutine makes or closes a device
	retryAt  time.Time // after a device could not be made
	movedAt  time.Time // when all peers were on the newest device here; zero: not yet
	problem  error     // of routes and devices
}

// peer is another node of the network.
type peer struct {
	slot     canon.Hash
	prefixes []netip.Prefix
	active   *device // through which its routes go
}

func newTenant(a *Agent, topo network.Topology) *tenant {
	return &tenant{
		agent: a, id: topo.ID, name: topo.Name, epochs: epochsOf(topo.ID, a.cfg.Periods),
		peers: map[canon.Hash]*peer{}, routes: map[route]string{},
	}
}

func (t *tenant) ended() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gone
}

// newest returns the device of the highest epoch, or nil.
func (t *tenant) newest() *device {
	if len(t.devices) == 0 {
		return nil
	}
	return t.devices[len(t.devices)-1]
}

func (t *tenant) device(epoch uint64) *device {
	for _, d := range t.devices {
		if d.epoch == epoch {
			return d
		}
	}
	return nil
}

// apply takes over a topology.
func (t *tenant) apply(topo network.Topology) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.topo = topo
	keep := map[canon.Hash]bool{}
	for _, n := range topo.Nodes {
		if n.Slot == topo.Self {
			continue
		}
		keep[n.Slot] = true
		p := t.peers[n.Slot]
		if p == nil {
			p = &peer{slot: n.Slot}
			t.peers[n.Slot] = p
		}
		p.prefixes = slices.Clone(n.Prefixes)
	}
	var errs []error
	for slot := range t.peers {
		if !keep[slot] {
			for _, d := range t.devices {
				errs = append(errs, d.dropLink(slot))
			}
			delete(t.peers, slot)
		}
	}
	now := t.agent.cfg.Now()
	for _, d := range t.devices {
		for slot := range t.peers {
			d.link(slot, now)
		}
		if d.taken {
			d.taken = false
			errs = append(errs, d.takeOver(now))
		}
		// Ranges are taken from one peer before another gets them.
		for _, grow := range []bool{false, true} {
			for slot := range t.peers {
				errs = append(errs, d.links[slot].allow(grow))
			}
		}
	}
	t.slots.Store(&keep)
	errs = append(errs, t.syncRoutes())
	return errors.Join(errs...)
}

// allowed returns the addresses behind a peer, sorted as devices tell them.
func (t *tenant) allowed(slot canon.Hash) []netip.Prefix {
	p := t.peers[slot]
	if p == nil {
		return nil
	}
	out := slices.Clone(p.prefixes)
	if t.exit() == slot {
		out = append(append(out, t.outside(everything4)...), t.outside(everything6)...)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// outside is all of a family but the network's range, or, if the topology does not
// tell that, the smallest that holds every node that it has. Were all of it behind
// the exit, then the exit would stand in for each node whose peer is not in the
// device yet, or not any more: packets to that node would be encrypted to the exit,
// and what the exit says in its name be believed.
func (t *tenant) outside(family netip.Prefix) []netip.Prefix {
	var inside netip.Prefix
	for _, p := range t.topo.Ranges {
		if p.Addr().Is4() == family.Addr().Is4() {
			inside = p.Masked()
		}
	}
	for _, n := range t.topo.Nodes {
		for _, p := range n.Prefixes {
			switch {
			case p.Addr().Is4() != family.Addr().Is4():
			case !inside.IsValid():
				inside = p.Masked()
			default:
				for inside.Bits() > p.Bits() || !inside.Contains(p.Addr()) {
					inside = netip.PrefixFrom(inside.Addr(), inside.Bits()-1).Masked()
				}
			}
		}
	}
	if !inside.IsValid() {
		return []netip.Prefix{family}
	}
	out := make([]netip.Prefix, inside.Bits())
	for i := range out {
		other := inside.Addr().AsSlice()
		other[i/8] ^= 0x80 >> (i % 8)
		a, _ := netip.AddrFromSlice(other)
		out[i] = netip.PrefixFrom(a, i+1).Masked()
	}
	return out
}

var (
	everything4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	everything6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// exit returns the peer through which egress leaves; zero: none, or this node.
func (t *tenant) exit() canon.Hash {
	if t.topo.Exit == t.topo.Self {
		return canon.Hash{}
	}
	return t.topo.Exit
}

// syncRoutes makes the routes in the router namespace those that belong there.
func (t *tenant) syncRoutes() error {
	if t.router == nil {
		return nil
	}
	want := map[route]string{}
	for _, p := range t.peers {
		d := p.active
		if d == nil {
			if d = t.newest(); d == nil {
				continue
			}
		}
		for _, prefix := range p.prefixes {
			want[route{prefix, unix.RT_TABLE_MAIN}] = d.wg.Name()
		}
		if p.slot == t.exit() {
			want[route{everything4, ExitTable}] = d.wg.Name()
			want[route{everything6, ExitTable}] = d.wg.Name()
		}
	}
	var errs []error
	for r, device := range want {
		if have, ok := t.routes[r]; ok && have == device {
			continue
		}
		if r.table == ExitTable {
			// Behind the route: when its device is gone, what would leave through
			// the exit goes nowhere, and not by another way.
			if err := t.router.set(r, ""); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if err := t.router.set(r, device); err != nil {
			errs = append(errs, err)
			delete(t.routes, r)
			continue
		}
		t.routes[r] = device
	}
	for r := range t.routes {
		if _, ok := want[r]; !ok {
			if err := t.router.remove(r); err != nil {
				errs = append(errs, err)
				continue
			}
			delete(t.routes, r)
		}
	}
	t.problem = errors.Join(errs...)
	return t.problem
}

// step does what is due and returns when there is more to do.
func (t *tenant) step(ctx context.Context, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := now.Add(idle)
	if t.gone || t.router == nil {
		return next
	}
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	for _, d := range t.devices {
		sooner(d.step(ctx, now))
	}
	t.moveRoutes(now)
	sooner(t.rotate(ctx, now))
	return next
}

// moveRoutes leads packets to a peer through the newest device with which it
// has shaken hands.
func (t *tenant) moveRoutes(now time.Time) {
	changed, all := t.problem != nil, true
	for slot, p := range t.peers {
		for i := len(t.devices) - 1; i >= 0; i-- {
			d := t.devices[i]
			if l := d.links[slot]; l != nil && !l.handshake.IsZero() {
				if p.active != d {
					p.active = d
					changed = true
				}
				for _, old := range t.devices[:i] {
					if l := old.links[slot]; l != nil {
						l.leave()
					}
				}
				break
			}
		}
		all = all && p.active != nil && p.active == t.newest()
	}
	switch {
	case !all:
		t.movedAt = time.Time{}
	case t.movedAt.IsZero():
		t.movedAt = now
	}
	if changed {
		if err := t.syncRoutes(); err != nil {
			t.agent.log.Warn("set the routes of a network", "network", t.name, "error", err)
		}
	}
}

// movedAway says that the node's addresses changed.
func (t *tenant) movedAway(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.devices {
		d.movedAway(now)
	}
}

// relayChanged tries at once what waited for a relay.
func (t *tenant) relayChanged(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.devices {
		if d.wantsObservation() {
			d.observeRetry = 0
			d.observe(now)
		}
		for _, l := range d.links {
			if l.key.IsZero() && !l.busy {
				l.due = now
			}
			l.rejoined(now)
		}
	}
}

// end closes the network. With keep, devices that can outlive the daemon stay.
// ensure is held.
func (t *tenant) end(keep bool) error {
	t.mu.Lock()
	t.gone = true
	devices := t.devices
	t.devices = nil
	for _, d := range devices {
		d.unpublish()
	}
	t.mu.Unlock()
	var errs []error
	for _, d := range devices {
		if keep {
			errs = append(errs, d.wg.Leave())
		} else {
			errs = append(errs, d.wg.Close())
		}
	}
	if t.router != nil {
		if !keep {
			for r := range t.routes {
				errs = append(errs, t.router.remove(r))
			}
		}
		t.router.close()
	}
	return errors.Join(errs...)
}
