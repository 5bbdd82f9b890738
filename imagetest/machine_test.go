//go:build !invm

package imagetest

import (
	"os"
	"path/filepath"
	"testing"
)

// TestMachinesHaveNoIdentity: what two machines of one image would share.
func TestMachinesHaveNoIdentity(t *testing.T) {
	image := Get(t, "machine")
	if keys, err := filepath.Glob(image.path("etc/ssh/ssh_host_*")); err != nil || len(keys) > 0 {
		t.Errorf("it holds %v (%v)", keys, err)
	}
	if b, err := os.ReadFile(image.path("etc/machine-id")); err != nil || len(b) > 0 {
		t.Errorf("its machine-id is %q (%v), want an empty file", b, err)
	}
	for _, name := range []string{"boot/vmlinuz", "boot/initrd.img"} {
		if info, err := os.Lstat(image.path(name)); err != nil || !info.Mode().IsRegular() {
			t.Errorf("/%s is no file: %v, %v", name, info, err)
		}
	}
}
