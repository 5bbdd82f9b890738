package netlab

import (
	"fmt"
	"net/netip"
	"time"
)

// SiteConfig describes a site.
type SiteConfig struct {
	WAN *Segment // where the router's outer side is; another site's LAN is allowed
	NAT NAT      // "" means Open
	// LAN are the prefixes inside: IPv4, IPv6 or both.
	LAN []string
	// BlockUDP lets no UDP through, as in some offices.
	BlockUDP bool
	// MTU of the router's outer card, 0: 1500. Larger packets are answered with
	// "too big"; a Shape's MTU is for those that vanish.
	MTU int
	// UDPTimeout is how long the router remembers a silent UDP flow, 0: 30 s,
	// and 120 s once it was answered. Whole seconds.
	UDPTimeout time.Duration
	// DHCP, if set, gives addresses of the IPv4 prefix to those who ask; the
	// router then advertises itself and the IPv6 prefix too.
	DHCP *DHCPConfig
}

// Site is a LAN behind a router.
type Site struct {
	lab    *Lab
	LAN    *Segment
	Router *Host // its cards are wan and lan
	dhcp   *dhcpServer
}

// Site makes a router and the LAN behind it. Prefixes that are not translated
// are reached by everyone on the WAN segment.
func (l *Lab) Site(name string, c SiteConfig) *Site {
	l.tb.Helper()
	if c.WAN == nil || len(c.LAN) == 0 {
		l.tb.Fatalf("netlab: site %s needs a WAN and a prefix", name)
	}
	if c.NAT == "" {
		c.NAT = Open
	}
	s := &Site{lab: l, LAN: l.Segment(name, c.LAN...), Router: l.Host(name + "-router")}
	r := s.Router
	var inner []string
	for _, p := range s.LAN.prefixes {
		inner = append(inner, netip.PrefixFrom(p.Addr().Next(), p.Bits()).String())
	}
	r.connect("wan", c.WAN, c.MTU, nil)
	r.connect("lan", s.LAN, 0, inner)
	r.Sysctl("ipv4/ip_forward", "1")
	r.Sysctl("ipv6/conf/all/forwarding", "1")
	r.Nft(c.NAT.rules(c.BlockUDP))
	if c.UDPTimeout > 0 {
		seconds := fmt.Sprint(int(c.UDPTimeout / time.Second))
		r.Sysctl("netfilter/nf_conntrack_udp_timeout", seconds)
		r.Sysctl("netfilter/nf_conntrack_udp_timeout_stream", seconds)
	}
	for _, p := range s.LAN.prefixes {
		// Hosts inside go out through the router…
		every := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if p.Addr().Is6() {
			every = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		s.LAN.announce(siteRoute{every, p.Addr().Next()})
		// …and those outside come in, unless addresses are translated.
		if outer := r.outer(p.Addr().Is4()); outer.IsValid() && (p.Addr().Is6() || !c.NAT.translates()) {
			c.WAN.announce(siteRoute{p, outer})
		}
	}
	if c.DHCP != nil {
		s.serveDHCP(*c.DHCP)
		s.advertise(c.DHCP.MTU)
	}
	return s
}

// outer is the address of the first card.
func (h *Host) outer(v4 bool) netip.Addr {
	for _, p := range h.NIC(0).Prefixes() {
		if p.Addr().Is4() == v4 {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// announce gives a route to everyone who is on the segment or comes later.
func (s *Segment) announce(r siteRoute) {
	s.lab.tb.Helper()
	s.mu.Lock()
	s.sites = append(s.sites, r)
	s.mu.Unlock()
	s.lab.mu.Lock()
	hosts := append([]*Host(nil), s.lab.hosts...)
	s.lab.mu.Unlock()
	for _, h := range hosts {
		h.mu.Lock()
		nics := append([]*NIC(nil), h.nics...)
		h.mu.Unlock()
		for _, n := range nics {
			if n.Segment() == s {
				n.route(r)
			}
		}
	}
}

// Host makes a host inside, with addresses of the LAN and the router as its
// gateway.
func (s *Site) Host(name string) *Host {
	s.lab.tb.Helper()
	return s.lab.Host(name, s.LAN)
}

// Outer is the site's address outside for IPv4 (NAT) or IPv6.
func (s *Site) Outer(v4 bool) netip.Addr { return s.Router.outer(v4) }

// Forget makes the router forget all flows, as one that was restarted.
func (s *Site) Forget() {
	s.lab.tb.Helper()
	// Removing and adding the rules flushes translations; conntrack entries
	// themselves go by the control interface.
	s.Router.must("forget flows", flushConntrack)
}
