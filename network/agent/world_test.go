package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/sign"
)

// world is nodes with agents on a network in memory: messenger, relay, UDP and
// WireGuard devices that shake hands as the true ones do. It lives in a bubble
// of testing/synctest, so days pass in a moment.
type world struct {
	t     *testing.T
	grid  canon.Hash
	nodes []*node

	mu       sync.Mutex
	cutUDP   bool
	cutRelay bool
	messages func(from, to canon.Hash, body []byte) (deliver [][]byte, answer func([]byte) ([]byte, error)) // nil: honest
	calls    int
	zeroPSK  int
	asks     uint64 // initiations that devices made
	// relayDelay is how long a packet is under way by the relay.
	relayDelay time.Duration
}

const (
	callDelay = 5 * time.Millisecond
	callAgain = 250 * time.Millisecond
	udpDelay  = 3 * time.Millisecond
)

type node struct {
	w       *world
	slot    canon.Hash
	signer  sign.Signer
	agent   *Agent
	skew    time.Duration
	addr    netip.Addr
	stop    func()
	kernel  bool // devices outlive the agent
	devices map[string]*fakeDevice
	router  *fakeRouter
	handler func(context.Context, canon.Hash, []byte) ([]byte, error)
	changed func()
	periods Periods
	only    bool // relay only
	traffic bool // packets wait for every peer
	asked   int  // initiations that left the node
}

func newWorld(t *testing.T, n int) *world {
	w := &world{t: t, grid: canon.Sum([]byte("grid")), relayDelay: 10 * time.Millisecond}
	for i := range n {
		w.add(byte(i + 1))
	}
	return w
}

func (w *world) add(i byte) *node {
	n := &node{
		w: w, slot: canon.Hash{i}, signer: sign.FromSeed([32]byte{i}), addr: netip.AddrFrom4([4]byte{198, 51, 100, i}),
		devices: map[string]*fakeDevice{}, router: &fakeRouter{routes: map[route]string{}, marks: map[string]string{}},
	}
	n.router.node = n
	w.nodes = append(w.nodes, n)
	return n
}

func (w *world) node(slot canon.Hash) *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if n.slot == slot {
			return n
		}
	}
	return nil
}

func (n *node) now() time.Time { return time.Now().Add(n.skew) }

// boot starts the node's agent.
func (n *node) boot() {
	a, err := New(Config{
		Grid: n.w.grid, Slot: n.slot, Epoch: 1, Signer: n.signer, Messenger: n, Relay: (*fakeRelay)(n), Devices: n, Host: n,
		Bound: func(_ context.Context, slot canon.Hash) (Identity, error) {
			o := n.w.node(slot)
			if o == nil {
				return Identity{}, errors.New("the ledger has no such slot")
			}
			return Identity{Epoch: 1, Key: o.signer.Public()}, nil
		},
		ObserveProbe: func(token [16]byte) []byte { return append([]byte("observe:"), token[:]...) },
		RelayOnly:    n.only, Periods: n.periods, Now: n.now,
		openRouter: func(int) (router, error) { return n.router, nil },
	})
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.w.mu.Lock()
	n.agent = a
	n.w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.w.t.Errorf("agent of %s: %v", n.slot.Short(), err)
		}
		n.w.mu.Lock()
		n.agent, n.handler = nil, nil
		n.w.mu.Unlock()
		n.stop = nil
	}
}

// halt is the end of the node's machine: nothing of it stays.
func (n *node) halt() {
	n.stop()
	for name, d := range n.devices {
		d.Close()
		delete(n.devices, name)
	}
	n.router.routes, n.router.marks = map[route]string{}, map[string]string{}
}

func (w *world) boot() {
	for _, n := range w.nodes {
		n.boot()
	}
}

func (w *world) stop() {
	for _, n := range w.nodes {
		if n.stop != nil {
			n.stop()
		}
		for _, d := range n.devices {
			d.Close()
		}
	}
	synctest.Wait()
}

var netID = canon.Sum([]byte("network"))

// topology of the network on n, with the given nodes.
func (n *node) topology(nodes ...*node) network.Topology {
	t := network.Topology{ID: netID, Name: "test", Self: n.slot}
	for _, o := range nodes {
		t.Nodes = append(t.Nodes, network.Node{Slot: o.slot, Prefixes: o.prefixes()})
	}
	return t
}

func (n *node) prefixes() []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, n.slot[0], 0}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, 2, 3, 4, 5, 0, n.slot[0]}), 64),
	}
}

func (n *node) ensure(nodes ...*node) {
	n.w.t.Helper()
	if err := n.agent.Ensure(context.Background(), n.topology(nodes...), 0); err != nil {
		n.w.t.Fatal(err)
	}
}

func (w *world) ensure() {
	w.t.Helper()
	for _, n := range w.nodes {
		n.ensure(w.nodes...)
	}
}

func (n *node) status() Status {
	n.w.t.Helper()
	s, ok := n.agent.Status(netID)
	if !ok {
		n.w.t.Fatalf("node %s has no network", n.slot.Short())
	}
	return s
}

func (n *node) peer(o *node) PeerStatus {
	n.w.t.Helper()
	for _, p := range n.status().Peers {
		if p.Slot == o.slot {
			return p
		}
	}
	n.w.t.Fatalf("node %s has no peer %s", n.slot.Short(), o.slot.Short())
	return PeerStatus{}
}

// until waits, in the bubble's time, for ok.
func (w *world) until(what string, d time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	begin := time.Now()
	for {
		synctest.Wait()
		if ok() {
			return time.Since(begin)
		}
		if time.Since(begin) > d {
			for _, n := range w.nodes {
				if n.agent != nil {
					if s, ok := n.agent.Status(netID); ok {
						w.t.Logf("%s: %+v", n.slot.Short(), s.Peers)
					}
				}
			}
			w.t.Fatalf("%s: not after %v", what, d)
		}
		time.Sleep(time.Millisecond) // the bubble's clock
	}
}

// up tells whether all nodes given have shaken hands with each other on the path
// that their packets take, by the routes that they have.
func (w *world) up(nodes ...*node) bool {
	for _, n := range nodes {
		for _, o := range nodes {
			if n != o && !n.carries(o) {
				return false
			}
		}
	}
	return true
}

// carries tells whether a packet of n to a workload of o would arrive now.
func (n *node) carries(o *node) bool {
	dev := n.devices[n.router.get(o.prefixes()[0])]
	if dev == nil {
		return false
	}
	return dev.session(o)
}

func (w *world) paths(path string, nodes ...*node) bool {
	for _, n := range nodes {
		for _, o := range nodes {
			if n != o && n.peer(o).Path != path {
				return false
			}
		}
	}
	return true
}

// Messenger.

func (n *node) Handle(_ string, h func(context.Context, canon.Hash, []byte) ([]byte, error)) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.handler = h
}

func (n *node) Call(ctx context.Context, slot canon.Hash, _ string, body []byte) ([]byte, error) {
	w := n.w
	w.mu.Lock()
	w.calls++
	w.mu.Unlock()
	deliver, answer := w.message(n.slot, slot, body)
	wait := func(d time.Duration) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(callDelay); err != nil {
		return nil, err
	}
	for len(deliver) == 0 { // lost, and sent again as the bus does
		if err := wait(callAgain); err != nil {
			return nil, err
		}
		deliver, answer = w.message(n.slot, slot, body)
	}
	var out []byte
	err := errors.New("no answer")
	for _, b := range deliver {
		o := w.node(slot)
		if o == nil {
			break
		}
		w.mu.Lock()
		h := o.handler
		w.mu.Unlock()
		if h == nil {
			break
		}
		if out, err = h(ctx, n.slot, b); err == nil {
			out, err = answer(out)
		}
		if out == nil && err == nil && len(body) > 500 {
			err = wait(time.Hour) // dropped
		}
	}
	if err != nil {
		return nil, err
	}
	return out, wait(callDelay)
}

// message is what becomes of a message now.
func (w *world) message(from, to canon.Hash, body []byte) (deliver [][]byte, answer func([]byte) ([]byte, error)) {
	w.mu.Lock()
	evil := w.messages
	w.mu.Unlock()
	if evil != nil {
		return evil(from, to, body)
	}
	return [][]byte{body}, func(b []byte) ([]byte, error) { return b, nil }
}

// fakeRelay is the node's relay link.
type fakeRelay node

func (r *fakeRelay) Send(to canon.Hash, packet []byte) error {
	w := r.w
	b := bytes.Clone(packet)
	w.mu.Lock()
	cut, delay := w.cutRelay, w.relayDelay
	if _, _, p, _ := parseFrame(b); wireguard.IsInitiation(p) {
		r.asked++
	}
	w.mu.Unlock()
	if cut {
		return errors.New("no relay is connected")
	}
	time.AfterFunc(delay, func() {
		o := w.node(to)
		w.mu.Lock()
		a := o.agent
		w.mu.Unlock()
		if a != nil {
			a.Relayed(r.slot, b)
		}
	})
	return nil
}

func (r *fakeRelay) Servers() []netip.AddrPort {
	return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")}
}
func (r *fakeRelay) Watch([16]byte) error { return nil }
func (r *fakeRelay) Unwatch([16]byte)     {}
func (r *fakeRelay) Poke()                {}

// Host.

func (n *node) Underlay() (Underlay, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return Underlay{Addresses: []netip.Addr{n.addr}}, nil
}

func (n *node) Watch(ctx context.Context, changed func()) error {
	n.w.mu.Lock()
	n.changed = changed
	n.w.mu.Unlock()
	<-ctx.Done()
	return nil
}

// move gives the node another address.
func (n *node) move(addr string) {
	n.w.mu.Lock()
	n.addr = netip.MustParseAddr(addr)
	changed := n.changed
	n.w.mu.Unlock()
	changed()
}

// Devices.

func (n *node) New(_ context.Context, c wireguard.Config) (wireguard.Device, error) {
	time.Sleep(2 * time.Millisecond) // it takes time
	d := &fakeDevice{node: n, cfg: c, private: c.PrivateKey, public: c.PrivateKey.Public(), peers: map[wireguard.Key]*fakePeer{}}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if old := n.devices[c.Name]; old != nil && !old.closed {
		n.w.t.Errorf("interface %s is made over one that stands", c.Name)
	}
	n.devices[c.Name] = d
	return d, nil
}

func (n *node) Adopt(_ context.Context, c wireguard.Config) (wireguard.Device, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	d := n.devices[c.Name]
	if !n.kernel || d == nil {
		return nil, fs.ErrNotExist
	}
	d.cfg.ToRelay, d.cfg.OnProbe = c.ToRelay, c.OnProbe
	return d, nil
}

// fakeDevice shakes hands and knows whether a packet would arrive.
type fakeDevice struct {
	node    *node
	cfg     wireguard.Config
	private wireguard.Key
	public  wireguard.Key
	peers   map[wireguard.Key]*fakePeer
	closed  bool
}

type fakePeer struct {
	wireguard.Peer
	path      netip.AddrPort
	handshake time.Time
	session   [32]byte // of the last handshake
	rx, tx    uint64
	timer     *time.Timer
	asked     uint64    // the initiation that is to be answered, 0: none
	attempt   time.Time // of the last initiation or answer
}

func (d *fakeDevice) Name() string { return d.cfg.Name }
func (d *fakeDevice) Engine() wireguard.Engine {
	if d.node.kernel {
		return wireguard.Kernel
	}
	return wireguard.Userspace
}
func (d *fakeDevice) Port() uint16 {
	if d.cfg.RelayOnly {
		return 0
	}
	return uint16(1000 + int(d.private[5])<<4 + int(d.private[6]>>4))
}
func (d *fakeDevice) PublicKey() wireguard.Key { return d.public }

// rekeyTimeout is WireGuard's: what was asked or answered is not asked again
// before.
const rekeyTimeout = 5 * time.Second

// Messages between fake devices: kind, sender's and receiver's key, a hash that
// only who has the same preshared key makes, and the number of the initiation.
func handshakeMessage(kind byte, from, to, psk wireguard.Key, ask uint64) []byte {
	h := sha256.Sum256(slices.Concat([]byte{kind}, psk[:]))
	b := slices.Concat([]byte{kind}, from[:], to[:], h[:], binary.BigEndian.AppendUint64(nil, ask))
	if kind == 1 {
		b = append(b, make([]byte, 148-len(b))...) // as long as WireGuard's
	}
	return b
}

func (d *fakeDevice) SetPeer(p wireguard.Peer) error {
	d.node.w.mu.Lock()
	defer d.node.w.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	if p.PresharedKey.IsZero() {
		d.node.w.zeroPSK++
	}
	o := d.peers[p.PublicKey]
	for key, other := range d.peers {
		if key != p.PublicKey {
			other.AllowedIPs = slices.DeleteFunc(slices.Clone(other.AllowedIPs), func(x netip.Prefix) bool { return slices.Contains(p.AllowedIPs, x) })
		}
	}
	if o == nil {
		o = &fakePeer{}
		d.peers[p.PublicKey] = o
	}
	trigger := o.Keepalive == 0 && p.Keepalive > 0
	o.Peer = p
	if trigger || d.node.traffic && d.wants(o) {
		d.initiate(p.PublicKey)
	}
	return nil
}

// wants tells whether a packet for the peer makes the device ask for a session.
func (d *fakeDevice) wants(p *fakePeer) bool {
	return p.session == [32]byte{} && time.Since(p.attempt) >= rekeyTimeout
}

// talk begins to send packets to every peer, and to those that come later.
func (n *node) talk() {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.traffic = true
	for _, d := range n.devices {
		for key, p := range d.peers {
			if d.wants(p) {
				d.initiate(key)
			}
		}
	}
}

// initiate sends a handshake now, again after five seconds without an answer,
// and every two minutes.
func (d *fakeDevice) initiate(key wireguard.Key) {
	p := d.peers[key]
	if p == nil || d.closed {
		return
	}
	d.node.w.asks++
	p.asked, p.attempt = d.node.w.asks, time.Now()
	d.send(key, handshakeMessage(1, d.PublicKey(), key, wireguard.Key{}, p.asked))
	again := rekeyTimeout
	if time.Since(p.handshake) < again {
		again = 2 * time.Minute
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(again, func() {
		d.node.w.mu.Lock()
		defer d.node.w.mu.Unlock()
		if d.peers[key] == p {
			d.initiate(key)
		}
	})
}

// send takes the peer's path. The world's lock is held.
func (d *fakeDevice) send(key wireguard.Key, b []byte) {
	p := d.peers[key]
	p.tx += uint64(len(b))
	if p.path.IsValid() {
		d.udp(p.path, b)
		return
	}
	if d.cfg.ToRelay != nil {
		toRelay := d.cfg.ToRelay
		time.AfterFunc(0, func() { toRelay(key, b) })
	}
}

func (d *fakeDevice) udp(to netip.AddrPort, b []byte) {
	w := d.node.w
	from := netip.AddrPortFrom(d.node.addr, d.Port())
	if wireguard.IsInitiation(b) {
		d.node.asked++
	}
	if to == netip.MustParseAddrPort("192.0.2.1:443") {
		if token, ok := bytes.CutPrefix(b, []byte("observe:")); ok {
			a := d.node.agent
			time.AfterFunc(udpDelay, func() { a.Observed([16]byte(token), from) })
		}
		return
	}
	if w.cutUDP {
		return
	}
	time.AfterFunc(udpDelay, func() {
		w.mu.Lock()
		for _, n := range w.nodes {
			for _, o := range n.devices {
				if n.addr == to.Addr() && o.Port() == to.Port() && !o.closed {
					if bytes.HasPrefix(b, []byte(wireguard.ProbeMagic)) {
						if f := o.cfg.OnProbe; f != nil {
							w.mu.Unlock()
							f(from, b)
							return
						}
					} else {
						o.receive(b, from)
					}
				}
			}
		}
		w.mu.Unlock()
	})
}

// receive takes a packet. The world's lock is held.
func (d *fakeDevice) receive(b []byte, from netip.AddrPort) {
	if d.closed || len(b) < 105 {
		return
	}
	key, to, proof, ask := wireguard.Key(b[1:33]), wireguard.Key(b[33:65]), b[65:97], b[97:105]
	p := d.peers[key]
	if p == nil || to != d.PublicKey() {
		return
	}
	switch b[0] {
	case 1: // an initiation carries no preshared key
		if from.IsValid() {
			p.path = from
		} else {
			p.path = netip.AddrPort{}
		}
		p.rx += uint64(len(b))
		// Who answers forgets what it asked itself.
		p.asked, p.attempt = 0, time.Now()
		d.send(key, handshakeMessage(2, d.PublicKey(), key, p.PresharedKey, binary.BigEndian.Uint64(ask)))
	case 2:
		if binary.BigEndian.Uint64(ask) != p.asked || !bytes.Equal(proof, handshakeMessage(2, key, to, p.PresharedKey, p.asked)[65:97]) {
			return
		}
		p.asked = 0
		p.rx += uint64(len(b))
		p.handshake = time.Now()
		p.session = sha256.Sum256(slices.Concat(p.PresharedKey[:], binary.BigEndian.AppendUint64(nil, uint64(p.handshake.UnixNano()))))
		d.send(key, slices.Concat([]byte{3}, b[33:65], b[1:33], p.session[:], ask))
		d.initiate2(p, key)
	case 3:
		p.handshake = time.Now()
		p.session = [32]byte(proof)
		p.rx += uint64(len(b))
		if p.timer != nil {
			p.timer.Stop() // who began this session begins the next
		}
	}
}

// initiate2 plans the next handshake after one that succeeded.
func (d *fakeDevice) initiate2(p *fakePeer, key wireguard.Key) {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.timer = time.AfterFunc(2*time.Minute, func() {
		d.node.w.mu.Lock()
		defer d.node.w.mu.Unlock()
		if d.peers[key] == p {
			d.initiate(key)
		}
	})
}

// session tells whether both ends have the same, fresh session, and packets are
// let through on both sides.
func (d *fakeDevice) session(o *node) bool {
	w := d.node.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.closed {
		return false
	}
	for _, theirs := range o.devices {
		p, q := d.peers[theirs.PublicKey()], theirs.peers[d.PublicKey()]
		if p != nil && q != nil && !theirs.closed && p.session != [32]byte{} && p.session == q.session && time.Since(p.handshake) < 3*time.Minute &&
			slices.Contains(p.AllowedIPs, o.prefixes()[0]) && slices.Contains(q.AllowedIPs, d.node.prefixes()[0]) {
			return !p.path.IsValid() || !w.cutUDP && p.path == netip.AddrPortFrom(o.addr, theirs.Port())
		}
	}
	return false
}

func (d *fakeDevice) RemovePeer(key wireguard.Key) error {
	d.node.w.mu.Lock()
	defer d.node.w.mu.Unlock()
	if p := d.peers[key]; p != nil && p.timer != nil {
		p.timer.Stop()
	}
	delete(d.peers, key)
	return nil
}

func (d *fakeDevice) SetPath(key wireguard.Key, to netip.AddrPort) error {
	d.node.w.mu.Lock()
	defer d.node.w.mu.Unlock()
	p := d.peers[key]
	if p == nil {
		return fs.ErrNotExist
	}
	p.path = to
	return nil
}

func (d *fakeDevice) FromRelay(key wireguard.Key, b []byte) error {
	b = bytes.Clone(b)
	time.AfterFunc(0, func() {
		d.node.w.mu.Lock()
		defer d.node.w.mu.Unlock()
		d.receive(b, netip.AddrPort{})
	})
	return nil
}

func (d *fakeDevice) SendProbe(to netip.AddrPort, b []byte) error {
	if d.cfg.RelayOnly {
		return errors.New("relay only")
	}
	d.node.w.mu.Lock()
	defer d.node.w.mu.Unlock()
	d.udp(to, bytes.Clone(b))
	return nil
}

func (d *fakeDevice) Stats() ([]wireguard.PeerStats, error) {
	d.node.w.mu.Lock()
	defer d.node.w.mu.Unlock()
	if d.closed {
		return nil, net.ErrClosed
	}
	var out []wireguard.PeerStats
	for key, p := range d.peers {
		out = append(out, wireguard.PeerStats{
			PublicKey: key, LastHandshake: p.handshake, RxBytes: p.rx, TxBytes: p.tx, Relayed: !p.path.IsValid(), Endpoint: p.path, AllowedIPs: p.AllowedIPs,
		})
	}
	return out, nil
}

func (d *fakeDevice) Leave() error {
	if d.node.kernel {
		return nil
	}
	return d.Close()
}

func (d *fakeDevice) Close() error {
	d.node.w.mu.Lock()
	defer d.node.w.mu.Unlock()
	d.closed = true
	for _, p := range d.peers {
		if p.timer != nil {
			p.timer.Stop()
		}
	}
	if d.node.devices[d.cfg.Name] == d {
		delete(d.node.devices, d.cfg.Name)
	}
	return nil
}

// fakeRouter is a router namespace.
type fakeRouter struct {
	node   *node
	mu     sync.Mutex
	routes map[route]string
	marks  map[string]string
}

func (r *fakeRouter) namespace() int { return 0 }
func (r *fakeRouter) same(int) bool  { return true }
func (r *fakeRouter) list() (map[route]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.routes), nil
}
func (r *fakeRouter) set(x route, device string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if device != "" {
		r.routes[x] = device
	}
	return nil
}
func (r *fakeRouter) get(p netip.Prefix) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.routes[route{p, 254}]
}
func (r *fakeRouter) remove(x route) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.routes, x)
	return nil
}
func (r *fakeRouter) mark(device string, id canon.Hash, epoch uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.marks[device] = fmt.Sprint(id, epoch)
	return nil
}
func (r *fakeRouter) marked(device string, id canon.Hash) (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var epoch uint64
	_, err := fmt.Sscanf(r.marks[device], id.String()+"%d", &epoch)
	if err != nil {
		_, err = fmt.Sscanf(r.marks[device], id.String()+" %d", &epoch)
	}
	return epoch, err == nil
}
func (r *fakeRouter) drop(name string) error {
	r.node.w.mu.Lock()
	d := r.node.devices[name]
	r.node.w.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.Close()
}
func (r *fakeRouter) close() {}
