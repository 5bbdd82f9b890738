package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// hierarchy is where this machine has cgroup version 2; beside version 1 it is
// mounted one directory deeper. Killing and removing need no controller.
func hierarchy(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{Root, filepath.Join(Root, "unified")} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err == nil {
				return dir
			}
		}
	}
	t.Fatal("this machine has no cgroup version 2 (run as root: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)")
	return ""
}

func TestKillEndsForksAndRemoveTheTree(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	g := Group(filepath.Join(hierarchy(t), fmt.Sprintf("zos-test-%d", os.Getpid())))
	inner := Group(filepath.Join(string(g), "a", "b"))
	if err := os.MkdirAll(string(inner), 0o755); err != nil {
		t.Fatalf("%v (run as root)", err)
	}
	t.Cleanup(func() { _ = g.Kill(context.Background()); _ = g.Remove(context.Background()) })
	// It forks for ever; joining first keeps every child inside.
	cmd := exec.Command("sh", "-c", fmt.Sprintf("echo $$ >%s/cgroup.procs; sleep 60 & while :; do sleep 0.01 & wait $!; done", inner))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for !g.Populated() {
		if ctx.Err() != nil {
			t.Fatal("never populated")
		}
		time.Sleep(time.Millisecond)
	}
	if all, err := g.All(); err != nil || len(all) != 3 {
		t.Errorf("count %d, %v", len(all), err)
	}
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if g.Populated() {
		t.Error("still populated")
	}
	if err := g.Remove(ctx); err != nil {
		t.Fatal(err)
	}
	if g.Exists() {
		t.Error("still there")
	}
	// Once more, with nothing there.
	if err := g.Kill(ctx); err != nil {
		t.Error(err)
	}
	if err := g.Remove(ctx); err != nil {
		t.Error(err)
	}
	if n := g.Event("memory.events", "oom_kill"); n != 0 {
		t.Errorf("events of a missing group: %d", n)
	}
}
