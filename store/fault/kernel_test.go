//go:build !invm

package fault_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

// The node's kernel has the fs-verity that this machine's may lack: there, all
// lazy mounts are made with verity=require.
func TestMountsAreVerifiedByTheNodesKernel(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	for _, args := range [][]string{{"truncate", "-s", "300M", disk}, {"mkfs.ext4", "-q", "-b", "4096", "-N", "8192", "-O", "verity", disk}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v (needs e2fsprogs: sudo make deps): %v\n%s", args, err, out)
		}
	}
	vmtest.RunInVM(t, ".", vmtest.Options{
		Run:     "^(TestVerity.*|TestFirstRead.*|TestFlipped.*|TestTwoMounts.*|TestWritableShifted.*|TestEvicted.*|TestTorn.*|TestWaitingHas.*|TestNewServer.*)$",
		Modules: []string{"erofs", "overlay", "sha256_ssse3"},
		Disks:   []qemu.Disk{{Path: disk, Serial: "store"}},
		Env:     []string{diskEnv + "=/dev/vda"},
	})
}
