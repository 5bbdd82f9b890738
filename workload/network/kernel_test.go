//go:build !invm

package network

import (
	"os"
	"testing"
	"time"

	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs kernel_invm_test.go, with the real runc and shim, and
// those of the other tests that say most about a kernel.
func TestInTheNodesKernel(t *testing.T) {
	run := os.Getenv("ZOS_INVM_RUN")
	if run == "" {
		run = "InContainers|NoForged|Fragments|Bandwidth|ADevice|Revoked|WayIn"
	}
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run: run,
		// As a node: all of these before the kernel is sealed, none later.
		Modules:  append(append(firewall.Modules(), Modules()...), "overlay", "loop"),
		Disks:    []qemu.Disk{{Path: vmtest.BlankDisk(t, 1<<30)}},
		MemoryMB: 768,
		Cmdline:  vmtest.NodeCmdline,
		Files: map[string]string{
			"/bin/runc":     vmtest.BuildRunc(t),
			"/bin/zos-shim": vmtest.BuildShim(t),
			"/bin/payload":  vmtest.BuildStatic(t, "./testdata/payload"),
		},
		Timeout: 6 * time.Minute,
	})
	vmtest.Report(t, console)
}
