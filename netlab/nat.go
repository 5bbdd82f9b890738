package netlab

import (
	"fmt"
	"strings"
)

// NAT is what a site's router does with packets between its two sides.
type NAT string

// The kinds. Those that translate do so for IPv4; IPv6 passes as with Firewall.
// Ports are never kept, so that nothing works because it guessed one.
const (
	// Open forwards everything, both ways, and translates nothing.
	Open NAT = "open"
	// Firewall translates nothing, and lets in only answers.
	Firewall NAT = "firewall"
	// FullCone gives an inner port one outer port, to which anyone may send.
	FullCone NAT = "full cone"
	// AddressRestricted is FullCone for those addresses to which the inner port has sent.
	AddressRestricted NAT = "address-restricted cone"
	// PortRestricted is FullCone for those addresses and ports to which the inner port has sent.
	PortRestricted NAT = "port-restricted cone"
	// Symmetric gives an inner port another, random outer port for each
	// destination, to which only that destination may send.
	Symmetric NAT = "symmetric"
)

func (n NAT) translates() bool { return n != Open && n != Firewall }

// rules is the router's rule set. Its cards are called wan and lan.
//
// The kernel's own translation is a port-restricted cone as long as ports are
// not random for each flow. The wider cones note the outer port of each inner
// one behind it, and send back what comes for that port.
func (n NAT) rules(blockUDP bool) string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line("table inet lab {")
	line("	chain input {")
	line("		type filter hook input priority filter; policy drop;")
	line("		ct state established,related accept")
	line("		iifname { lo, lan } accept")
	line("		meta l4proto { icmp, icmpv6 } accept")
	line("	}")
	line("	chain forward {")
	line("		type filter hook forward priority filter; policy drop;")
	if blockUDP {
		line("		meta l4proto udp drop")
	}
	if n == Open {
		line("		accept")
	}
	line("		ct state established,related accept")
	line("		iifname lan accept")
	line("		ct status dnat accept")
	line("	}")
	if n == FullCone || n == AddressRestricted {
		line("	map cone { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 2m; size 65535; }")
		line("	set sent { type inet_service . ipv4_addr; flags dynamic,timeout; timeout 2m; size 65535; }")
		line("	chain note {")
		line("		type filter hook postrouting priority srcnat + 100;")
		line("		oifname wan meta nfproto ipv4 meta l4proto udp ct direction original update @cone { udp sport : ct original ip saddr . ct original proto-src }")
		line("		oifname wan meta nfproto ipv4 meta l4proto udp update @sent { udp sport . ip daddr }")
		line("	}")
		line("	chain inwards {")
		line("		type nat hook prerouting priority dstnat;")
		if n == AddressRestricted {
			line("		iifname wan udp dport . ip saddr @sent dnat ip to udp dport map @cone")
		} else {
			line("		iifname wan meta nfproto ipv4 dnat ip to udp dport map @cone")
		}
		line("	}")
	}
	if n.translates() {
		random := ""
		if n == Symmetric {
			random = " fully-random"
		}
		line("	chain outwards {")
		line("		type nat hook postrouting priority srcnat;")
		// Below the ports that hosts choose themselves, so that none is kept.
		line("		oifname wan meta nfproto ipv4 meta l4proto { tcp, udp } masquerade to :10000-29999%s", random)
		line("		oifname wan meta nfproto ipv4 masquerade")
		line("	}")
	}
	line("}")
	return b.String()
}
