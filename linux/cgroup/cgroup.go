// Package cgroup reads, kills and removes cgroups of version 2, and puts one behind the
// others. It creates no limits: the container runtime does that from its configuration.
package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where the node mounts cgroup2.
const Root = "/sys/fs/cgroup"

// Group is the absolute path of one cgroup directory.
type Group string

// At returns the group at path below Root, e.g. "/zos/x".
func At(path string) Group { return Group(filepath.Join(Root, path)) }

// Check tells whether Root is cgroup2 alone, as every node's is.
func Check() error {
	var st unix.Statfs_t
	if err := unix.Statfs(Root, &st); err != nil {
		return fmt.Errorf("inspect %s: %w", Root, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("inspect %s: not cgroup version 2 (file system type %#x)", Root, st.Type)
	}
	return nil
}

// Exists tells whether the group is there.
func (g Group) Exists() bool {
	fi, err := os.Stat(string(g))
	return err == nil && fi.IsDir()
}

// Read returns the content of one of the group's files, without the last newline.
func (g Group) Read(file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(string(g), file))
	if err != nil {
		return "", fmt.Errorf("read cgroup: %w", err)
	}
	return strings.TrimRight(string(b), "\n"), nil
}

// Event returns one counter of a flat-keyed file, e.g. Event("memory.events",
// "oom_kill"). A group, file or key that is missing counts 0.
func (g Group) Event(file, key string) uint64 {
	b, err := os.ReadFile(filepath.Join(string(g), file))
	if err != nil {
		return 0
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		k, v, _ := strings.Cut(sc.Text(), " ")
		if k == key {
			n, _ := strconv.ParseUint(v, 10, 64)
			return n
		}
	}
	return 0
}

// Populated tells whether a process lives in the group or below it.
func (g Group) Populated() bool { return g.Event("cgroup.events", "populated") == 1 }

// SetIdle puts the group behind all others that want a processor, which it gets when
// those leave it, or takes it back among them (cpu.idle of
// Documentation/scheduler/sched-design-CFS.rst). Where the group or the controller is
// missing there is nothing to do.
func (g Group) SetIdle(idle bool) error {
	value := "0"
	if idle {
		value = "1"
	}
	err := os.WriteFile(filepath.Join(string(g), "cpu.idle"), []byte(value), 0)
	// The kernel refuses to make the file: what has no controller has no such file.
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("set the share of cgroup %s: %w", g, err)
	}
	return nil
}

// Idle tells whether the group is behind the others, as SetIdle says.
func (g Group) Idle() bool {
	s, err := g.Read("cpu.idle")
	return err == nil && s == "1"
}

// Kill sends SIGKILL to every process of the group and below, in one step that
// forks can't outrun, and waits until none is left. A missing group is no error.
func (g Group) Kill(ctx context.Context) error {
	// One that is idle would give its memory back behind everything that computes. What
	// has no such file has no share to be without either.
	_ = g.SetIdle(false)
	err := os.WriteFile(filepath.Join(string(g), "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	for wait := time.Millisecond; g.Populated(); {
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill cgroup %s: still populated: %w", g, context.Cause(ctx))
		case <-time.After(wait):
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
	return nil
}

// Remove deletes the group and those below it, which must hold no process. The
// kernel answers EBUSY for a moment after the last process; Remove waits for it
// as long as ctx lasts. A missing group is no error.
func (g Group) Remove(ctx context.Context) error {
	groups, err := g.tree()
	if err != nil {
		return err
	}
	for _, d := range groups {
		for wait := time.Millisecond; ; {
			err := unix.Rmdir(string(d))
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("remove cgroup %s: %w", d, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove cgroup %s: %w", d, err)
			case <-time.After(wait):
			}
			wait = min(2*wait, 100*time.Millisecond)
		}
	}
	return nil
}

// tree lists the group and its descendants, deepest first.
func (g Group) tree() ([]Group, error) {
	var out []Group
	err := filepath.WalkDir(string(g), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			out = append(out, Group(p))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list cgroups below %s: %w", g, err)
	}
	sort.Slice(out, func(i, j int) bool { return len(out[i]) > len(out[j]) })
	return out, nil
}

// Children returns the names of the groups directly below; a missing group has none.
func (g Group) Children() ([]string, error) {
	ents, err := os.ReadDir(string(g))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	var out []string
	for _, e := range ents {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// All returns the paths of all groups at and below g, deepest first.
func (g Group) All() ([]string, error) {
	t, err := g.tree()
	out := make([]string, len(t))
	for i, group := range t {
		out[i] = string(group)
	}
	return out, err
}

// CPUMax turns thousandths of a core into the content of cpu.max: a quota per period,
// both in microseconds. The kernel wants a quota of 1 ms or more, so small limits
// get a longer period. 0 is no limit.
func CPUMax(milli uint64) string {
	period := uint64(100_000)
	switch {
	case milli == 0:
		return "max"
	case milli < 10:
		period = 1_000_000
	}
	return fmt.Sprintf("%d %d", milli*period/1000, period)
}
