//go:build !invm

package escape

import (
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

// TestInTheNodesKernel runs kernel_invm_test.go, with the real runc, shim, QEMU and
// agent: the corpus in every class, on one node.
//
// With ZOS_ESCAPE_UPDATE set it rewrites testdata/*.golden.
func TestInTheNodesKernel(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(data, 1<<30); err != nil {
		t.Fatal(err)
	}
	var env []string
	if os.Getenv(UpdateEnv) != "" {
		env = []string{UpdateEnv + "=/tmp"}
	}
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"overlay", "loop", "vsock", "tun", "veth", "kvm_amd", "vhost_net"},
		Disks:    []qemu.Disk{{Path: data}, {Path: vmmDisk(t), ReadOnly: true}},
		MemoryMB: 1024,
		Cmdline:  "lockdown=integrity module.sig_enforce=1", // as nodes boot
		Files: map[string]string{
			"/bin/runc":     buildRunc(t),
			"/bin/zos-shim": vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-shim"),
			"/bin/program":  Build(t),
		},
		Env:     env,
		Args:    []string{"-test.v"},
		Timeout: 8 * time.Minute,
	})
	for line := range strings.Lines(console) {
		if strings.Contains(line, "measured:") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if env == nil {
		return
	}
	for rest := console; ; {
		_, after, ok := strings.Cut(rest, "golden begins ")
		if !ok {
			break
		}
		class, after, _ := strings.Cut(after, "\n")
		text, after, ended := strings.Cut(after, "golden ends\n")
		if !ended {
			t.Fatalf("the guest printed half of the golden file of %q", class)
		}
		if err := os.WriteFile(filepath.Join("testdata", strings.TrimSpace(class)+".golden"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		rest = after
	}
}

// vmmDisk is a disk with what a release's VMM flist holds.
func vmmDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	initrd, err := boot.GuestInitrd(t.Context(), vmtest.Kernel(t), vmtest.BuildStatic(t, "github.com/zero-os/zos/cmd/zos-guest"))
	if err != nil {
		t.Fatal(err)
	}
	tree, disk := filepath.Join(dir, "tree"), filepath.Join(dir, "disk")
	if err := boot.WriteVMM(boot.VMMOptions{KernelDir: vmtest.Kernel(t), Initrd: initrd}, tree); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", tree, disk, "400M").CombinedOutput(); err != nil {
		t.Fatalf("make a disk of the VMM's files: %v: %s", err, out)
	}
	return disk
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
