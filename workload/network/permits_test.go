package network

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/spec/plan"
)

func TestWhatIsPermitted(t *testing.T) {
	a := netip.MustParseAddr
	v := View{
		IPv4: netip.MustParsePrefix("10.20.0.0/16"), IPv6: netip.MustParsePrefix("fd00:1::/48"), Router4: a("10.20.1.1"), Router6: a("fd00:1:0:1::1"),
		Routers: []netip.Addr{a("10.20.2.1")},
		Ports: []Port{
			{Workload: "open", IPv4: a("10.20.1.2"), IPv6: a("fd00:1:0:1::2"), Open: true},
			{Workload: "shut", IPv4: a("10.20.1.3"), IPv6: a("fd00:1:0:1::3")},
			{Workload: "web", IPv4: a("10.20.1.4"), IPv6: a("fd00:1:0:1::4"), Allow: []Allow{
				{Protocol: plan.ProtocolTCP, First: 80, Last: 90, All: true},
				{Protocol: plan.ProtocolUDP, First: 53, Last: 53, Peers: []netip.Addr{a("10.20.2.2"), a("fd00:1:0:2::2")}},
				{Protocol: plan.ProtocolICMP, All: true},
			}},
		},
		Remotes: []Remote{{IPv4: a("10.20.2.2"), IPv6: a("fd00:1:0:2::2")}, {IPv4: a("10.20.2.19"), IPv6: a("fd00:1:0:2::19"), Device: true}},
		Gates: []Gate{{IPv4: a("10.20.5.2"), IPv6: a("fd00:1:0:5::2"), Targets: []Target{
			{IPv4: a("10.20.1.2"), IPv6: a("fd00:1:0:1::2"), Protocol: plan.ProtocolTCP, Port: 8443},
			{IPv4: a("10.20.1.3"), IPv6: a("fd00:1:0:1::3"), Protocol: plan.ProtocolUDP, Port: 53},
			{IPv4: a("10.20.1.1"), IPv6: a("fd00:1:0:1::1"), Protocol: plan.ProtocolUDP, Port: plan.EntryPort},
		}}},
		Devices: []Device{{IPv4: a("10.20.1.19"), IPv6: a("fd00:1:0:1::19")}},
	}
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	for _, c := range []struct {
		src, dst string
		proto    byte
		port     uint16
		want     bool
	}{
		{"10.20.2.2", "10.20.1.2", tcp, 1, true},
		{"10.20.1.3", "10.20.1.2", udp, 65535, true},
		{"fd00:1:0:2::2", "fd00:1:0:1::2", tcp, 1, true},
		{"10.20.2.9", "10.20.1.2", tcp, 1, false}, // nobody
		{"10.20.1.9", "10.20.1.2", tcp, 1, false},
		{"10.20.1.2", "10.20.1.3", tcp, 1, false},
		{"10.20.2.2", "10.20.1.3", unix.IPPROTO_ICMP, 0, false},
		{"10.20.1.2", "10.20.1.4", tcp, 80, true},
		{"10.20.2.2", "10.20.1.4", tcp, 90, true},
		{"10.20.1.2", "10.20.1.4", tcp, 79, false},
		{"10.20.1.2", "10.20.1.4", tcp, 91, false},
		{"10.20.1.2", "10.20.1.4", udp, 80, false},
		{"10.20.2.2", "10.20.1.4", udp, 53, true},
		{"fd00:1:0:2::2", "fd00:1:0:1::4", udp, 53, true},
		{"10.20.1.2", "10.20.1.4", udp, 53, false},
		{"10.20.1.2", "10.20.1.4", unix.IPPROTO_ICMP, 0, true},
		{"fd00:1:0:1::2", "fd00:1:0:1::4", unix.IPPROTO_ICMPV6, 0, true},
		{"10.20.1.3", "10.20.2.2", tcp, 5, true},  // the other node's affair
		{"10.20.1.3", "10.20.2.3", tcp, 5, false}, // nobody's
		{"10.20.2.2", "10.20.1.99", tcp, 5, false},
		{"10.20.1.3", "10.20.1.1", udp, 53, true}, // the resolver
		{"10.20.1.1", "10.20.2.1", udp, 53, true}, // a resolver asks the exit's
		{"10.20.1.3", "203.0.113.1", tcp, 443, true},

		// A gateway: what its routes name, whatever the rules say.
		{"10.20.5.2", "10.20.1.2", tcp, 8443, true},
		{"fd00:1:0:5::2", "fd00:1:0:1::2", tcp, 8443, true},
		{"10.20.5.2", "10.20.1.2", udp, 8443, false},
		{"10.20.5.2", "10.20.1.2", tcp, 8444, false},
		{"10.20.5.2", "10.20.1.2", unix.IPPROTO_ICMP, 0, false},
		{"10.20.5.2", "10.20.1.3", udp, 53, true}, // shut for others
		{"10.20.5.2", "10.20.1.4", tcp, 80, false},
		{"10.20.5.2", "10.20.1.1", udp, plan.EntryPort, true},
		{"10.20.5.2", "10.20.1.1", udp, 53, false},
		{"10.20.5.2", "10.20.1.19", udp, 53, false},
		{"10.20.5.2", "10.20.2.2", tcp, 80, false},
		{"10.20.1.2", "10.20.5.2", tcp, 8443, false}, // nobody begins one to it
		{"10.20.2.2", "10.20.1.1", udp, plan.EntryPort, false},
		{"10.20.5.1", "10.20.1.1", udp, 53, false}, // the router of its node

		// Devices: members, to whom nobody begins a connection.
		{"10.20.1.19", "10.20.1.2", tcp, 1, true},
		{"10.20.1.19", "10.20.1.3", tcp, 1, false},
		{"10.20.1.19", "10.20.1.4", tcp, 80, true},
		{"10.20.1.19", "10.20.2.2", tcp, 1, true},
		{"10.20.1.19", "10.20.1.1", udp, 53, true},
		{"10.20.1.19", "10.20.2.19", tcp, 1, false},
		{"10.20.1.19", "10.20.5.2", tcp, 1, false},
		{"10.20.2.19", "10.20.1.2", tcp, 1, true},
		{"10.20.2.19", "10.20.1.1", udp, 53, false},
		{"10.20.2.19", "10.20.1.19", udp, 53, false},
		{"10.20.1.2", "10.20.1.19", tcp, 1, false},
		{"10.20.1.2", "10.20.2.19", tcp, 1, false},
		{"10.20.1.10", "10.20.1.1", udp, 53, false}, // one that was revoked
		{"10.20.1.10", "10.20.2.2", tcp, 1, false},
		{"10.20.1.1", "10.20.5.2", udp, 4000, true}, // the entry's WireGuard, on its own
	} {
		if got := v.permits(a(c.src), a(c.dst), c.proto, c.port); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
