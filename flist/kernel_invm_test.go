//go:build invm

package flist

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/verity"
)

// manyFiles is how many files the sample tree has in one directory: enough for
// several blocks, and for an emulated machine.
const manyFiles = 300

func TestMain(m *testing.M) {
	if err := os.MkdirAll("/data", 0o755); err != nil {
		panic(err)
	}
	if err := unix.Mount("/dev/vda", "/data", "ext4", 0, ""); err != nil {
		panic(fmt.Sprint("mount the data disk: ", err))
	}
	// Neither fs-verity nor a file-backed EROFS works on tmpfs.
	os.Setenv("TMPDIR", "/data")
	code := m.Run()
	if err := unix.Unmount("/data", 0); err != nil {
		fmt.Println("unmount the data disk:", err)
		code = 1
	}
	os.Exit(code)
}

// TestVerityIsWhatTheKernelMeasures compares our digest with the kernel's for
// files at every edge of the Merkle tree.
func TestVerityIsWhatTheKernelMeasures(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 128 * 4096, 128*4096 + 1, 3_000_001, 20_000_000} {
		p := filepath.Join(t.TempDir(), "file")
		data := bytes.Repeat([]byte("some content, "), size/14+1)[:size]
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := verity.Enable(p); err != nil {
			t.Fatal(err)
		}
		got, err := verity.Measure(p)
		if err != nil {
			t.Fatal(err)
		}
		var v Verity
		v.Write(data)
		if want := v.Sum(); got != want {
			t.Errorf("%d bytes: the kernel measures %s, we %s", size, got, want)
		}
	}
}

// verified mounts a tree whose objects carry fs-verity, and requires it.
func verified(t *testing.T, m Manifest, objects string) string {
	t.Helper()
	m.Files(func(_ []byte, f *File) bool {
		if err := verity.Enable(objects + string(appendObjectPath(nil, f))); err != nil {
			t.Fatal(err)
		}
		return true
	})
	meta := mountEROFS(t, writeImage(t, m))
	dir := t.TempDir()
	opts := "metacopy=on,redirect_dir=follow,verity=require,lowerdir=" + meta + "::" + objects
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, opts); err != nil {
		t.Fatalf("mount overlay with %s: %v", opts, err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// TestVerityRequiredMountServesEveryFile mounts as a node does.
func TestVerityRequiredMountServesEveryFile(t *testing.T) {
	sink := newStoreSink()
	m := sampleTree(t, sink)
	dir := verified(t, m, sink.layOut(t, m))
	compareTree(t, dir, m, true)
	for _, e := range m.Entries {
		if e.File == nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, string(e.Path)))
		if err != nil || !bytes.Equal(b, sink.content(e.File)) {
			t.Errorf("%q: %d bytes, %v", e.Path, len(b), err)
		}
	}
}

// TestVerityOfAnotherFileIsRefused puts sound objects with other content where
// the metadata name them.
func TestVerityOfAnotherFileIsRefused(t *testing.T) {
	sink := newStoreSink()
	tree := NewTree(sink, Options{})
	for _, name := range []string{"right", "wrong"} {
		if err := tree.AddFile(context.Background(), name, Meta{Mode: 0o644}, strings.NewReader(name)); err != nil {
			t.Fatal(err)
		}
	}
	_, m, _, err := tree.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	objects := sink.layOut(t, m)
	e, _ := m.Lookup("wrong")
	if err := os.WriteFile(objects+string(appendObjectPath(nil, e.File)), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := verified(t, m, objects)
	if b, err := os.ReadFile(filepath.Join(dir, "right")); err != nil || string(b) != "right" {
		t.Errorf("the right one: %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "wrong")); err == nil {
		t.Errorf("the wrong one was served: %q", b)
	}
}
