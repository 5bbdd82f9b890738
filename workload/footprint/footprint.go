// Package footprint counts what workloads occupy of a node: the numbers behind
// "zos node show --resources", by which anyone sees that a removed workload left
// nothing.
package footprint

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/linux/namespace"
)

// Footprint is what exists on a node at one moment.
type Footprint struct {
	Mounts     int   `json:"mounts" cbor:"mounts"`         // in the node's own mount namespace
	Cgroups    int   `json:"cgroups" cbor:"cgroups"`       // the root included
	Namespaces int   `json:"namespaces" cbor:"namespaces"` // of all kinds, that a process lives in
	Interfaces int   `json:"interfaces" cbor:"interfaces"` // in the node's own network namespace
	Bytes      int64 `json:"bytes" cbor:"bytes"`           // allocated on disk below the workloads' directory
}

// Read counts now. dir is the workloads' directory on the data disk; one that is
// missing holds 0 bytes. Cached flist objects are not counted: they belong to no
// workload and are evicted when room is needed.
func Read(dir string) (Footprint, error) {
	var f Footprint
	mounts, err := mount.Under("/")
	if err != nil {
		return Footprint{}, fmt.Errorf("count mounts: %w", err)
	}
	f.Mounts = len(mounts)
	if f.Cgroups, err = cgroup.Group(cgroup.Root).Count(); err != nil {
		return Footprint{}, fmt.Errorf("count cgroups: %w", err)
	}
	spaces, err := namespace.All()
	if err != nil {
		return Footprint{}, fmt.Errorf("count namespaces: %w", err)
	}
	f.Namespaces = len(spaces)
	interfaces, err := net.Interfaces()
	if err != nil {
		return Footprint{}, fmt.Errorf("count interfaces: %w", err)
	}
	f.Interfaces = len(interfaces)
	if f.Bytes, err = allocated(dir); err != nil {
		return Footprint{}, fmt.Errorf("count bytes: %w", err)
	}
	return f, nil
}

// allocated sums the blocks of all files below dir, not counting dir itself.
func allocated(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we looked, or never there
		}
		if err != nil {
			return err
		}
		if path == dir {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}
