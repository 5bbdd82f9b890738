//go:build !invm

package firststage

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
)

func TestDisksInTheNodesKernel(t *testing.T) {
	var disks []qemu.Disk
	for _, serial := range []string{"named", "foreign", "copy"} {
		path := filepath.Join(t.TempDir(), serial)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(600 << 20); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		disks = append(disks, qemu.Disk{Path: path, Serial: serial})
	}
	vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      "InTheKernel",
		Modules:  []string{"sha256_ssse3", "zram"},
		MemoryMB: 256, // half of it is filled with noise, which is slow under emulation
		Disks:    disks,
		Timeout:  4 * time.Minute,
	})
}
