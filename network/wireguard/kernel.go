package wireguard

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// kernel is a device of the kernel's WireGuard. The kernel keeps the interface,
// its peers and their sessions; this process only steers it, and carries what
// goes through the relay.
type kernel struct {
	host    *Host
	name    string
	public  Key
	port    uint16
	index   int             // of the interface, in the router namespace
	routes  *netlink.Handle // sockets in the router namespace
	control *wgctrl.Client
	probes  *probes
	toRelay func(Key, []byte)
	logger  *slog.Logger

	mu     sync.RWMutex
	closed bool
	peers  map[Key]*kernelPeer
}

type kernelPeer struct {
	Peer
	shim *shim
	hold atomic.Pointer[kernelHold]
}

// kernelHold keeps a peer on the direct path that was just set for it, as hold
// does in userspace: the kernel is told again after a packet from the relay.
type kernelHold struct {
	path    netip.AddrPort
	until   time.Time
	pending atomic.Bool
}

// againAfter is how soon; what the relay brings comes in bursts.
const againAfter = 5 * time.Millisecond

// newKernel makes the interface. EOPNOTSUPP: the kernel has no WireGuard.
//
// The request comes from the host's namespace and names the router's: the
// interface exists in the router namespace alone, from its first moment, and
// keeps its UDP socket where the request came from. (wg(8)'s documentation
// makes it in the host's and moves it; a process killed in between would leave
// it there.)
func newKernel(h *Host, c Config) (*kernel, error) {
	d, err := openKernel(h, c)
	if err != nil {
		return nil, err
	}
	if err := d.create(c); err != nil {
		return nil, errors.Join(err, d.release())
	}
	if err := d.start(c); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// openKernel opens what steers the interface; it need not exist yet.
func openKernel(h *Host, c Config) (*kernel, error) {
	d := &kernel{host: h, name: c.Name, toRelay: c.ToRelay, peers: map[Key]*kernelPeer{}, logger: c.Logger.With("interface", c.Name)}
	err := within(c.NetNS, func() (err error) {
		if d.routes, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open a netlink socket: %w", err)
		}
		if d.control, err = wgctrl.New(); err != nil {
			d.routes.Close()
			return fmt.Errorf("open WireGuard's netlink socket: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (d *kernel) create(c Config) error {
	old, err := findLink(d.routes, c.Name)
	switch {
	case err == nil:
		if err := d.routes.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete the old interface: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Namespace = c.Name, c.MTU, netlink.NsFd(c.NetNS)
	if err := d.host.routes.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make the interface: %w", err)
	}
	return nil
}

// start configures a new interface and sets it up, which is when the kernel
// opens its UDP socket, on a port that it chooses.
func (d *kernel) start(c Config) error {
	link, err := findLink(d.routes, d.name)
	if err != nil {
		return err
	}
	d.index = link.Attrs().Index
	private := wgtypes.Key(c.PrivateKey)
	if err := d.control.ConfigureDevice(d.name, wgtypes.Config{PrivateKey: &private}); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = unix.EOPNOTSUPP // an interface, but nothing to steer it by
		}
		return fmt.Errorf("set the private key: %w", err)
	}
	if err := d.routes.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the interface up: %w", err)
	}
	now, err := d.control.Device(d.name)
	if err != nil {
		return fmt.Errorf("read the interface: %w", err)
	}
	return d.listen(c, now)
}

// listen notes the device's key and port and joins it to the host's probes.
func (d *kernel) listen(c Config, now *wgtypes.Device) error {
	d.public, d.port = Key(now.PublicKey), uint16(now.ListenPort)
	if d.port == 0 {
		return errors.New("the interface is up and has no UDP port")
	}
	probes, err := d.host.openProbes()
	if err != nil {
		return err
	}
	d.probes = probes
	probes.join(d.port, c.OnProbe)
	return nil
}

// adoptKernel takes over an interface.
func adoptKernel(h *Host, c Config) (*kernel, error) {
	d, err := openKernel(h, c)
	if err != nil {
		return nil, err
	}
	if err := d.adopt(c); err != nil {
		return nil, errors.Join(err, d.Leave()) // it may yet be adopted
	}
	return d, nil
}

func (d *kernel) adopt(c Config) error {
	link, err := findLink(d.routes, c.Name)
	if err != nil {
		return err
	}
	if link.Type() != (&netlink.Wireguard{}).Type() {
		return fmt.Errorf("interface is of type %q: %w", link.Type(), fs.ErrNotExist)
	}
	d.index = link.Attrs().Index
	if err := d.routes.LinkSetUp(link); err != nil {
		return fmt.Errorf("set the interface up: %w", err)
	}
	now, err := d.control.Device(c.Name)
	if err != nil {
		return fmt.Errorf("read the interface: %w", err)
	}
	if now.PrivateKey == (wgtypes.Key{}) {
		// It was left between making and configuring: there is nothing to keep.
		return fmt.Errorf("interface without a key: %w", fs.ErrNotExist)
	}
	if err := d.listen(c, now); err != nil {
		return err
	}
	var again []wgtypes.PeerConfig
	for _, p := range now.Peers {
		s, err := d.openShim(Key(p.PublicKey))
		if err != nil {
			return err
		}
		d.peers[Key(p.PublicKey)] = &kernelPeer{shim: s, Peer: Peer{
			PublicKey: Key(p.PublicKey), PresharedKey: Key(p.PresharedKey),
			AllowedIPs: prefixes(p.AllowedIPs), Keepalive: p.PersistentKeepaliveInterval,
		}}
		if p.Endpoint == nil || p.Endpoint.IP.IsLoopback() { // the shim of the process before
			again = append(again, wgtypes.PeerConfig{PublicKey: p.PublicKey, UpdateOnly: true, Endpoint: net.UDPAddrFromAddrPort(s.addr)})
		}
	}
	if err := d.control.ConfigureDevice(d.name, wgtypes.Config{Peers: again}); err != nil {
		return fmt.Errorf("point relayed peers to this process: %w", err)
	}
	return nil
}

func (d *kernel) openShim(peer Key) (*shim, error) {
	return openShim(d.host.ns, d.port, func(packet []byte) { d.toRelay(peer, packet) }, d.logger)
}

func (d *kernel) Name() string   { return d.name }
func (d *kernel) Engine() Engine { return Kernel }
func (d *kernel) Port() uint16   { return d.port }
func (d *kernel) PublicKey() Key { return d.public }

// set changes one peer.
func (d *kernel) set(p wgtypes.PeerConfig) error {
	if d.closed {
		return fmt.Errorf("set peer %s of %s: %w", Key(p.PublicKey), d.name, net.ErrClosed)
	}
	if err := d.control.ConfigureDevice(d.name, wgtypes.Config{Peers: []wgtypes.PeerConfig{p}}); err != nil {
		return fmt.Errorf("set peer %s of %s: %w", Key(p.PublicKey), d.name, err)
	}
	return nil
}

func (d *kernel) SetPeer(p Peer) error {
	p, err := p.check(d.public)
	if err != nil {
		return fmt.Errorf("set peer of %s: %w", d.name, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("set peer of %s: %w", d.name, net.ErrClosed)
	}
	old, known := d.peers[p.PublicKey]
	change := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.PublicKey), UpdateOnly: known}
	if !known || p.PresharedKey != old.PresharedKey {
		change.PresharedKey = (*wgtypes.Key)(&p.PresharedKey)
	}
	if !known || p.Keepalive != old.Keepalive {
		change.PersistentKeepaliveInterval = &p.Keepalive
	}
	// Replacing takes all away for a moment, so not without need.
	if !known || !slices.Equal(p.AllowedIPs, old.AllowedIPs) {
		change.ReplaceAllowedIPs, change.AllowedIPs = true, ipNets(p.AllowedIPs)
	}
	if known {
		if change.PresharedKey == nil && change.PersistentKeepaliveInterval == nil && !change.ReplaceAllowedIPs {
			return nil
		}
		if err := d.set(change); err != nil {
			return err
		}
		old.Peer = p
	} else {
		s, err := d.openShim(p.PublicKey)
		if err != nil {
			return err
		}
		change.Endpoint = net.UDPAddrFromAddrPort(s.addr)
		if err := d.set(change); err != nil {
			s.close()
			return err
		}
		d.peers[p.PublicKey] = &kernelPeer{Peer: p, shim: s}
	}
	for key, other := range d.peers {
		if key != p.PublicKey {
			other.Peer = other.without(p.AllowedIPs)
		}
	}
	return nil
}

func (d *kernel) RemovePeer(peer Key) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.peers[peer]
	if !ok {
		return nil
	}
	if err := d.set(wgtypes.PeerConfig{PublicKey: wgtypes.Key(peer), Remove: true, UpdateOnly: true}); err != nil {
		return err
	}
	delete(d.peers, peer)
	p.shim.close()
	return nil
}

func (d *kernel) SetPath(peer Key, direct netip.AddrPort) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p, ok := d.peers[peer]
	if !ok {
		return fmt.Errorf("peer %s of %s: %w", peer, d.name, fs.ErrNotExist)
	}
	if !direct.IsValid() {
		p.hold.Store(nil)
		return d.setEndpoint(peer, p.shim.addr)
	}
	to, err := checkDirect(direct)
	if err != nil {
		return fmt.Errorf("set path of peer %s of %s: %w", peer, d.name, err)
	}
	p.hold.Store(&kernelHold{path: to, until: time.Now().Add(holdTime)})
	return d.setEndpoint(peer, to)
}

func (d *kernel) setEndpoint(peer Key, to netip.AddrPort) error {
	return d.set(wgtypes.PeerConfig{PublicKey: wgtypes.Key(peer), UpdateOnly: true, Endpoint: net.UDPAddrFromAddrPort(to)})
}

// keep sets a held path again soon, once for many calls.
func (d *kernel) keep(peer Key, p *kernelPeer) {
	h := p.hold.Load()
	if h == nil || !h.pending.CompareAndSwap(false, true) {
		return
	}
	if time.Now().After(h.until) {
		p.hold.CompareAndSwap(h, nil)
		return
	}
	time.AfterFunc(againAfter, func() {
		d.mu.RLock()
		defer d.mu.RUnlock()
		h.pending.Store(false)
		if d.closed || d.peers[peer] != p || p.hold.Load() != h {
			return
		}
		if err := d.setEndpoint(peer, h.path); err != nil {
			d.logger.Warn("keep the path of a peer", "error", err)
		}
	})
}

func (d *kernel) FromRelay(peer Key, packet []byte) error {
	if len(packet) > MaxPacket {
		return fmt.Errorf("packet of %d bytes from the relay: want at most %d", len(packet), MaxPacket)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return net.ErrClosed
	}
	p, ok := d.peers[peer]
	if !ok {
		return fmt.Errorf("peer %s of %s: %w", peer, d.name, fs.ErrNotExist)
	}
	p.shim.send(packet)
	d.keep(peer, p)
	return nil
}

func (d *kernel) SendProbe(to netip.AddrPort, b []byte) error {
	if err := CheckProbe(b); err != nil {
		return err
	}
	to, err := checkDirect(to)
	if err != nil {
		return err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return net.ErrClosed
	}
	return d.probes.send(d.port, to, b)
}

func (d *kernel) Stats() ([]PeerStats, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil, fmt.Errorf("read peers of %s: %w", d.name, net.ErrClosed)
	}
	now, err := d.control.Device(d.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read peers of %s: the interface is gone: %w", d.name, net.ErrClosed)
	}
	if err != nil {
		return nil, fmt.Errorf("read peers of %s: %w", d.name, err)
	}
	var out []PeerStats
	for _, p := range now.Peers {
		s := PeerStats{
			PublicKey: Key(p.PublicKey), LastHandshake: p.LastHandshakeTime,
			RxBytes: uint64(p.ReceiveBytes), TxBytes: uint64(p.TransmitBytes), AllowedIPs: prefixes(p.AllowedIPs),
		}
		if s.LastHandshake.Unix() == 0 {
			s.LastHandshake = time.Time{}
		}
		if p.Endpoint != nil {
			at := p.Endpoint.AddrPort()
			s.Endpoint = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		}
		if known, ok := d.peers[s.PublicKey]; ok && known.shim.addr == s.Endpoint {
			s.Relayed, s.Endpoint = true, netip.AddrPort{}
		}
		out = append(out, s)
	}
	sortStats(out)
	return out, nil
}

func (d *kernel) Close() error { return d.end(true) }
func (d *kernel) Leave() error { return d.end(false) }

func (d *kernel) end(remove bool) error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	peers := d.peers
	d.mu.Unlock()
	if d.probes != nil {
		d.probes.leave(d.port)
	}
	var err error
	if remove {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Index = d.name, d.index
		if err = d.routes.LinkDel(&netlink.Wireguard{LinkAttrs: attrs}); errors.Is(err, unix.ENODEV) {
			err = nil // with its namespace, say
		}
		if err != nil {
			err = fmt.Errorf("delete WireGuard interface %s: %w", d.name, err)
		}
	}
	for _, p := range peers {
		p.shim.close()
	}
	return errors.Join(err, d.release())
}

// release closes the sockets of this process.
func (d *kernel) release() error {
	d.routes.Close()
	return d.control.Close()
}

func prefixes(nets []net.IPNet) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range nets {
		a, ok := netip.AddrFromSlice(n.IP)
		if ones, bits := n.Mask.Size(); ok && bits > 0 {
			out = append(out, netip.PrefixFrom(a.Unmap(), ones))
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

func ipNets(ips []netip.Prefix) []net.IPNet {
	var out []net.IPNet
	for _, p := range ips {
		out = append(out, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return out
}
