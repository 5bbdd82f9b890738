package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/node/protocol"
)

// resources counts everything that a workload could leave behind, as the kernel
// and the data disk show it.
func resources() (protocol.Resources, error) {
	var r protocol.Resources
	mounts, err := mount.Under("/")
	if err != nil {
		return r, err
	}
	for _, m := range mounts {
		r.Mounts = append(r.Mounts, m.Target)
	}
	if err := filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err == nil && e.IsDir() {
			r.Cgroups = append(r.Cgroups, path)
		}
		return err
	}); err != nil {
		return r, fmt.Errorf("list cgroups: %w", err)
	}
	if r.Namespaces, r.Processes, err = namespaces("/proc"); err != nil {
		return r, err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return r, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		r.Interfaces = append(r.Interfaces, l.Attrs().Name)
	}
	if r.Files, r.Bytes, err = usage(dataWorkloads); err != nil {
		return r, err
	}
	if _, r.Cached, err = usage(filepath.Join(boot.DataDir, "objects")); err != nil {
		return r, err
	}
	for _, list := range [][]string{r.Mounts, r.Cgroups, r.Namespaces, r.Interfaces, r.Processes} {
		sort.Strings(list)
	}
	return r, nil
}

// namespaces lists the namespaces that processes are in other than process 1's,
// and the processes that are not kernel threads, by name.
func namespaces(proc string) (spaces, processes []string, err error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, nil, fmt.Errorf("list processes: %w", err)
	}
	own := map[string]bool{}
	seen := map[string]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		links, err := os.ReadDir(filepath.Join(proc, e.Name(), "ns"))
		if err != nil {
			continue // it ended while we looked
		}
		for _, l := range links {
			ns, err := os.Readlink(filepath.Join(proc, e.Name(), "ns", l.Name()))
			if err != nil {
				continue
			}
			if pid == 1 {
				own[ns] = true
			}
			seen[ns] = true
		}
		if exe, err := os.Readlink(filepath.Join(proc, e.Name(), "exe")); err == nil {
			processes = append(processes, filepath.Base(exe))
		}
	}
	for ns := range seen {
		if !own[ns] {
			spaces = append(spaces, ns)
		}
	}
	return spaces, processes, nil
}

// usage counts the regular files below dir and their allocated bytes.
func usage(dir string) (files, bytes uint64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		files++
		bytes += uint64(info.Size())
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return files, bytes, nil
}

// memory lists the resident memory of the OS's own processes.
func memory() []protocol.Consumer {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []protocol.Consumer
	for _, e := range entries {
		pid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err != nil || filepath.Dir(exe) != "/bin" {
			continue
		}
		c := protocol.Consumer{Name: filepath.Base(exe), PID: pid}
		rollup, err := os.ReadFile(filepath.Join("/proc", e.Name(), "smaps_rollup"))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(rollup), "\n") {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			kib, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				continue
			}
			switch f[0] {
			case "Rss:":
				c.Resident = kib << 10
			case "Private_Clean:", "Private_Dirty:":
				c.Private += kib << 10
			}
		}
		out = append(out, c)
	}
	return out
}
