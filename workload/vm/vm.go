package vm

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/cloudinit"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmm/tree"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/container"
	"github.com/zero-os/zos/workload/machine"
)

// isolation is what receipts say of a machine.
const isolation = "vm"

// New returns the kind. Of cfg, directories that are not given are machines' own; Data
// must not be that of containers. Networks and Machines.Networks are those of
// network.Kind.Machines.
func New(cfg container.Config) (*container.Kind, error) {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&cfg.Run, "/run/zos/vm")
	set(&cfg.RuncRoot, "/run/zos/vm-runc")
	set(&cfg.CgroupParent, "/zos-vm")
	if cfg.IDBase == 0 {
		cfg.IDBase = 1 << 31 // far from containers' ranges
	}
	if cfg.Machines == nil {
		return nil, errors.New("machines: it is not said how they run")
	}
	k, err := container.NewForm(cfg, form{})
	if err != nil {
		return nil, fmt.Errorf("machines: %w", err)
	}
	return k, nil
}

// form is a machine as a container.Form.
type form struct{}

func (form) Noun() string { return "machine" }

// Decode implements container.Form.
func (form) Decode(d workload.Desired) (container.Parts, error) {
	invalid := func(format string, args ...any) (container.Parts, error) {
		return container.Parts{}, problem.New(container.CodeInvalid, "workload %.63q: "+format, append([]any{d.ID.Name}, args...)...)
	}
	if !plan.ValidName(d.ID.Name) || d.Plan.Name != d.ID.Name || d.Plan.Kind != plan.KindVM {
		return invalid("its name is not [a-z0-9-]{1,63} or not the plan's, or it is no machine")
	}
	m, err := plan.DecodeVM(d.Plan.Config)
	if err != nil {
		return invalid("%w", err)
	}
	if m.Life.Health != nil && len(m.Networks) == 0 {
		return invalid("it has a health check, and no network that it could be reached by")
	}
	if _, err := layer(m, d.Plan.Resources); err != nil {
		return invalid("%w", err)
	}
	p := container.Parts{Flist: m.Flist, Networks: m.Networks, Life: m.Life, Isolation: isolation, Secrets: m.Secrets, Config: m}
	core := m
	core.Life = plan.Life{}
	if p.Core, err = canon.Marshal(core); err != nil {
		return invalid("encode its configuration: %w", err)
	}
	return p, nil
}

// layer is how many bytes of the disk limit are not its further disks'.
func layer(m plan.VM, r plan.Resources) (uint64, error) {
	left := r.Disk
	for _, d := range m.Disks {
		if d.Size > left {
			return 0, fmt.Errorf("its disks are larger than its disk limit of %d bytes", r.Disk)
		}
		left -= d.Size
	}
	return left, nil
}

// Prepare implements container.Form.
func (form) Prepare(ctx context.Context, r *container.Run) error {
	m := r.Parts.Config.(plan.VM)
	net, err := r.AttachMachine(ctx)
	if err != nil {
		return err
	}
	size, err := layer(m, r.Desired.Plan.Resources)
	if err != nil {
		return err
	}
	if err := r.MountLayer(size); err != nil {
		return err
	}
	if err := r.Mount(ctx, m.Boot == plan.BootKernel); err != nil {
		return err
	}
	s, err := r.Machine()
	if err != nil {
		return err
	}
	s.Machine.Board, s.Machine.Reboot = vmm.Q35, true
	s.AddConsole()
	if m.Boot == plan.BootKernel {
		err = bootKernel(r, s, m)
	} else {
		err = bootDisk(r, s, size)
	}
	if err != nil {
		return err
	}
	for _, d := range m.Disks {
		path, err := r.Disk(d.Serial, d.Size)
		if err != nil {
			return err
		}
		s.AddDisk(d.Serial, path, false)
	}
	if err := seed(ctx, r, s, m, net); err != nil {
		return err
	}
	r.AddNICs(s, net)
	s.Engine.Probe = net.Probe
	return r.WriteMachine(s, m.Boot == plan.BootKernel)
}

// rootTag is of the virtiofs with the root file system.
const rootTag = "root"

// bootKernel boots the flist's kernel with the flist as root.
func bootKernel(r *container.Run, s *machine.Setup, m plan.VM) error {
	const kernel, initrd = "boot/vmlinuz", "boot/initrd.img"
	if err := there(r.Root(), kernel); err != nil {
		return problem.New(container.CodeInvalid, "the machine boots /%s, which its flist does not have: %w", kernel, err)
	}
	k := &vmm.Kernel{Image: vmm.FDPath(s.AddFile(r.Root(), kernel)), Cmdline: cmdline(m)}
	if err := there(r.Root(), initrd); err == nil {
		k.Initrd = vmm.FDPath(s.AddFile(r.Root(), initrd))
	}
	s.Machine.Kernel = k
	s.AddShare(rootTag)
	return nil
}

func cmdline(m plan.VM) string {
	c := "root=" + rootTag + " rootfstype=virtiofs rw console=ttyS0 panic=-1"
	if m.Cmdline != "" {
		c += " " + m.Cmdline
	}
	return c
}

// there tells whether a flist has a file that a machine can be given.
func there(root, path string) error {
	f, err := machine.OpenBelow(root, path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	return err
}

// bootDisk boots the flist's disk, by UEFI. The guest sees it as large as the layer
// of its changes will hold, or as it is.
func bootDisk(r *container.Run, s *machine.Setup, layer uint64) error {
	const disk = "disk.raw"
	f, err := machine.OpenBelow(r.Root(), disk, os.O_RDONLY)
	if err != nil {
		return problem.New(container.CodeInvalid, "the machine boots /%s, which its flist does not have: %w", disk, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		return errors.Join(problem.New(container.CodeInvalid, "the machine boots /%s, which is no regular file in its flist", disk), f.Close())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("look at the machine's disk: %w", err)
	}
	changes := filepath.Join(r.LayerDir(), "root.qcow2")
	put := growQcow
	if _, err := os.Lstat(changes); err != nil {
		put = writeQcow
	}
	if err := put(changes, virtual(uint64(st.Size()), layer)); err != nil {
		return problem.New(container.CodeInvalid, "%w", err)
	}
	vars := filepath.Join(r.LayerDir(), "vars.fd")
	if err := r.Firmware(tree.OVMFVars, vars); err != nil {
		return err
	}
	s.Machine.UEFI = &vmm.UEFI{Vars: s.AddState(vars)}
	s.AddChanges("root", changes, r.Root(), disk)
	return nil
}

// virtual is how large a disk of base bytes is to a guest whose changes may take layer
// bytes; a sixteenth is what file system and image need for themselves.
func virtual(base, layer uint64) uint64 { return max(base, (layer-layer/16)&^(1<<20-1)) }

// seed gives the machine its NoCloud seed.
func seed(ctx context.Context, r *container.Run, s *machine.Setup, m plan.VM, net machine.Net) error {
	files, err := r.Given(ctx)
	if err != nil {
		return err
	}
	img, err := cloudinit.Seed{
		Instance: instance(r.Desired.ID, m), Hostname: r.Desired.ID.Name, Keys: m.Keys, Files: files, UserData: m.UserData,
		Interfaces: net.Ifaces(), Nameservers: net.Nameservers, Search: net.Search,
	}.Image()
	if err != nil {
		return problem.New(container.CodeInvalid, "%w", err)
	}
	path := filepath.Join(r.Dir(), "seed.img")
	if err := os.WriteFile(path, img, 0o600); err != nil {
		return fmt.Errorf("write the machine's seed: %w", err)
	}
	s.AddDisk("cidata", path, true)
	return nil
}

// instance is who cloud-init takes the machine for: another one when its flist, and
// with it its disk, is another.
func instance(id workload.ID, m plan.VM) string {
	sum := canon.Sum(append(append(append([]byte("zos-instance-v1\x00"), id.Contract[:]...), m.Flist[:]...), id.Name...))
	return "i-" + hex.EncodeToString(sum[:16])
}
