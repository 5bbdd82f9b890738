package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	fw "github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/network/agent"
	"github.com/zero-os/zos/problem"
)

// routerSettings are those of a router namespace. They stand before anything else
// is made there, so that every interface begins with them.
func routerSettings() []netns.Setting {
	s := []netns.Setting{
		{Path: "ipv4/ip_forward", Value: "1"},
		{Path: "ipv6/conf/all/forwarding", Value: "1"},
		{Path: "ipv6/conf/default/forwarding", Value: "1"},
		// A connection is one that was seen to begin: what has been cut does not come
		// back as one of the other direction.
		{Path: "netfilter/nf_conntrack_tcp_loose", Value: "0"},
		// Bridged frames pass the bridge's filter and no other one.
		{Path: "bridge/bridge-nf-call-iptables", Value: "0", Optional: true},
		{Path: "bridge/bridge-nf-call-ip6tables", Value: "0", Optional: true},
		{Path: "bridge/bridge-nf-call-arptables", Value: "0", Optional: true},
	}
	return append(s, quiet()...)
}

// quiet settings let no neighbour say anything about routes and addresses.
func quiet() []netns.Setting {
	var s []netns.Setting
	for _, c := range []string{"all", "default"} {
		for _, kv := range [][2]string{
			{"accept_redirects", "0"}, {"secure_redirects", "0"}, {"send_redirects", "0"}, {"accept_source_route", "0"},
			{"rp_filter", "0"}, // of the bridge it is on; elsewhere the chains know better
			{"proxy_arp", "0"}, {"arp_ignore", "1"}, {"arp_announce", "2"},
		} {
			s = append(s, netns.Setting{Path: "ipv4/conf/" + c + "/" + kv[0], Value: kv[1]})
		}
		for _, kv := range [][2]string{
			{"accept_ra", "0"}, {"autoconf", "0"}, {"accept_redirects", "0"}, {"accept_source_route", "-1"}, {"accept_dad", "0"}, {"router_solicitations", "0"},
		} {
			s = append(s, netns.Setting{Path: "ipv6/conf/" + c + "/" + kv[0], Value: kv[1]})
		}
	}
	// 1: no link-local addresses. Without one a router also has nothing that it
	// could send redirects from.
	return append(s, netns.Setting{Path: "ipv6/conf/default/addr_gen_mode", Value: "1"})
}

// unreachable is the priority of routes that end what no better route takes.
const unreachable = 1 << 30

// shape makes a router namespace what the view says, except for its link to the
// host and for its ports. What is right already is not touched.
func shape(ctx context.Context, ns int, v View) error {
	if err := netns.Do(ns, func() error { return netns.Set(routerSettings()...) }); err != nil {
		return err
	}
	if err := filter(ns, v); err != nil {
		return err
	}
	return netns.Do(ns, func() error {
		lo, err := find("lo")
		if err != nil {
			return err
		}
		if err := up(lo, 65536); err != nil {
			return err
		}
		if err := bridge(v); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := settled(limited, bridgeName); err != nil {
			return err
		}
		// What no node of the network has goes nowhere, and not to the outside.
		for _, p := range []netip.Prefix{v.IPv4, v.IPv6} {
			if err := route(netlink.Route{Dst: ipNet(p), Type: unix.RTN_UNREACHABLE, Priority: unreachable}); err != nil {
				return err
			}
		}
		if err := rules(); err != nil {
			return err
		}
		return strays(v)
	})
}

// filter puts the tables in force unless they are, and ends what they forbid: also
// when they are, since whoever put them there may have got no further.
func filter(ns int, v View) error {
	err := fw.Namespace(ns).Verify(Tables(v)...)
	if problem.Code(err) == "firewall-altered" {
		err = fw.Namespace(ns).Apply(Tables(v)...)
	}
	if err != nil {
		return err
	}
	return cut(ns, v)
}

func bridge(v View) error {
	l, err := find(bridgeName)
	if err != nil {
		return err
	}
	if l == nil {
		off := false
		b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &off}
		b.Name, b.HardwareAddr, b.MTU = bridgeName, hw(routerMAC(v.Router4)), v.MTU
		if err := netlink.LinkAdd(b); err != nil {
			return fmt.Errorf("make bridge: %w", err)
		}
		if l, err = find(bridgeName); err != nil || l == nil {
			return fmt.Errorf("make bridge: it is gone again: %w", err)
		}
	}
	if want := hw(routerMAC(v.Router4)); l.Attrs().HardwareAddr.String() != want.String() {
		if err := netlink.LinkSetHardwareAddr(l, want); err != nil {
			return fmt.Errorf("set the bridge's MAC: %w", err)
		}
	}
	if err := netns.Set(netns.Setting{Path: "ipv4/conf/" + bridgeName + "/rp_filter", Value: "1"}); err != nil {
		return err
	}
	if err := addresses(l, netip.PrefixFrom(v.Router4, v.Node4.Bits()), netip.PrefixFrom(v.Router6, v.Node6.Bits())); err != nil {
		return err
	}
	return up(l, v.MTU)
}

// rules lead what leaves the network to the table for it, by its mark.
func rules() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := netlink.RuleList(family)
		if err != nil {
			return fmt.Errorf("list routing rules: %w", err)
		}
		for mark, table := range map[uint32]int{markHere: egressTable, markExit: agent.ExitTable} {
			if slices.ContainsFunc(have, func(r netlink.Rule) bool { return r.Mark == mark && r.Table == table }) {
				continue
			}
			r := netlink.NewRule()
			// Behind the main table, in which everything inside the network is.
			r.Family, r.Mark, r.Table, r.Priority = family, mark, table, 40000+int(mark)
			if err := netlink.RuleAdd(r); err != nil {
				return fmt.Errorf("add routing rule for mark %d: %w", mark, err)
			}
		}
	}
	return nil
}

// strays deletes ports of workloads that the plan has no more.
func strays(v View) error {
	all, err := links()
	if err != nil {
		return fmt.Errorf("list ports: %w", err)
	}
	for _, l := range all {
		name := l.Attrs().Name
		if !strings.HasPrefix(name, "p") || slices.ContainsFunc(v.Ports, func(p Port) bool { return p.Name() == name }) {
			continue
		}
		if err := remove(name); err != nil {
			return err
		}
	}
	return nil
}

// dismantle deletes the links of a router that are not the agent's. The other ends
// of veths go at once; those of a namespace that ends only some time later.
func dismantle(ns int) error {
	return netns.Do(ns, func() error {
		all, err := links()
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, l := range all {
			if name := l.Attrs().Name; name == bridgeName || name == egressName || name == entryName || strings.HasPrefix(name, "p") {
				if err := remove(name); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
