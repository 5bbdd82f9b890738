package flist

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sampleTree holds one of everything.
func sampleTree(t *testing.T, sink Sink) Manifest {
	t.Helper()
	ctx := context.Background()
	tree := NewTree(sink, Options{KeepXattr: func(string) bool { return true }})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	when := int64(1700000000_123456789)
	must(tree.AddDir("", Meta{Mode: 0o755, MTime: when}))
	must(tree.AddDir("dir", Meta{Mode: 0o1777, UID: 70000, GID: 80000, MTime: -1500000001}))
	must(tree.AddFile(ctx, "dir/small", Meta{Mode: 0o644, MTime: when + 1}, strings.NewReader("small file")))
	must(tree.AddFile(ctx, "dir/empty", Meta{Mode: 0o600, MTime: when + 2}, strings.NewReader("")))
	must(tree.AddFile(ctx, "dir/suid", Meta{Mode: 0o6755, UID: 0, MTime: when + 3}, strings.NewReader("#!suid")))
	must(tree.AddFile(ctx, "big", Meta{Mode: 0o755, MTime: when, Xattrs: []Xattr{
		{Name: []byte("user.note"), Value: []byte("hello")},
		{Name: []byte("security.capability"), Value: []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
		{Name: []byte("trusted.overlay.opaque"), Value: []byte("y")},
		{Name: []byte("trusted.mine"), Value: bytes.Repeat([]byte("v"), 6000)},
	}}, bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), 200_000))))
	must(tree.AddLink("dir/hard", "big"))
	must(tree.AddLink("zhard", "dir/hard"))
	must(tree.AddSymlink("link", "dir/small", Meta{Mode: 0o777, MTime: when}))
	must(tree.AddSymlink("longlink", strings.Repeat("x/", 2040), Meta{Mode: 0o777, MTime: when}))
	must(tree.AddDevice("null", ModeChar, 1, 3, Meta{Mode: 0o666, MTime: when}))
	must(tree.AddDevice("blk", ModeBlock, 259, 70000, Meta{Mode: 0o660, GID: 6, MTime: when}))
	must(tree.AddFIFO("fifo", Meta{Mode: 0o640, MTime: when}))
	must(tree.AddFile(ctx, "bad\xff\xfename\n", Meta{Mode: 0o644, MTime: when}, strings.NewReader("x")))
	must(tree.AddFile(ctx, "!before-dot", Meta{Mode: 0o644, MTime: when}, strings.NewReader("y")))
	must(tree.AddFile(ctx, strings.Repeat("n", 255), Meta{Mode: 0o644, MTime: when}, strings.NewReader("z")))
	for i := range manyFiles {
		must(tree.AddFile(ctx, fmt.Sprintf("many/file-with-a-name-%05d", i), Meta{Mode: 0o644, MTime: int64(i)}, strings.NewReader(fmt.Sprint(i%7))))
	}
	_, m, _, err := tree.Manifest()
	must(err)
	return m
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root (sudo go test)")
	}
}

// mountEROFS mounts an image file itself, without a loop device.
func mountEROFS(t *testing.T, image string) string {
	t.Helper()
	requireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount(image, dir, "erofs", unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("mount %s as a file-backed EROFS: %v (Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE is needed: modprobe erofs)", image, err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

func unmount(t *testing.T, dir string) {
	if err := unix.Unmount(dir, 0); err != nil {
		t.Errorf("unmount %s: %v", dir, err)
	}
}

func writeImage(t *testing.T, m Manifest) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "meta.erofs")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start := time.Now()
	if err := WriteEROFS(f, m); err != nil {
		t.Fatal(err)
	}
	st, _ := f.Stat()
	t.Logf("%d entries, image of %d bytes in %v", len(m.Entries), st.Size(), time.Since(start))
	return image
}

func TestImageIsSoundForErofsUtils(t *testing.T) {
	image := writeImage(t, sampleTree(t, Discard{}))
	out, err := exec.Command("fsck.erofs", "-d3", image).CombinedOutput()
	if err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
}

func TestMountedImageIsTheManifest(t *testing.T) {
	m := sampleTree(t, Discard{})
	dir := mountEROFS(t, writeImage(t, m))
	compareTree(t, dir, m, false)
}
