package boot_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
)

func TestSystemNamesItsVMMFlist(t *testing.T) {
	o := osOptions(t)
	without, err := boot.BuildOS(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := without.Manifest.Lookup(boot.VMMFile[1:]); ok {
		t.Error("a system without machines names a VMM flist")
	}
	o.VMM = canon.Sum([]byte("vmm"))
	with, err := boot.BuildOS(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	_, ok := with.Manifest.Lookup(boot.VMMFile[1:])
	if !ok || with.Digest == without.Digest {
		t.Fatalf("the VMM flist is not part of the system: %s and %s", with.Digest, without.Digest)
	}
	o.VMM = canon.Sum([]byte("another"))
	other, err := boot.BuildOS(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if other.Digest == with.Digest {
		t.Error("another VMM flist makes the same system")
	}
	root := t.TempDir()
	if _, err := boot.VMMOf(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	at := filepath.Join(root, boot.VMMFile)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, ok := range map[string]bool{o.VMM.String() + "\n": true, "": false, "x\n": false, o.VMM.String() + "\nx": false} {
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := boot.VMMOf(root); (err == nil) != ok || ok && got != o.VMM {
			t.Errorf("%q: %s %v", text, got, err)
		}
	}
}
