package client

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// NewDevice is a person's machine that is to become a member of a network.
type NewDevice struct {
	Name    string // of the workload in the plan
	Network string
	Key     [32]byte // WireGuard public key
	Account canon.Hash
}

// EntriesOf are the slots by which devices enter a network: those that routes of
// gateways forward to, sorted, each once.
func EntriesOf(p *plan.Plan, network string) []canon.Hash {
	var out []canon.Hash
	for _, w := range p.Workloads {
		if w.Kind != plan.KindGateway {
			continue
		}
		g, err := plan.DecodeGateway(w.Config)
		if err != nil {
			continue // a plan of a contract is valid
		}
		for _, r := range g.Routes {
			if r.Network == network && !r.Entry.IsZero() && !slices.Contains(out, r.Entry) {
				out = append(out, r.Entry)
			}
		}
	}
	slices.SortFunc(out, func(a, b canon.Hash) int { return bytes.Compare(a[:], b[:]) })
	return out
}

// Devices are the devices of a plan by their workloads' names.
func Devices(p *plan.Plan) map[string]plan.Device {
	out := map[string]plan.Device{}
	for _, w := range p.Workloads {
		if w.Kind != plan.KindDevice {
			continue
		}
		if d, err := plan.DecodeDevice(w.Config); err == nil {
			out[w.Name] = d
		}
	}
	return out
}

// WithDevice returns p with the device, at the lowest free address of the node by
// which it enters: of several, the one with the fewest devices. Nothing else of
// the plan changes, and p stays as it is. With the very same device p is returned
// again. Codes: "network-unknown", "no-entry" if no gateway lets devices into the
// network, "network-full", "name-taken", "plan-invalid".
func WithDevice(p plan.Plan, d NewDevice) (plan.Plan, error) {
	n, err := FindNetwork(&p, d.Network)
	if err != nil {
		return p, err
	}
	for _, w := range p.Workloads {
		if w.Name != d.Name {
			continue
		}
		old, known := Devices(&p)[w.Name]
		switch {
		case !known:
			return p, problem.New("name-taken", "%s is a %s of deployment %s already", w.Name, w.Kind, p.Name).WithFix("choose another name: --name NAME")
		case old.Account != d.Account:
			return p, problem.New("name-taken", "the device %s of deployment %s is someone else's", w.Name, p.Name).WithFix("choose another name: --name NAME")
		case old.Network.Network != d.Network:
			return p, problem.New("name-taken", "the device %s is in network %s already", w.Name, old.Network.Network).
				WithFix("choose another name for it in %s: --name NAME", d.Network)
		case [32]byte(old.Key) != d.Key:
			return p, problem.New("name-taken", "the device %s has another key, which is not on this machine", w.Name).
				WithFix("choose another name: --name NAME; or, if that key is lost: zos net revoke %s/%s %s", p.Name, d.Network, d.Name)
		}
		return p, nil
	}
	slot, err := entryFor(&p, n)
	if err != nil {
		return p, err
	}
	at, err := freePlace(&p, n, slot)
	if err != nil {
		return p, err
	}
	config, err := plan.Device{V: plan.Version, Key: d.Key[:], Account: d.Account, Network: at}.Encode()
	if err != nil {
		return p, err
	}
	out := p
	out.Workloads = append(slices.Clone(p.Workloads), plan.Workload{Name: d.Name, Kind: plan.KindDevice, Slot: slot, Resources: plan.DeviceResources(), Config: config})
	slices.SortFunc(out.Workloads, func(a, b plan.Workload) int { return strings.Compare(a.Name, b.Name) })
	if err := out.Validate(); err != nil {
		return p, fmt.Errorf("with the device %s: %w", d.Name, err)
	}
	return out, nil
}

// entryFor chooses the node by which one more device enters.
func entryFor(p *plan.Plan, n plan.Network) (canon.Hash, error) {
	entries := EntriesOf(p, n.Name)
	if len(entries) == 0 {
		return canon.Hash{}, problem.New("no-entry", "no gateway lets devices into network %s of deployment %s", n.Name, p.Name).
			WithFix("add to what a gateway of its spec publishes, and deploy it again: - {port: udp, join: %s}", n.Name)
	}
	used := map[canon.Hash]int{}
	for _, w := range p.Workloads {
		if w.Kind == plan.KindDevice {
			used[w.Slot]++
		}
	}
	return slices.MinFunc(entries, func(a, b canon.Hash) int { // the first of equals
		return cmp.Or(cmp.Compare(used[a], used[b]), bytes.Compare(a[:], b[:]))
	}), nil
}

// freePlace is the lowest free address of a node of the network, as the planner
// gives them: of the /24 what is not the network's, the router's or the
// broadcast address, and in the /64 the one that ends alike.
func freePlace(p *plan.Plan, n plan.Network, slot canon.Hash) (plan.Attachment, error) {
	i := slices.IndexFunc(n.Nodes, func(node plan.NetworkNode) bool { return node.Slot == slot })
	if i < 0 {
		return plan.Attachment{}, problem.New("plan-invalid", "the entry %s is no node of network %s", slot.Short(), n.Name)
	}
	four, err4 := netip.ParsePrefix(n.Nodes[i].IPv4)
	six, err6 := netip.ParsePrefix(n.Nodes[i].IPv6)
	if err4 != nil || err6 != nil || !four.Addr().Is4() || !six.Addr().Is6() {
		return plan.Attachment{}, problem.New("plan-invalid", "network %s: %s and %s are no ranges", n.Name, n.Nodes[i].IPv4, n.Nodes[i].IPv6)
	}
	taken := map[string]bool{}
	for _, a := range AttachedTo(p, n.Name) {
		taken[a.IPv4], taken[a.IPv6] = true, true
	}
	a, b := four.Masked().Addr().As4(), six.Masked().Addr().As16()
	for a[3] = 2; a[3] < 255; a[3]++ {
		b[15] = a[3]
		x, y := netip.AddrFrom4(a).String(), netip.AddrFrom16(b).String()
		if !taken[x] && !taken[y] {
			return plan.Attachment{Network: n.Name, IPv4: x, IPv6: y, Egress: plan.EgressNone}, nil
		}
	}
	return plan.Attachment{}, problem.New("network-full", "no address is left in %s, by which devices enter network %s", four, n.Name).
		WithFix("revoke devices that are not used any more, or add an entry at another node")
}

// WithoutDevice returns p without a device, and without its name in the rules of
// others. A rule that let in nobody else goes with it: one without peers would
// let in everybody. Code "device-unknown".
func WithoutDevice(p plan.Plan, network, name string) (plan.Plan, error) {
	devices := Devices(&p)
	if d, ok := devices[name]; !ok || d.Network.Network != network {
		var known []string
		for n, d := range devices {
			if d.Network.Network == network {
				known = append(known, n)
			}
		}
		slices.Sort(known)
		return p, problem.New("device-unknown", "network %s of deployment %s has no device %q", network, p.Name, name).
			WithFix("%s", suggest(name, known, "list them with: zos net show"))
	}
	out := p
	out.Workloads = make([]plan.Workload, 0, len(p.Workloads))
	for _, w := range p.Workloads {
		if w.Name == name {
			continue
		}
		var err error
		switch w.Kind {
		case plan.KindContainer:
			var c plan.Container
			if c, err = plan.DecodeContainer(w.Config); err == nil && forget(c.Networks, network, name) {
				w.Config, err = c.Encode()
			}
		case plan.KindVM:
			var m plan.VM
			if m, err = plan.DecodeVM(w.Config); err == nil && forget(m.Networks, network, name) {
				w.Config, err = m.Encode()
			}
		}
		if err != nil {
			return p, err
		}
		out.Workloads = append(out.Workloads, w)
	}
	if err := out.Validate(); err != nil {
		return p, fmt.Errorf("without the device %s: %w", name, err)
	}
	return out, nil
}

// forget takes a name out of the rules of attachments, which are the caller's
// own.
func forget(attachments []plan.Attachment, network, name string) (changed bool) {
	for i := range attachments {
		a := &attachments[i]
		if a.Network != network {
			continue
		}
		var rules []plan.Rule
		for _, r := range a.Allow {
			if slices.Contains(r.Peers, name) {
				changed = true
				if r.Peers = slices.DeleteFunc(slices.Clone(r.Peers), func(p string) bool { return p == name }); len(r.Peers) == 0 {
					continue
				}
			}
			rules = append(rules, r)
		}
		a.Allow = rules
	}
	return changed
}

// Reach is what a member of a network may reach of one workload.
type Reach struct {
	Workload string   `json:"workload"`
	Names    []string `json:"names"` // that the resolver answers for, the workload's own first
	IPv4     string   `json:"ipv4"`
	IPv6     string   `json:"ipv6"`
	Ports    []string `json:"ports"` // in the words of a spec; empty: all of them
}

// ReachedBy lists what a device may reach in a network, by the plan's rules.
func ReachedBy(p *plan.Plan, network, device string) []Reach {
	out := []Reach{}
	for _, w := range AttachedTo(p, network) {
		if !plan.Runs(w.Workload.Kind) {
			continue // devices and gateways are reached by nobody
		}
		r := Reach{Workload: w.Workload.Name, Names: append([]string{w.Workload.Name}, w.Aliases...), IPv4: w.IPv4, IPv6: w.IPv6, Ports: []string{}}
		for _, rule := range w.Allow {
			if len(rule.Peers) == 0 || slices.Contains(rule.Peers, device) {
				r.Ports = append(r.Ports, rule.Ports())
			}
		}
		if w.Open || len(r.Ports) > 0 {
			out = append(out, r)
		}
	}
	return out
}
