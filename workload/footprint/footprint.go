// Package footprint lists what workloads occupy of a node: what "zos node show
// --resources" shows, by which anyone sees that a removed workload left nothing.
package footprint

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/linux/namespace"
)

// Footprint is what exists on a node at one moment. The lists are sorted.
type Footprint struct {
	Mounts     []string // mount points in the node's own mount namespace
	Cgroups    []string // paths, the root included
	Namespaces []string // of all kinds, that a process lives in, as "net:[4026531840]"
	Interfaces []string // in the node's own network namespace
	Processes  []string // names of programs, kernel threads not counted
	Bytes      uint64   // allocated on disk below the workloads' directories
	Files      uint64   // below the workloads' directories
}

// Same tells whether f is what g is. Namespaces are compared by number: the
// node's own programs, started again, live in others than before.
func (f Footprint) Same(g Footprint) bool {
	return slices.Equal(f.Mounts, g.Mounts) && slices.Equal(f.Cgroups, g.Cgroups) && len(f.Namespaces) == len(g.Namespaces) &&
		slices.Equal(f.Interfaces, g.Interfaces) && slices.Equal(f.Processes, g.Processes) && f.Bytes == g.Bytes && f.Files == g.Files
}

// Read lists now. dirs are the workloads' directories on the data disk, one for each
// kind that keeps something there; one that is missing holds nothing. Cached flist
// objects are not counted: they belong to no workload and are evicted when room is
// needed.
func Read(dirs ...string) (Footprint, error) {
	var f Footprint
	fail := func(what string, err error) (Footprint, error) {
		return Footprint{}, fmt.Errorf("list %s: %w", what, err)
	}
	mounts, err := mount.Under("/")
	if err != nil {
		return fail("mounts", err)
	}
	for _, m := range mounts {
		f.Mounts = append(f.Mounts, m.Target)
	}
	if f.Cgroups, err = cgroup.Group(cgroup.Root).All(); err != nil {
		return fail("cgroups", err)
	}
	spaces, err := namespace.All()
	if err != nil {
		return fail("namespaces", err)
	}
	for ns := range spaces {
		f.Namespaces = append(f.Namespaces, ns)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return fail("interfaces", err)
	}
	for _, i := range interfaces {
		f.Interfaces = append(f.Interfaces, i.Name)
	}
	if f.Processes, err = processes(); err != nil {
		return fail("processes", err)
	}
	for _, dir := range dirs {
		files, bytes, err := Usage(dir)
		if err != nil {
			return fail("files", err)
		}
		f.Files, f.Bytes = f.Files+files, f.Bytes+bytes
	}
	for _, list := range [][]string{f.Mounts, f.Cgroups, f.Namespaces, f.Interfaces, f.Processes} {
		slices.Sort(list)
	}
	return f, nil
}

// processes lists the programs that run.
func processes() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		// Kernel threads have no program; other processes may just have ended.
		if exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe")); err == nil {
			out = append(out, filepath.Base(exe))
		}
	}
	return out, nil
}

// Usage counts the files below dir and the bytes that they occupy on disk, dir
// itself not counted.
func Usage(dir string) (files, bytes uint64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we looked, or never there
		}
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.Type().IsRegular() {
			files++
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += uint64(st.Blocks) * 512
		}
		return nil
	})
	return files, bytes, err
}
