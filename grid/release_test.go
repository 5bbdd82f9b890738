package grid

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/hub"
	"github.com/zero-os/zos/problem"
)

func TestReleaseWithoutItsVMMFlistIsRefused(t *testing.T) {
	image, served := t.TempDir(), t.TempDir()
	system, vmm := canon.Sum([]byte("system")), canon.Sum([]byte("vmm"))
	put := func(dir, name, text string) {
		t.Helper()
		at := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := carriesVMM(served, image, system); err == nil {
		t.Error("an image that names no VMM flist was released")
	}
	put(image, VMMFile, vmm.String()+"\n")
	put(served, hub.FlistPath(system), "x")
	if err := carriesVMM(served, image, system); problem.Code(err) != "image-missing" {
		t.Errorf("the hub lacks the VMM flist: %v", err)
	}
	put(served, hub.FlistPath(vmm), "x")
	if err := carriesVMM(served, image, system); err != nil {
		t.Error(err)
	}
}
