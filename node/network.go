package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/agent"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
)

// networks is what the router namespaces of this node talk through. The agent
// speaks for the slot's key, so there is one per membership; the networks that
// stand are handed to each new one.
type networks struct {
	log *slog.Logger

	order sync.Mutex // the agent hears of networks one after the other, the newest last

	mu    sync.Mutex
	agent *agent.Agent
	relay linkTo
	stand map[canon.Hash]standing
}

// linkTo finds the link to a relay by which packets to a slot go.
type linkTo = func(slot canon.Hash) (rendezvous.Link, bool)

// standing is a network that exists on this node.
type standing struct {
	topology network.Topology
	netns    int // our own descriptor of its router namespace
}

func newNetworks(log *slog.Logger) *networks {
	return &networks{log: log, stand: map[canon.Hash]standing{}}
}

// Ensure hands a network to the agent. Before the node has joined its slot there
// is none: then the network waits, with no way to the outside.
func (n *networks) Ensure(ctx context.Context, t network.Topology, netns int) error {
	n.order.Lock()
	defer n.order.Unlock()
	fd, err := unix.FcntlInt(uintptr(netns), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("keep the router namespace of network %s: %w", t.Name, err)
	}
	n.mu.Lock()
	if old, ok := n.stand[t.ID]; ok {
		unix.Close(old.netns)
	}
	n.stand[t.ID] = standing{t, fd}
	a := n.agent
	n.mu.Unlock()
	if a == nil {
		return nil
	}
	return a.Ensure(ctx, t, netns)
}

// Remove ends a network.
func (n *networks) Remove(ctx context.Context, id canon.Hash) error {
	n.order.Lock()
	defer n.order.Unlock()
	n.mu.Lock()
	if old, ok := n.stand[id]; ok {
		unix.Close(old.netns)
		delete(n.stand, id)
	}
	a := n.agent
	n.mu.Unlock()
	if a == nil {
		return nil
	}
	return a.Remove(ctx, id)
}

// state tells how a network is; it is empty while nobody works on networks.
func (n *networks) state(id canon.Hash) agent.Status {
	n.mu.Lock()
	a := n.agent
	n.mu.Unlock()
	if a == nil {
		return agent.Status{}
	}
	s, _ := a.Status(id)
	return s
}

// relayTo tells by which relay packets to a slot travel now.
func (n *networks) relayTo(slot canon.Hash) string {
	n.mu.Lock()
	relay := n.relay
	n.mu.Unlock()
	if relay == nil {
		return ""
	}
	l, ok := relay(slot)
	if !ok {
		return "relay: no rendezvous is connected"
	}
	if at, err := rendezvous.ParseURL(l.URL); err == nil {
		return "relay via " + at.Host
	}
	return "relay via " + l.URL
}

// knows tells whether any network of this node has the slot in it: nobody else
// may call.
func (n *networks) knows(slot canon.Hash) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.stand {
		for _, node := range s.topology.Nodes {
			if node.Slot == slot {
				return true
			}
		}
	}
	return false
}

// use makes a the agent of all networks, nil: none. It tells whether each was
// taken; if not, it is to be called again.
func (n *networks) use(ctx context.Context, a *agent.Agent, relay linkTo) bool {
	n.order.Lock()
	defer n.order.Unlock()
	n.mu.Lock()
	n.agent, n.relay = a, relay
	all, taken := make([]standing, 0, len(n.stand)), true
	for _, s := range n.stand {
		fd, err := unix.FcntlInt(uintptr(s.netns), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			n.log.Warn("keep a router namespace", "network", s.topology.Name, "error", err)
			taken = false
			continue
		}
		all = append(all, standing{s.topology, fd})
	}
	n.mu.Unlock()
	for _, s := range all {
		if a != nil {
			if err := a.Ensure(ctx, s.topology, s.netns); err != nil {
				n.log.Warn("hand a network to the agent", "network", s.topology.Name, "error", err)
				taken = false
			}
		}
		unix.Close(s.netns)
	}
	return taken
}

// useUntil is use until ctx ends, then there is no agent. What the agent did not
// take it is offered again: nobody else would, since its router stands.
func (n *networks) useUntil(ctx context.Context, a *agent.Agent, relay linkTo) {
	defer n.use(ctx, nil, nil)
	for wait := time.Second; !n.use(ctx, a, relay); wait = min(2*wait, time.Minute) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	<-ctx.Done()
}

// keepTalking is talk, for as long as this node speaks for its slot. A node whose
// networks fail still answers, and says what fails.
func (n *Node) keepTalking(ctx context.Context, epoch uint64) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		n.problem("networks", "")
		err := n.talk(ctx, epoch)
		if ctx.Err() != nil {
			return
		}
		n.log.Warn("what networks need of the outside ended", "error", err, "again_in", wait)
		n.problem("networks", codeOr(err, "network-pending"))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// codeOr is the code of an error, or another one if it has none.
func codeOr(err error, otherwise string) string {
	if code := problem.Code(err); code != "" {
		return code
	}
	return otherwise
}

// talk runs what networks need of the outside while this node speaks for its
// slot: calls to other nodes, the relay, the agent.
func (n *Node) talk(ctx context.Context, epoch uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	peers, err := bus.NewPeers(bus.PeersConfig{
		Conn: n.conn, Grid: n.at.grid.ID, Slot: n.at.Slot, Epoch: epoch, Signer: n.keys.Signer, Sealing: n.keys.Sealing,
		Bound: bus.BoundBy(n.at.grid.ID, n.readLedger), Known: n.knows, Logger: n.log,
	})
	if err != nil {
		return err
	}
	// Between gateways: at most once is enough, and what is asked again is the same.
	peers.Handle(methodGatewayStore, func(_ context.Context, from canon.Hash, body []byte) ([]byte, error) {
		return n.shared.Answer(from, body)
	})
	n.sharing.use(peers)
	defer n.sharing.use(nil)
	n.bindings.use(peers)
	defer n.bindings.use(nil)
	devices, err := wireguard.OpenHost(0, n.log)
	if err != nil {
		return fmt.Errorf("prepare encrypted devices: %w", err)
	}
	defer devices.Close()
	// The agent and the relay know each other; neither says a word before Run.
	var a *agent.Agent
	ready := make(chan struct{})
	tell := func(f func()) {
		if <-ready; a != nil {
			f()
		}
	}
	relay, err := rendezvous.Connect(rendezvous.ClientConfig{
		URLs: n.at.grid.Rendezvous, Grid: n.at.grid.ID, Slot: n.at.Slot, Epoch: epoch, Signer: n.keys.Signer, Logger: n.log,
		RelayOnly:  n.at.grid.RelayOnly,
		OnPacket:   func(from canon.Hash, packet []byte) { tell(func() { a.Relayed(from, packet) }) },
		OnObserved: func(token [16]byte, addr netip.AddrPort) { tell(func() { a.Observed(token, addr) }) },
		OnChange:   func() { tell(func() { a.RelayChanged() }) },
	})
	if err != nil {
		return err
	}
	defer relay.Close()
	a, err = agent.New(agent.Config{
		Grid: n.at.grid.ID, Slot: n.at.Slot, Epoch: epoch, Signer: n.keys.Signer,
		Bound: func(ctx context.Context, slot canon.Hash) (agent.Identity, error) {
			b, err := peers.Binding(ctx, slot)
			return agent.Identity{Epoch: b.Epoch, Key: b.SigningKey}, err
		},
		Messenger: peers, Relay: relay, Devices: devices, Logger: n.log,
		ObserveProbe: rendezvous.ObserveProbe, RelayOnly: n.at.grid.RelayOnly,
	})
	close(ready)
	if err != nil {
		return err
	}
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	parts.Go(func() { n.networks.useUntil(ctx, a, relay.LinkTo) })
	ended := make(chan error, 2)
	parts.Go(func() { ended <- peers.Run(ctx) })
	parts.Go(func() { ended <- a.Run(ctx) })
	return <-ended
}

// readLedger gets one record, verified, from the ledger as this node follows it.
func (n *Node) readLedger(ctx context.Context, key string) ([]byte, bool, error) {
	n.mu.Lock()
	l := n.ledger
	n.mu.Unlock()
	if l == nil {
		return nil, false, problem.New("ledger-unreachable", "read ledger record %s: the ledger was not read yet", key)
	}
	b, found, _, err := l.Get(ctx, key)
	return b, found, err
}

// nameservers are what the node itself asks; workloads with egress ask them
// through the resolver of their network.
func (n *Node) nameservers() []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range n.at.Network.DNS {
		if addr, err := netip.ParseAddr(s); err == nil {
			out = append(out, netip.AddrPortFrom(addr, 53))
		}
	}
	return out
}

// networkStatus tells the members of a contract's group how its networks are on
// this node.
func (n *Node) networkStatus(ctx context.Context, q bus.Query) (protocol.NetworkStatus, error) {
	out := protocol.NetworkStatus{Slot: n.at.Slot, Networks: []protocol.Network{}}
	seen, err := n.routers.Observe(ctx)
	if err != nil {
		return out, err
	}
	for _, w := range n.reconc.of(q.Contract) {
		if w.Plan.Kind != plan.KindNetwork || w.Deployment == nil {
			continue
		}
		c, err := plan.DecodeNetworkConfig(w.Plan.Config)
		if err != nil {
			return out, err
		}
		out.Networks = append(out.Networks, n.oneNetwork(ctx, w.Desired, c.Network, seen[w.ID]))
	}
	return out.Bounded(), nil
}

// oneNetwork is what this node knows of one network of a contract.
func (n *Node) oneNetwork(ctx context.Context, d workload.Desired, name string, router workload.Status) protocol.Network {
	now := time.Now()
	out := protocol.Network{Name: name, ID: network.ID(d.ID.Contract, name), Version: router.Version,
		Keys: []protocol.NetworkKey{}, Workloads: []protocol.AttachedWorkload{}, Peers: []protocol.NetworkPeer{},
		Firewall: protocol.Check{OK: router.State == contract.StateRunning, Detail: router.Detail}}
	if router.State == "" {
		out.Firewall.Detail = "the router is not there yet"
	}
	out.Resolver.Detail = "not served yet"
	if r := n.routers.Resolver(d.ID); r != nil {
		check, cancel := context.WithTimeout(ctx, localTimeout)
		err := r.Check(check)
		cancel()
		out.Resolver = protocol.Check{OK: err == nil}
		if err != nil {
			out.Resolver.Detail = oneLine(err.Error())
		}
	}
	for _, w := range d.Deployment.Workloads {
		if w.Kind == plan.KindDevice || w.Slot != n.at.Slot {
			continue // a device has no interface here
		}
		attached := n.routers.Attached
		if w.Kind == plan.KindGateway {
			attached = n.routers.Gateways().Attached
		}
		a, there, err := plan.AttachmentIn(w, name)
		if err == nil && there && attached(workload.ID{Contract: d.ID.Contract, Name: w.Name}) == nil {
			out.Workloads = append(out.Workloads, protocol.AttachedWorkload{Name: w.Name, Addresses: []string{a.IPv4, a.IPv6}})
		}
	}
	s := n.networks.state(out.ID)
	for _, k := range s.Devices {
		out.Keys = append(out.Keys, protocol.NetworkKey{Device: k.Name, Engine: k.Engine.String(), Epoch: k.KeyEpoch, PublicKey: k.PublicKey[:],
			Age: uint64(max(0, now.Sub(k.Since)) / time.Second), Port: uint64(k.Port)})
	}
	for _, p := range s.Peers {
		peer := protocol.NetworkPeer{Slot: p.Slot, Epoch: p.NewestEpoch, UsedEpoch: p.KeyEpoch, PublicKey: []byte{},
			Handshake: protocol.AgeOf(now, p.Handshake), PSK: protocol.AgeOf(now, p.PSK), RTT: uint64(p.RTT.Milliseconds()),
			Received: p.Received, Sent: p.Sent, Code: p.Code, Message: p.Message}
		if p.NewestEpoch != 0 {
			peer.PublicKey = p.NewestKey[:]
		}
		peer.State = protocol.PeerState(p.NewestEpoch, peer.Handshake)
		switch p.Path {
		case agent.PathDirect:
			peer.Path = "direct " + p.Address.String()
		case agent.PathRelay:
			peer.Path = n.networks.relayTo(p.Slot)
		}
		out.Peers = append(out.Peers, peer)
	}
	return out
}
