package main

import (
	"fmt"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/spec/plan"
)

// describeGateway shows what a gateway of a plan publishes, a fact a line.
func describeGateway(w plan.Workload, names client.Names) []string {
	g, err := plan.DecodeGateway(w.Config)
	if err != nil {
		return []string{"    config   " + canon.Sum(w.Config).String()}
	}
	whose := "shared with others"
	if g.Leased {
		whose = "this contract's alone"
	}
	lines := []string{fmt.Sprintf("    public   at %s, %s", strings.Join(g.Addresses, " and "), whose)}
	for _, n := range g.Networks {
		lines = append(lines, fmt.Sprintf("    network  in %s as %s and %s", n.Network, n.IPv4, n.IPv6))
	}
	for _, r := range g.Routes {
		lines = append(lines, "    publish  "+describeRoute(r, names))
	}
	return lines
}

// describeRoute says who reaches what by a route.
func describeRoute(r plan.Route, names client.Names) string {
	if !r.Entry.IsZero() {
		return fmt.Sprintf("%s lets devices into %s, by %s", r, r.Network, names.Of(r.Entry))
	}
	to := make([]string, len(r.Backends))
	for i, b := range r.Backends {
		to[i] = fmt.Sprintf("%s.%s:%d", b, r.Network, r.Target)
	}
	line := r.String()
	switch r.Mode {
	case plan.ModePassthrough:
		line += ", TLS passed through,"
	case plan.ModeTerminate:
		line += ", TLS ended at the gateway,"
	}
	line += " to " + strings.Join(to, " and ")
	if r.Proxy > 0 {
		line += fmt.Sprintf(", PROXY protocol v%d", r.Proxy)
	}
	switch r.Check {
	case plan.CheckHTTP:
		line += ", healthy by " + r.Path
	case plan.CheckNone:
		if r.Mode != plan.ModeUDP {
			line += ", not checked"
		}
	}
	return line
}

// describeDevice shows a person's machine, a fact a line. Its first line says
// already by which node it enters.
func describeDevice(w plan.Workload, names client.Names) []string {
	d, err := plan.DecodeDevice(w.Config)
	if err != nil {
		return []string{"    config   " + canon.Sum(w.Config).String()}
	}
	return []string{
		"    of       " + names.Of(d.Account),
		"    key      " + wireguard.Key(d.Key).String(),
		fmt.Sprintf("    network  in %s as %s and %s", d.Network.Network, d.Network.IPv4, d.Network.IPv6),
	}
}
