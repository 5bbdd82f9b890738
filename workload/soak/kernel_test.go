//go:build soak && !invm

package soak

import (
	"os"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
	"github.com/zero-os/zos/workload/network"
)

// TestCyclesInTheNodesKernel runs cycles_invm_test.go: ZOS_SOAK_CYCLES containers in
// namespaces and ZOS_SOAK_MACHINES in micro-VMs, drawn from ZOS_SOAK_SEED.
// ZOS_SOAK_FIRST begins at a later cycle than the seed's first, to have one again, and
// ZOS_SOAK_FOR ends it earlier.
func TestCyclesInTheNodesKernel(t *testing.T) {
	inNode(t, "LeakNothing", vmtest.GuestInitrd(t), vmtest.Options{CPUs: 2, MemoryMB: 1536})
}

// TestNeighboursInTheNodesKernel runs neighbours_invm_test.go: each hostile tenant in
// ZOS_SOAK_PAIRS turns, those alone that ZOS_SOAK_TENANTS lists if it is set. The
// machine has one processor that all share, and a time of its own, so that what else
// this host does says little in the figures.
func TestNeighboursInTheNodesKernel(t *testing.T) {
	inNode(t, "Neighbours", vmtest.GuestInitrd(t), vmtest.Options{Steady: true, MemoryMB: 1024})
}

// TestHostileGuestInTheNodesKernel is the same for a guest that attacks its devices. A
// machine with a time of its own can't run machines, so the figures are this host's too.
func TestHostileGuestInTheNodesKernel(t *testing.T) {
	initrd, err := boot.GuestInitrd(t.Context(), vmtest.Kernel(t), vmtest.BuildStatic(t, "./testdata/hostileguest"))
	if err != nil {
		t.Fatal(err)
	}
	inNode(t, "AGuestThatAttacks", initrd, vmtest.Options{MemoryMB: 1536})
}

// inNode runs tests of this package on a node whose guests have initrd; o says what its
// machine is like.
func inNode(t *testing.T, pattern string, initrd []byte, o vmtest.Options) {
	if run := os.Getenv("ZOS_INVM_RUN"); run != "" {
		pattern = run
	}
	var env []string
	for _, name := range []string{"ZOS_SOAK", "ZOS_SOAK_SEED", "ZOS_SOAK_CYCLES", "ZOS_SOAK_MACHINES", "ZOS_SOAK_FIRST", "ZOS_SOAK_FOR", "ZOS_SOAK_PAIRS", "ZOS_SOAK_TENANTS"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	limit := 3 * time.Hour
	if d, err := time.ParseDuration(os.Getenv("ZOS_SOAK_LIMIT")); err == nil {
		limit = d
	}
	o.Run, o.Env, o.Timeout = pattern, env, limit
	// As a node: all of these before the kernel is sealed, none later.
	o.Modules = append(append(firewall.Modules(), network.Modules()...), "kvm_amd", "vhost_net", "tun", "overlay", "loop")
	o.Cmdline = vmtest.NodeCmdline
	o.Disks = []qemu.Disk{{Path: vmtest.VMMDisk(t, initrd), ReadOnly: true}, {Path: vmtest.BlankDisk(t, 2<<30)}}
	o.Files = map[string]string{
		"/bin/runc":     vmtest.BuildRunc(t),
		"/bin/zos-shim": vmtest.BuildShim(t),
		"/bin/payload":  vmtest.BuildStatic(t, "./testdata/payload"),
	}
	vmtest.Report(t, vmtest.RunInVM(t, ".", o))
}
