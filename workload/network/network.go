package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/netns"
	netplan "github.com/zero-os/zos/network"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/workload"
)

// Agent keeps the encrypted side of networks. agent.Agent is one.
type Agent interface {
	// Ensure makes WireGuard devices, and the routes to the other nodes, exist in
	// the router namespace netns.
	Ensure(ctx context.Context, t netplan.Topology, netns int) error
	Remove(ctx context.Context, id canon.Hash) error
}

// Config is what a Kind works with.
type Config struct {
	Slot  canon.Hash // of this node
	Agent Agent
	Run   string // directory in memory; "" means /run/zos/netns
	// Host is a descriptor of the node's own network namespace, needed only
	// during New; 0 means that of the calling thread.
	Host int
	// Secrets of the entries by which people's devices come in.
	Secrets Secrets
	// Engine of the entries; wireguard.Auto is what a node uses.
	Engine wireguard.Engine
	// MTU of workloads' interfaces: that of the WireGuard devices. 0 means
	// wireguard.DefaultMTU.
	MTU int
	// Nameservers are whom the resolver asks for workloads with egress "node". nil
	// means that names outside the network do not resolve.
	Nameservers func() []netip.AddrPort
	Log         *slog.Logger
}

// Kind runs workloads of kind "network", and attaches containers to them; Gateways
// attaches gateways. It implements workload.Kind and container.Networks.
type Kind struct {
	cfg  Config
	host *os.File

	mu      sync.Mutex
	locks   map[workload.ID]*sync.Mutex // of routers: Ensure and Remove, and attaching to one
	live    map[workload.ID]*live
	entries map[workload.ID]*entry
	linking sync.Mutex    // of the numbers of links to the host
	changed chan struct{} // closed and made anew when a router was ensured
}

var _ workload.Kind = (*Kind)(nil)

// New makes the kind. Close ends what it serves; networks and attachments stay.
func New(cfg Config) (*Kind, error) {
	if cfg.Run == "" {
		cfg.Run = "/run/zos/netns"
	}
	if cfg.MTU == 0 {
		cfg.MTU = wireguard.DefaultMTU
	}
	if cfg.Agent == nil || cfg.Log == nil || cfg.Slot.IsZero() || !filepath.IsAbs(cfg.Run) {
		return nil, errors.New("networks: want an Agent, a Log, a Slot and an absolute Run")
	}
	// Containers' first processes pass through it to bind files, as unprivileged
	// users of the node, and can't list it.
	if err := os.MkdirAll(cfg.Run, 0o711); err != nil {
		return nil, fmt.Errorf("networks: %w", err)
	}
	host, err := hostNamespace(cfg.Host)
	if err != nil {
		return nil, fmt.Errorf("networks: %w", err)
	}
	return &Kind{cfg: cfg, host: host, locks: map[workload.ID]*sync.Mutex{}, live: map[workload.ID]*live{}, entries: map[workload.ID]*entry{}, changed: make(chan struct{})}, nil
}

func hostNamespace(fd int) (*os.File, error) {
	if fd == 0 {
		return netns.Current()
	}
	return dup(fd)
}

// Modules are the kernel modules that networks need, besides firewall.Modules.
func Modules() []string {
	return []string{"veth", "bridge", "tun", "wireguard", "sch_tbf", "nf_conntrack_netlink"}
}
