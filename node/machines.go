package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/store"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/vm"
)

// vmmRoot is where the VMM flist is mounted, and vmmPin who keeps its objects.
const (
	vmmRoot = boot.RunDir + "/vmm"
	vmmPin  = "vmm"
)

// machines is what a node has for virtual machines.
type machines struct {
	ability vmm.Ability
	flist   canon.Hash // of the monitor; zero: the OS names none
}

// loadMachineModules loads what virtual machines need of the kernel. A processor that
// can't is no failure of the node.
func (n *Node) loadMachineModules() error {
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	for _, name := range vmm.Modules(cpus) {
		if err := loadModules(n.at.Kernel.Version, name); err != nil {
			n.log.Warn("virtual machines lack a kernel module", "module", name, "error", err)
		}
	}
	return nil
}

// openMachines finds out what this node can do with KVM, by running a guest of a few
// instructions, and which monitor belongs to this OS.
func (n *Node) openMachines() error {
	n.machines.ability = vmm.Probe(context.Background()) // bounded by itself
	if n.machines.ability.KVM == nil {
		if err := vmm.AllowKVM(); err != nil {
			n.machines.ability.KVM = problem.New(codeIsolation, "%w", err)
		}
	}
	var err error
	if n.machines.flist, err = boot.VMMOf("/"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// forContainers is how containers get machines of their own; nil: not on this node.
func (n *Node) forContainers() *container.Machines {
	if n.machines.ability.KVM != nil || n.machines.flist.IsZero() {
		return nil
	}
	return &container.Machines{Root: vmmRoot, Vhost: n.machines.ability.VhostNet == nil, Networks: n.routers}
}

// openVMs opens the kind of whole machines, also where this node runs none (which
// features.may says): what it has of them from a time when it did, it removes.
func (n *Node) openVMs() (err error) {
	nets := n.routers.Machines()
	m := &container.Machines{Root: vmmRoot, Vhost: n.machines.ability.VhostNet == nil, Networks: nets}
	n.vms, err = vm.New(container.Config{
		Data: dataMachines, InMemory: n.at.Disk.Kind == boot.DiskZram, Rootfs: rootfs{n.store, n.fault, n.log, &n.scrubs},
		Machines: m, Networks: nets, Secrets: nodeSecrets{n.at.grid.ID, n.keys.Sealing}.open, Log: n.log,
	})
	return err
}

// probe tells whether this node can run virtual machines: nil when all of it is in
// place. An error with codeIsolation stays, every other one may pass.
func (n *Node) probe(ctx context.Context) error {
	switch {
	case n.machines.ability.KVM != nil:
		return n.machines.ability.KVM
	case n.machines.flist.IsZero():
		return problem.New(codeIsolation, "this release of the OS names no VMM flist")
	}
	mounted, err := store.Mounts(vmmRoot)
	if err != nil {
		return err
	}
	for _, m := range mounted {
		if m.Target == vmmRoot && m.Flist == n.machines.flist {
			return nil // by a former run of this daemon
		}
	}
	if err := n.fault.Manifest(ctx, n.machines.flist); err != nil {
		return fmt.Errorf("fetch the VMM flist: %w", err)
	}
	if err := n.pinVMM(); err != nil {
		return err
	}
	_, err = store.MountFlist(ctx, store.MountSpec{Store: n.store, Flist: n.machines.flist, Target: vmmRoot, FaultDir: faultDir})
	return err
}

// pinVMM keeps this OS' monitor in the store, and no former one.
func (n *Node) pinVMM() error {
	pins, err := n.store.Pins()
	if err != nil {
		return err
	}
	for old, owners := range pins {
		if old != n.machines.flist && slices.Contains(owners, vmmPin) {
			if err := n.store.Unpin(old, vmmPin); err != nil {
				return err
			}
		}
	}
	return n.store.Pin(n.machines.flist, vmmPin)
}
