package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
)

// route is a way that the agent keeps in a router namespace.
type route struct {
	prefix netip.Prefix
	table  int // unix.RT_TABLE_MAIN or ExitTable
}

// router is the routing of one router namespace, as far as the agent's.
type router interface {
	// namespace is a descriptor that stays open until Close.
	namespace() int
	// same tells whether another descriptor is of this namespace.
	same(netns int) bool
	// list returns the agent's routes, with the interface of each.
	list() (map[route]string, error)
	set(r route, device string) error // device "": unreachable
	remove(r route) error
	// mark writes whose keys an interface holds, for the daemon that adopts it.
	mark(device string, id canon.Hash, epoch uint64) error
	// marked reads it back; ok is false if it is of no epoch of this network.
	marked(device string, id canon.Hash) (epoch uint64, ok bool)
	// drop deletes an interface; that it is not there is no error.
	drop(device string) error
	close()
}

// kernelRouter speaks netlink with a namespace.
type kernelRouter struct {
	fd     int
	handle *netlink.Handle
}

func openKernelRouter(ns int) (router, error) {
	fd, err := unix.FcntlInt(uintptr(ns), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep the router namespace: %w", err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open a netlink socket in the router namespace: %w", err)
	}
	return &kernelRouter{fd: fd, handle: h}, nil
}

func (k *kernelRouter) namespace() int { return k.fd }

func (k *kernelRouter) same(ns int) bool {
	var a, b unix.Stat_t
	return unix.Fstat(k.fd, &a) == nil && unix.Fstat(ns, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

func (k *kernelRouter) close() {
	k.handle.Close()
	unix.Close(k.fd)
}

// unreachableMetric is behind every other route.
const unreachableMetric = 1 << 20

func (k *kernelRouter) netlinkRoute(r route, device string) (*netlink.Route, error) {
	out := &netlink.Route{
		Dst:      &net.IPNet{IP: r.prefix.Addr().AsSlice(), Mask: net.CIDRMask(r.prefix.Bits(), r.prefix.Addr().BitLen())},
		Table:    r.table,
		Protocol: RouteProtocol,
	}
	if device == "" {
		out.Type, out.Priority = unix.RTN_UNREACHABLE, unreachableMetric
		return out, nil
	}
	link, err := k.handle.LinkByName(device)
	if err != nil {
		return nil, err
	}
	out.LinkIndex, out.Scope = link.Attrs().Index, netlink.SCOPE_LINK
	if r.prefix.Addr().Is6() {
		// IPv6 would choose 1024 by itself, and replace only what has the same.
		out.Priority = 1024
	}
	return out, nil
}

func (k *kernelRouter) set(r route, device string) error {
	nr, err := k.netlinkRoute(r, device)
	if err == nil {
		err = k.handle.RouteReplace(nr)
	}
	if err != nil {
		return fmt.Errorf("route %s through %q: %w", r.prefix, device, err)
	}
	return nil
}

func (k *kernelRouter) remove(r route) error {
	nr := &netlink.Route{
		Dst: &net.IPNet{IP: r.prefix.Addr().AsSlice(), Mask: net.CIDRMask(r.prefix.Bits(), r.prefix.Addr().BitLen())}, Table: r.table, Protocol: RouteProtocol,
		Scope: netlink.SCOPE_NOWHERE,
	}
	// There may be two: through a device, and unreachable behind it.
	for range 4 {
		err := k.handle.RouteDel(nr)
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("remove the route to %s: %w", r.prefix, err)
		}
	}
	return fmt.Errorf("remove the route to %s: it is there again and again", r.prefix)
}

func (k *kernelRouter) list() (map[route]string, error) {
	out := map[route]string{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rs, err := k.handle.RouteListFiltered(family, &netlink.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, nr := range rs {
			r := route{table: nr.Table, prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
			if family == unix.AF_INET6 {
				r.prefix = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			if nr.Dst != nil {
				if ip, ok := netip.AddrFromSlice(nr.Dst.IP); ok {
					ones, _ := nr.Dst.Mask.Size()
					r.prefix = netip.PrefixFrom(ip, ones)
				}
			}
			name := ""
			if nr.Type != unix.RTN_UNREACHABLE {
				if link, err := k.handle.LinkByIndex(nr.LinkIndex); err == nil {
					name = link.Attrs().Name
				}
				out[r] = name
			} else if _, ok := out[r]; !ok {
				out[r] = ""
			}
		}
	}
	return out, nil
}

const markPrefix = "zos "

func (k *kernelRouter) mark(device string, id canon.Hash, epoch uint64) error {
	link, err := k.handle.LinkByName(device)
	if err == nil {
		err = k.handle.LinkSetAlias(link, markPrefix+id.String()+" "+strconv.FormatUint(epoch, 10))
	}
	if err != nil {
		return fmt.Errorf("mark interface %s: %w", device, err)
	}
	return nil
}

func (k *kernelRouter) marked(device string, id canon.Hash) (uint64, bool) {
	link, err := k.handle.LinkByName(device)
	if err != nil {
		return 0, false
	}
	text, ok := strings.CutPrefix(link.Attrs().Alias, markPrefix+id.String()+" ")
	if !ok {
		return 0, false
	}
	epoch, err := strconv.ParseUint(text, 10, 64)
	return epoch, err == nil
}

func (k *kernelRouter) drop(device string) error {
	link, err := k.handle.LinkByName(device)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = k.handle.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("delete interface %s: %w", device, err)
	}
	return nil
}
