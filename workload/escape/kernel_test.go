//go:build !invm

package escape

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs kernel_invm_test.go, with the real runc, shim, QEMU and
// agent: the corpus in every class, on one node.
//
// With ZOS_ESCAPE_UPDATE set it rewrites testdata/*.golden.
func TestInTheNodesKernel(t *testing.T) {
	var env []string
	if os.Getenv(UpdateEnv) != "" {
		env = []string{UpdateEnv + "=/tmp"}
	}
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      os.Getenv("ZOS_INVM_RUN"),
		Modules:  []string{"overlay", "loop", "vsock", "tun", "veth", "kvm_amd", "vhost_net"},
		Disks:    []qemu.Disk{{Path: vmtest.BlankDisk(t, 1<<30)}, {Path: vmtest.VMMDisk(t, vmtest.GuestInitrd(t)), ReadOnly: true}},
		MemoryMB: 1024,
		Cmdline:  vmtest.NodeCmdline,
		Files: map[string]string{
			"/bin/runc":     vmtest.BuildRunc(t),
			"/bin/zos-shim": vmtest.BuildShim(t),
			"/bin/program":  Build(t),
		},
		Env:     env,
		Timeout: 8 * time.Minute,
	})
	vmtest.Report(t, console)
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
