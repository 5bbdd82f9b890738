//go:build !invm

package vmtest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
)

func scratch(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scratch")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPackageTestsRunInTheNodesKernel(t *testing.T) {
	RunInVM(t, ".", Options{
		Modules: []string{"overlay", "erofs"},
		Disks:   []qemu.Disk{{Path: scratch(t), Serial: "scratch-1"}},
		TPM:     t.TempDir(),
		Timeout: 2 * time.Minute,
	})
}
