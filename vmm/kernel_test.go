//go:build !invm

package vmm

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs kernel_invm_test.go: micro-VMs under KVM, from the VMM
// tree, in their containers, inside an emulated node.
func TestInTheNodesKernel(t *testing.T) {
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"kvm_amd", "vhost_vsock", "vhost_net", "tun", "overlay"},
		Disks:    []qemu.Disk{{Path: vmtest.VMMDisk(t, guestInitrd(t)), ReadOnly: true}},
		MemoryMB: 1536,
		Cmdline:  vmtest.NodeCmdline,
		Files:    map[string]string{"/bin/runc": vmtest.BuildRunc(t)},
		Timeout:  10 * time.Minute,
	})
	vmtest.Report(t, console)
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
