package shim

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
)

// rooted is a tree on a tmpfs of its own, beside which lies a file that nothing may
// reach. Its ids are the node's own from 0 on.
func rooted(t *testing.T) (*tree, string) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatalf("%v (run as root)", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	root := filepath.Join(dir, "root")
	for _, d := range []string{root, filepath.Join(root, "d", "e"), filepath.Join(root, "proc")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(root, "proc"), unix.MNT_DETACH) })
	for name, content := range map[string]string{"../outside": "secret", "d/f": "one", "d/e/g": "two"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"up": "../outside", "abs": "/d/f", "far": "/../../../../outside", "d/out": "../../outside", "loop": "loop", "dir": "d"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "d", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr, err := openTree(root, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.close)
	return tr, root
}

func names(t *testing.T, b []byte) string {
	t.Helper()
	var out []string
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return strings.Join(out, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s=%s%s", h.Name, body, h.Linkname))
	}
}

func TestGetStaysInside(t *testing.T) {
	tr, _ := rooted(t)
	for name, want := range map[string]string{
		"/d/f": "f=one", "/abs": "abs=one", "/dir/e": "e/= e/g=two", "/d/e/g": "g=two",
	} {
		var b bytes.Buffer
		if err := tr.get(context.Background(), name, &b); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := names(t, b.Bytes()); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	var b bytes.Buffer
	if err := tr.get(context.Background(), "/", &b); err != nil {
		t.Error(err)
	} else if got := names(t, b.Bytes()); strings.Contains(got, "secret") || strings.Contains(got, "fifo") || strings.Contains(got, "proc/") || !strings.Contains(got, "d/out=../../outside") {
		t.Errorf("all of it: %q", got)
	}
	for name, code := range map[string]string{
		"/up": CodeNoFile, "/far": CodeNoFile, "/d/out": CodeNoFile, "/outside": CodeNoFile, "/nothing": CodeNoFile, "/d/f/x": CodeNoFile,
		"/loop": CodeBadFile, "/d/fifo": CodeBadFile, "/proc": CodeBadFile, "/proc/kmsg": CodeBadFile, "/proc/1/root": CodeBadFile, "/proc/self/cwd": CodeBadFile,
	} {
		if err := tr.get(context.Background(), name, io.Discard); problem.Code(err) != code {
			t.Errorf("%s: %v, want %s", name, err, code)
		}
	}
}

func archive(t testing.TB, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestPutStaysInside(t *testing.T) {
	tr, root := rooted(t)
	reg := func(name, content string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content, Uid: 5, Gid: 6, Mode: 0o6755}
	}
	if err := tr.put(context.Background(), "/dir", archive(t, reg("f", "new"), reg("new/deep/x", "x"), tar.Header{Typeflag: tar.TypeDir, Name: "e/", Mode: 0o700, Uid: 9})); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"d/f": "new 755 5:6", "d/new/deep/x": "x 755 5:6"} {
		b, err := os.ReadFile(filepath.Join(root, name))
		var st unix.Stat_t
		if serr := unix.Stat(filepath.Join(root, name), &st); err != nil || serr != nil {
			t.Fatal(err, serr)
		}
		if got := fmt.Sprintf("%s %o %d:%d", b, st.Mode&0o7777, st.Uid, st.Gid); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "d/e/g")); err != nil || string(b) != "two" {
		t.Errorf("a directory that was there lost its files: %q, %v", b, err)
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	// A link in the stream, then something through it.
	if err := tr.put(context.Background(), "/d", archive(t, link("l", "/../.."), reg("l/pwned", "x"))); problem.Code(err) != CodeBadFile {
		t.Errorf("through a link of the stream: %v", err)
	}
	if err := tr.put(context.Background(), "/d", archive(t, reg("out", "over the link"))); err != nil {
		t.Error(err)
	}
	for _, bad := range []tar.Header{
		reg("../x", ""), reg("/x", ""), reg("a/../../x", ""), reg("..", ""), {Typeflag: tar.TypeLink, Name: "h", Linkname: "f"},
		{Typeflag: tar.TypeChar, Name: "c"}, {Typeflag: tar.TypeFifo, Name: "p"}, {Typeflag: tar.TypeReg, Name: "x", Uid: 65536}, {Typeflag: tar.TypeReg, Name: "x", Gid: 1 << 40},
		reg(strings.Repeat("n", 201), ""), reg(strings.Repeat("d/", maxDepth+1)+"x", ""),
	} {
		if err := tr.put(context.Background(), "/d", archive(t, bad)); problem.Code(err) != CodeBadFile {
			t.Errorf("%.60s of type %c: %v", bad.Name, bad.Typeflag, err)
		}
	}
	for name, code := range map[string]string{"/proc": CodeBadFile, "/proc/1/root": CodeBadFile, "/up": CodeNoFile, "/abs": CodeBadFile, "/far": CodeNoFile} {
		if err := tr.put(context.Background(), name, archive(t, reg("x", ""))); problem.Code(err) != code {
			t.Errorf("into %s: %v", name, err)
		}
	}
	if err := tr.put(context.Background(), "/d", bytes.NewReader(archive(t, reg("cut", strings.Repeat("x", 5000))).Bytes()[:2000])); problem.Code(err) != CodeBadFile {
		t.Errorf("a stream that breaks off: %v", err)
	}
	if err := tr.put(context.Background(), "/d", archive(t, reg("big", strings.Repeat("x", 17<<20)))); problem.Code(err) != ReasonDiskFull {
		t.Errorf("more than there is room for: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(root, "d", ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "../outside")); err != nil || string(b) != "secret" {
		t.Errorf("outside: %q, %v", b, err)
	}
	if ents, _ := os.ReadDir(filepath.Dir(root)); len(ents) != 2 {
		t.Errorf("something was made outside: %v", ents)
	}
}

// A directory takes turns with a link that leads out, as fast as the kernel can.
func TestCopiesWinNoRaceAgainstLinks(t *testing.T) {
	tr, root := rooted(t)
	a, b := filepath.Join(root, "a"), filepath.Join(root, "b")
	if err := os.Mkdir(a, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a, "outside"), []byte("inside"), 0o644); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 500 {
		var out bytes.Buffer
		_ = tr.get(context.Background(), "/a/outside", &out)
		_ = tr.get(context.Background(), "/a", &out)
		if bytes.Contains(out.Bytes(), []byte("secret")) {
			t.Fatal("a copy holds what lies outside")
		}
		_ = tr.put(context.Background(), "/", archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "a/pwned"}))
		_ = tr.put(context.Background(), "/a", archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "pwned"}))
	}
	close(stop)
	<-stopped
	if _, err := os.Lstat(filepath.Join(root, "..", "pwned")); err == nil {
		t.Error("something was written outside")
	}
}

func TestOwnersAreShifted(t *testing.T) {
	tr := &tree{idBase: 1 << 20}
	for id, want := range map[uint32]int{1 << 20: 0, 1<<20 + 1000: 1000, 1<<20 + 65535: 65535, 1<<20 + 65536: 65534, 0: 65534, 1000: 65534} {
		if got := tr.inside(id); got != want {
			t.Errorf("inside(%d) = %d, want %d", id, got, want)
		}
	}
	for _, bad := range []int{-1, 65536, 1 << 40} {
		if _, err := tr.outside(bad); err == nil {
			t.Errorf("owner %d was taken", bad)
		}
	}
	if id, err := tr.outside(7); err != nil || id != 1<<20+7 {
		t.Error(id, err)
	}
}

func FuzzPut(f *testing.F) {
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Linkname: "x"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../.."}, tar.Header{Typeflag: tar.TypeReg, Name: "l/x"}).Bytes())
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeDir, Name: "../"}).Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "root"), 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		tr := &tree{root: fd}
		defer tr.close()
		_ = tr.put(context.Background(), "/", bytes.NewReader(in[:min(len(in), 1<<16)]))
		if ents, err := os.ReadDir(dir); err != nil || len(ents) != 1 {
			t.Errorf("something was made outside: %v, %v", ents, err)
		}
	})
}

// A workload that ends while it is asked must not have another process, which got its
// number, opened in its place.
func TestReusedNumberOpensNobodyElse(t *testing.T) {
	self, err := process.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	before := self
	before.Start--
	for ref, want := range map[process.Ref]string{self: "", before: CodeNotRunning} {
		tr, err := treeOf(ref, 0)
		if err == nil {
			tr.close()
		}
		ns, nerr := networkOf(ref)
		if nerr == nil {
			ns.Close()
		}
		if problem.Code(err) != want || problem.Code(nerr) != want {
			t.Errorf("%s: files %v, network %v, want %q", ref, err, nerr, want)
		}
	}
}
