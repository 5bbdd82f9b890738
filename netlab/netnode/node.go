package netnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/agent"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/rendezvous"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	worknet "github.com/zero-os/zos/workload/network"
)

// Config is what a node is.
type Config struct {
	Number    int      // of its slot, unless it has an Identity
	Servers   []string // URLs of rendezvous servers
	Relays    []string // URLs for packets only, none: Servers
	RelayOnly bool
	Engine    wireguard.Engine
	MTU       int
	Periods   agent.Periods
	Links     rendezvous.Periods
	// Run is a directory for the kind's namespaces; "": none, only Ensure of
	// topologies works.
	Run string
	// Identity makes it a node of a grid that exists, nil: of the laboratory's own.
	Identity *Identity
	// NoFirewall leaves the host's filter away.
	NoFirewall bool
}

// Status is how a node is.
type Status struct {
	Networks []agent.Status
	Links    []rendezvous.Link
	Bus      int // links of the bus that are up
	Resident int // bytes of memory
}

// nodeProcess is a node: what zosd does for networks.
type nodeProcess struct {
	cfg    Config
	cancel context.CancelFunc
	work   sync.WaitGroup
	conn   *bus.Conn
	peers  *bus.Peers
	client *rendezvous.Client
	host   *wireguard.Host
	agent  *agent.Agent
	kind   *worknet.Kind
	who    who
	people *bus.Conn // opened when a call is made as a person

	routers map[canon.Hash]*os.File
	failed  chan error
}

// relay pokes the bus too, as zosd does.
type relay struct {
	*rendezvous.Client
	conn *bus.Conn
}

func (r relay) Poke() {
	r.Client.Poke()
	r.conn.Poke()
}

func newNodeProcess(ctx context.Context, cfg Config, log *slog.Logger) (process, error) {
	ctx, cancel := context.WithCancel(ctx)
	n := &nodeProcess{cfg: cfg, cancel: cancel, routers: map[canon.Hash]*os.File{}, failed: make(chan error, 2)}
	if err := n.start(ctx, log); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *nodeProcess) start(ctx context.Context, log *slog.Logger) (err error) {
	cfg := n.cfg
	if n.who, err = cfg.who(); err != nil {
		return err
	}
	grid, slot, epoch, key, bound := n.who.grid, n.who.slot, n.who.epoch, n.who.signer, n.who.bound
	if !cfg.NoFirewall {
		if err := (firewall.Host{}).Apply(); err != nil {
			return err
		}
	}
	if n.host, err = wireguard.OpenHost(0, log); err != nil {
		return err
	}
	if n.conn, err = bus.Connect(bus.ConnConfig{URLs: cfg.Servers, Role: bus.AsNode(slot), Logger: log}); err != nil {
		return err
	}
	peers, err := bus.NewPeers(bus.PeersConfig{
		Conn: n.conn, Grid: grid, Slot: slot, Epoch: epoch, Signer: key, Sealing: n.who.sealing, Bound: bound, Logger: log,
	})
	if err != nil {
		return err
	}
	relays := cfg.Relays
	if len(relays) == 0 {
		relays = cfg.Servers
	}
	// The client calls the agent, which needs the client.
	ready := make(chan struct{})
	n.client, err = rendezvous.Connect(rendezvous.ClientConfig{
		URLs: relays, Grid: grid, Slot: slot, Epoch: epoch, Signer: key, RelayOnly: cfg.RelayOnly,
		OnPacket:   func(from canon.Hash, packet []byte) { <-ready; n.agent.Relayed(from, packet) },
		OnObserved: func(token [16]byte, addr netip.AddrPort) { <-ready; n.agent.Observed(token, addr) },
		OnChange:   func() { <-ready; n.agent.RelayChanged() },
		Logger:     log, Periods: cfg.Links,
	})
	if err != nil {
		close(ready)
		return err
	}
	n.agent, err = agent.New(agent.Config{
		Grid: grid, Slot: slot, Epoch: epoch, Signer: key,
		Bound: func(ctx context.Context, slot canon.Hash) (agent.Identity, error) {
			b, err := bound(ctx, slot)
			return agent.Identity{Epoch: b.Epoch, Key: b.SigningKey}, err
		},
		Messenger: peers, Relay: relay{n.client, n.conn}, ObserveProbe: rendezvous.ObserveProbe,
		Devices: n.host, Engine: cfg.Engine, MTU: cfg.MTU, RelayOnly: cfg.RelayOnly, Periods: cfg.Periods, Logger: log,
	})
	close(ready)
	if err != nil {
		return err
	}
	n.peers = peers
	n.work.Go(func() { n.failed <- peers.Run(ctx) })
	n.work.Go(func() { n.failed <- n.agent.Run(ctx) })
	if cfg.Run != "" {
		n.kind, err = worknet.New(worknet.Config{
			Slot: slot, Agent: n.agent, Run: cfg.Run, MTU: cfg.MTU, Log: log,
		})
	}
	return err
}

func (n *nodeProcess) close() error {
	var errs []error
	ctx := context.Background()
	if n.kind != nil {
		attached, err := n.kind.List()
		errs = append(errs, err)
		for _, id := range attached {
			errs = append(errs, n.kind.Detach(ctx, id))
		}
		all, err := n.kind.Observe(ctx)
		errs = append(errs, err)
		for id := range all {
			errs = append(errs, n.kind.Remove(ctx, id))
		}
		errs = append(errs, n.kind.Close())
	}
	for id, f := range n.routers {
		errs = append(errs, n.agent.Remove(ctx, id), f.Close())
	}
	n.cancel()
	n.work.Wait()
	if n.client != nil {
		n.client.Close()
	}
	for _, c := range []*bus.Conn{n.conn, n.people} {
		if c != nil {
			c.Close()
		}
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	return errors.Join(errs...)
}

func (n *nodeProcess) do(ctx context.Context, op string, raw json.RawMessage) (any, error) {
	switch op {
	case "ensure":
		return with(raw, func(t network.Topology) (any, error) {
			f, err := n.router(t)
			if err != nil {
				return nil, err
			}
			return nil, n.agent.Ensure(ctx, t, int(f.Fd()))
		})
	case "router":
		return with(raw, func(t network.Topology) (any, error) {
			f, err := n.router(t)
			if err != nil {
				return nil, err
			}
			return int(f.Fd()), nil
		})
	case "remove":
		return with(raw, func(id canon.Hash) (any, error) {
			err := n.agent.Remove(ctx, id)
			if f := n.routers[id]; f != nil {
				delete(n.routers, id)
				err = errors.Join(err, f.Close())
			}
			return nil, err
		})
	case "kind-ensure":
		return with(raw, func(d workload.Desired) (any, error) { return nil, n.kind.Ensure(ctx, d) })
	case "kind-remove":
		return with(raw, func(id workload.ID) (any, error) { return nil, n.kind.Remove(ctx, id) })
	case "attach":
		return with(raw, func(a attachArgs) (any, error) { return n.kind.Attach(ctx, a.Desired, a.Networks) })
	case "detach":
		return with(raw, func(id workload.ID) (any, error) { return nil, n.kind.Detach(ctx, id) })
	case "await":
		return with(raw, func(a awaitArgs) (any, error) { return n.await(ctx, a) })
	case "call":
		return with(raw, func(calls []Call) (any, error) { return n.call(ctx, calls) })
	case "status":
		return with(raw, n.status)
	}
	return nil, fmt.Errorf("no operation %q", op)
}

func (n *nodeProcess) status(ids []canon.Hash) (any, error) {
	select {
	case err := <-n.failed:
		return nil, fmt.Errorf("a part of the node ended: %w", err)
	default:
	}
	s := Status{Links: n.client.Links(), Bus: n.conn.Up(), Resident: resident()}
	for _, id := range ids {
		if st, ok := n.agent.Status(id); ok {
			s.Networks = append(s.Networks, st)
		}
	}
	return s, nil
}

type awaitArgs struct {
	ID    canon.Hash
	Peers int
}

// await waits until so many peers have shaken hands, and returns when each of
// them did first, unless it did again meanwhile.
func (n *nodeProcess) await(ctx context.Context, a awaitArgs) ([]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	for {
		var at []time.Time
		missing := map[string]int{} // by what the agent says of it
		st, _ := n.agent.Status(a.ID)
		for _, p := range st.Peers {
			if !p.Handshake.IsZero() {
				at = append(at, p.Handshake)
			} else {
				missing[p.Path+" "+p.Message]++
			}
		}
		if len(at) >= a.Peers {
			return at, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d peers have shaken hands, the others: %v", len(at), a.Peers, missing)
		case <-time.After(time.Second): // asking costs, and the times are in the answer
		}
	}
}

type attachArgs struct {
	Desired  workload.Desired
	Networks []plan.Attachment
}

// router is the bare router namespace of a topology, with the node's own first
// addresses on its loopback interface.
func (n *nodeProcess) router(t network.Topology) (*os.File, error) {
	if f := n.routers[t.ID]; f != nil {
		return f, nil
	}
	f, err := makeRouter(t)
	if err == nil {
		n.routers[t.ID] = f
	}
	return f, err
}

func makeRouter(t network.Topology) (*os.File, error) {
	f, err := netns.New()
	if err != nil {
		return nil, err
	}
	err = netns.Do(int(f.Fd()), func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		for _, node := range t.Nodes {
			if node.Slot != t.Self {
				continue
			}
			for _, p := range node.Prefixes {
				a := p.Addr().Next()
				err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice()), Flags: unix.IFA_F_NODAD})
				if err != nil {
					return fmt.Errorf("add address %s: %w", a, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// resident is how much memory this process has, bytes.
func resident() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}
