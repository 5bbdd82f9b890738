package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/life"
	"github.com/zero-os/zos/workload/shim"
)

// Form is in what kinds of workloads differ that shims run.
type Form interface {
	// Noun is what one is called in errors: "container", "machine".
	Noun() string
	// Decode reads and checks the configuration of a desired workload. What it returns
	// is safe to use in paths and configuration.
	Decode(d workload.Desired) (Parts, error)
	// Prepare makes the shim's directory of a workload of which nothing runs.
	Prepare(ctx context.Context, r *Run) error
}

// Parts are what all forms have in common.
type Parts struct {
	Flist    canon.Hash
	Networks []plan.Attachment
	Life     plan.Life
	// Isolation is the class: plan.IsolationNamespace, or another one if a guest's
	// kernel writes the disk.
	Isolation string
	Files     []plan.File
	Secrets   []plan.Secret
	// Core is the configuration without its life: all that only a new start changes.
	Core   []byte
	Config any // the form's own
}

// machine tells whether it runs in a virtual machine.
func (p Parts) machine() bool { return p.Isolation != plan.IsolationNamespace }

// Run is one preparation of a workload.
type Run struct {
	Kind    *Kind
	Desired workload.Desired
	Parts   Parts

	place place
	rec   record
	want  string
}

func (r *Run) prepare(ctx context.Context) error {
	if err := os.MkdirAll(r.place.rootfs, runMode); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	return r.Kind.form.Prepare(ctx, r)
}

// Root is where the flist is mounted.
func (r *Run) Root() string { return r.place.rootfs }

// Dir is the shim's directory, in memory.
func (r *Run) Dir() string { return r.place.run }

// LayerDir is where MountLayer mounts the writable layer.
func (r *Run) LayerDir() string { return r.place.disk }

// MountLayer makes a writable layer of size bytes and mounts it at LayerDir, for what
// the node writes for the workload.
func (r *Run) MountLayer(size uint64) error {
	return r.Kind.diskImage(r.place.image, r.place.disk, size)
}

// Mount mounts the flist at Root: writable through a mounted layer, or read-only.
func (r *Run) Mount(ctx context.Context, writable bool) error { return r.mount(ctx, writable) }

// Disk makes a further disk of the workload, its blocks reserved, and returns its
// path. What it held stays.
func (r *Run) Disk(serial string, size uint64) (string, error) {
	path := filepath.Join(r.place.data, diskPrefix+serial)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", diskFull(fmt.Errorf("make disk %s: %w", serial, err))
	}
	st, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("make disk %s: %w", serial, err)
	}
	if uint64(st.Size()) >= size {
		return path, nil
	}
	return path, reserve(path, size)
}

// Given are the files of the workload's secrets.
func (r *Run) Given(ctx context.Context) ([]control.File, error) {
	g, err := r.Kind.give(ctx, r.Desired, r.Parts)
	if err != nil {
		return nil, err
	}
	if len(g.env) > 0 {
		return nil, problem.New(CodeInvalid, "a machine has no variables that secrets could be")
	}
	var out []control.File
	for _, f := range g.files {
		out = append(out, control.File{Path: f.path, Mode: uint32(f.mode.Perm()), Content: f.content})
	}
	return out, nil
}

// Firmware copies a file of the VMM flist to path, unless something is there.
func (r *Run) Firmware(name, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(r.Kind.cfg.Machines.Root, name))
	if err == nil {
		err = os.WriteFile(path+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return diskFull(fmt.Errorf("copy firmware: %w", err))
	}
	return nil
}

// mount mounts the flist, writable through the workload's layer, or read-only.
func (r *Run) mount(ctx context.Context, writable bool) error {
	upper, work := "", ""
	if writable {
		upper, work = r.place.upper, r.place.work
	}
	verity, err := r.Kind.cfg.Rootfs.Mount(ctx, r.Parts.Flist, r.place.rootfs, upper, work, r.rec.IDBase)
	if err != nil {
		return fmt.Errorf("mount root file system: %w", err)
	}
	if verity != r.rec.Verity {
		r.rec.Verity = verity
		if err := writeRecord(r.place, r.rec); err != nil {
			return err
		}
	}
	return nil
}

// shimSpec is what the shim is told, whatever the form.
func (r *Run) shimSpec() shim.Spec {
	k, p, res := r.Kind, r.place, r.Desired.Plan.Resources
	return shim.Spec{
		ID: p.key, Runc: k.cfg.Runc, RuncRoot: k.cfg.RuncRoot, Cgroup: string(p.cgroup), Plan: r.want,
		Life: k.life(r.Parts), UID: r.rec.IDBase, GID: r.rec.IDBase,
		Limits: life.Limits(res), LogDir: p.logs, LogBound: k.cfg.LogBound, Exits: k.cfg.Exits, Final: p.final,
		Backoff: k.cfg.Backoff,
	}
}

// containers is the Form of kind "container".
type containers struct{}

func (containers) Noun() string { return "container" }

func (containers) Decode(d workload.Desired) (Parts, error) {
	c, err := decode(d)
	if err != nil {
		return Parts{}, err
	}
	p := Parts{Flist: c.Flist, Networks: c.Networks, Life: c.Life, Isolation: c.Isolation, Files: c.Files, Secrets: c.Secrets, Config: c}
	c.Life = plan.Life{}
	p.Core, err = canon.Marshal(c)
	if err != nil {
		return Parts{}, fmt.Errorf("encode plan: %w", err)
	}
	return p, nil
}

func (f containers) Prepare(ctx context.Context, r *Run) error {
	c := r.Parts.Config.(plan.Container)
	if c.Isolation == plan.IsolationMicroVM {
		return r.prepareMicroVM(ctx, c)
	}
	return r.prepareContainer(ctx, c)
}

// prepareContainer makes the shim's directory of a container in namespaces: mounts,
// configuration, spec.
func (r *Run) prepareContainer(ctx context.Context, c plan.Container) error {
	k, d, p := r.Kind, r.Desired, r.place
	var ns Namespace
	if len(c.Networks) > 0 {
		// First of all: nothing of the image has been looked at yet.
		var err error
		if ns, err = k.cfg.Networks.Attach(ctx, d, c.Networks); err != nil {
			return err
		}
	}
	if err := k.diskImage(p.image, p.disk, d.Plan.Resources.Disk); err != nil {
		return err
	}
	if err := r.mount(ctx, true); err != nil {
		return err
	}
	g, err := k.give(ctx, d, r.Parts)
	if err != nil {
		return err
	}
	files, err := g.put(filepath.Join(p.run, "files"), r.rec.IDBase+c.UID, r.rec.IDBase+c.GID)
	if err != nil {
		return err
	}
	c.Env = environment(c.Env, g.env)
	config, err := ociConfig(d.ID.Name, c, d.Plan.Resources, r.rec.IDBase, p.cgpath, ns)
	if err != nil {
		return err
	}
	config.Mounts = append(config.Mounts, files...)
	if err := shim.WriteJSON(p.config, config); err != nil {
		return err
	}
	s := r.shimSpec()
	s.NoNewPrivs, s.UID, s.GID, s.Upper = c.NoNewPrivs, r.rec.IDBase+c.UID, r.rec.IDBase+c.GID, p.disk
	return shim.WriteSpec(p.run, s)
}

// attachAgain mends the networks of a workload that runs.
func (k *Kind) attachAgain(ctx context.Context, d workload.Desired, c Parts) error {
	if c.Isolation != plan.IsolationNamespace {
		if k.cfg.Machines == nil {
			return errors.New("this node runs no machines any more")
		}
		_, err := k.cfg.Machines.Networks.AttachMachine(ctx, d, c.Networks)
		return err
	}
	_, err := k.cfg.Networks.Attach(ctx, d, c.Networks)
	return err
}

// removeLayers deletes everything that the workload has written: its layer, and
// disks of its own.
func removeLayers(p place) error {
	names, err := layers(p)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(p.data, name)); err != nil {
			return fmt.Errorf("discard writable layer: %w", err)
		}
	}
	return nil
}

// layers lists the files that hold what the workload has written.
func layers(p place) ([]string, error) {
	ents, err := readDir(p.data)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range ents {
		if e.Name() == filepath.Base(p.image) || strings.HasPrefix(e.Name(), diskPrefix) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

func hasLayers(p place) (bool, error) {
	names, err := layers(p)
	return len(names) > 0, err
}

// diskPrefix begins the names of a machine's further disks, before the serial.
const diskPrefix = "disk-"
