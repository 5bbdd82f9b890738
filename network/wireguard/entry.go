package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// EntryConfig is how an Entry is made.
type EntryConfig struct {
	Name       string // of the interface, 1 to 15 bytes
	PrivateKey Key
	NetNS      int    // descriptor of the router namespace; needed only during the call
	Port       uint16 // UDP, on every address of that namespace
	MTU        int    // 0: DefaultMTU
	Engine     Engine
	Logger     *slog.Logger // nil: silent
}

// Entry is a device by which people's machines enter a network. Unlike a Device,
// both of its sides are in the router namespace: what it receives has come through
// the network already, from a gateway that passes it on blindly. It has no relay
// and no probes; a peer is wherever its last authentic packet came from. Its
// methods may be called from several goroutines.
type Entry struct {
	public Key
	mu     sync.Mutex
	user   *userspace // nil: it is the kernel's
	ns     int        // of a userspace entry, for its sockets
	kern   kernelEntry
	ended  bool
}

// kernelEntry steers the kernel's interface, which lives without it.
type kernelEntry struct {
	name    string
	routes  *netlink.Handle
	control *wgctrl.Client
}

// OpenEntry makes an entry. The kernel's interface of that name, key and port that
// an earlier process left is taken over, with its sessions; another is replaced.
func OpenEntry(ctx context.Context, c EntryConfig) (*Entry, error) {
	e, err := openEntry(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("make WireGuard entry %s: %w", c.Name, err)
	}
	return e, nil
}

func openEntry(ctx context.Context, c EntryConfig) (*Entry, error) {
	full := Config{Name: c.Name, PrivateKey: c.PrivateKey, NetNS: c.NetNS, MTU: c.MTU, Engine: c.Engine, Logger: c.Logger, port: c.Port}
	if err := full.check(); err != nil {
		return nil, err
	}
	if c.PrivateKey.IsZero() || c.Port == 0 {
		return nil, errors.New("no private key, or no port")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e := &Entry{public: c.PrivateKey.Public(), ns: -1}
	if c.Engine != Userspace {
		var err error
		if e.kern, err = openKernelEntry(full); err == nil {
			return e, nil
		}
		if c.Engine == Kernel || !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, err
		}
	}
	var err error
	if e.ns, err = openNetNS(c.NetNS); err != nil {
		return nil, err
	}
	if e.user, err = newUserspace(&Host{ns: e.ns, logger: full.Logger}, full); err != nil {
		return nil, errors.Join(err, unix.Close(e.ns))
	}
	return e, nil
}

func openKernelEntry(c Config) (kernelEntry, error) {
	e := kernelEntry{name: c.Name}
	err := within(c.NetNS, func() (err error) {
		if e.routes, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("open a netlink socket: %w", err)
		}
		if e.control, err = wgctrl.New(); err != nil {
			e.routes.Close()
			return fmt.Errorf("open WireGuard's netlink socket: %w", err)
		}
		return nil
	})
	if err != nil {
		return kernelEntry{}, err
	}
	if err := e.make(c); err != nil {
		return kernelEntry{}, errors.Join(err, e.release())
	}
	return e, nil
}

func (e kernelEntry) release() error {
	e.routes.Close()
	return e.control.Close()
}

// make finds the interface as it should be, or makes it anew.
func (e kernelEntry) make(c Config) error {
	link, err := findLink(e.routes, c.Name)
	if err == nil {
		now, err := e.control.Device(c.Name)
		if err == nil && link.Type() == (&netlink.Wireguard{}).Type() && now.PrivateKey == wgtypes.Key(c.PrivateKey) && now.ListenPort == int(c.port) {
			return e.raise(link, c.MTU)
		}
		if err := e.routes.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete the old interface: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = c.Name, c.MTU
	if err := e.routes.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make the interface: %w", err)
	}
	if link, err = findLink(e.routes, c.Name); err != nil {
		return err
	}
	private, port := wgtypes.Key(c.PrivateKey), int(c.port)
	if err = e.control.ConfigureDevice(c.Name, wgtypes.Config{PrivateKey: &private, ListenPort: &port}); err == nil {
		err = e.raise(link, c.MTU)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("set the interface up: %w", err), e.routes.LinkDel(link))
	}
	return nil
}

func (e kernelEntry) raise(link netlink.Link, mtu int) error {
	return errors.Join(e.routes.LinkSetMTU(link, mtu), e.routes.LinkSetUp(link))
}

// Engine is Kernel or Userspace.
func (e *Entry) Engine() Engine {
	if e.user != nil {
		return Userspace
	}
	return Kernel
}

// PublicKey is what people's machines know the entry by.
func (e *Entry) PublicKey() Key { return e.public }

// SetPeers makes the peers these and no others. Sessions of those that stay as
// they are go on; one that has another preshared key than before begins anew, and
// one that is gone is cut off at once.
func (e *Entry) SetPeers(want []Peer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return fs.ErrClosed
	}
	for i := range want {
		var err error
		if want[i], err = want[i].check(e.public); err != nil {
			return err
		}
	}
	if e.user != nil {
		return e.setUserspace(want)
	}
	return e.kern.set(want)
}

func (e *Entry) setUserspace(want []Peer) error {
	e.user.mu.RLock()
	var gone []Key
	for key, have := range e.user.peers {
		if !slices.ContainsFunc(want, func(p Peer) bool { return p.PublicKey == key && p.PresharedKey == have.PresharedKey }) {
			gone = append(gone, key)
		}
	}
	e.user.mu.RUnlock()
	for _, key := range gone {
		if err := e.user.RemovePeer(key); err != nil {
			return err
		}
	}
	for _, p := range want {
		if err := e.user.SetPeer(p); err != nil {
			return err
		}
	}
	return nil
}

func (e kernelEntry) set(want []Peer) error {
	now, err := e.control.Device(e.name)
	if err != nil {
		return fmt.Errorf("read entry %s: %w", e.name, err)
	}
	var remove, add []wgtypes.PeerConfig
	stays := map[Key]bool{}
	for _, have := range now.Peers {
		at := slices.IndexFunc(want, func(p Peer) bool {
			return p.PublicKey == Key(have.PublicKey) && p.PresharedKey == Key(have.PresharedKey) && slices.Equal(p.AllowedIPs, prefixes(have.AllowedIPs))
		})
		if at >= 0 {
			stays[Key(have.PublicKey)] = true
			continue
		}
		remove = append(remove, wgtypes.PeerConfig{PublicKey: have.PublicKey, Remove: true, UpdateOnly: true})
	}
	for _, p := range want {
		if !stays[p.PublicKey] {
			add = append(add, wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.PublicKey), PresharedKey: (*wgtypes.Key)(&p.PresharedKey), ReplaceAllowedIPs: true, AllowedIPs: ipNets(p.AllowedIPs)})
		}
	}
	for _, change := range [][]wgtypes.PeerConfig{remove, add} {
		if len(change) == 0 {
			continue
		}
		if err := e.control.ConfigureDevice(e.name, wgtypes.Config{Peers: change}); err != nil {
			return fmt.Errorf("set the peers of entry %s: %w", e.name, err)
		}
	}
	return nil
}

// Stats is what the entry knows of its peers, sorted by public key. fs.ErrNotExist
// or net.ErrClosed: the interface is gone.
func (e *Entry) Stats() ([]PeerStats, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return nil, fs.ErrClosed
	}
	if e.user != nil {
		return e.user.Stats()
	}
	now, err := e.kern.control.Device(e.kern.name)
	if err != nil {
		return nil, fmt.Errorf("read entry %s: %w", e.kern.name, err)
	}
	var out []PeerStats
	for _, p := range now.Peers {
		s := PeerStats{PublicKey: Key(p.PublicKey), RxBytes: uint64(p.ReceiveBytes), TxBytes: uint64(p.TransmitBytes), AllowedIPs: prefixes(p.AllowedIPs)}
		if p.LastHandshakeTime.Unix() > 0 {
			s.LastHandshake = p.LastHandshakeTime
		}
		if p.Endpoint != nil {
			s.Endpoint = p.Endpoint.AddrPort()
		}
		out = append(out, s)
	}
	sortStats(out)
	return out, nil
}

// Close deletes the interface. A second call does nothing.
func (e *Entry) Close() error { return e.end(true) }

// Leave frees what this process holds. The kernel's interface lives on, for the
// next OpenEntry; one in userspace ends.
func (e *Entry) Leave() error { return e.end(false) }

func (e *Entry) end(remove bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return nil
	}
	e.ended = true
	if e.user != nil {
		return errors.Join(e.user.Close(), unix.Close(e.ns))
	}
	var err error
	if remove {
		link, e2 := findLink(e.kern.routes, e.kern.name)
		if e2 == nil {
			err = e.kern.routes.LinkDel(link)
		}
		if errors.Is(err, unix.ENODEV) {
			err = nil
		}
	}
	return errors.Join(err, e.kern.release())
}
