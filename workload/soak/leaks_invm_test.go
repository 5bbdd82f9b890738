//go:build invm

package soak

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/vmtest/asnode"
	"github.com/zero-os/zos/workload/footprint"
)

// trace is everything on the machine that workloads could leave behind, each with how
// many there are of it.
type trace map[string]int

func take() (trace, error) {
	t := trace{}
	// What zos node show --resources says.
	f, err := footprint.Read(dataDir + "/workloads")
	if err != nil {
		return nil, err
	}
	t["bytes below "+dataDir+"/workloads"], t["files below "+dataDir+"/workloads"] = int(f.Bytes), int(f.Files)
	for _, i := range f.Interfaces {
		t["interface "+i]++
	}
	for _, p := range f.Processes {
		t["process "+p]++
	}
	for _, c := range f.Cgroups {
		t["cgroup "+c]++
	}
	for _, n := range f.Namespaces {
		kind, _, _ := strings.Cut(n, ":")
		t["namespaces of kind "+kind]++
	}
	mounts, err := mount.Under("/")
	if err != nil {
		return nil, err
	}
	for _, m := range mounts { // those that pin network namespaces included
		t["mount "+m.Target+" "+m.Type]++
	}
	for _, root := range []string{"/run", dataDir} {
		err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
			switch {
			case err != nil && !os.IsNotExist(err):
				return err
			case strings.HasPrefix(p, asnode.VMMRoot+"/"), strings.HasPrefix(p, asnode.ExitsDir+"/"): // bounded by its own
				return nil
			}
			t["path "+p]++
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, err
	}
	for _, l := range loops {
		t["loop device "+l]++
	}
	// What the disk itself has free, whoever took it.
	unix.Sync()
	var st unix.Statfs_t
	if err := unix.Statfs(dataDir, &st); err != nil {
		return nil, err
	}
	t["free blocks of "+dataDir], t["free inodes of "+dataDir] = int(st.Bfree), int(st.Ffree)
	keys, err := os.ReadFile("/proc/keys")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(keys)) {
		if f := strings.Fields(line); len(f) > 8 && f[7] == "keyring" && strings.HasPrefix(f[8], "_ses.") {
			t["session keyring"]++
		}
	}
	// Of this process, which is the node daemon most of the time.
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, f := range fds {
		to, err := os.Readlink("/proc/self/fd/" + f.Name())
		if err != nil || strings.HasSuffix(to, "/fd") && strings.HasPrefix(to, "/proc/") {
			continue // that of this listing
		}
		kind, _, _ := strings.Cut(to, ":[")
		t["descriptor "+kind]++
	}
	return t, nil
}

// differ lists what is more or less than before.
func differ(before, now trace) (out []string) {
	for k, n := range now {
		if before[k] != n {
			out = append(out, fmt.Sprintf("%s: %d, was %d", k, n, before[k]))
		}
	}
	for k, n := range before {
		if _, there := now[k]; !there {
			out = append(out, fmt.Sprintf("%s: none, was %d", k, n))
		}
	}
	sort.Strings(out)
	return out
}

// nothingLeaked fails unless the node is as before, after a moment for the kernel: it
// frees namespaces, blocks and loop devices a little after their last user.
func nothingLeaked(t *testing.T, before trace, when string) {
	t.Helper()
	var diff []string
	for range 100 {
		now, err := take()
		must(t, err)
		if diff = differ(before, now); len(diff) == 0 {
			goroutines, dying := runtime.NumGoroutine(), cgroup.Group(cgroup.Root).Event("cgroup.stat", "nr_dying_descendants")
			t.Logf("measured: %s: nothing leaked of %d things that are counted; %d goroutines, %d dying cgroups, %s", when, len(now), goroutines, dying, meminfo())
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s: leaked:\n%s", when, strings.Join(diff, "\n"))
}

// meminfo is for people: the kernel's own memory has caches that come and go.
func meminfo() string {
	b, _ := os.ReadFile("/proc/meminfo")
	var out []string
	for line := range strings.Lines(string(b)) {
		for _, k := range []string{"MemAvailable:", "SUnreclaim:", "Percpu:"} {
			if strings.HasPrefix(line, k) {
				out = append(out, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	return strings.Join(out, ", ")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
