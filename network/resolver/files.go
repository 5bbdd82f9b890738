package resolver

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/zero-os/zos/spec/plan"
)

// maxNameservers is how many nameservers the C libraries read.
const maxNameservers = 3

// ResolvConf is what a workload finds in /etc/resolv.conf: the resolvers of its
// networks, and their domains to search, in the order of its interfaces. Of four
// networks the last one's names are answered only to those who ask its resolver.
//
// A resolver refuses names of other networks, which is what makes the C libraries
// go on to the next one. So the attachment with egress may be any of them.
func ResolvConf(p *plan.Plan, workload string) []byte {
	w, ok := workloadOf(p, workload)
	if !ok {
		return nil
	}
	var servers, search []string
	for _, a := range attachments(w) {
		n, _ := networkOf(p, a.Network)
		for _, node := range n.Nodes {
			if node.Slot != w.Slot {
				continue
			}
			if gateways := Gateways(node); len(gateways) > 0 {
				servers, search = append(servers, gateways[0].String()), append(search, Domain(a.Network))
			}
		}
	}
	if len(servers) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	for _, s := range servers[:min(len(servers), maxNameservers)] {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	b.WriteString("options timeout:2 attempts:2\n")
	return []byte(b.String())
}

// Hosts is what a workload finds in /etc/hosts: itself, as localhost and by its
// name in its networks.
func Hosts(p *plan.Plan, workload string) []byte {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	w, ok := workloadOf(p, workload)
	if !ok {
		return []byte(b.String())
	}
	for _, a := range attachments(w) {
		for _, addr := range addresses(a) {
			fmt.Fprintf(&b, "%s %s.%s %s\n", addr, w.Name, Domain(a.Network), w.Name)
		}
	}
	return []byte(b.String())
}

func workloadOf(p *plan.Plan, name string) (plan.Workload, bool) {
	if p == nil {
		return plan.Workload{}, false
	}
	for _, w := range p.Workloads {
		if w.Name == name {
			return w, true
		}
	}
	return plan.Workload{}, false
}

// Nameservers reads the servers of a resolv.conf, for an Upstream of a node that
// has one. What it can't read it leaves out; at most three are returned.
func Nameservers(resolvConf []byte) []netip.AddrPort {
	var out []netip.AddrPort
	for line := range strings.Lines(string(resolvConf)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" || len(out) == maxNameservers {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a, port))
		}
	}
	return out
}
