package network

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

// DescribeGateway shows to people what a gateway publishes, a fact a line: where,
// each host and port with what is behind it, and its places in networks. nameOf
// gives a slot its name.
func DescribeGateway(g plan.Gateway, nameOf func(id canon.Hash) string) []string {
	whose := "shared with others"
	if g.Leased {
		whose = "leased: no other contract's"
	}
	var lines []string
	for _, a := range g.Addresses {
		lines = append(lines, fmt.Sprintf("    address  %s, %s", a, whose))
	}
	for _, r := range g.Routes {
		lines = append(lines, "    "+DescribeRoute(r, nameOf))
	}
	for _, a := range g.Networks {
		lines = append(lines, describePlace(a)...)
	}
	return lines
}

// describePlace shows a place in a network at which nobody is reached.
func describePlace(a plan.Attachment) []string {
	lines := []string{fmt.Sprintf("    network  in %s as %s and %s", a.Network, a.IPv4, a.IPv6)}
	if a.Bandwidth > 0 {
		lines = append(lines, fmt.Sprintf("    limit    in %s %s each way", a.Network, Rate(a.Bandwidth)))
	}
	return lines
}

// DescribeRoute shows one thing that a gateway publishes, beginning with the word
// host or port.
func DescribeRoute(r plan.Route, nameOf func(id canon.Hash) string) string {
	what := "port     " + r.String()
	if r.Host != "" {
		what = "host     " + r.Host
	}
	if !r.Entry.IsZero() {
		return fmt.Sprintf("%s lets people's devices into %s at %s", what, r.Network, nameOf(r.Entry))
	}
	to := make([]string, len(r.Backends))
	for i, b := range r.Backends {
		to[i] = fmt.Sprintf("%s.%s:%d", b, r.Network, r.Target)
	}
	facts := []string{what + " to " + strings.Join(to, " and ")}
	switch r.Mode {
	case plan.ModePassthrough:
		facts = append(facts, "TLS passthrough")
	case plan.ModeTerminate:
		facts = append(facts, "TLS terminated at the gateway, HTTP")
	}
	if r.Proxy != 0 {
		facts = append(facts, fmt.Sprintf("PROXY v%d", r.Proxy))
	}
	switch {
	case r.Check == plan.CheckHTTP:
		facts = append(facts, "check http "+r.Path)
	case r.Check == plan.CheckTCP:
		facts = append(facts, "check tcp")
	case r.Mode != plan.ModeUDP: // which has none anyway
		facts = append(facts, "no check")
	}
	return strings.Join(facts, ", ")
}

// DescribeDevice shows a person's device in a network to people. nameOf gives a
// slot and an account their names.
func DescribeDevice(slot canon.Hash, d plan.Device, nameOf func(id canon.Hash) string) []string {
	lines := []string{
		"    account  " + nameOf(d.Account),
		"    key      " + base64.StdEncoding.EncodeToString(d.Key), // as WireGuard's own tools show it
		"    entry    " + nameOf(slot),
	}
	return append(lines, describePlace(d.Network)...)
}
