package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is the encrypted side of devices: one network namespace, and what its
// devices share there (the sockets that receive probes of kernel devices).
// A node opens one; a test one per simulated node.
type Host struct {
	logger *slog.Logger
	ns     int             // descriptor of the namespace
	routes *netlink.Handle // a socket in the namespace

	mu     sync.Mutex
	probes *probes // nil until the first kernel device
}

// OpenHost opens the namespace netns as the one where encrypted sockets live;
// 0: the one that the calling thread is in. The descriptor is needed only
// during the call. Its loopback interface must be up for kernel devices.
func OpenHost(netns int, logger *slog.Logger) (*Host, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	ns, err := openNetNS(netns)
	if err != nil {
		return nil, err
	}
	h := &Host{logger: logger, ns: ns}
	if h.routes, err = handleIn(ns); err != nil {
		unix.Close(ns)
		return nil, err
	}
	return h, nil
}

// handleIn opens a route netlink socket in the namespace ns.
func handleIn(ns int) (*netlink.Handle, error) {
	var handle *netlink.Handle
	err := within(ns, func() (err error) {
		handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return handle, nil
}

// New makes a device. An interface of that name left by an earlier process is
// deleted first; Adopt keeps it.
func (h *Host) New(ctx context.Context, c Config) (Device, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.PrivateKey.IsZero() {
		return nil, fmt.Errorf("WireGuard interface %s: no private key", c.Name)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.Engine != Userspace && !c.RelayOnly {
		d, err := newKernel(h, c)
		if err == nil {
			return d, nil
		}
		// Whether the kernel can is known only by asking it to.
		if c.Engine == Kernel || !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("make WireGuard interface %s: %w", c.Name, err)
		}
	}
	d, err := newUserspace(h, c)
	if err != nil {
		return nil, fmt.Errorf("make WireGuard interface %s in userspace: %w", c.Name, err)
	}
	return d, nil
}

// Adopt takes over the interface c.Name that outlived the process that made it,
// with all peers and sessions; c.PrivateKey and c.MTU are ignored. Peers that
// were relayed are again. fs.ErrNotExist: there is none, which is always so for
// Userspace and RelayOnly.
func (h *Host) Adopt(ctx context.Context, c Config) (Device, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.Engine == Userspace || c.RelayOnly {
		return nil, fmt.Errorf("adopt WireGuard interface %s: one in userspace ends with its process: %w", c.Name, fs.ErrNotExist)
	}
	d, err := adoptKernel(h, c)
	if err != nil {
		return nil, fmt.Errorf("adopt WireGuard interface %s: %w", c.Name, err)
	}
	return d, nil
}

// Close frees what the host holds. Its devices must be closed or left first.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns < 0 {
		return nil
	}
	if h.probes != nil {
		h.probes.close()
	}
	h.routes.Close()
	err := unix.Close(h.ns)
	h.ns = -1
	return err
}

// New makes a device whose encrypted side is the namespace of the calling
// thread. Processes with more than a few devices share a Host.
func New(ctx context.Context, c Config) (Device, error) { return alone(ctx, c, (*Host).New) }

func alone(ctx context.Context, c Config, open func(*Host, context.Context, Config) (Device, error)) (Device, error) {
	h, err := OpenHost(0, c.Logger)
	if err != nil {
		return nil, err
	}
	d, err := open(h, ctx, c)
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return &lone{Device: d, host: h}, nil
}

// lone is a device with a host of its own.
type lone struct {
	Device
	host *Host
}

func (l *lone) Close() error { return errors.Join(l.Device.Close(), l.host.Close()) }
func (l *lone) Leave() error { return errors.Join(l.Device.Leave(), l.host.Close()) }
