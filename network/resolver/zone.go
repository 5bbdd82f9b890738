package resolver

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/zero-os/zos/spec/plan"
)

// TTL of every answer in seconds: short, because an update of the contract
// moves workloads.
const TTL = 5

// Domain is the name below which a network's workloads have theirs.
func Domain(network string) string { return network + ".internal" }

// Zone is what a network's resolver knows: a value that nothing changes. The zero
// Zone answers nobody.
type Zone struct {
	origin  string                  // "front.internal."
	names   map[string][]netip.Addr // lower case, absolute
	reverse map[netip.Addr]string
	// prefixes are the network's own, whose reverse names the zone answers for.
	prefixes []netip.Prefix
	// clients are the workloads that may ask, and their egress. Gateways are the
	// network's routers: they check the resolver, and ask the exit's for others.
	clients  map[netip.Addr]string
	gateways map[netip.Addr]bool
}

// Origin is the zone's absolute name: "front.internal.".
func (z Zone) Origin() string { return z.origin }

// Lookup returns the addresses of a name of this zone, such as
// "web.front.internal", in the plan's order.
func (z Zone) Lookup(name string) []netip.Addr {
	return slices.Clone(z.names[dns.CanonicalName(name)])
}

// Egress tells whether an address may ask, and where its questions about the rest
// of the world go: plan.EgressNone, plan.EgressNode or plan.EgressExit.
func (z Zone) Egress(client netip.Addr) (egress string, known bool) {
	client = client.Unmap().WithZone("")
	if z.gateways[client] {
		return plan.EgressNone, true
	}
	egress, known = z.clients[client]
	return egress, known
}

// member is one workload of the network, for building a zone.
type member struct {
	name    string
	aliases []string
	addrs   []netip.Addr
	egress  string
	mute    bool // it may not ask
}

// newZone builds a zone of members, which are sorted by name. Names that no DNS
// label can hold are left out: a valid plan has none.
func newZone(network string, prefixes []netip.Prefix, gateways []netip.Addr, members []member) Zone {
	z := Zone{origin: dns.CanonicalName(Domain(network)), names: map[string][]netip.Addr{}, reverse: map[netip.Addr]string{},
		prefixes: prefixes, clients: map[netip.Addr]string{}, gateways: map[netip.Addr]bool{}}
	for _, g := range gateways {
		z.gateways[g] = true
	}
	for _, m := range members {
		for _, a := range m.addrs {
			if !m.mute {
				z.clients[a] = m.egress
			}
			z.reverse[a] = m.name + "." + z.origin
		}
		for i, name := range append([]string{m.name}, m.aliases...) {
			if !label(name) {
				continue
			}
			full := dns.CanonicalName(name + "." + z.origin)
			for _, a := range m.addrs {
				// An alias that is also a workload's own name adds to its addresses.
				if i == 0 || !slices.Contains(z.names[full], a) {
					z.names[full] = append(z.names[full], a)
				}
			}
		}
	}
	return z
}

// label tells whether a name is one DNS label of the plan's characters.
func label(s string) bool {
	return len(s) >= 1 && len(s) <= 63 && strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789-_") == "" && !strings.ContainsAny(s, ". ")
}

// reverseZone is the reverse name of a prefix at the next label boundary above it,
// the owner of the SOA for reverse names.
func reverseZone(p netip.Prefix) string {
	full, err := dns.ReverseAddr(p.Addr().String())
	if err != nil {
		return "."
	}
	labels, per := dns.SplitDomainName(full), 8
	if p.Addr().Is6() {
		per = 4
	}
	hostLabels := len(labels) - 2 - p.Bits()/per
	return dns.Fqdn(strings.Join(labels[max(0, hostLabels):], "."))
}

// addrOf reads a reverse name of a whole address.
func addrOf(name string) (netip.Addr, bool) {
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(v4, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	v6, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(v6) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := len(v6) - 1; i >= 0; i -= 2 {
		b.WriteByte(v6[i])
		if i > 0 && v6[i-1] != '.' {
			return netip.Addr{}, false
		}
		if n := (len(v6) - i + 1) / 2; n%4 == 0 && n < 32 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil && a.Is6() && !a.Is4In6()
}

// within tells whether name is zone or lies below it; both are absolute and in
// lower case.
func within(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}
