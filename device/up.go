package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

// Options say how Up makes an interface.
type Options struct {
	Name   string           // of the interface, 1 to 15 bytes
	Engine wireguard.Engine // Auto takes the kernel's where it has one
	NetNS  int              // descriptor of a network namespace; 0: this process's own
	Logger *slog.Logger     // nil: silent
}

// Link is an interface that leads into a network. Its methods are for one
// goroutine.
type Link struct {
	config  Config
	options Options
	ns      *os.File // nil if Options.NetNS is the caller's
	host    *wireguard.Host
	device  wireguard.Device
	index   int
	way     way
	asking  asker
	// Warnings are what is not as it should be and yet works, a line each.
	Warnings []string
	// NamesBy says how this machine's programs find the network's names: "" if they
	// don't, and have to ask the resolver at Config.DNS themselves.
	NamesBy string
}

// Up makes the interface with its addresses and routes and begins the first
// handshake; Run goes on with it. It needs CAP_NET_ADMIN: code "root-needed"
// without. "already-exists": there is an interface of that name.
func Up(ctx context.Context, c Config, o Options) (*Link, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Link{config: c, options: o, way: way{endpoints: c.Endpoints}}
	if err := l.up(ctx); err != nil {
		err = errors.Join(err, l.Close())
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			return nil, problem.New("root-needed", "make the interface %s: %w", o.Name, err).
				WithFix("run it as root, or take a wg-quick file: zos net export")
		}
		return nil, err
	}
	return l, nil
}

func (l *Link) up(ctx context.Context) (err error) {
	if l.options.NetNS == 0 {
		if l.ns, err = netns.Current(); err != nil {
			return err
		}
		l.options.NetNS = int(l.ns.Fd())
	}
	// wireguard.New replaces what has the name. Here that is somebody else's.
	err = l.inside(func() error {
		_, err := netlink.LinkByName(l.options.Name)
		if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
			return nil
		}
		if err == nil {
			err = problem.New("already-exists", "there is an interface %s already", l.options.Name).
				WithFix("end the other zos net join; if there is none any more: sudo ip link delete %s", l.options.Name)
		}
		return err
	})
	if err != nil {
		return err
	}
	if l.host, err = wireguard.OpenHost(l.options.NetNS, l.options.Logger); err != nil {
		return err
	}
	l.device, err = l.host.New(ctx, wireguard.Config{Name: l.options.Name, PrivateKey: l.config.PrivateKey, NetNS: l.options.NetNS, MTU: MTU,
		Engine: l.options.Engine, Logger: l.options.Logger})
	if err != nil {
		return err
	}
	if err := l.inside(l.address); err != nil {
		return fmt.Errorf("set up the interface %s: %w", l.options.Name, err)
	}
	if l.options.NetNS != 0 && l.ns != nil {
		l.names(ctx) // of a namespace that is not this process's own nothing is known
	}
	return l.take(time.Now())
}

// inside runs f in the interface's network namespace.
func (l *Link) inside(f func() error) error { return netns.Do(l.options.NetNS, f) }

// Engine says who encrypts.
func (l *Link) Engine() wireguard.Engine { return l.device.Engine() }

// Endpoint is the one in use.
func (l *Link) Endpoint() netip.AddrPort { return l.way.endpoint() }

// address gives the interface its addresses and routes.
func (l *Link) address() error {
	link, err := netlink.LinkByName(l.options.Name)
	if err != nil {
		return err
	}
	l.index = link.Attrs().Index
	l.overlaps()
	six := true
	for _, a := range l.config.Addresses {
		addr, err := netlink.ParseAddr(netip.PrefixFrom(a, a.BitLen()).String())
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			if !a.Is6() {
				return fmt.Errorf("add the address %s: %w", a, err)
			}
			six = false
			l.Warnings = append(l.Warnings, "IPv6 is off on this machine; the network is reached by IPv4")
		}
	}
	for _, r := range l.config.Ranges {
		if r.Addr().Is6() && !six {
			continue
		}
		_, to, err := netlinkNet(r)
		if err != nil {
			return err
		}
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: l.index, Dst: to, Scope: netlink.SCOPE_LINK})
		if errors.Is(err, fs.ErrExist) {
			return problem.New("address-unavailable", "this machine has a route to %s already", r).
				WithFix("leave the other network that has these addresses: ip route show %s", r)
		}
		if err != nil {
			return fmt.Errorf("add the route to %s: %w", r, err)
		}
	}
	return nil
}

// overlaps warns of parts of the network that this machine reaches elsewhere:
// narrower routes win over ours.
func (l *Link) overlaps() {
	routes, err := netlink.RouteList(nil, unix.AF_UNSPEC)
	if err != nil {
		return // it was only for a warning
	}
	for _, r := range routes {
		if r.Dst == nil || r.LinkIndex == l.index {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if !ok {
			continue
		}
		dst := netip.PrefixFrom(a.Unmap(), bits)
		for _, own := range l.config.Ranges {
			if dst.Bits() > own.Bits() && own.Contains(dst.Addr()) {
				l.Warnings = append(l.Warnings, fmt.Sprintf("%s of the network is also in use on this machine, and stays with that: ip route show %s", dst, dst))
			}
		}
	}
}

// take begins with the next endpoint: without sessions, so that the handshake
// begins now and not when the last attempt's time is over. Keepalives, of which
// the first begins it, are set when the way is known; else it would be lost.
func (l *Link) take(now time.Time) error {
	l.way.take(now)
	if err := l.device.RemovePeer(l.config.Entry); err != nil {
		return err
	}
	p := wireguard.Peer{PublicKey: l.config.Entry, PresharedKey: l.config.Preshared, AllowedIPs: l.config.Ranges}
	if err := l.device.SetPeer(p); err != nil {
		return err
	}
	if err := l.device.SetPath(p.PublicKey, l.way.endpoint()); err != nil {
		return err
	}
	p.Keepalive = Keepalive
	return l.device.SetPeer(p)
}

// names has the machine's resolver ask the network's for its names, where that
// is systemd-resolved. It ends with the interface.
func (l *Link) names(ctx context.Context) {
	if len(l.config.DNS) == 0 || l.config.Domain == "" {
		return
	}
	tool, err := exec.LookPath("resolvectl")
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, args := range [][]string{
		append([]string{"dns", l.options.Name}, texts(l.config.DNS)...), {"domain", l.options.Name, l.config.Domain},
	} {
		if out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput(); err != nil {
			l.options.Logger.Info("resolvectl does not take the network's resolver", "error", err, "output", string(out))
			return
		}
	}
	l.NamesBy = "systemd-resolved"
}

// Close takes everything down. A second call does nothing.
func (l *Link) Close() error {
	l.asking.close()
	var err error
	if l.device != nil {
		err = l.device.Close()
		l.device = nil
	}
	if l.host != nil {
		err = errors.Join(err, l.host.Close())
		l.host = nil
	}
	if l.ns != nil {
		err = errors.Join(err, l.ns.Close())
		l.ns = nil
	}
	return err
}
