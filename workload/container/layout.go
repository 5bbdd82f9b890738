package container

import (
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/machine"
	"github.com/zero-os/zos/workload/shim"
)

// place is where everything of one workload lies.
type place struct {
	id  workload.ID
	key string // its id in runc, in the run directory and in the cgroup tree

	data   string // on the data disk
	record string
	image  string
	final  string
	logs   string

	run    string // in memory
	disk   string
	upper  string
	work   string
	bundle string
	config string
	rootfs string
	server string // bundle of a machine's file server

	runtime shim.Runtime
	cgroup  cgroup.Group
	cgpath  string // of the cgroup, below the root of the hierarchy
}

func (k *Kind) place(id workload.ID) place {
	key := keyOf(id)
	data := filepath.Join(k.cfg.Data, id.Contract.String(), id.Name)
	run := filepath.Join(k.cfg.Run, key)
	cg := filepath.Join(k.cfg.CgroupParent, key)
	p := place{
		id:     id,
		key:    key,
		data:   data,
		record: filepath.Join(data, recordFile),
		image:  filepath.Join(data, "disk.img"),
		final:  filepath.Join(data, "final.json"),
		logs:   filepath.Join(data, "log"),
		run:    run,
		disk:   filepath.Join(run, "disk"),
		upper:  filepath.Join(run, "disk", "upper"),
		work:   filepath.Join(run, "disk", "work"),
		bundle: filepath.Join(run, shim.BundleDir),
		config: filepath.Join(run, shim.BundleDir, "config.json"),
		rootfs: filepath.Join(run, shim.BundleDir, "rootfs"),
		server: filepath.Join(run, machine.FileServerDir),
		cgroup: cgroup.At(cg),
		cgpath: cg,
	}
	p.runtime = shim.Runtime{Runc: k.cfg.Runc, Root: k.cfg.RuncRoot, ID: key, Cgroup: string(p.cgroup)}
	return p
}

// LogDir returns the directory of a workload's log ring, for package logs.
func (k *Kind) LogDir(id workload.ID) string { return k.place(id).logs }

// nameRE is the form of names in plans. They become path elements here, so it is
// checked again.
var nameRE = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// keyOf is the id as one name. The contract's digits have a fixed length, so it
// can be told apart again.
func keyOf(id workload.ID) string { return id.Contract.String() + "-" + id.Name }

func parseKey(key string) (workload.ID, error) {
	const digits = 2 * canon.HashSize
	if len(key) < digits+2 || key[digits] != '-' {
		return workload.ID{}, fmt.Errorf("parse workload key %.150q: want <contract>-<name>", key)
	}
	return parseID(key[:digits], key[digits+1:])
}

func parseID(contract, name string) (workload.ID, error) {
	h, err := canon.ParseHash(contract)
	if err != nil {
		return workload.ID{}, err
	}
	if h.String() != contract || !nameRE.MatchString(name) {
		return workload.ID{}, fmt.Errorf("parse workload id %.80q %.80q: not of their form", contract, name)
	}
	return workload.ID{Contract: h, Name: name}, nil
}
