package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/problem"
)

// CodeCardMissing says that the card of a slot's public addresses is not in the
// machine, or has no link.
const CodeCardMissing = "public-card-missing"

// cardName is the card's name in the public namespace.
const cardName = "pub0"

// firstTable is the routing table of a pool's second prefix; each has its own, so
// that answers leave by the router of the address that was asked.
const firstTable = 1001

// public is the public network namespace.
type public struct {
	path string   // where it is pinned
	host *os.File // the node's own namespace
}

// publicSettings are those of the namespace, with the card in it.
func publicSettings() []netns.Setting {
	set := func(path, value string) netns.Setting { return netns.Setting{Path: path, Value: value, Optional: true} }
	var out []netns.Setting
	for _, of := range []string{"all", "default", cardName} {
		v4, v6 := "ipv4/conf/"+of+"/", "ipv6/conf/"+of+"/"
		out = append(out,
			set(v4+"accept_redirects", "0"), set(v4+"send_redirects", "0"), set(v4+"secure_redirects", "0"), set(v4+"accept_source_route", "0"),
			set(v4+"arp_ignore", "1"), set(v4+"arp_announce", "2"), set(v4+"arp_notify", "1"), set(v4+"forwarding", "0"),
			set(v6+"accept_ra", "0"), set(v6+"accept_redirects", "0"), set(v6+"autoconf", "0"), set(v6+"accept_source_route", "0"), set(v6+"forwarding", "0"),
		)
	}
	return append(out,
		netns.Setting{Path: "ipv4/ip_forward", Value: "0"},
		// The process is nobody's root, and alone there.
		netns.Setting{Path: "ipv4/ip_unprivileged_port_start", Value: "0"},
		set("ipv4/tcp_syncookies", "1"), set("ipv4/tcp_max_syn_backlog", "16384"), set("core/somaxconn", "16384"),
	)
}

// open opens the namespace; fs.ErrNotExist if there is none.
func (p *public) open() (*os.File, error) { return netns.Open(p.path) }

// ensure makes the namespace have the pool's card with these addresses, its routes
// and a filter that lets openings through. Without the card everything else is
// made all the same.
func (p *public) ensure(pool contract.Pool, addresses []netip.Addr, openings []opening) error {
	ns, _, err := netns.Pin(p.path)
	if err != nil {
		return err
	}
	defer ns.Close()
	fd := int(ns.Fd())
	segments, err := segmentsOf(pool)
	if err != nil {
		return err
	}
	prefixes := make([]netip.Prefix, len(segments))
	for i, s := range segments {
		prefixes[i] = s.prefix
	}
	// First the filter, then what it is for.
	if err := firewall.Namespace(fd).Apply(tableOf(openings, prefixes, authorityPort(pool))); err != nil {
		return err
	}
	if err := netns.Do(fd, func() error {
		if err := netns.Set(publicSettings()...); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		return err
	}
	if err := p.fetchCard(fd, pool.MAC); err != nil {
		return err
	}
	return netns.Do(fd, func() error { return configure(segments, addresses) })
}

// fetchCard brings the card into the namespace, unless it is there.
func (p *public) fetchCard(ns int, mac string) error {
	var here bool
	err := netns.Do(ns, func() error {
		l, err := cardByMAC(mac)
		if err != nil || l == nil {
			return err
		}
		here = true
		if l.Attrs().Name == cardName {
			return nil
		}
		return rename(l)
	})
	if err != nil || here {
		return err
	}
	err = netns.Do(int(p.host.Fd()), func() error {
		l, err := cardByMAC(mac)
		if err != nil {
			return err
		}
		if l == nil {
			return problem.New(CodeCardMissing, "the card %s of the public addresses is not in this machine", mac).
				WithFix("put it in, or have the farm's owner name the right one: zos farm pool set")
		}
		// Nothing of the node's own may come along.
		if err := netlink.LinkSetDown(l); err != nil {
			return fmt.Errorf("switch the public card off: %w", err)
		}
		if err := netlink.LinkSetNsFd(l, ns); err != nil {
			return fmt.Errorf("move the public card: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return netns.Do(ns, func() error {
		l, err := cardByMAC(mac)
		if err != nil {
			return err
		}
		if l == nil {
			return problem.New(CodeCardMissing, "the card %s of the public addresses is gone", mac)
		}
		return rename(l)
	})
}

func rename(l netlink.Link) error {
	if err := netlink.LinkSetDown(l); err != nil {
		return fmt.Errorf("rename the public card: %w", err)
	}
	if err := netlink.LinkSetName(l, cardName); err != nil {
		return fmt.Errorf("rename the public card: %w", err)
	}
	return netns.Set(publicSettings()...)
}

// cardByMAC finds a card in the calling thread's namespace, nil if it isn't there.
func cardByMAC(mac string) (netlink.Link, error) {
	want, err := net.ParseMAC(mac)
	if err != nil {
		return nil, fmt.Errorf("the pool's card: %w", err)
	}
	for range 10 {
		all, err := netlink.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list cards: %w", err)
		}
		for _, l := range all {
			if slices.Equal(l.Attrs().HardwareAddr, want) && l.Attrs().Flags&net.FlagLoopback == 0 && l.Attrs().MasterIndex == 0 {
				return l, nil
			}
		}
		return nil, nil
	}
	return nil, errors.New("list cards: they change all the time")
}

// segment is a prefix of the pool and its router.
type segment struct {
	prefix netip.Prefix
	router netip.Addr
}

func segmentsOf(pool contract.Pool) ([]segment, error) {
	var out []segment
	for _, r := range pool.Ranges {
		p, err := netip.ParsePrefix(r.Prefix)
		if err != nil {
			return nil, fmt.Errorf("the pool's prefix: %w", err)
		}
		router, err := netip.ParseAddr(r.Router)
		if err != nil {
			return nil, fmt.Errorf("the pool's router: %w", err)
		}
		if s := (segment{p, router}); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

// configure gives the card its addresses and routes, and takes others away.
func configure(segments []segment, addresses []netip.Addr) error {
	l, err := netlink.LinkByName(cardName)
	if err != nil {
		return problem.New(CodeCardMissing, "the public card is gone: %w", err)
	}
	if err := setAddresses(l, addresses); err != nil {
		return err
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("switch the public card on: %w", err)
		}
	}
	first := map[bool]bool{}
	for i, s := range segments {
		if err := routes(l, s, i, !first[s.prefix.Addr().Is4()]); err != nil {
			return err
		}
		first[s.prefix.Addr().Is4()] = true
	}
	if l, err = netlink.LinkByName(cardName); err != nil {
		return problem.New(CodeCardMissing, "the public card is gone: %w", err)
	}
	if l.Attrs().OperState == netlink.OperDown || l.Attrs().OperState == netlink.OperLowerLayerDown {
		return problem.New(CodeCardMissing, "the card %s of the public addresses has no link", l.Attrs().HardwareAddr).WithFix("plug in its cable")
	}
	return nil
}

func setAddresses(l netlink.Link, want []netip.Addr) error {
	have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list public addresses: %w", err)
	}
	for _, a := range want {
		n := ipNet(single(a))
		if slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IPNet.String() == n.String() }) {
			continue
		}
		add := &netlink.Addr{IPNet: n}
		if a.Is6() {
			add.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, add); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add public address %s: %w", a, err)
		}
	}
	for _, h := range have {
		if h.IP.IsLinkLocalUnicast() || slices.ContainsFunc(want, func(a netip.Addr) bool { return h.IPNet.String() == ipNet(single(a)).String() }) {
			continue
		}
		if err := netlink.AddrDel(l, &h); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove public address %s: %w", h.IPNet, err)
		}
	}
	return nil
}

// routes makes the segment reachable and its router the way out. Of each family
// the first segment has the default route; others have theirs for what comes from
// their addresses.
func routes(l netlink.Link, s segment, nth int, first bool) error {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	family := netlink.FAMILY_V4
	if s.prefix.Addr().Is6() {
		all, family = netip.PrefixFrom(netip.IPv6Unspecified(), 0), netlink.FAMILY_V6
	}
	out := netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(all), Gw: s.router.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	if !first {
		out.Table = firstTable + nth
		rule := netlink.NewRule()
		rule.Family, rule.Src, rule.Table, rule.Priority = family, ipNet(s.prefix), out.Table, out.Table
		if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rule for %s: %w", s.prefix, err)
		}
	}
	for _, r := range []netlink.Route{{LinkIndex: l.Attrs().Index, Dst: ipNet(s.prefix), Scope: netlink.SCOPE_LINK}, out} {
		if err := netlink.RouteReplace(&r); err != nil {
			return fmt.Errorf("route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// remove takes the namespace away. The card goes back to the node's own namespace,
// switched off and without an address.
func (p *public) remove() error {
	ns, err := p.open()
	if errors.Is(err, fs.ErrNotExist) {
		return netns.Unpin(p.path)
	}
	if err != nil {
		return err
	}
	err = netns.Do(int(ns.Fd()), func() error {
		l, err := netlink.LinkByName(cardName)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find the public card: %w", err)
		}
		if err := setAddresses(l, nil); err != nil {
			return err
		}
		if err := netlink.LinkSetDown(l); err != nil {
			return fmt.Errorf("switch the public card off: %w", err)
		}
		// Its name may be another card's by now; this one is nobody's.
		name := "zpub" + strings.ReplaceAll(l.Attrs().HardwareAddr.String(), ":", "")[6:]
		if err := netlink.LinkSetName(l, name); err != nil {
			return fmt.Errorf("rename the public card: %w", err)
		}
		if err := netlink.LinkSetNsFd(l, int(p.host.Fd())); err != nil {
			return fmt.Errorf("give the public card back: %w", err)
		}
		return nil
	})
	return cmp.Or(errors.Join(err, ns.Close()), netns.Unpin(p.path))
}
