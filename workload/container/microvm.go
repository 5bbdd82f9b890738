package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/ext4"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmm/tree"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/machine"
	"github.com/zero-os/zos/workload/shim"
)

// Machines says how virtual machines run on this node.
type Machines struct {
	Root  string    // where the VMM flist is mounted
	Accel vmm.Accel // "" means vmm.KVM
	Board vmm.Board // of micro-VMs; "" means vmm.MicroVM
	// Vhost says that the node has /dev/vhost-net.
	Vhost bool
	// Networks attaches machines to networks; nil: those that want one are refused.
	Networks MachineNetworks
}

// MachineNetworks attaches virtual machines to the networks of their plan. Package
// workload/network is one.
type MachineNetworks interface {
	// AttachMachine is Networks.Attach for a machine.
	AttachMachine(ctx context.Context, d workload.Desired, nets []plan.Attachment) (machine.Net, error)
}

// Names by which the agent finds the parts of its root.
const (
	rootTag     = "root"
	upperSerial = "upper"
)

// prepareMicroVM makes the shim's directory of a container in a machine of its own:
// the flist is exported read-only, and the guest's kernel keeps the writable layer on
// the disk image, which the node's kernel never mounts again.
func (r *Run) prepareMicroVM(ctx context.Context, c plan.Container) error {
	res, p := r.Desired.Plan.Resources, r.place
	net, err := r.AttachMachine(ctx)
	if err != nil {
		return err
	}
	g, err := r.Kind.give(ctx, r.Desired, r.Parts)
	if err != nil {
		return err
	}
	if err := r.Kind.guestDisk(p.image, p.disk, res.Disk); err != nil {
		return err
	}
	if err := r.mount(ctx, false); err != nil {
		return err
	}
	s, err := r.Machine()
	if err != nil {
		return err
	}
	if b := r.Kind.cfg.Machines.Board; b != "" {
		s.Machine.Board = b
	}
	s.Machine.Kernel = &vmm.Kernel{Image: tree.Kernel, Initrd: tree.Initrd, Cmdline: guest.Cmdline}
	s.AddAgent()
	s.AddDisk(upperSerial, p.image, false)
	s.AddShare(rootTag)
	r.AddNICs(s, net)
	if err := machine.WriteBoot(p.run, bootOf(r.Desired.ID.Name, c, res, net, g)); err != nil {
		return err
	}
	return r.WriteMachine(s, false)
}

// noMachines refuses a machine: nothing is ever run in a lower class instead.
func noMachines() error {
	return problem.New(CodeIsolation, "this node runs no virtual machines").
		WithFix("plan it anew; isolation: namespace runs on every node")
}

// AttachMachine attaches the machine to its networks, before anything of its image
// was looked at.
func (r *Run) AttachMachine(ctx context.Context) (machine.Net, error) {
	m := r.Kind.cfg.Machines
	if len(r.Parts.Networks) == 0 {
		return machine.Net{}, nil
	}
	return m.Networks.AttachMachine(ctx, r.Desired, r.Parts.Networks)
}

// Machine begins the configuration of the workload's machine.
func (r *Run) Machine() (*machine.Setup, error) {
	res, m := r.Desired.Plan.Resources, r.Kind.cfg.Machines
	if res.Memory < plan.VMMMemory+vmm.MinMemory {
		return nil, problem.New(CodeInvalid, "memory of %d bytes: a machine needs %d at least", res.Memory, uint64(plan.VMMMemory+vmm.MinMemory))
	}
	accel := m.Accel
	if accel == "" {
		accel = vmm.KVM
	}
	return machine.NewSetup(vmm.Config{
		Name: r.Desired.ID.Name, Accel: accel, Board: vmm.MicroVM,
		Memory: (res.Memory - plan.VMMMemory) &^ (1<<20 - 1), CPUs: processors(res.CPU),
	}), nil
}

// processors is how many a guest has for thousandths of a core: at least as many as
// it may use, and what the cgroup leaves of them.
func processors(cpu uint64) int { return int(min(max((cpu+999)/1000, 1), vmm.MaxCPUs)) }

// AddNICs connects the machine with its networks.
func (r *Run) AddNICs(s *machine.Setup, n machine.Net) {
	for _, i := range n.Interfaces {
		s.AddNIC(i.MAC, i.MTU, n.Path, i.Tap, r.Kind.cfg.Machines.Vhost)
	}
}

// WriteMachine writes the bundles and the spec of a machine. Its file server, if it
// has one, serves the flist's mount, writable or not.
func (r *Run) WriteMachine(s *machine.Setup, writable bool) error {
	k, p, res := r.Kind, r.place, r.Desired.Plan.Resources
	// The limits that hold both together are the engine's, on the cgroup above.
	box := vmm.Box{
		Root: k.cfg.Machines.Root, IDBase: r.rec.IDBase, IDs: idRange, Cgroup: p.cgpath + "/" + machine.MonitorGroup,
		Memory: res.Memory, PIDs: max(res.PIDs, vmm.MinThreads),
	}
	spec, err := vmm.MonitorSpec(s.Machine, box)
	if err != nil {
		return err
	}
	if err := shim.WriteJSON(p.config, spec); err != nil {
		return err
	}
	if s.Engine.Share {
		box.Cgroup = p.cgpath + "/" + machine.FileServerGroup
		spec, err := vmm.FileServerSpec(r.Desired.ID.Name, p.rootfs, writable, machine.Listener, box)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(p.server, runMode); err != nil {
			return fmt.Errorf("make run directory: %w", err)
		}
		if err := shim.WriteJSON(p.server+"/config.json", spec); err != nil {
			return err
		}
	}
	ss := r.shimSpec()
	ss.NoNewPrivs = true
	if err := s.Fill(&ss); err != nil {
		return err
	}
	return shim.WriteSpec(p.run, ss)
}

// bootOf is what the agent is told; a pure function.
func bootOf(name string, c plan.Container, res plan.Resources, net machine.Net, g given) control.Boot {
	b := control.Boot{
		Hostname: name, Root: control.Root{Tag: rootTag, Upper: upperSerial}, Interfaces: net.Ifaces(), ResolvConf: net.ResolvConf, Hosts: net.Hosts,
		Args: c.Args, Env: environment(c.Env, g.env), WorkDir: c.WorkDir, User: control.User{UID: c.UID, GID: c.GID},
		NoNewPrivs: c.NoNewPrivs, Privileged: c.Privileged, PIDs: res.PIDs,
	}
	for _, f := range g.files {
		b.Files = append(b.Files, control.File{Path: f.path, Mode: uint32(f.mode.Perm()), UID: c.UID, GID: c.GID, Content: f.content})
	}
	return b
}

// guestDisk makes the image at path, for a guest: a file system of the node's making
// that is mounted here once, while nobody else has written it, to grow it. When the
// limit is raised later, only the file grows, and the guest its file system.
func (k *Kind) guestDisk(path, scratch string, limit uint64) error {
	template := ext4.Journaled
	if k.cfg.InMemory {
		template = ext4.Volatile
	}
	size := max(limit, template.Size())
	st, err := os.Stat(path)
	switch {
	case err == nil && uint64(st.Size()) >= size:
		return nil
	case err == nil:
		return reserve(path, size)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("writable layer: %w", err)
	}
	// Under its name only when it is whole: what bears that is never mounted here.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writable layer: %w", err)
	}
	if err := k.diskImage(fresh, scratch, limit); err != nil {
		return err
	}
	if err := mount.Unmount(scratch); err != nil {
		return fmt.Errorf("writable layer: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("writable layer: %w", err)
	}
	return nil
}
