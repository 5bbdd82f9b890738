package network

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// ID names a network in the whole grid: networks of one name in different
// contracts have nothing to do with each other.
func ID(contract canon.Hash, name string) canon.Hash {
	h := sha256.New()
	h.Write([]byte("zos-network-v1\x00"))
	h.Write(contract[:]) // of fixed length, so that the two can't run into each other
	h.Write([]byte(name))
	return canon.Hash(h.Sum(nil))
}

// Topology is a network as one of its nodes sees it: who else carries it, and
// whose addresses are behind whom. Nodes that need not know each other do not
// (Edges.Meet); it is symmetric.
type Topology struct {
	ID    canon.Hash
	Name  string
	Self  canon.Hash // slot of the node that asks
	Nodes []Node     // sorted by slot, Self included
	Exit  canon.Hash // slot through which egress "exit" leaves; zero: none, or none that Self knows
	// Ranges are the whole network's IPv4 and IPv6, also of nodes that Self does not
	// know.
	Ranges []netip.Prefix
}

// Node is one node of a Topology.
type Node struct {
	Slot     canon.Hash
	Prefixes []netip.Prefix // its IPv4 /24, then its IPv6 /64
}

// TopologyOf reads a network of a contract's plan as the slot self sees it. An
// unknown name or a slot that is not part of the network is an error, code
// "network-unknown"; a plan that contradicts itself, "plan-invalid".
func TopologyOf(contract canon.Hash, p *plan.Plan, name string, self canon.Hash) (Topology, error) {
	if p == nil {
		return Topology{}, problem.New("network-unknown", "no plan says what network %.80q is", name)
	}
	for i := range p.Networks {
		n := &p.Networks[i]
		if n.Name != name {
			continue
		}
		t := Topology{ID: ID(contract, name), Name: name, Self: self, Nodes: []Node{}}
		if !slices.ContainsFunc(n.Nodes, func(node plan.NetworkNode) bool { return node.Slot == self }) {
			return Topology{}, problem.New("network-unknown", "slot %s is not part of network %s of deployment %s", self.Short(), name, p.Name)
		}
		for _, text := range []string{n.IPv4, n.IPv6} {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return Topology{}, problem.New("plan-invalid", "network %s: %w", name, err)
			}
			t.Ranges = append(t.Ranges, prefix)
		}
		edges, err := EdgesOf(p, name)
		if err != nil {
			return Topology{}, err
		}
		for _, node := range n.Nodes {
			if !edges.Meet(self, node.Slot) {
				continue
			}
			known := Node{Slot: node.Slot}
			for _, text := range []string{node.IPv4, node.IPv6} {
				prefix, err := netip.ParsePrefix(text)
				if err != nil {
					return Topology{}, problem.New("plan-invalid", "network %s: node %s: %w", name, node.Slot.Short(), err)
				}
				known.Prefixes = append(known.Prefixes, prefix)
			}
			if t.Nodes = append(t.Nodes, known); node.Slot == n.Exit {
				t.Exit = n.Exit
			}
		}
		return t, nil
	}
	return Topology{}, fmt.Errorf("read the topology: %w", problem.New("network-unknown", "deployment %s has no network %.80q", p.Name, name))
}
