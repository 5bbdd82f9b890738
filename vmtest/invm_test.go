//go:build !invm

package vmtest

import (
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
)

func TestPackageTestsRunInTheNodesKernel(t *testing.T) {
	RunInVM(t, ".", Options{
		Modules: []string{"overlay", "erofs"},
		Disks:   []qemu.Disk{{Path: BlankDisk(t, 16<<20), Serial: "scratch-1"}},
		TPM:     t.TempDir(),
		Timeout: 2 * time.Minute,
	})
}
