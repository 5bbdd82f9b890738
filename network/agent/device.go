package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network/exchange"
	"github.com/zero-os/zos/network/path"
	"github.com/zero-os/zos/network/wireguard"
)

// Limits and rhythms of a device.
const (
	maxObserved   = 4                // outside addresses that are told
	observedLife  = 10 * time.Minute // of an outside address that is not seen again
	observePause  = 500 * time.Millisecond
	observeRetry  = 30 * time.Second       // longest, while no server has answered
	statsAwaiting = 100 * time.Millisecond // or 10 ms for each peer: reading costs
	statsDirect   = time.Second
	statsIdle     = 5 * time.Second
)

// device is this node's WireGuard device of one key epoch of a network. Its
// fields are the tenant's mu's, but for those that say otherwise.
type device struct {
	tenant *tenant
	epoch  uint64
	tag    tag
	wg     wireguard.Device // set once
	since  time.Time
	taken  bool // an adopted one: its peers are not links yet

	links map[canon.Hash]*link
	// What packets need, read without a lock.
	bySlot atomic.Pointer[map[canon.Hash]wireguard.Key]
	byKey  atomic.Pointer[map[wireguard.Key]*relayed]

	ownMu sync.Mutex // of the two below; signing may take time
	own   *exchange.Own
	ownAt time.Time

	token        [16]byte
	observed     map[netip.AddrPort]time.Time
	observeAt    time.Time // not before
	observeRetry time.Duration
	statsAt      time.Time
	heardAt      time.Time // when the last bytes of a peer were counted
}

// relayed is where a device's packets for the relay go.
type relayed struct {
	slot   canon.Hash
	yields time.Time             // the link's
	failed atomic.Pointer[error] // of the last packet, nil: it was sent
}

func newDevice(t *tenant, epoch uint64) *device {
	d := &device{tenant: t, epoch: epoch, tag: tagOf(t.id, epoch), links: map[canon.Hash]*link{}, observed: map[netip.AddrPort]time.Time{}}
	d.bySlot.Store(&map[canon.Hash]wireguard.Key{})
	d.byKey.Store(&map[wireguard.Key]*relayed{})
	return d
}

func deviceName(epoch uint64) string { return DeviceNames()[epoch%2] }

func (d *device) config() wireguard.Config {
	a := d.tenant.agent
	c := wireguard.Config{
		Name: deviceName(d.epoch), NetNS: d.tenant.router.namespace(), MTU: a.cfg.MTU, Engine: a.cfg.Engine,
		RelayOnly: a.cfg.RelayOnly, ToRelay: d.toRelay, Logger: a.log,
	}
	if !a.cfg.RelayOnly {
		c.OnProbe = a.probed
	}
	return c
}

// ensureDevices makes the device of the present epoch exist. t.ensure is held.
func (t *tenant) ensureDevices(ctx context.Context, netns int) error {
	t.mu.Lock()
	r, devices := t.router, slices.Clone(t.devices)
	t.mu.Unlock()
	if r != nil && !r.same(netns) {
		t.forget(devices)
		t.mu.Lock()
		t.router, t.routes = nil, map[route]string{}
		t.mu.Unlock()
		r.close()
		r, devices = nil, nil
	}
	for _, d := range devices {
		if _, err := d.wg.Stats(); err != nil {
			t.agent.log.Warn("a WireGuard device was lost, it is made again", "network", t.name, "interface", d.wg.Name(), "error", err)
			t.forget([]*device{d})
		}
	}
	if r == nil {
		var err error
		if r, err = t.agent.cfg.openRouter(netns); err != nil {
			return err
		}
		t.mu.Lock()
		t.router = r
		t.mu.Unlock()
		// What an earlier daemon left counts as ours, to be used or removed.
		if routes, err := r.list(); err == nil {
			t.mu.Lock()
			t.routes = routes
			t.mu.Unlock()
		} else {
			return err
		}
		t.adopt(ctx)
	}
	t.mu.Lock()
	have := t.newest() != nil
	t.mu.Unlock()
	if have {
		return nil
	}
	return t.create(ctx, t.epochs.at(t.agent.cfg.Now()))
}

// forget closes devices that can't be used any more.
func (t *tenant) forget(devices []*device) {
	t.mu.Lock()
	for _, d := range devices {
		d.unpublish()
		t.devices = slices.DeleteFunc(t.devices, func(o *device) bool { return o == d })
		for _, p := range t.peers {
			if p.active == d {
				p.active = nil
			}
		}
		maps.DeleteFunc(t.routes, func(_ route, name string) bool { return name == d.wg.Name() })
	}
	t.mu.Unlock()
	for _, d := range devices {
		if err := d.wg.Close(); err != nil {
			t.agent.log.Debug("close a lost WireGuard device", "network", t.name, "error", err)
		}
	}
}

// adopt takes over what an earlier daemon left: the device of the present epoch,
// and that of the one before, which peers may still use.
func (t *tenant) adopt(ctx context.Context) {
	a := t.agent
	now := t.epochs.at(a.cfg.Now())
	for _, epoch := range []uint64{now - 1, now, now + 1} {
		// Another epoch's device of that name is deleted when a new one is made.
		if have, ok := t.router.marked(deviceName(epoch), t.id); !ok || have != epoch {
			continue
		}
		d := newDevice(t, epoch)
		wg, err := a.cfg.Devices.Adopt(ctx, d.config())
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				a.log.Warn("adopt a WireGuard device", "network", t.name, "error", err)
			}
			continue
		}
		d.wg, d.taken = wg, true
		d.enter()
	}
	// What was left and is not used would stay with its keys for ever.
	for _, name := range DeviceNames() {
		if !slices.ContainsFunc(t.devices, func(d *device) bool { return d.wg.Name() == name }) {
			if err := t.router.drop(name); err != nil {
				a.log.Warn("delete an old WireGuard device", "network", t.name, "interface", name, "error", err)
			}
		}
	}
}

// create makes the device of an epoch. t.ensure is held.
func (t *tenant) create(ctx context.Context, epoch uint64) error {
	d := newDevice(t, epoch)
	c := d.config()
	c.PrivateKey = wireguard.NewPrivateKey()
	wg, err := t.agent.cfg.Devices.New(ctx, c)
	if err != nil {
		return fmt.Errorf("make its WireGuard device: %w", err)
	}
	d.wg = wg
	if err := t.router.mark(c.Name, t.id, epoch); err != nil {
		return errors.Join(err, wg.Close())
	}
	d.enter()
	t.agent.log.Info("a network has a new key", "network", t.name, "key_epoch", epoch, "engine", wg.Engine().String(), "port", wg.Port())
	return nil
}

// enter makes a device that stands part of its network.
func (d *device) enter() {
	t := d.tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.agent.cfg.Now()
	d.since, t.begun = now, true
	t.devices = append(t.devices, d)
	slices.SortFunc(t.devices, func(a, b *device) int { return int(a.epoch) - int(b.epoch) })
	for slot := range t.peers {
		d.link(slot, now)
	}
	t.agent.publish(func(m map[tag]*device) { m[d.tag] = d })
	d.watch()
	d.observe(now)
	t.movedAt = time.Time{}
}

// unpublish takes a device out of what packets see.
func (d *device) unpublish() {
	a := d.tenant.agent
	a.publish(func(m map[tag]*device) {
		if m[d.tag] == d {
			delete(m, d.tag)
		}
	})
	for _, l := range d.links {
		l.closeChannels()
		l.gone = true
	}
	d.unwatch()
}

// link returns the link to a peer, made if it is new.
func (d *device) link(slot canon.Hash, now time.Time) *link {
	l := d.links[slot]
	if l == nil {
		l = newLink(d, slot, now)
		d.links[slot] = l
		d.statsAt = time.Time{}
	}
	return l
}

func (d *device) dropLink(slot canon.Hash) error {
	l := d.links[slot]
	if l == nil {
		return nil
	}
	delete(d.links, slot)
	l.gone = true
	l.closeChannels()
	var err error
	if !l.key.IsZero() {
		err = d.wg.RemovePeer(l.key)
	}
	d.index()
	return err
}

// index makes what packets need from the links.
func (d *device) index() {
	bySlot, byKey := map[canon.Hash]wireguard.Key{}, map[wireguard.Key]*relayed{}
	old := *d.byKey.Load()
	for slot, l := range d.links {
		if l.key.IsZero() {
			continue
		}
		bySlot[slot] = l.key
		to := old[l.key]
		if to == nil || to.slot != slot || !to.yields.Equal(l.yields) {
			to = &relayed{slot: slot, yields: l.yields}
		}
		byKey[l.key] = to
	}
	d.bySlot.Store(&bySlot)
	d.byKey.Store(&byKey)
}

// toRelay takes an encrypted packet of the device.
func (d *device) toRelay(key wireguard.Key, packet []byte) {
	to := (*d.byKey.Load())[key]
	if to == nil || wireguard.IsInitiation(packet) && d.tenant.agent.cfg.Now().Before(to.yields) {
		return
	}
	err := d.relay(frameData, to.slot, packet)
	if (err == nil) != (to.failed.Load() == nil) {
		if err == nil {
			to.failed.Store(nil)
		} else {
			to.failed.Store(&err)
		}
	}
}

func (d *device) relay(kind byte, slot canon.Hash, packet []byte) error {
	a := d.tenant.agent
	b := a.buffers.Get().(*[]byte)
	*b = appendFrame((*b)[:0], kind, d.tag, packet)
	err := a.cfg.Relay.Send(slot, *b)
	a.buffers.Put(b)
	return err
}

// binding returns this node's binding for the device, with a KEM key that is
// used for one round of renewals only.
func (d *device) binding(ctx context.Context) (*exchange.Own, error) {
	a := d.tenant.agent
	now := a.cfg.Now()
	d.ownMu.Lock()
	defer d.ownMu.Unlock()
	if d.own != nil && now.Sub(d.ownAt) < a.cfg.Periods.Renew/2 {
		return d.own, nil
	}
	issued := uint64(now.Unix())
	life := d.tenant.epochs.end(d.epoch).Sub(now) + time.Minute
	public := d.wg.PublicKey()
	own, err := exchange.Bind(ctx, a.cfg.Signer, a.cfg.Grid, exchange.Binding{
		Network: d.tenant.id, Slot: a.cfg.Slot, SlotEpoch: a.cfg.Epoch, KeyEpoch: d.epoch, WireGuard: public[:],
		Sequence: a.sequence(), Issued: issued, Expiry: issued + uint64(min(max(life, time.Minute), exchange.MaxLife)/time.Second),
	})
	if err != nil {
		return nil, fmt.Errorf("sign the binding of a WireGuard key: %w", err)
	}
	d.own, d.ownAt = own, now
	return own, nil
}

// step does what is due for all peers.
func (d *device) step(ctx context.Context, now time.Time) time.Time {
	next := now.Add(idle)
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	if len(d.links) > 0 {
		if !now.Before(d.statsAt) {
			d.readStats(ctx, now)
		}
		sooner(d.statsAt)
	}
	for _, l := range d.links {
		sooner(l.step(ctx, now))
	}
	if d.wantsObservation() {
		if !now.Before(d.observeAt) {
			d.observeRetry = min(max(2*d.observeRetry, observePause), observeRetry)
			d.observe(now)
			d.observeAt = now.Add(d.observeRetry)
		}
		sooner(d.observeAt)
	}
	return next
}

// readStats takes over what the device knows of its peers.
func (d *device) readStats(ctx context.Context, now time.Time) {
	d.statsAt = now.Add(statsIdle)
	if d != d.tenant.newest() {
		// It is closed soon after it is silent.
		d.statsAt = now.Add(min(statsIdle, max(d.tenant.agent.cfg.Periods.Linger/4, statsAwaiting/2)))
	}
	stats, err := d.wg.Stats()
	if err != nil {
		if errors.Is(err, net.ErrClosed) {
			d.tenant.replace(ctx, d, now, err)
		} else {
			d.tenant.agent.log.Warn("read a WireGuard device", "network", d.tenant.name, "interface", d.wg.Name(), "error", err)
		}
		return
	}
	by := make(map[wireguard.Key]*wireguard.PeerStats, len(stats))
	for i := range stats {
		by[stats[i].PublicKey] = &stats[i]
	}
	for _, l := range d.links {
		if s := by[l.key]; s != nil {
			l.counted(now, s)
		}
		switch {
		case l.awaits(now):
			d.statsAt = now.Add(max(statsAwaiting, time.Duration(len(d.links))*statsAwaiting/10))
		case l.direct() && d.statsAt.After(now.Add(statsDirect)):
			d.statsAt = now.Add(statsDirect)
		}
	}
}

// candidates are this node's own addresses, with the device's port.
func (d *device) candidates(now time.Time) []path.Candidate {
	a := d.tenant.agent
	if a.cfg.RelayOnly {
		return nil
	}
	var out []path.Candidate
	for _, ip := range a.addresses() {
		out = append(out, path.Candidate{Kind: path.KindOf(ip), Addr: netip.AddrPortFrom(ip, d.wg.Port())})
	}
	for addr, seen := range d.observed {
		if now.Sub(seen) < observedLife {
			out = append(out, path.Candidate{Kind: path.Observed, Addr: addr})
		}
	}
	return path.Normal(out)
}

// tell is what peers learn about this node now.
func (d *device) tell(now time.Time) path.Tell {
	return path.Tell{Number: d.tenant.agent.sequence(), Candidates: d.candidates(now)}
}

func (d *device) wantsObservation() bool {
	a := d.tenant.agent
	return a.cfg.ObserveProbe != nil && !a.cfg.RelayOnly && len(d.observed) == 0
}

// watch makes the servers report where the token comes from.
func (d *device) watch() {
	a := d.tenant.agent
	if a.cfg.ObserveProbe == nil || a.cfg.RelayOnly {
		return
	}
	d.token = newToken()
	a.tokens.Store(d.token, d)
	if err := a.cfg.Relay.Watch(d.token); err != nil {
		a.log.Debug("watch for outside addresses", "network", d.tenant.name, "error", err)
	}
}

func (d *device) unwatch() {
	a := d.tenant.agent
	if d.token != [16]byte{} {
		a.tokens.Delete(d.token)
		a.cfg.Relay.Unwatch(d.token)
		d.token = [16]byte{}
	}
}

// observe asks the relay servers for the device's outside address.
func (d *device) observe(now time.Time) {
	if d.token == [16]byte{} || now.Before(d.observeAt) {
		return
	}
	d.observeAt = now.Add(observePause)
	a := d.tenant.agent
	servers := a.cfg.Relay.Servers()
	for _, s := range servers[:min(len(servers), maxObserved)] {
		if err := d.wg.SendProbe(s, a.cfg.ObserveProbe(d.token)); err != nil {
			a.log.Debug("ask for an outside address", "server", s, "error", err)
		}
	}
}

// seen takes an outside address. A new one is told to the peers that have no
// direct path yet.
func (d *device) seen(now time.Time, addr netip.AddrPort) {
	if d.token == [16]byte{} || !path.Usable(addr) || slices.Contains(d.tenant.agent.addresses(), addr.Addr()) {
		return
	}
	_, known := d.observed[addr]
	d.observed[addr] = now
	for len(d.observed) > maxObserved {
		oldest := addr
		for o, at := range d.observed {
			if at.Before(d.observed[oldest]) {
				oldest = o
			}
		}
		delete(d.observed, oldest)
	}
	if known {
		return
	}
	for _, l := range d.links {
		l.announce(now)
	}
}

// movedAway forgets what held for the addresses before.
func (d *device) movedAway(now time.Time) {
	clear(d.observed)
	d.unwatch() // late reports are of the old address
	d.watch()
	d.observeAt, d.observeRetry = time.Time{}, 0
	d.observe(now)
	for _, l := range d.links {
		l.movedAway(now)
	}
}
