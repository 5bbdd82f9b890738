package boot_test

import (
	"context"
	"strings"
	"testing"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm/tree"
	"github.com/zero-os/zos/vmtest"
)

func vmmOptions(t *testing.T) boot.VMMOptions {
	t.Helper()
	return boot.VMMOptions{KernelDir: vmtest.Kernel(t), Initrd: []byte("an initrd"), Sink: flist.Discard{}}
}

func TestVMMFlistIsReproducibleAndClosed(t *testing.T) {
	o := vmmOptions(t)
	a, err := boot.BuildVMM(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := boot.BuildVMM(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest != b.Digest || a.Digest.IsZero() {
		t.Errorf("two builds gave %s and %s", a.Digest, b.Digest)
	}
	for _, p := range []string{tree.QEMU, tree.Loader, tree.Libraries + "/libc.so.6", tree.Libraries + "/libglib-2.0.so.0", tree.Share, "/proc", "/dev"} {
		if _, ok := a.Manifest.Lookup(p[1:]); !ok {
			t.Errorf("%s is missing", p)
		}
	}
	if _, ok := a.Manifest.Lookup(tree.Modules[1:]); ok {
		t.Error("QEMU's modules are there")
	}
	t.Logf("VMM: %d entries, %d libraries, %.1f MB", a.Stats.Entries, a.Libraries, float64(a.Stats.Bytes)/1e6)
	o.Initrd = []byte("another initrd")
	c, err := boot.BuildVMM(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if c.Digest == a.Digest {
		t.Error("another initrd gave the same flist")
	}
	o.Root = t.TempDir()
	if _, err := boot.BuildVMM(context.Background(), o); problem.Code(err) != "tool-missing" || problem.Fix(err) == "" {
		t.Errorf("no packages: %v", err)
	}
}

// vmmTree is a manifest that AuditVMM accepts, plus what add puts there.
func vmmTree(t *testing.T, add func(*flist.Tree)) flist.Manifest {
	t.Helper()
	files := flist.NewTree(flist.Discard{}, flist.Options{})
	put := func(path string, mode uint32) {
		if err := files.AddFile(context.Background(), path[1:], flist.Meta{Mode: mode}, strings.NewReader(path)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{tree.QEMU, tree.Virtiofsd, tree.Loader} {
		put(p, 0o755)
	}
	for _, n := range []string{"bios-256k.bin", "bios-microvm.bin", "qboot.rom", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"} {
		put(tree.Data+"/"+n, 0o644)
	}
	for _, p := range []string{tree.OVMFCode, tree.OVMFVars, tree.Kernel, tree.Initrd, tree.Libraries + "/libc.so.6"} {
		put(p, 0o644)
	}
	add(files)
	_, m, _, err := files.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAuditFindsWhatIsNoPartOfAMonitor(t *testing.T) {
	if err := boot.AuditVMM(vmmTree(t, func(*flist.Tree) {})); err != nil {
		t.Fatalf("a clean tree is refused: %v", err)
	}
	file := func(path string, mode uint32) func(*flist.Tree) {
		return func(files *flist.Tree) {
			if err := files.AddFile(context.Background(), path, flist.Meta{Mode: mode}, strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	lib := tree.Libraries[1:] + "/"
	for name, add := range map[string]func(*flist.Tree){
		"setuid program":               file(tree.QEMU[1:], 0o4755),
		"setgid program":               file(tree.QEMU[1:], 0o2755),
		"shell":                        file("bin/sh", 0o755),
		"shell as a library":           file(lib+"sh", 0o644),
		"bridge helper":                file("usr/lib/qemu/qemu-bridge-helper", 0o755),
		"executable library":           file(lib+"libx.so.1", 0o755),
		"other loader":                 file("lib64/ld-other.so", 0o755),
		"QEMU module":                  file(tree.Modules[1:]+"/ui-dbus.so", 0o644),
		"configuration":                file("etc/qemu/bridge.conf", 0o644),
		"preload list":                 file("etc/ld.so.preload", 0o644),
		"firmware that nobody has":     file(tree.Data[1:]+"/vgabios.bin", 0o644),
		"file that all can write":      file(lib+"libx.so", 0o666),
		"directory that all can write": func(files *flist.Tree) { _ = files.AddDir("opt", flist.Meta{Mode: 0o777}) },
		"another's file": func(files *flist.Tree) {
			_ = files.AddFile(context.Background(), lib+"libx.so", flist.Meta{Mode: 0o644, UID: 5}, strings.NewReader("x"))
		},
		"device": func(files *flist.Tree) {
			_ = files.AddDevice("dev/kvm", flist.ModeChar, 10, 232, flist.Meta{Mode: 0o666})
		},
		"link":        func(files *flist.Tree) { _ = files.AddSymlink(lib+"libx.so", "libc.so.6", flist.Meta{}) },
		"second name": func(files *flist.Tree) { _ = files.AddLink(lib+"libx.so", tree.QEMU[1:]) },
		"file capability": func(files *flist.Tree) {
			_ = files.AddFile(context.Background(), lib+"libx.so", flist.Meta{Mode: 0o644, Xattrs: []flist.Xattr{{Name: []byte("security.capability"), Value: []byte("x")}}}, strings.NewReader("x"))
		},
	} {
		if err := boot.AuditVMM(vmmTree(t, add)); problem.Code(err) != "vmm-audit" {
			t.Errorf("%s: AuditVMM says %v", name, err)
		}
	}
	_, m, _, err := flist.NewTree(flist.Discard{}, flist.Options{}).Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if boot.AuditVMM(m) == nil {
		t.Error("an empty tree was accepted")
	}
}
