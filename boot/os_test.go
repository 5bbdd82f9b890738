package boot_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/flist"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/vmtest"
)

// osOptions uses one small static program for all of them: what they do does
// not matter here.
func osOptions(t *testing.T) boot.OSOptions {
	t.Helper()
	p := vmtest.BuildStatic(t, "github.com/zero-os/zos/vmtest/probeinit")
	return boot.OSOptions{
		ZosInit: p, Zosd: p, ZosFault: p, ZosShim: p, ZosGateway: p, Runc: p,
		KernelDir: vmtest.Kernel(t), Modules: []string{"wireguard", "overlay"}, Sink: flist.Discard{},
	}
}

func TestSystemIsReproducibleAndHasNoInterpreter(t *testing.T) {
	o := osOptions(t)
	o.Modules = nil // all of them
	a, err := boot.BuildOS(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := boot.BuildOS(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest != b.Digest || a.Digest.IsZero() {
		t.Errorf("two builds gave %s and %s", a.Digest, b.Digest)
	}
	if err := boot.AuditOS(a.Manifest); err != nil {
		t.Error(err)
	}
	t.Logf("OS: %d entries, %d modules, %.1f MB", a.Stats.Entries, a.Modules, float64(a.Stats.Bytes)/1e6)
}

func TestNodesCarryEveryModuleOnce(t *testing.T) {
	names := boot.NodeModules()
	seen := map[string]bool{}
	for _, n := range names {
		if seen[n] {
			t.Errorf("%s is listed twice", n)
		}
		seen[n] = true
	}
	for _, n := range append(vmm.Modules([]byte("flags\t\t: svm")), vmm.Modules([]byte("flags\t\t: vmx"))...) {
		if !seen[n] {
			t.Errorf("%s is loaded for machines and not carried", n)
		}
	}
}

func TestModulesOfTheSystemCanBeOrdered(t *testing.T) {
	mods, err := boot.KernelModules(context.Background(), vmtest.Kernel(t), "wireguard", "virtio_net")
	if err != nil {
		t.Fatal(err)
	}
	d, err := boot.ParseDeps([]byte(boot.FormatDeps(mods)))
	if err != nil {
		t.Fatal(err)
	}
	order := d.Order("virtio-net", "wireguard", "not-a-module")
	if len(order) != len(mods) || order[2] != "virtio_net.ko.xz" || order[len(order)-1] != "wireguard.ko.xz" {
		t.Errorf("order is %v", order)
	}
	if !d.Has("wireguard") || d.Has("not-a-module") {
		t.Error("Has is wrong")
	}
}

func TestUnorderedModuleListsAreRefused(t *testing.T) {
	for _, s := range []string{"", "a", "a a.ko b", "a ../a.ko", "a a.ko\na a.ko", strings.Repeat("x", boot.MaxModulesDep+1)} {
		if _, err := boot.ParseDeps([]byte(s)); err == nil {
			t.Errorf("%.40q was accepted", s)
		}
	}
}

func FuzzParseDeps(f *testing.F) {
	f.Add([]byte("a a.ko\nb b.ko a\n"), "b")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		d, err := boot.ParseDeps(b)
		if err != nil {
			return
		}
		if got := d.Order(name); d.Has(name) != (len(got) > 0) {
			t.Errorf("Has(%q) is %t, its order %v", name, d.Has(name), got)
		}
	})
}

// systemTree is a manifest that AuditOS accepts, plus what add puts there.
func systemTree(t *testing.T, add func(*flist.Tree)) flist.Manifest {
	t.Helper()
	tree := flist.NewTree(flist.Discard{}, flist.Options{})
	for _, p := range []string{"zos-init", "zosd", "zos-fault", "zos-shim", "zos-gateway", "runc"} {
		if err := tree.AddFile(context.Background(), "bin/"+p, flist.Meta{Mode: 0o755}, strings.NewReader(p)); err != nil {
			t.Fatal(err)
		}
	}
	add(tree)
	_, m, _, err := tree.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAuditFindsWhatMustNotBeThere(t *testing.T) {
	if err := boot.AuditOS(systemTree(t, func(*flist.Tree) {})); err != nil {
		t.Fatalf("a clean system is refused: %v", err)
	}
	file := func(path string, mode uint32) func(*flist.Tree) {
		return func(tree *flist.Tree) {
			if err := tree.AddFile(context.Background(), path, flist.Meta{Mode: mode}, strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	cases := map[string]func(*flist.Tree){
		"setuid program":           file("bin/zosd", 0o4755),
		"setgid program":           file("bin/zosd", 0o2755),
		"setuid file":              file("etc/x", 0o4644),
		"shell":                    file("bin/sh", 0o755),
		"shell without x":          file("lib/modules/bash", 0o644),
		"busybox":                  file("bin/busybox", 0o755),
		"python":                   file("bin/python3.11", 0o755),
		"loader":                   file("lib/ld-linux-x86-64.so.2", 0o644),
		"library":                  file("lib/modules/libc.so.6", 0o644),
		"unknown program":          file("bin/tool", 0o755),
		"program elsewhere":        file("lib/modules/x", 0o755),
		"script in etc":            file("etc/start", 0o755),
		"file elsewhere":           file("opt/x", 0o644),
		"writable by the world":    file("etc/passwd", 0o666),
		"device":                   func(tree *flist.Tree) { _ = tree.AddDevice("dev/mem", flist.ModeChar, 1, 1, flist.Meta{Mode: 0o600}) },
		"link":                     func(tree *flist.Tree) { _ = tree.AddSymlink("bin/init", "zos-init", flist.Meta{}) },
		"other resolv.conf":        func(tree *flist.Tree) { _ = tree.AddSymlink("etc/resolv.conf", "/data/x", flist.Meta{}) },
		"second name of a program": func(tree *flist.Tree) { _ = tree.AddLink("bin/bash", "bin/runc") },
		"file capability": func(tree *flist.Tree) {
			_ = tree.AddFile(context.Background(), "bin/zosd", flist.Meta{Mode: 0o755, Xattrs: []flist.Xattr{{Name: []byte("security.capability"), Value: []byte("x")}}}, strings.NewReader("x"))
		},
	}
	for name, add := range cases {
		if err := boot.AuditOS(systemTree(t, add)); problem.Code(err) != "os-audit" {
			t.Errorf("%s: AuditOS says %v", name, err)
		}
	}
	_, m, _, err := flist.NewTree(flist.Discard{}, flist.Options{}).Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if boot.AuditOS(m) == nil {
		t.Error("a system without its programs was accepted")
	}
}

func TestOnlyStaticProgramsAreTaken(t *testing.T) {
	// The Go command itself may be static; apt, which fetches the kernel, is not.
	for name, content := range map[string][]byte{
		"script": []byte("#!/bin/sh\n"), "text": []byte("hello"), "nothing": nil,
		"dynamic": mustRead(t, "/usr/bin/dpkg-deb"),
	} {
		if err := boot.CheckStatic(bytes.NewReader(content)); problem.Code(err) != "os-audit" {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := osOptions(t)
	o.Runc = filepath.Join(t.TempDir(), "runc")
	if err := os.WriteFile(o.Runc, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := boot.BuildOS(context.Background(), o); problem.Code(err) != "os-audit" {
		t.Errorf("a script as runc: %v", err)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBootImageIsTheSameFromTwoDirectories(t *testing.T) {
	init := vmtest.BuildStatic(t, "github.com/zero-os/zos/vmtest/probeinit")
	var digests []canon.Hash
	for _, name := range []string{"a", "another-place"} {
		kernel := filepath.Join(t.TempDir(), name)
		if err := os.CopyFS(kernel, os.DirFS(vmtest.Kernel(t))); err != nil {
			t.Fatal(err)
		}
		img, err := boot.BuildImage(context.Background(), boot.ImageOptions{KernelDir: kernel, InitBinary: init, OutDir: filepath.Join(kernel, "out")})
		if err != nil {
			t.Fatal(err)
		}
		if got := canon.Sum(mustRead(t, img.Initrd)); got != img.InitrdDigest {
			t.Errorf("the file's digest is %s, the image says %s", got, img.InitrdDigest)
		}
		if size := img.KernelSize + img.InitrdSize; size > 20<<20 {
			t.Errorf("boot files of %d bytes", size)
		} else {
			t.Logf("kernel %.2f MB, initrd %.2f MB", float64(img.KernelSize)/1e6, float64(img.InitrdSize)/1e6)
		}
		digests = append(digests, img.InitrdDigest, img.KernelDigest)
	}
	if digests[0] != digests[2] || digests[1] != digests[3] {
		t.Errorf("digests differ: %v", digests)
	}
}

func TestMissingKernelNamesTheCommand(t *testing.T) {
	_, err := boot.OpenKernel(t.TempDir())
	if problem.Code(err) != "kernel-missing" || !strings.Contains(problem.Fix(err), "make deps") {
		t.Errorf("error is %v, fix %q", err, problem.Fix(err))
	}
	_, err = boot.KernelModules(context.Background(), vmtest.Kernel(t), "no_such_module")
	if problem.Code(err) != "module-missing" {
		t.Errorf("error is %v", err)
	}
}
