//go:build !invm

package machine

import (
	"os"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs kernel_invm_test.go: containers in micro-VMs under KVM,
// inside an emulated node.
func TestInTheNodesKernel(t *testing.T) {
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"kvm_amd", "vhost_net", "tun", "overlay", "loop", "isofs"},
		Disks:    []qemu.Disk{{Path: vmtest.VMMDisk(t, vmtest.GuestInitrd(t)), ReadOnly: true}, {Path: vmtest.BlankDisk(t, 2<<30)}},
		MemoryMB: 1536,
		Cmdline:  vmtest.NodeCmdline,
		Files: map[string]string{
			"/bin/runc":     vmtest.BuildRunc(t),
			"/bin/zos-shim": vmtest.BuildShim(t),
			"/bin/payload":  vmtest.BuildStatic(t, "./testdata/payload"),
		},
		Timeout: 10 * time.Minute,
	})
	vmtest.Report(t, console)
}
