package network

import (
	"fmt"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

// Describe shows a network of a plan to people, a fact a line: the range, and
// each node's part of it. nameOf gives a slot its name.
func Describe(n plan.Network, nameOf func(slot canon.Hash) string) []string {
	lines := []string{"network " + n.Name, "    ranges   " + n.IPv4 + " and " + n.IPv6}
	if n.Exit.IsZero() {
		lines = append(lines, "    exit     none")
	} else {
		lines = append(lines, "    exit     "+nameOf(n.Exit))
	}
	for _, node := range n.Nodes {
		lines = append(lines, fmt.Sprintf("    node     %s has %s and %s", nameOf(node.Slot), node.IPv4, node.IPv6))
	}
	return lines
}

// DescribeAttachment shows a workload's place in a network: its addresses, who
// reaches it, and what it reaches.
func DescribeAttachment(a plan.Attachment) []string {
	in := "in " + a.Network
	lines := []string{fmt.Sprintf("    network  %s as %s and %s", in, a.IPv4, a.IPv6)}
	if len(a.Aliases) > 0 {
		lines = append(lines, fmt.Sprintf("    names    %s also %s", in, strings.Join(a.Aliases, ", ")))
	}
	switch {
	case a.Open:
		lines = append(lines, "    reached  "+in+" by everyone on every port")
	case len(a.Allow) == 0:
		lines = append(lines, "    reached  "+in+" by nobody")
	}
	for _, r := range a.Allow {
		by := "everyone"
		if len(r.Peers) > 0 {
			by = strings.Join(r.Peers, ", ")
		}
		lines = append(lines, "    reached  "+in+" by "+by+" on "+r.Ports())
	}
	switch a.Egress {
	case plan.EgressNode:
		lines = append(lines, "    egress   to the internet, out of its node")
	case plan.EgressExit:
		lines = append(lines, "    egress   to the internet, through the exit of "+a.Network)
	}
	if a.Bandwidth > 0 {
		lines = append(lines, fmt.Sprintf("    limit    %s %s each way", in, Rate(a.Bandwidth)))
	}
	return lines
}

// Rate shows bits a second as a spec writes them, in the widest whole unit.
func Rate(bits uint64) string {
	switch {
	case bits%1_000_000_000 == 0:
		return fmt.Sprintf("%dGbit", bits/1_000_000_000)
	case bits%1_000_000 == 0:
		return fmt.Sprintf("%dMbit", bits/1_000_000)
	case bits%1_000 == 0:
		return fmt.Sprintf("%dkbit", bits/1_000)
	}
	return fmt.Sprintf("%dbit", bits)
}
