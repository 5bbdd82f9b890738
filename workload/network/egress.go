package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	fw "github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/netns"
)

// maxLinks is how many networks with egress a node can have: a /15 of pairs.
const maxLinks = 1<<16 - 1

// linkName is the host's end of a link.
func linkName(n int) string { return fw.EgressPrefix + strconv.Itoa(n) }

// linkAddrs are the addresses of link n: the router's, and the host's.
func linkAddrs(n int, six bool) (router, host netip.Addr) {
	base := fw.EgressIPv4().Addr().AsSlice()
	if six {
		base = fw.EgressIPv6().Addr().AsSlice()
	}
	last := base[len(base)-4:]
	first := binary.BigEndian.Uint32(last) + uint32(2*n)
	binary.BigEndian.PutUint32(last, first)
	router, _ = netip.AddrFromSlice(base)
	return router, router.Next()
}

// linkMACs are the MACs of link n.
func linkMACs(n int) (router, host []byte) {
	r, h := linkAddrs(n, false)
	return mac(0x0a, r), mac(0x0e, h)
}

// site finds what the view needs to know of the host: a number for the link, the
// one that the router has already if it has one, and the host's own addresses.
func (k *Kind) site(old Site) (s Site, err error) {
	err = netns.Do(int(k.host.Fd()), func() error {
		var taken []int
		if s, taken, err = hostFacts(); err != nil {
			return err
		}
		if s.Link = old.Link; s.Link == 0 {
			for s.Link = 1; slices.Contains(taken, s.Link); s.Link++ {
			}
			if s.Link > maxLinks {
				return errors.New("every link to the host is taken")
			}
		}
		return nil
	})
	return s, err
}

// hostFacts reads the host's namespace, in which the calling thread is.
func hostFacts() (s Site, taken []int, err error) {
	all, err := links()
	if err != nil {
		return s, nil, fmt.Errorf("list the node's interfaces: %w", err)
	}
	s.Uplinks, s.Closed = []string{}, []netip.Prefix{}
	names := map[int]string{}
	for _, l := range all {
		a := l.Attrs()
		if rest, ours := strings.CutPrefix(a.Name, fw.EgressPrefix); ours {
			if n, err := strconv.Atoi(rest); err == nil {
				taken = append(taken, n)
			}
			continue
		}
		names[a.Index] = a.Name
		if err := closed(l, &s); err != nil {
			return s, nil, err
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(nil, family)
		if err != nil {
			return s, nil, fmt.Errorf("list the node's routes: %w", err)
		}
		for _, r := range routes {
			name := names[r.LinkIndex]
			if name == "" || name == "lo" {
				continue
			}
			if r.Dst == nil || r.Dst.IP.IsUnspecified() {
				s.Uplinks = append(s.Uplinks, name)
			} else if ip, ok := netip.AddrFromSlice(r.Dst.IP); ok && r.Gw == nil && r.Via == nil {
				// Neighbours, though the node's own address may be of no subnet.
				ones, _ := r.Dst.Mask.Size()
				s.close(netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
	}
	slices.Sort(s.Uplinks)
	s.Uplinks = slices.Compact(s.Uplinks)
	slices.SortFunc(s.Closed, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	s.Closed = slices.Compact(s.Closed)
	return s, taken, nil
}

// closed adds the subnets that a link is in, unless they are closed to everyone.
func closed(l netlink.Link, s *Site) error {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the node's addresses: %w", err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || a.IPNet == nil {
			continue
		}
		ones, _ := a.Mask.Size()
		s.close(netip.PrefixFrom(ip.Unmap(), ones))
	}
	return nil
}

// close closes a range that is not closed on every node.
func (s *Site) close(p netip.Prefix) {
	p = p.Masked()
	if slices.ContainsFunc(fw.Closed(), func(c netip.Prefix) bool { return c.Bits() <= p.Bits() && c.Contains(p.Addr()) }) ||
		p.Addr().Is6() && !netip.MustParsePrefix("2000::/3").Contains(p.Addr()) {
		return
	}
	s.Closed = append(s.Closed, p)
}

// connect joins the router with the host, or cuts them if nobody has egress.
func (k *Kind) connect(ctx context.Context, router int, v View) error {
	if v.Site.Link == 0 {
		return netns.Do(router, func() error { return remove(egressName) })
	}
	host := int(k.host.Fd())
	routerMAC, hostMAC := linkMACs(v.Site.Link)
	// Half of a pair, or that of another number, is made anew.
	var whole bool
	err := netns.Do(host, func() error {
		l, err := find(linkName(v.Site.Link))
		whole = l != nil
		return err
	})
	if err != nil {
		return err
	}
	err = netns.Do(router, func() error {
		l, err := find(egressName)
		if err != nil {
			return err
		}
		if l != nil && whole && l.Attrs().HardwareAddr.String() == hw(routerMAC).String() {
			return nil
		}
		if err := remove(egressName); err != nil {
			return err
		}
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: linkName(v.Site.Link), PeerNamespace: netlink.NsFd(host), PeerHardwareAddr: hw(hostMAC), PeerMTU: uint32(v.MTU)}
		veth.Name, veth.HardwareAddr, veth.MTU = egressName, hw(routerMAC), v.MTU
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make the link to the host: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := netns.Do(host, func() error { return hostEnd(v, routerMAC) }); err != nil {
		return err
	}
	if err := netns.Do(router, func() error { return routerEnd(v, hostMAC) }); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := netns.Do(router, func() error { return ready(limited, egressName) }); err != nil {
		return err
	}
	return netns.Do(host, func() error { return ready(limited, linkName(v.Site.Link)) })
}

// hostEnd configures the host's end, and lets the host forward by it.
func hostEnd(v View, routerMAC []byte) error {
	name := linkName(v.Site.Link)
	l, err := find(name)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("the host has no %s, though the router has %s", name, egressName)
	}
	settings := []netns.Setting{}
	for _, kv := range [][2]string{
		{"ipv6/conf/" + name + "/addr_gen_mode", "1"}, {"ipv6/conf/" + name + "/accept_ra", "0"}, {"ipv6/conf/" + name + "/autoconf", "0"},
		{"ipv6/conf/" + name + "/accept_redirects", "0"}, {"ipv6/conf/" + name + "/accept_dad", "0"},
		{"ipv4/conf/" + name + "/accept_redirects", "0"}, {"ipv4/conf/" + name + "/send_redirects", "0"}, {"ipv4/conf/" + name + "/rp_filter", "1"},
		{"ipv4/conf/" + name + "/forwarding", "1"},
	} {
		settings = append(settings, netns.Setting{Path: kv[0], Value: kv[1]})
	}
	settings = append(settings, forwarding(v.Site.Uplinks)...)
	if err := netns.Set(settings...); err != nil {
		return err
	}
	for _, six := range []bool{false, true} {
		router, host := linkAddrs(v.Site.Link, six)
		if err := neighbour(l, router, routerMAC); err != nil {
			return err
		}
		if err := addPrefix(l, host); err != nil {
			return err
		}
	}
	return up(l, v.MTU)
}

// addPrefix gives a link an address of a pair.
func addPrefix(l netlink.Link, a netip.Addr) error {
	p := netip.PrefixFrom(a, a.BitLen()-1)
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrReplace(l, addr); err != nil {
		return fmt.Errorf("add %s to %s: %w", p, l.Attrs().Name, err)
	}
	return nil
}

// forwarding lets answers from the uplinks be forwarded. For IPv6 there is one
// switch for all interfaces, which would stop them from hearing routers: so that
// they go on, they are told to hear them nevertheless.
func forwarding(uplinks []string) []netns.Setting {
	var s []netns.Setting
	for _, name := range uplinks {
		s = append(s, netns.Setting{Path: "ipv4/conf/" + name + "/forwarding", Value: "1"})
		ra := "ipv6/conf/" + name + "/accept_ra"
		if b, err := os.ReadFile("/proc/sys/net/" + ra); err == nil && strings.TrimSpace(string(b)) == "1" {
			s = append(s, netns.Setting{Path: ra, Value: "2"})
		}
	}
	return append(s, netns.Setting{Path: "ipv6/conf/all/forwarding", Value: "1", Optional: true})
}

// routerEnd configures the router's end: the way out, in a table of its own.
func routerEnd(v View, hostMAC []byte) error {
	l, err := find(egressName)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("%s is gone", egressName)
	}
	var own []netip.Prefix
	for _, six := range []bool{false, true} {
		router, _ := linkAddrs(v.Site.Link, six)
		own = append(own, single(router))
	}
	if err := addresses(l, own...); err != nil {
		return err
	}
	if err := up(l, v.MTU); err != nil {
		return err
	}
	for _, six := range []bool{false, true} {
		_, host := linkAddrs(v.Site.Link, six)
		if err := neighbour(l, host, hostMAC); err != nil {
			return err
		}
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if six {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		// On the link, as the pair's prefix is in no table: tenants may not meet it.
		r := netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(all), Gw: host.AsSlice(), Table: egressTable, Flags: int(netlink.FLAG_ONLINK)}
		if err := route(r); err != nil {
			return err
		}
	}
	return nil
}
