//go:build !invm

package container

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs kernel_invm_test.go, with the real runc and shim.
func TestInTheNodesKernel(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 4<<30); err != nil {
		t.Fatal(err)
	}
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"overlay", "loop"},
		Disks:    []qemu.Disk{{Path: disk}},
		MemoryMB: 768,
		Env:      []string{"ZOS_TEST_MANY=" + os.Getenv("ZOS_TEST_MANY")},
		Cmdline:  "lockdown=integrity module.sig_enforce=1", // as nodes boot
		Files: map[string]string{
			"/bin/runc":     buildRunc(t),
			"/bin/zos-shim": vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-shim"),
			"/bin/payload":  vmtest.BuildStatic(t, "./testdata/payload"),
		},
		Args:    []string{"-test.v"},
		Timeout: 12 * time.Minute,
	})
	for line := range strings.Lines(console) {
		if strings.Contains(line, "measured:") || strings.Contains(line, "--- PASS") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// buildRunc compiles runc as releases do: with seccomp, which needs cgo, and static.
func buildRunc(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "runc")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "seccomp osusergo netgo",
		"-ldflags", "-s -w -extldflags -static", "-o", out, "github.com/opencontainers/runc")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build runc: %v (run: make deps)\n%s", err, b)
	}
	return out
}
