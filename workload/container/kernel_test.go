//go:build !invm

package container

import (
	"os"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs kernel_invm_test.go, with the real runc and shim.
func TestInTheNodesKernel(t *testing.T) {
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"overlay", "loop"},
		Disks:    []qemu.Disk{{Path: vmtest.BlankDisk(t, 4<<30)}},
		MemoryMB: 768,
		Env:      []string{"ZOS_TEST_MANY=" + os.Getenv("ZOS_TEST_MANY")},
		Cmdline:  vmtest.NodeCmdline,
		Files: map[string]string{
			"/bin/runc":     vmtest.BuildRunc(t),
			"/bin/zos-shim": vmtest.BuildShim(t),
			"/bin/payload":  vmtest.BuildStatic(t, "./testdata/payload"),
		},
		Timeout: 12 * time.Minute,
	})
	vmtest.Report(t, console)
}
