package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The functions of this file speak of the network namespace of the calling
// thread: they run inside netns.Do.

// find returns a link, nil if there is none of that name.
func find(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", name, err)
	}
	return l, nil
}

// remove deletes a link if it is there.
func remove(name string) error {
	l, err := find(name)
	if err != nil || l == nil {
		return err
	}
	if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// links lists the links of the namespace. A dump that something changed meanwhile
// is taken again.
func links() ([]netlink.Link, error) {
	for range 10 {
		all, err := netlink.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		return all, err
	}
	return nil, errors.New("list links: they change all the time")
}

// addresses makes the addresses of a link these and no others, without asking the
// neighbours whether they are free.
func addresses(l netlink.Link, want ...netip.Prefix) error {
	have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, p := range want {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IPNet.String() == a.IPNet.String() }) {
			continue
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, l.Attrs().Name, err)
		}
	}
	for _, h := range have {
		if slices.ContainsFunc(want, func(p netip.Prefix) bool { return h.IPNet.String() == ipNet(p).String() }) {
			continue
		}
		if err := netlink.AddrDel(l, &h); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove %s from %s: %w", h.IPNet, l.Attrs().Name, err)
		}
	}
	return nil
}

// neighbour fixes the MAC of an address, so that nobody is asked.
func neighbour(l netlink.Link, ip netip.Addr, mac []byte) error {
	family := unix.AF_INET
	if ip.Is6() {
		family = unix.AF_INET6
	}
	n := &netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac}
	if err := netlink.NeighSet(n); err != nil {
		return fmt.Errorf("fix the neighbour %s of %s: %w", ip, l.Attrs().Name, err)
	}
	return nil
}

// up sets the MTU and switches a link on.
func up(l netlink.Link, mtu int) error {
	a := l.Attrs()
	if a.MTU != mtu {
		if err := netlink.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", mtu, a.Name, err)
		}
	}
	if a.Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring up %s: %w", a.Name, err)
		}
	}
	return nil
}

// route makes a route, or replaces one for the same destination and priority.
func route(r netlink.Route) error {
	if err := netlink.RouteReplace(&r); err != nil {
		return fmt.Errorf("route to %s: %w", r.Dst, err)
	}
	return nil
}

// confine makes a bridge port one that sees the bridge alone: isolated from other
// ports, no learning of MACs, none but known ones accepted (locked), and nothing
// sent to it that is not for its MAC.
func confine(l netlink.Link) error {
	err := setPort(l, map[int]byte{
		nl.IFLA_BRPORT_ISOLATED: 1, nl.IFLA_BRPORT_LOCKED: 1, nl.IFLA_BRPORT_LEARNING: 0, nl.IFLA_BRPORT_GUARD: 1, nl.IFLA_BRPORT_MODE: 0,
		nl.IFLA_BRPORT_UNICAST_FLOOD: 0, nl.IFLA_BRPORT_MCAST_FLOOD: 0, nl.IFLA_BRPORT_BCAST_FLOOD: 0,
	})
	if err != nil {
		return fmt.Errorf("confine bridge port %s: %w", l.Attrs().Name, err)
	}
	return nil
}

func setPort(l netlink.Link, values map[int]byte) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	for attr, value := range values {
		info.AddRtAttr(attr, []byte{value})
	}
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// ready waits until the kernel has noticed that a link's other end is up: until
// then it drops what is sent there. It also does what settled does.
func ready(ctx context.Context, name string) error {
	err := poll(ctx, func() (bool, error) {
		l, err := find(name)
		if err == nil && l == nil {
			err = fmt.Errorf("%s is gone", name)
		}
		return err == nil && l.Attrs().OperState == netlink.OperUp, err
	})
	if err != nil {
		return err
	}
	return settled(ctx, name)
}

// settled waits until a link's IPv6 addresses are taken as the namespace's own: the
// kernel makes the route that says so some time after the address.
func settled(ctx context.Context, name string) error {
	l, err := find(name)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("%s is gone", name)
	}
	return poll(ctx, func() (bool, error) {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return false, fmt.Errorf("list addresses of %s: %w", name, err)
		}
		local, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL, LinkIndex: l.Attrs().Index}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return false, fmt.Errorf("list routes of %s: %w", name, err)
		}
		for _, a := range addrs {
			own := func(r netlink.Route) bool { return r.Dst != nil && r.Dst.IP.Equal(a.IP) && r.Type == unix.RTN_LOCAL }
			if !slices.ContainsFunc(local, own) {
				return false, nil
			}
		}
		return true, nil
	})
}

// forwards waits until a bridge port takes frames.
func forwards(ctx context.Context, name string) error {
	l, err := find(name)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("port %s is gone", name)
	}
	return poll(ctx, func() (bool, error) {
		const forwarding = 3
		err := setPort(l, map[int]byte{nl.IFLA_BRPORT_STATE: forwarding})
		if errors.Is(err, unix.ENETDOWN) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("switch bridge port %s on: %w", name, err)
		}
		return true, nil
	})
}

// poll asks until it is so, or ctx ends. What it waits for takes milliseconds, and
// has no event of its own.
func poll(ctx context.Context, so func() (bool, error)) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if ok, err := so(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for an interface: %w", context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// stationary tells the bridge that a MAC is behind a port, for good.
func stationary(l netlink.Link, mac []byte) error {
	n := &netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac}
	if err := netlink.NeighSet(n); err != nil {
		return fmt.Errorf("fix the MAC of bridge port %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// limit lets a link send that many bits a second, 0: as many as it likes. A link
// that does so already is left alone, because its queue would be lost.
func limit(l netlink.Link, bits uint64, mtu int) error {
	all, err := netlink.QdiscList(l)
	if err != nil {
		return fmt.Errorf("list queues of %s: %w", l.Attrs().Name, err)
	}
	var have *netlink.Tbf
	for _, q := range all {
		if t, ok := q.(*netlink.Tbf); ok && t.Parent == netlink.HANDLE_ROOT {
			have = t
		}
	}
	rate := bits / 8
	switch {
	case bits == 0 && have == nil, bits != 0 && have != nil && have.Rate == rate:
		return nil
	case bits == 0:
		if err := netlink.QdiscDel(have); err != nil {
			return fmt.Errorf("lift the limit of %s: %w", l.Attrs().Name, err)
		}
		return nil
	}
	// 20 ms of it at once, though never less than two packets; a tenth of a second
	// more may wait.
	burst := uint32(min(max(rate/50, uint64(2*mtu+200)), 32<<20))
	q := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Buffer: max(1, netlink.Xmittime(rate, burst)), Limit: burst + uint32(min(rate/10, 64<<20)),
	}
	if err := netlink.QdiscReplace(q); err != nil {
		return fmt.Errorf("limit %s to %d bit/s: %w", l.Attrs().Name, bits, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func hw(mac []byte) net.HardwareAddr { return net.HardwareAddr(mac) }
