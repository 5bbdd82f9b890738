package grid

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/qemu"
)

// Ways in which a grid's nodes keep their keys.
const (
	IdentityDisk = contract.IdentityDisk
	IdentityTPM  = contract.IdentityTPM
	IdentityNone = contract.IdentityNone
)

// MaxNodes bounds the machines of one grid on one host.
const MaxNodes = 16

// Options say what grid to start.
type Options struct {
	Dir   string // everything that the grid writes; made when absent
	Image string // directory that `zos boot image` made
	Nodes int    // machines, 1 to MaxNodes
	// Gateways is how many of them, the last ones, have a public side.
	Gateways int
	// Identity says where nodes keep their keys; several ways, separated by
	// commas, are given to the nodes in turn.
	Identity string
	Firmware qemu.Firmware
	Memory   int // MiB per machine; 0: what its identity needs
	// Cores is how many processors the farm says that each machine has, of which one is
	// real; 0: 1.
	Cores int
	// RelayOnly lets nodes open no UDP socket for networks.
	RelayOnly bool
	// Underlay, if not nil, joins machines and services instead of QEMU's user
	// network.
	Underlay Underlay
	// Progress is told what goes on, one line at a time.
	Progress func(format string, args ...any)
	Log      *slog.Logger
}

func (o Options) validate() error {
	switch {
	case o.Nodes < 1 || o.Nodes > MaxNodes:
		return problem.New("option-invalid", "%d nodes: a grid on one machine has 1 to %d", o.Nodes, MaxNodes)
	case o.Gateways < 0 || o.Gateways > o.Nodes:
		return problem.New("option-invalid", "%d gateways of %d nodes", o.Gateways, o.Nodes)
	case o.Firmware != qemu.BIOS && o.Firmware != qemu.UEFI:
		return problem.New("option-invalid", "firmware %q", o.Firmware).WithFix("write bios or uefi")
	case o.Memory != 0 && o.Memory < 256:
		return problem.New("option-invalid", "%d MiB of memory are too few for a node", o.Memory).WithFix("give it 512")
	}
	for i := range o.Nodes {
		switch id := o.identity(i + 1); id {
		case IdentityDisk, IdentityTPM, IdentityNone:
		default:
			return problem.New("option-invalid", "identity %q", id).WithFix("write disk, tpm or none")
		}
	}
	return nil
}

// identity is where node number i, from 1, keeps its keys.
func (o Options) identity(i int) string {
	ways := strings.Split(o.Identity, ",")
	return ways[(i-1)%len(ways)]
}

// guest is a service's URL as the machines dial it.
func (o Options) guest(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	addr := "10.0.2.2" // what QEMU's user network makes of 127.0.0.1
	if o.Underlay != nil {
		addr = o.Underlay.Address().String()
	}
	u.Host = net.JoinHostPort(addr, u.Port())
	return u.String()
}

func (o Options) guests(urls []string) []string {
	out := make([]string, 0, len(urls))
	for _, u := range urls {
		out = append(out, o.guest(u))
	}
	return out
}

// slotOf is what the farm declares of node number i.
func (o Options) slotOf(name string, i, memoryMB int) contract.Slot {
	s := contract.Slot{Name: name, Hint: "mac:" + macOf(i), Disks: []string{}, Identity: o.identity(i),
		// The system itself keeps 192 MiB.
		Capacity: contract.Capacity{CPU: 1000 * uint64(max(1, o.Cores)), Memory: uint64(memoryMB-192) << 20, Disk: 64 << 20}}
	if o.identity(i) != IdentityNone {
		s.Disks = []string{serialOf(name)}
		s.Capacity.Disk = diskSize / 2
	}
	return s
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }
