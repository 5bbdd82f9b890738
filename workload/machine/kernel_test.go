//go:build !invm

package machine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs kernel_invm_test.go: containers in micro-VMs under KVM,
// inside an emulated node.
func TestInTheNodesKernel(t *testing.T) {
	dir := t.TempDir()
	initrd, err := boot.GuestInitrd(context.Background(), vmtest.Kernel(t), vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-guest"))
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	if err := boot.WriteVMM(boot.VMMOptions{KernelDir: vmtest.Kernel(t), Initrd: initrd}, tree); err != nil {
		t.Fatal(err)
	}
	vmm, data := filepath.Join(dir, "vmm"), filepath.Join(dir, "data")
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", tree, vmm, "400M").CombinedOutput(); err != nil {
		t.Fatalf("make disk: %v: %s", err, out)
	}
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(data, 2<<30); err != nil {
		t.Fatal(err)
	}
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"kvm_amd", "vhost_net", "tun", "overlay", "loop", "isofs"},
		Disks:    []qemu.Disk{{Path: vmm, ReadOnly: true}, {Path: data}},
		MemoryMB: 1536,
		Cmdline:  "lockdown=integrity module.sig_enforce=1", // as nodes boot
		Files: map[string]string{
			"/bin/runc":     buildRunc(t),
			"/bin/zos-shim": vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-shim"),
			"/bin/payload":  vmtest.BuildStatic(t, "./testdata/payload"),
		},
		Args:    []string{"-test.v"},
		Timeout: 10 * time.Minute,
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
