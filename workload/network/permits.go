package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/spec/plan"
)

// permits tells whether the view's rules let a connection begin that goes from one
// workload to another. It says what the chains say, for those that began before.
// Connections with an end outside the network are none of its business: their
// packets lose their route as soon as the plan grants it no more.
func (v View) permits(src, dst netip.Addr, protocol byte, port uint16) bool {
	inside := func(a netip.Addr) bool { return v.IPv4.Contains(a) || v.IPv6.Contains(a) }
	if !inside(src) || !inside(dst) || src == v.Router4 || src == v.Router6 {
		return true
	}
	gate := func(a netip.Addr) int {
		return slices.IndexFunc(v.Gates, func(g Gate) bool { return g.IPv4 == a || g.IPv6 == a })
	}
	if g := gate(src); g >= 0 {
		return slices.ContainsFunc(v.Gates[g].Targets, func(t Target) bool {
			return (t.IPv4 == dst || t.IPv6 == dst) && t.protocol() == protocol && t.Port == port
		})
	}
	at := slices.IndexFunc(v.Ports, func(p Port) bool { return p.IPv4 == dst || p.IPv6 == dst })
	remote := func(a netip.Addr, device bool) bool {
		return slices.ContainsFunc(v.Remotes, func(r Remote) bool { return (r.IPv4 == a || r.IPv6 == a) && (device || !r.Device) })
	}
	here := slices.ContainsFunc(v.Ports, func(p Port) bool { return p.IPv4 == src || p.IPv6 == src }) ||
		slices.ContainsFunc(v.Devices, func(d Device) bool { return d.IPv4 == src || d.IPv6 == src })
	switch {
	case dst == v.Router4 || dst == v.Router6: // the resolver
		return here || slices.Contains(v.Routers, src)
	case gate(dst) >= 0:
		return false
	case at < 0:
		return here && remote(dst, false) // the other node's router has the rules
	case !here && !remote(src, true):
		return false
	case v.Ports[at].Open:
		return true
	}
	return slices.ContainsFunc(v.Ports[at].Allow, func(a Allow) bool {
		if !a.All && !slices.Contains(a.Peers, src) {
			return false
		}
		switch a.Protocol {
		case plan.ProtocolTCP:
			return protocol == unix.IPPROTO_TCP && a.First <= port && port <= a.Last
		case plan.ProtocolUDP:
			return protocol == unix.IPPROTO_UDP && a.First <= port && port <= a.Last
		case plan.ProtocolICMP:
			return protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6
		}
		return false
	})
}

// forbiddenFlows picks the connections that a view does not permit.
type forbiddenFlows struct{ View }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f forbiddenFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	src, ok := netip.AddrFromSlice(flow.Forward.SrcIP)
	dst, ok2 := netip.AddrFromSlice(flow.Forward.DstIP)
	return ok && ok2 && !f.permits(src.Unmap(), dst.Unmap(), flow.Forward.Protocol, flow.Forward.DstPort)
}

// cut makes a router forget the connections that its view does not permit, so that
// their next packet is one of no connection. All others stay.
func cut(ns int, v View) error {
	return netns.Do(ns, func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			var err error
			for range 10 {
				if _, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, forbiddenFlows{v}); !errors.Is(err, netlink.ErrDumpInterrupted) {
					break
				}
			}
			if err != nil {
				return fmt.Errorf("end connections that the plan allows no more: %w", err)
			}
		}
		return nil
	})
}
