//go:build !invm

package vmm

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

// TestInTheNodesKernel runs kernel_invm_test.go: micro-VMs under KVM, from the VMM
// tree, in their containers, inside an emulated node.
func TestInTheNodesKernel(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := boot.WriteVMM(boot.VMMOptions{KernelDir: vmtest.Kernel(t), Initrd: guestInitrd(t)}, tree); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk")
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", tree, disk, "400M").CombinedOutput(); err != nil {
		t.Fatalf("make disk: %v: %s", err, out)
	}
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"kvm_amd", "vhost_vsock", "vhost_net", "tun", "overlay"},
		Disks:    []qemu.Disk{{Path: disk, ReadOnly: true}},
		MemoryMB: 1536,
		Cmdline:  "lockdown=integrity module.sig_enforce=1", // as nodes boot
		Files:    map[string]string{"/bin/runc": buildRunc(t)},
		Timeout:  10 * time.Minute,
	})
	for line := range strings.Lines(console) {
		if strings.Contains(line, "measured:") || strings.Contains(line, "--- PASS") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// guestInitrd holds the tests' guest.
func guestInitrd(t *testing.T) []byte {
	t.Helper()
	k, err := boot.OpenKernel(vmtest.Kernel(t))
	if err != nil {
		t.Fatal(err)
	}
	init, err := os.ReadFile(vmtest.BuildStatic(t, "./testdata/guest"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := boot.InitrdEntries(context.Background(), k, init, []string{"virtio_blk", "virtio_net", "pvpanic_pci", "virtio_balloon", "vmw_vsock_virtio_transport"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := boot.CompressInitrd(entries)
	if err != nil {
		t.Fatal(err)
	}
	return b
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
