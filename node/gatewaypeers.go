package node

import (
	"context"
	"slices"
	"sync"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// methodGatewayStore is the call by which gateways of a contract keep what they
// share equal.
const methodGatewayStore = "gateway.store"

// gatewayPeers reaches the other gateways of contracts over the bus, while this
// node speaks for its slot. It implements publish.Peers.
type gatewayPeers struct {
	of func(contract canon.Hash) []canon.Hash

	mu    sync.Mutex
	peers *bus.Peers
}

func (g *gatewayPeers) use(p *bus.Peers) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers = p
}

// Gateways implements publish.Peers.
func (g *gatewayPeers) Gateways(contract canon.Hash) []canon.Hash { return g.of(contract) }

// Call implements publish.Peers.
func (g *gatewayPeers) Call(ctx context.Context, slot canon.Hash, body []byte) ([]byte, error) {
	g.mu.Lock()
	p := g.peers
	g.mu.Unlock()
	if p == nil {
		return nil, problem.New("bus-unreachable", "this node has not joined its slot yet")
	}
	return p.Call(ctx, slot, methodGatewayStore, body)
}

// gatewaySlots are the slots of a contract's gateways by its newest proven plan.
func (n *Node) gatewaySlots(contract canon.Hash) []canon.Hash {
	for _, w := range n.reconc.of(contract) {
		if w.Deployment != nil {
			return slotsOfGateways(w.Deployment)
		}
	}
	return nil
}

func slotsOfGateways(p *plan.Plan) []canon.Hash {
	var out []canon.Hash
	for _, w := range p.Workloads {
		if w.Kind == plan.KindGateway && !slices.Contains(out, w.Slot) {
			out = append(out, w.Slot)
		}
	}
	return out
}

// knows tells whether a slot may call this node at all: it is in a network with
// it, or has a gateway of a contract that has one here.
func (n *Node) knows(slot canon.Hash) bool {
	if n.networks.knows(slot) {
		return true
	}
	for _, d := range n.reconc.wanted(plan.KindGateway) {
		if d.Deployment != nil && slices.Contains(slotsOfGateways(d.Deployment), slot) {
			return true
		}
	}
	return false
}
