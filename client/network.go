package client

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
	"github.com/zero-os/zos/spec/plan"
)

// NetworkStatus asks a node how the networks of a contract do there. Only members
// of the contract's group may.
func (c *Client) NetworkStatus(ctx context.Context, slot, contractID canon.Hash, by sign.Signer) (protocol.NetworkStatus, error) {
	asker, err := c.asker(ctx, by)
	if err != nil {
		return protocol.NetworkStatus{}, err
	}
	b, err := asker.Call(ctx, bus.Ask{Slot: slot, Contract: contractID, Method: bus.MethodNetwork})
	if err != nil {
		return protocol.NetworkStatus{}, err
	}
	s, err := protocol.DecodeNetworkStatus(b)
	if err == nil && s.Slot != slot {
		err = problem.New("reply-invalid", "node %s answers for slot %s", slot.Short(), s.Slot.Short())
	}
	return s, err
}

// Networked lists the standing contracts that have networks.
func (c *Client) Networked(ctx context.Context) ([]Contract, error) {
	all, err := c.active(ctx)
	return slices.DeleteFunc(all, func(k Contract) bool { return len(k.Plan.Networks) == 0 }), err
}

// MemberSigner opens a key at hand that is a member of the contract's group: the
// one named as, or any.
func (c *Client) MemberSigner(ctx context.Context, k Contract, as string) (sign.Signer, error) {
	keys, err := c.MemberKeys(ctx, k.Group)
	if err != nil {
		return nil, err
	}
	return c.SignerAmong(ctx, as, func(key sign.PublicKey) bool {
		return slices.ContainsFunc(keys, func(m sign.PublicKey) bool { return m.Equal(key) })
	})
}

// View is what one node says of a contract's networks, or why it says nothing.
type View struct {
	Status protocol.NetworkStatus
	Err    error
}

// Network finds a network in a node's answer.
func (v View) Network(name string) (protocol.Network, bool) {
	for _, n := range v.Status.Networks {
		if n.Name == name {
			return n, true
		}
	}
	return protocol.Network{}, false
}

// What asking nodes may take at most.
const (
	viewTime    = 5 * time.Second // one node
	viewAtATime = 16
)

// Views asks nodes how the contract's networks do. A node that does not answer is
// a View with an error.
func (c *Client) Views(ctx context.Context, k Contract, slots []canon.Hash, by sign.Signer) map[canon.Hash]View {
	var mu sync.Mutex
	out := make(map[canon.Hash]View, len(slots))
	places := make(chan struct{}, viewAtATime)
	var all sync.WaitGroup
	for _, slot := range slots {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			wait, cancel := context.WithTimeout(ctx, viewTime)
			defer cancel()
			var v View
			v.Status, v.Err = c.NetworkStatus(wait, slot, k.ID, by)
			mu.Lock()
			defer mu.Unlock()
			out[slot] = v
		})
	}
	all.Wait()
	return out
}

// FindNetwork returns a network of a plan by its name; without a name, the only
// one.
func FindNetwork(p *plan.Plan, name string) (plan.Network, error) {
	names := make([]string, len(p.Networks))
	for i, n := range p.Networks {
		if n.Name == name || name == "" && len(p.Networks) == 1 {
			return n, nil
		}
		names[i] = n.Name
	}
	switch {
	case len(names) == 0:
		return plan.Network{}, problem.New("network-unknown", "deployment %s has no networks", p.Name).
			WithFix("write networks into its spec and deploy it again")
	case name == "":
		return plan.Network{}, problem.New("network-unknown", "deployment %s has %d networks", p.Name, len(names)).
			WithFix("name one of: %s", strings.Join(names, ", "))
	}
	return plan.Network{}, problem.New("network-unknown", "deployment %s has no network %q", p.Name, name).WithFix("%s", suggest(name, names, "list them with: zos net ls"))
}

// Attached is a workload of a network with its interface there.
type Attached struct {
	Workload plan.Workload
	plan.Attachment
}

// AttachedTo lists the workloads of a network, in the plan's order.
func AttachedTo(p *plan.Plan, network string) []Attached {
	var out []Attached
	for _, w := range p.Workloads {
		for _, a := range AttachmentsOf(w) {
			if a.Network == network {
				out = append(out, Attached{w, a})
			}
		}
	}
	return out
}

// AttachmentsOf are a workload's places in networks, in their order.
func AttachmentsOf(w plan.Workload) []plan.Attachment {
	list, err := plan.AttachmentsOf(w)
	if err != nil {
		return nil // a plan of a contract is valid
	}
	return list
}

// Slots are the slots of a network, in the plan's order.
func Slots(n plan.Network) []canon.Hash {
	out := make([]canon.Hash, len(n.Nodes))
	for i, node := range n.Nodes {
		out[i] = node.Slot
	}
	return out
}

// States of a network as a whole.
const (
	NetworkReady    = "ready"    // every node answers and finds all as it should be
	NetworkDegraded = "degraded" // something is amiss
	NetworkPending  = "pending"  // no node has it yet
	NetworkUnknown  = "unknown"  // no node could be asked
)

// NetworkState judges a network of a plan by what its nodes say, and lists what is
// amiss, one line each.
func NetworkState(p *plan.Plan, n plan.Network, views map[canon.Hash]View, names Names) (state string, problems []string) {
	if len(views) == 0 {
		return NetworkUnknown, []string{}
	}
	problems = []string{}
	// Nodes with nothing but gateways know only some of the others.
	edges, err := network.EdgesOf(p, n.Name)
	if err != nil {
		problems = append(problems, "its gateways can't be read: "+because(err))
	}
	meet := edges.Meet
	standing, answered := 0, 0
	for _, node := range n.Nodes {
		name, v := names.Of(node.Slot), views[node.Slot]
		if v.Err != nil {
			problems = append(problems, name+" does not answer: "+because(v.Err))
			continue
		}
		answered++
		at, ok := v.Network(n.Name)
		if !ok || len(at.Keys) == 0 {
			problems = append(problems, name+" has not made it yet")
			continue
		}
		standing++
		if !at.Firewall.OK {
			problems = append(problems, name+": firewall: "+orElse(at.Firewall.Detail, "not in force"))
		}
		if !at.Resolver.OK {
			problems = append(problems, name+": resolver: "+orElse(at.Resolver.Detail, "does not answer"))
		}
		problems = append(problems, peerProblems(n, meet, node.Slot, at, views, names)...)
	}
	switch {
	case answered == 0:
		state = NetworkUnknown
	case standing == 0:
		state = NetworkPending
	case len(problems) > 0:
		state = NetworkDegraded
	default:
		state = NetworkReady
	}
	return state, problems
}

// peerProblems lists what one node has against the others. What a pair complains
// of on both sides is told by the first.
func peerProblems(n plan.Network, meet func(a, b canon.Hash) bool, self canon.Hash, at protocol.Network, views map[canon.Hash]View, names Names) (out []string) {
	for _, node := range n.Nodes {
		if node.Slot == self || !meet(self, node.Slot) {
			continue
		}
		p, ok := peerOf(at, node.Slot)
		if ok && p.State == protocol.PeerUp {
			continue
		}
		if views[node.Slot].Err != nil {
			continue // that it is silent has been told
		}
		if other, ok := views[node.Slot].Network(n.Name); ok && slices.Compare(node.Slot[:], self[:]) < 0 {
			if q, ok := peerOf(other, self); !ok || q.State != protocol.PeerUp {
				continue
			}
		}
		line := names.Of(self) + " and " + names.Of(node.Slot) + ": "
		switch {
		case p.Message != "":
			line += p.Message
		case p.State == protocol.PeerSilent:
			line += "no handshake any more"
		case p.State == protocol.PeerWaiting:
			line += "no handshake yet"
		default:
			line += "keys are not exchanged yet"
		}
		out = append(out, line)
	}
	return out
}

func peerOf(n protocol.Network, slot canon.Hash) (protocol.NetworkPeer, bool) {
	for _, p := range n.Peers {
		if p.Slot == slot {
			return p, true
		}
	}
	return protocol.NetworkPeer{}, false
}

// because is an error for a list, with its code if it has one.
func because(err error) string {
	if code := problem.Code(err); code != "" {
		return code
	}
	return err.Error()
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
