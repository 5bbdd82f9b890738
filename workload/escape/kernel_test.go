//go:build !invm

package escape

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
//
// With ZOS_ESCAPE_UPDATE set it rewrites testdata/namespace.golden.
func TestInTheNodesKernel(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 1<<30); err != nil {
		t.Fatal(err)
	}
	var env []string
	if os.Getenv(UpdateEnv) != "" {
		env = []string{UpdateEnv + "=/tmp"}
	}
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"overlay", "loop", "vsock", "tun", "veth"},
		Disks:    []qemu.Disk{{Path: disk}},
		MemoryMB: 768,
		Cmdline:  "lockdown=integrity module.sig_enforce=1", // as nodes boot
		Files: map[string]string{
			"/bin/runc":     buildRunc(t),
			"/bin/zos-shim": vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-shim"),
			"/bin/program":  Build(t),
		},
		Env:     env,
		Timeout: 6 * time.Minute,
	})
	if env != nil {
		_, after, ok := strings.Cut(console, "golden begins\n")
		text, _, ended := strings.Cut(after, "golden ends\n")
		if !ok || !ended {
			t.Fatal("the guest printed no golden file")
		}
		if err := os.WriteFile("testdata/namespace.golden", []byte(text), 0o644); err != nil {
			t.Fatal(err)
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
