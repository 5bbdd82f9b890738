package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/zero-os/zos/linux/cgroup"
)

// visit is the cgroup, below the workload's, of a process beside its own: what that
// starts ends with it, as in namespaces, and counts to the workload's limits.
type visit struct{ group cgroup.Group }

// visitEnd is how long a killed visit may take to be gone. One that takes longer leaves
// an empty directory.
const visitEnd = 10 * time.Second

// newVisit makes the cgroup and opens it.
func (a *agent) newVisit() (visit, *os.File, error) {
	dir := fmt.Sprintf("%s/visit-%d", groupDir, a.visits.Add(1))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return visit{}, nil, fmt.Errorf("make cgroup: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		_ = os.Remove(dir)
		return visit{}, nil, fmt.Errorf("open cgroup: %w", err)
	}
	return visit{cgroup.Group(dir)}, f, nil
}

// kill ends everything in it, and returns at once.
func (v visit) kill() { _ = os.WriteFile(string(v.group)+"/cgroup.kill", []byte("1"), 0) }

// end kills what is left, and forgets it.
func (v visit) end() {
	ctx, cancel := context.WithTimeout(context.Background(), visitEnd)
	defer cancel()
	if v.group.Kill(ctx) == nil {
		_ = v.group.Remove(ctx)
	}
}
