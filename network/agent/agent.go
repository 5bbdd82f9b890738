package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/exchange"
	"github.com/zero-os/zos/network/path"
	"github.com/zero-os/zos/network/wireguard"
)

// Bounds of an agent.
const (
	maxNetworks = 256  // each has devices, sockets and, in userspace, buffers
	maxPeers    = 1024 // of one network
	maxCalls    = 8    // exchanges that this node awaits at once, but for slow ones
	maxEvents   = 4096 // authentic path messages that wait
	maxHints    = 256  // what nobody proves
)

var errStopped = errors.New("the network agent has ended")

// Agent keeps the networks of a node. Its methods may be called from several
// goroutines.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	verifier *exchange.Verifier
	host     Host
	ownHost  *KernelHost // opened here, so closed here

	events  chan event
	hints   chan hint // apart from events: whoever floods them delays hints only
	wake    chan struct{}
	moved   chan struct{} // the host's addresses may have changed
	relays  chan struct{} // links to relays have changed
	calls   chan struct{} // one per exchange under way
	calling atomic.Int64  // nanoseconds that an exchange takes of late
	work    sync.WaitGroup
	clock   atomic.Uint64 // newest sequence given
	// buffers of frames on their way to the relay.
	buffers sync.Pool

	// What packets need; read without a lock.
	frames   atomic.Pointer[map[tag]*device]
	channels sync.Map // path.KeyID to *lane
	tokens   sync.Map // [16]byte to *device

	mu       sync.Mutex
	tenants  map[canon.Hash]*tenant
	underlay Underlay
	stopped  bool
}

// lane is a channel by which a peer's path messages come.
type lane struct {
	link    *link
	channel *path.Channel
}

// event is an authentic path message, for the loop.
type event struct {
	lane *lane
	from netip.AddrPort // of a probe
	msg  path.Message
}

// hint is what nobody proves, for the loop: a slot asks this node to begin an
// exchange or, if slot is zero, a server saw the device at an address.
type hint struct {
	device   *device
	slot     canon.Hash
	number   uint64 // when it asked, see Agent.sequence
	observed netip.AddrPort
}

// New makes an agent and registers its method with the messenger. It does
// nothing before Run.
func New(cfg Config) (*Agent, error) {
	if cfg.Grid.IsZero() || cfg.Slot.IsZero() || cfg.Signer == nil || cfg.Bound == nil || cfg.Messenger == nil || cfg.Relay == nil || cfg.Devices == nil {
		return nil, errors.New("network agent: want Grid, Slot, Signer, Bound, Messenger, Relay and Devices")
	}
	p := &cfg.Periods
	for _, d := range []struct {
		at   *time.Duration
		want time.Duration
	}{
		{&p.Rotate, 24 * time.Hour}, {&p.Overlap, time.Hour}, {&p.Linger, time.Minute}, {&p.Renew, 10 * time.Minute},
		{&p.MaxPSKAge, 30 * time.Minute}, {&p.Retry, 250 * time.Millisecond}, {&p.MaxRetry, 30 * time.Second}, {&p.Call, 15 * time.Second},
	} {
		if *d.at < 0 {
			return nil, errors.New("network agent: a period is negative")
		}
		if *d.at == 0 {
			*d.at = d.want
		}
	}
	if p.Overlap >= p.Rotate || p.Renew >= p.MaxPSKAge {
		return nil, errors.New("network agent: the overlap must be shorter than a key epoch, and keys be renewed before they are too old")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.openRouter == nil {
		cfg.openRouter = openKernelRouter
	}
	a := &Agent{
		cfg: cfg, log: cfg.Logger, verifier: exchange.NewVerifier(cfg.Grid), host: cfg.Host,
		events: make(chan event, maxEvents), hints: make(chan hint, maxHints), wake: make(chan struct{}, 1), moved: make(chan struct{}, 1), relays: make(chan struct{}, 1),
		calls: make(chan struct{}, maxCalls), tenants: map[canon.Hash]*tenant{},
	}
	a.buffers.New = func() any { b := make([]byte, 0, frameSize+wireguard.MaxPacket); return &b }
	a.frames.Store(&map[tag]*device{})
	if a.host == nil && !cfg.RelayOnly {
		h, err := OpenHost(0)
		if err != nil {
			return nil, fmt.Errorf("network agent: %w", err)
		}
		a.host, a.ownHost = h, h
	}
	cfg.Messenger.Handle(MethodExchange, a.serve)
	return a, nil
}

// sequence returns a number that is higher than all before, also than those of
// earlier runs, as long as the clock does not go back.
func (a *Agent) sequence() uint64 {
	for {
		last := a.clock.Load()
		next := max(last+1, uint64(max(a.cfg.Now().UnixMicro(), 0)))
		if a.clock.CompareAndSwap(last, next) {
			return next
		}
	}
}

// initiates tells whether this node is the one that begins exchanges with other.
func (a *Agent) initiates(other canon.Hash) bool { return bytes.Compare(a.cfg.Slot[:], other[:]) < 0 }

// Run works until ctx ends. Devices of the kernel stay, so that a restarted
// daemon adopts them; the others are closed.
func (a *Agent) Run(ctx context.Context) error {
	watching := make(chan error, 1)
	if a.cfg.RelayOnly {
		watching = nil
	} else {
		a.readUnderlay()
		go func() { watching <- a.host.Watch(ctx, a.Changed) }()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var err error
	var stepped time.Time
	for ctx.Err() == nil && err == nil {
		select {
		case <-ctx.Done():
		case err = <-watching:
			watching = nil
			if ctx.Err() != nil {
				err = nil
			}
		case <-timer.C:
		case <-a.wake:
		case e := <-a.events:
			a.take(e)
		case h := <-a.hints:
			a.takeHint(h)
		case <-a.moved:
			a.readUnderlay()
		case <-a.relays:
			for _, t := range a.all() {
				t.relayChanged(a.cfg.Now())
			}
		}
		if ctx.Err() != nil {
			break
		}
		a.takeWaiting() // one step for many events
		if since := a.cfg.Now().Sub(stepped); since >= 0 && since < stepPause {
			timer.Reset(stepPause - since)
			continue
		}
		stepped = a.cfg.Now()
		timer.Reset(a.step(ctx))
	}
	if watching != nil {
		<-watching
	}
	a.stop()
	return err
}

const (
	// idle is how long the loop sleeps when nothing is due.
	idle = time.Minute
	// stepPause is between two steps: each looks at all peers, and in a large
	// network that converges there would be a step for each packet.
	stepPause = 25 * time.Millisecond
)

// step does what is due in all networks and returns when it wants to be called
// again.
func (a *Agent) step(ctx context.Context) time.Duration {
	now := a.cfg.Now()
	next := now.Add(idle)
	for _, t := range a.all() {
		if at := t.step(ctx, now); at.Before(next) {
			next = at
		}
	}
	return max(next.Sub(a.cfg.Now()), time.Millisecond)
}

func (a *Agent) all() []*tenant {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.tenants))
}

func (a *Agent) tenant(id canon.Hash) *tenant {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tenants[id]
}

// poke makes the loop look at what is due.
func (a *Agent) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// stop ends all that Run began.
func (a *Agent) stop() {
	a.mu.Lock()
	a.stopped = true
	tenants := slices.Collect(maps.Values(a.tenants))
	clear(a.tenants)
	a.mu.Unlock()
	for _, t := range tenants {
		t.ensure.Lock()
		if err := t.end(true); err != nil {
			a.log.Warn("end a network", "network", t.name, "error", err)
		}
		t.ensure.Unlock()
	}
	a.work.Wait()
	if a.ownHost != nil {
		if err := a.ownHost.Close(); err != nil {
			a.log.Warn("end the watch of addresses", "error", err)
		}
	}
}

// Ensure makes the network t exist on this node, with its plaintext in the
// router namespace netns (a file descriptor; the agent keeps a duplicate). It
// is idempotent, takes over changes of the topology, adopts a kernel device that
// is there, makes a device that was lost again, and returns when this node's
// device stands: peers follow by themselves, Status tells how far they are.
func (a *Agent) Ensure(ctx context.Context, topo network.Topology, netns int) error {
	fail := func(err error) error { return fmt.Errorf("network %s: %w", topo.Name, err) }
	if err := a.check(topo); err != nil {
		return fail(err)
	}
	t, err := a.enter(topo)
	if err != nil {
		return fail(err)
	}
	defer t.ensure.Unlock()
	if err := t.ensureDevices(ctx, netns); err != nil {
		return fail(err)
	}
	if err := t.apply(topo); err != nil {
		return fail(err)
	}
	a.poke()
	return nil
}

// enter returns the network, made if it is new, with its ensure lock held.
func (a *Agent) enter(topo network.Topology) (*tenant, error) {
	for {
		a.mu.Lock()
		if a.stopped {
			a.mu.Unlock()
			return nil, errStopped
		}
		t := a.tenants[topo.ID]
		if t == nil {
			if len(a.tenants) >= maxNetworks {
				a.mu.Unlock()
				return nil, fmt.Errorf("%d networks are on this node, no more are allowed", maxNetworks)
			}
			t = newTenant(a, topo)
			a.tenants[topo.ID] = t
		}
		a.mu.Unlock()
		t.ensure.Lock()
		if !t.ended() { // else it was removed while we waited
			return t, nil
		}
		t.ensure.Unlock()
	}
}

func (a *Agent) check(topo network.Topology) error {
	switch {
	case topo.ID.IsZero():
		return errors.New("its topology has no id")
	case topo.Self != a.cfg.Slot:
		return fmt.Errorf("its topology is of slot %s, this is %s", topo.Self.Short(), a.cfg.Slot.Short())
	case len(topo.Nodes) > maxPeers:
		return fmt.Errorf("%d nodes, at most %d are allowed", len(topo.Nodes), maxPeers)
	}
	seen := map[netip.Prefix]bool{}
	for _, n := range topo.Nodes {
		for _, p := range n.Prefixes {
			if p != p.Masked() || p.Bits() == 0 || seen[p] {
				return fmt.Errorf("prefix %s of slot %s is no own range of a node", p, n.Slot.Short())
			}
			seen[p] = true
		}
	}
	return nil
}

// Remove ends a network and deletes its devices and routes. Removing one that is
// not there is no error.
func (a *Agent) Remove(ctx context.Context, id canon.Hash) error {
	t := a.tenant(id)
	if t == nil {
		return nil
	}
	t.ensure.Lock()
	defer t.ensure.Unlock()
	if t.ended() {
		return nil
	}
	a.mu.Lock()
	if a.tenants[id] == t {
		delete(a.tenants, id)
	}
	a.mu.Unlock()
	if err := t.end(false); err != nil {
		return fmt.Errorf("remove network %s: %w", t.name, err)
	}
	return nil
}

// Changed tells that the node's addresses may have changed. The agent watches by
// itself; this is for those who know earlier.
func (a *Agent) Changed() {
	select {
	case a.moved <- struct{}{}:
	default:
	}
}

// RelayChanged tells that a link to a relay server came or went: what was lost
// for want of one is tried again at once. It never blocks.
func (a *Agent) RelayChanged() {
	select {
	case a.relays <- struct{}{}:
	default:
	}
}

// readUnderlay looks whether the node has moved.
func (a *Agent) readUnderlay() {
	if a.host == nil {
		return
	}
	u, err := a.host.Underlay()
	if err != nil {
		a.log.Warn("read this node's addresses", "error", err)
		return
	}
	a.mu.Lock()
	same := slices.Equal(u.Addresses, a.underlay.Addresses) && u.Routes == a.underlay.Routes
	a.underlay = u
	a.mu.Unlock()
	if same {
		return
	}
	a.log.Info("this node's addresses changed", "addresses", u.Addresses)
	a.cfg.Relay.Poke()
	for _, t := range a.all() {
		t.movedAway(a.cfg.Now())
	}
}

func (a *Agent) addresses() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.underlay.Addresses
}

// publish makes the devices of all networks known to what reads without a lock.
func (a *Agent) publish(change func(map[tag]*device)) {
	for {
		old := a.frames.Load()
		frames := maps.Clone(*old)
		change(frames)
		if a.frames.CompareAndSwap(old, &frames) {
			return
		}
	}
}

// Relayed takes a packet that a relay brought from a slot. It doesn't keep
// packet, takes no lock and never blocks: the packets of all peers wait behind it.
func (a *Agent) Relayed(from canon.Hash, packet []byte) {
	kind, t, body, ok := parseFrame(packet)
	if !ok {
		return
	}
	d := (*a.frames.Load())[t]
	if d == nil {
		return
	}
	switch kind {
	case frameData:
		if key, ok := (*d.bySlot.Load())[from]; ok {
			// What does not fit is dropped, as a network would.
			_ = d.wg.FromRelay(key, body)
		}
	case framePath:
		if l, msg, ok := a.open(body); ok && l.link.slot == from && msg.Type == path.TypeTell {
			a.queue(event{lane: l, msg: msg})
		}
	case frameBegin:
		if slots := d.tenant.slots.Load(); slots == nil || !(*slots)[from] {
			return
		}
		a.hint(hint{device: d, slot: from, number: binary.BigEndian.Uint64(body)})
	}
}

// probed takes what came to a device's port.
func (a *Agent) probed(from netip.AddrPort, probe []byte) {
	if len(probe) < len(wireguard.ProbeMagic) {
		return
	}
	if l, msg, ok := a.open(probe[len(wireguard.ProbeMagic):]); ok && msg.Type != path.TypeTell {
		a.queue(event{lane: l, from: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), msg: msg})
	}
}

// open opens a path message; nothing that is not authentic and new gets further.
func (a *Agent) open(sealed []byte) (*lane, path.Message, bool) {
	id, ok := path.SealedID(sealed)
	if !ok {
		return nil, path.Message{}, false
	}
	v, ok := a.channels.Load(id)
	if !ok {
		return nil, path.Message{}, false
	}
	l := v.(*lane)
	msg, err := l.channel.Open(sealed)
	return l, msg, err == nil
}

func (a *Agent) queue(e event) {
	select {
	case a.events <- e:
	default: // the peer says it again
	}
}

// takeWaiting takes what waits now, but not for ever what comes meanwhile.
func (a *Agent) takeWaiting() {
	for range maxEvents {
		select {
		case e := <-a.events:
			a.take(e)
		case h := <-a.hints:
			a.takeHint(h)
		default:
			return
		}
	}
}

func (a *Agent) take(e event) {
	l := e.lane.link
	t := l.device.tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	l.heard(a.cfg.Now(), e)
}

// Observed takes what a relay server saw of an observation probe: the address
// from which it came.
func (a *Agent) Observed(token [16]byte, addr netip.AddrPort) {
	v, ok := a.tokens.Load(token)
	if !ok {
		return
	}
	a.hint(hint{device: v.(*device), observed: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())})
}

func (a *Agent) hint(h hint) {
	select {
	case a.hints <- h:
	default: // it comes again
	}
}

func (a *Agent) takeHint(h hint) {
	t := h.device.tenant
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.slot.IsZero() {
		h.device.seen(a.cfg.Now(), h.observed)
		return
	}
	if l := h.device.links[h.slot]; l != nil && !l.gone {
		l.asked(a.cfg.Now(), h.number)
	}
}

func newToken() (t [16]byte) {
	rand.Read(t[:]) // never fails, see crypto/rand
	return t
}
