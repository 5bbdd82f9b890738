package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/network/path"
)

// hostLinks begin the names of interfaces in the host namespace that are not
// connected to the underlay, but to a tenant's router.
var hostLinks = []string{"zeg", "wg"}

// KernelHost is the Host that a network namespace of the kernel is.
type KernelHost struct {
	fd     int
	handle *netlink.Handle
}

// OpenHost returns the Host of a network namespace; 0: the calling thread's own.
// The descriptor is needed only during the call.
func OpenHost(ns int) (*KernelHost, error) {
	var fd int
	var err error
	if ns == 0 {
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	} else {
		fd, err = unix.FcntlInt(uintptr(ns), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open the host's network namespace: %w", err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open a netlink socket in the host's namespace: %w", err)
	}
	return &KernelHost{fd: fd, handle: h}, nil
}

// Close frees what the host holds.
func (k *KernelHost) Close() error {
	k.handle.Close()
	return unix.Close(k.fd)
}

// Underlay reads addresses and default routes.
func (k *KernelHost) Underlay() (Underlay, error) {
	var u Underlay
	links, err := k.handle.LinkList()
	if err != nil {
		return u, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		if a.RawFlags&unix.IFF_UP == 0 || a.RawFlags&unix.IFF_RUNNING == 0 || a.RawFlags&unix.IFF_LOOPBACK != 0 ||
			slices.ContainsFunc(hostLinks, func(p string) bool { return strings.HasPrefix(a.Name, p) }) {
			continue
		}
		names[a.Index] = a.Name
	}
	addrs, err := k.handle.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return u, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if ok && names[a.LinkIndex] != "" && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0 && path.Usable(netip.AddrPortFrom(ip, 1)) {
			u.Addresses = append(u.Addresses, ip)
		}
	}
	slices.SortFunc(u.Addresses, netip.Addr.Compare)
	u.Addresses = slices.Compact(u.Addresses)
	routes, err := k.handle.RouteList(nil, unix.AF_UNSPEC)
	if err != nil {
		return u, fmt.Errorf("list routes: %w", err)
	}
	var defaults []string
	for _, r := range routes {
		if names[r.LinkIndex] != "" && (r.Dst == nil || func() bool { ones, _ := r.Dst.Mask.Size(); return ones == 0 }()) {
			defaults = append(defaults, fmt.Sprintf("%s via %s dev %s metric %d", family(r.Family), r.Gw, names[r.LinkIndex], r.Priority))
		}
	}
	slices.Sort(defaults)
	u.Routes = strings.Join(defaults, "\n")
	return u, nil
}

func family(f int) string {
	if f == unix.AF_INET6 {
		return "inet6"
	}
	return "inet"
}

// Watch subscribes to what the kernel tells about links, addresses and routes.
// A socket that overflows or breaks is opened anew.
func (k *KernelHost) Watch(ctx context.Context, changed func()) error {
	for {
		err := k.watchOnce(ctx, changed)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, errWatchBroke) {
			return err
		}
		changed() // something may have been missed
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var errWatchBroke = errors.New("watch the host's addresses: the kernel's messages ended")

func (k *KernelHost) watchOnce(ctx context.Context, changed func()) error {
	done := make(chan struct{})
	ns := netns.NsHandle(k.fd)
	addrs, routes, links := make(chan netlink.AddrUpdate), make(chan netlink.RouteUpdate), make(chan netlink.LinkUpdate)
	var open int
	defer func() {
		close(done)
		// Each subscription ends by closing its channel.
		if open > 0 {
			for range addrs {
			}
		}
		if open > 1 {
			for range routes {
			}
		}
		if open > 2 {
			for range links {
			}
		}
	}()
	quiet := func(error) {}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &ns, ErrorCallback: quiet}); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	open++
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &ns, ErrorCallback: quiet}); err != nil {
		return fmt.Errorf("watch routes: %w", err)
	}
	open++
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &ns, ErrorCallback: quiet}); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	open++
	for {
		ok := true
		select {
		case <-ctx.Done():
			return nil
		case _, ok = <-addrs:
		case _, ok = <-routes:
		case _, ok = <-links:
		}
		if !ok {
			return errWatchBroke
		}
		changed()
	}
}
