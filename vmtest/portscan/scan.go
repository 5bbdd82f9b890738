package portscan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/zero-os/zos/qemu/segment"
)

// Options of Scan.
type Options struct {
	Segment string       // socket of the machine's segment, see segment.Dial
	Subnet  netip.Prefix // where to look; QEMU's user network is 10.0.2.0/24
	MAC     string       // only this machine; "" means the one that is not QEMU's gateway
	Control bool         // find a port opened on purpose first
	Log     func(format string, args ...any)
}

// Report is the outcome of a scan.
type Report struct {
	Scanner netip.Addr `json:"scanner"`
	Control *Control   `json:"control,omitempty"`
	Node    []Result   `json:"node"` // one for each of its addresses
	OK      bool       `json:"ok"`   // the control, if asked for, was found and the node is silent
}

// Scan looks at the machine on a segment. An error means that nothing can be
// said; that something is open is not an error but in the report.
func Scan(ctx context.Context, o Options) (Report, error) {
	s, err := attach(o.Segment)
	if err != nil {
		return Report{}, err
	}
	defer s.close()
	hosts, err := s.neighbours(ctx, o.Subnet)
	if err != nil {
		return Report{}, fmt.Errorf("look for the machine: %w", err)
	}
	own, second, err := freeAddresses(o.Subnet, hosts)
	if err != nil {
		return Report{}, err
	}
	s.setIP(own)
	node, err := pickNode(hosts, o.MAC)
	if err != nil {
		return Report{}, err
	}
	o.Log("node %s has address %s; scanning as %s", node.mac, node.addr, own)
	rep := Report{Scanner: own, OK: true}
	if o.Control {
		c, err := runControl(ctx, s, o.Segment, second)
		if err != nil {
			return Report{}, fmt.Errorf("control: %w", err)
		}
		o.Log("control %s: opened tcp %d and udp %d, found tcp %v and udp %v", second, c.TCPWanted, c.UDPWanted, c.TCPOpen, c.UDPReplies)
		rep.Control, rep.OK = &c, c.Found
	}
	targets := []target{node}
	local, err := s.neighbours6(ctx, node.mac)
	if err != nil {
		return Report{}, fmt.Errorf("look for IPv6 addresses: %w", err)
	}
	for _, a := range local {
		targets = append(targets, target{node.mac, a})
	}
	for _, t := range targets {
		r, err := s.sweep(ctx, t)
		if err != nil {
			return Report{}, err
		}
		o.Log("%s: %d tcp open, %d udp replies in %.1f s", t.addr, len(r.TCPOpen), len(r.UDPReplies), r.Seconds)
		rep.Node = append(rep.Node, r)
		rep.OK = rep.OK && r.Silent()
	}
	return rep, nil
}

func runControl(ctx context.Context, s *station, path string, addr netip.Addr) (Control, error) {
	d, err := startDecoy(path, addr)
	if err != nil {
		return Control{}, err
	}
	defer d.stop()
	r, err := s.sweep(ctx, target{d.mac, addr})
	if err != nil {
		return Control{}, err
	}
	return d.judge(r), nil
}

// freeAddresses returns two addresses that nobody has, from the top: DHCP gives
// out the lower ones.
func freeAddresses(subnet netip.Prefix, taken map[netip.Addr]segment.MAC) (a, b netip.Addr, err error) {
	var free []netip.Addr
	subnet = subnet.Masked()
	for x := subnet.Addr().Next(); subnet.Contains(x.Next()); x = x.Next() {
		if _, ok := taken[x]; !ok {
			free = append(free, x)
		}
	}
	if len(free) < 2 {
		return a, b, fmt.Errorf("subnet %s has no two free addresses", subnet)
	}
	return free[len(free)-1], free[len(free)-2], nil
}

// pickNode returns the machine among the hosts that answered.
func pickNode(hosts map[netip.Addr]segment.MAC, mac string) (target, error) {
	var nodes []target
	var seen []string
	for _, a := range slices.SortedFunc(maps.Keys(hosts), netip.Addr.Compare) {
		m := hosts[a]
		seen = append(seen, fmt.Sprintf("%s at %s", a, m))
		if mac != "" && !strings.EqualFold(mac, m.String()) || mac == "" && isGateway(m, a) {
			continue
		}
		nodes = append(nodes, target{m, a})
	}
	switch {
	case len(nodes) == 1:
		return nodes[0], nil
	case len(nodes) == 0:
		return target{}, fmt.Errorf("no machine answered on the segment (%s): is it up?", strings.Join(seen, ", "))
	}
	return target{}, errors.New("several machines answered, name one by its MAC: " + strings.Join(seen, ", "))
}
