package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/zero-os/zos/canon"
	netplan "github.com/zero-os/zos/network"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// View is a network as the router of one node has to know it. It is a pure
// function of the plan, except for Site.
type View struct {
	Network string       `json:"network"`
	IPv4    netip.Prefix `json:"ipv4"`  // the whole network
	IPv6    netip.Prefix `json:"ipv6"`  //
	Node4   netip.Prefix `json:"node4"` // this node's part
	Node6   netip.Prefix `json:"node6"` //
	Router4 netip.Addr   `json:"router4"`
	Router6 netip.Addr   `json:"router6"`

	Ports   []Port       `json:"ports"`   // workloads of this node, by IPv4
	Remotes []Remote     `json:"remotes"` // workloads and devices of other nodes, by IPv4
	Routers []netip.Addr `json:"routers"` // of other nodes, unless they carry nothing but gateways
	Gates   []Gate       `json:"gates"`   // all gateways of the network, by name
	// Edges are the parts of other nodes that carry nothing but gateways.
	Edges []netip.Prefix `json:"edges"`
	// Entry says that devices enter the network here; Devices are those that do.
	Entry   bool     `json:"entry"`
	Devices []Device `json:"devices"` // by IPv4
	// IsExit says that egress "exit" of the network leaves here; Exit are the
	// exit's router's addresses if it leaves somewhere else.
	IsExit bool         `json:"is_exit"`
	Exit   []netip.Addr `json:"exit"`
	MTU    int          `json:"mtu"`

	Site Site `json:"site"`
}

// Site is what the plan does not say about the egress of a router.
type Site struct {
	Link    int            `json:"link"`    // number of its link to the host; 0: none
	Uplinks []string       `json:"uplinks"` // interfaces of the host with a default route
	Closed  []netip.Prefix `json:"closed"`  // the host's own public addresses and connected subnets
}

// Port is a workload on this node. A gateway's is not open and has no rules.
type Port struct {
	Workload  string     `json:"workload"`
	IPv4      netip.Addr `json:"ipv4"`
	IPv6      netip.Addr `json:"ipv6"`
	Open      bool       `json:"open"`
	Allow     []Allow    `json:"allow"`
	Egress    string     `json:"egress"`
	Bandwidth uint64     `json:"bandwidth"`
}

// Allow is a rule with its peers' addresses.
type Allow struct {
	Protocol string       `json:"protocol"`
	First    uint16       `json:"first"`
	Last     uint16       `json:"last"`
	All      bool         `json:"all"` // of the network
	Peers    []netip.Addr `json:"peers"`
}

// Remote is a workload on another node, or a device that enters there.
type Remote struct {
	IPv4   netip.Addr `json:"ipv4"`
	IPv6   netip.Addr `json:"ipv6"`
	Egress string     `json:"egress"`
	Device bool       `json:"device"`
}

// Gate is a gateway, and what it may begin a connection to: of one on another node,
// the targets on this one.
type Gate struct {
	IPv4    netip.Addr `json:"ipv4"`
	IPv6    netip.Addr `json:"ipv6"`
	Here    bool       `json:"here"`
	Targets []Target   `json:"targets"`
}

// Target is one port of a workload, or of the router at which devices enter.
type Target struct {
	IPv4     netip.Addr `json:"ipv4"`
	IPv6     netip.Addr `json:"ipv6"`
	Protocol string     `json:"protocol"` // plan.ProtocolTCP or plan.ProtocolUDP
	Port     uint16     `json:"port"`
}

// Device is a person's machine that enters here.
type Device struct {
	Workload string     `json:"workload"`
	IPv4     netip.Addr `json:"ipv4"`
	IPv6     netip.Addr `json:"ipv6"`
	Key      []byte     `json:"key"` // its WireGuard public key
	Account  canon.Hash `json:"account"`
}

// Egress tells whether somebody leaves the network through this node.
func (v View) Egress() bool {
	return slices.ContainsFunc(v.Ports, v.leavesHere) ||
		v.IsExit && slices.ContainsFunc(v.Remotes, func(r Remote) bool { return r.Egress == plan.EgressExit })
}

// leavesHere tells whether a workload of this node has egress on it.
func (v View) leavesHere(p Port) bool {
	return p.Egress == plan.EgressNode || p.Egress == plan.EgressExit && v.IsExit
}

// Name of the port's interface in the router. The node's part of the network is
// a /24, so the last byte names a workload of it.
func (p Port) Name() string { return portName(p.IPv4) }

func portName(ipv4 netip.Addr) string { return fmt.Sprintf("p%d", ipv4.As4()[3]) }

// workloadMAC is the MAC of the workload with an address.
func workloadMAC(ipv4 netip.Addr) []byte { return mac(0x02, ipv4) }

// routerMAC is the bridge's.
func routerMAC(ipv4 netip.Addr) []byte { return mac(0x06, ipv4) }

// mac makes a locally administered address from an IPv4 address, so that it is
// the same in every version, and on every start.
func mac(first byte, ipv4 netip.Addr) []byte {
	a := ipv4.As4()
	return []byte{first, 0x7a, a[0], a[1], a[2], a[3]}
}

// linkLocal is the IPv6 link-local address that a MAC gives (RFC 4291, app. A).
func linkLocal(mac []byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// ViewOf computes the view of the slot self. Errors have the codes
// "network-unknown" and "plan-invalid".
func ViewOf(p *plan.Plan, name string, self canon.Hash, mtu int) (View, error) {
	n, node, err := nodeOf(p, name, self)
	if err != nil {
		return View{}, err
	}
	edges, err := netplan.EdgesOf(p, name)
	if err != nil {
		return View{}, err
	}
	v := View{Network: name, IsExit: n.Exit == self, MTU: mtu, Ports: []Port{}, Remotes: []Remote{}, Gates: []Gate{}, Edges: []netip.Prefix{}, Devices: []Device{}}
	for _, q := range []struct {
		text string
		to   *netip.Prefix
	}{{n.IPv4, &v.IPv4}, {n.IPv6, &v.IPv6}, {node.IPv4, &v.Node4}, {node.IPv6, &v.Node6}} {
		if *q.to, err = netip.ParsePrefix(q.text); err != nil {
			return View{}, problem.New("plan-invalid", "network %s: %w", name, err)
		}
	}
	v.Router4, v.Router6 = plan.RouterAddr(v.Node4), plan.RouterAddr(v.Node6)
	for _, other := range n.Nodes {
		if other.Slot == self || !edges.Meet(self, other.Slot) {
			continue
		}
		for _, text := range []string{other.IPv4, other.IPv6} {
			q, err := netip.ParsePrefix(text)
			if err != nil {
				return View{}, problem.New("plan-invalid", "network %s: %w", name, err)
			}
			if edges.Has(other.Slot) {
				v.Edges = append(v.Edges, q)
				continue
			}
			v.Routers = append(v.Routers, plan.RouterAddr(q))
			if other.Slot == n.Exit {
				v.Exit = append(v.Exit, plan.RouterAddr(q))
			}
		}
	}
	if err := v.gates(p, self); err != nil {
		return View{}, err
	}
	return v, v.members(p, self, edges)
}

// gates fills in the gateways, and whether one leads devices here.
func (v *View) gates(p *plan.Plan, self canon.Hash) error {
	all, err := netplan.GatesOf(p, v.Network)
	if err != nil {
		return err
	}
	for _, g := range all {
		gate := Gate{IPv4: g.IPv4, IPv6: g.IPv6, Here: g.Slot == self, Targets: []Target{}}
		for _, t := range g.Targets {
			if t.Slot == self && t.Workload == "" {
				v.Entry = true
			}
			if gate.Here || t.Slot == self {
				gate.Targets = append(gate.Targets, Target{IPv4: t.IPv4, IPv6: t.IPv6, Protocol: t.Protocol, Port: t.Port})
			}
		}
		v.Gates = append(v.Gates, gate)
	}
	return nil
}

func nodeOf(p *plan.Plan, name string, self canon.Hash) (plan.Network, plan.NetworkNode, error) {
	// TopologyOf knows the errors.
	if _, err := netplan.TopologyOf(canon.Hash{}, p, name, self); err != nil {
		return plan.Network{}, plan.NetworkNode{}, err
	}
	for _, n := range p.Networks {
		for _, node := range n.Nodes {
			if n.Name == name && node.Slot == self {
				return n, node, nil
			}
		}
	}
	return plan.Network{}, plan.NetworkNode{}, problem.New("network-unknown", "no network %.80q", name)
}

// members fills in the workloads and devices.
func (v *View) members(p *plan.Plan, self canon.Hash, edges netplan.Edges) error {
	type member struct {
		plan.Workload
		a      plan.Attachment
		v4, v6 netip.Addr
	}
	var all []member
	byName := map[string]member{}
	for _, w := range p.Workloads {
		a, there, err := plan.AttachmentIn(w, v.Network)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		m := member{Workload: w, a: a}
		if m.v4, err = netip.ParseAddr(a.IPv4); err == nil {
			m.v6, err = netip.ParseAddr(a.IPv6)
		}
		if err != nil || !v.IPv4.Contains(m.v4) || !v.IPv6.Contains(m.v6) {
			return problem.New("plan-invalid", "workload %s: its addresses are not of network %s", w.Name, v.Network)
		}
		if w.Slot == self && (!v.Node4.Contains(m.v4) || !v.Node6.Contains(m.v6)) {
			return problem.New("plan-invalid", "workload %s: its addresses are not of its node's part of network %s", w.Name, v.Network)
		}
		all, byName[w.Name] = append(all, m), m
	}
	slices.SortFunc(all, func(a, b member) int { return a.v4.Compare(b.v4) })
	for _, m := range all {
		switch {
		case m.Slot != self && m.Kind != plan.KindGateway && edges.Meet(self, m.Slot):
			v.Remotes = append(v.Remotes, Remote{IPv4: m.v4, IPv6: m.v6, Egress: m.a.Egress, Device: m.Kind == plan.KindDevice})
		case m.Slot != self:
			// A gateway is among the gates; of others nothing is to be known here.
		case m.Kind == plan.KindDevice:
			d, err := plan.DecodeDevice(m.Config)
			if err != nil {
				return fmt.Errorf("workload %s: %w", m.Name, err)
			}
			v.Entry = true
			v.Devices = append(v.Devices, Device{Workload: m.Name, IPv4: m.v4, IPv6: m.v6, Key: d.Key, Account: d.Account})
		default:
			port := Port{Workload: m.Name, IPv4: m.v4, IPv6: m.v6, Open: m.a.Open, Allow: []Allow{}, Egress: m.a.Egress, Bandwidth: m.a.Bandwidth}
			for _, r := range m.a.Allow {
				allow := Allow{Protocol: r.Protocol, First: r.First, Last: r.Last, All: len(r.Peers) == 0, Peers: []netip.Addr{}}
				for _, name := range r.Peers {
					if peer, ok := byName[name]; ok {
						allow.Peers = append(allow.Peers, peer.v4, peer.v6)
					}
				}
				port.Allow = append(port.Allow, allow)
			}
			v.Ports = append(v.Ports, port)
		}
	}
	return nil
}
