//go:build !invm

package flist_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs kernel_invm_test.go, and again the tests that mount
// images, under the kernel of the nodes, whose EROFS and overlay are older than
// a developer's and which has fs-verity.
func TestInTheNodesKernel(t *testing.T) {
	disk := vmtest.BlankDisk(t, 512<<20)
	if out, err := exec.Command("mkfs.ext4", "-q", "-O", "verity", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v (run: make deps)\n%s", err, out)
	}
	vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      "^Test(VerityIs|VerityRequired|VerityOfAnother|MountedImage|OverlayServes|MissingObject|LargestEntries)",
		Modules:  []string{"overlay", "erofs", "sha256_ssse3"},
		Disks:    []qemu.Disk{{Path: disk}},
		MemoryMB: 768,
		Timeout:  5 * time.Minute,
	})
}
