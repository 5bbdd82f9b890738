package flist

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// sourceDir makes a directory with one of everything that a tar archive can
// hold too, its names created in random order.
func sourceDir(t *testing.T) string {
	t.Helper()
	requireRoot(t)
	dir := filepath.Join(t.TempDir(), "source")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(p string) string { return filepath.Join(dir, p) }
	must(os.Mkdir(dir, 0o755))
	for _, d := range []string{"etc", "etc/deep", "usr", "usr/lib", "tmp"} {
		must(os.Mkdir(in(d), 0o755))
	}
	big := bytes.Repeat([]byte("a big file of many chunks. "), 100_000)
	writes := []func() error{
		func() error { return os.WriteFile(in("etc/hosts"), []byte("127.0.0.1 localhost\n"), 0o644) },
		func() error { return os.WriteFile(in("etc/empty"), nil, 0o640) },
		func() error { return os.WriteFile(in("etc/same"), []byte("127.0.0.1 localhost\n"), 0o600) },
		func() error { return os.WriteFile(in("usr/lib/big"), big, 0o755) },
		func() error { return os.WriteFile(in("exactly-1M"), big[:ChunkedAbove], 0o600) },
		func() error { return os.WriteFile(in("exactly-1M+1"), big[:ChunkedAbove+1], 0o600) },
		func() error { return os.WriteFile(in("sudo"), []byte("setuid"), 0o755) },
		func() error { return os.WriteFile(in("name-\xff\xfe-\n"), []byte("raw"), 0o644) },
		func() error { return os.Symlink("usr/lib", in("lib")) },
		func() error { return os.Symlink("/nowhere", in("etc/dangling")) },
		func() error { return unix.Mkfifo(in("tmp/fifo"), 0o600) },
		func() error { return unix.Mknod(in("tmp/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		func() error { return unix.Mknod(in("tmp/disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 300))) },
		func() error {
			f, err := os.Create(in("sparse"))
			if err != nil {
				return err
			}
			defer f.Close()
			if err := f.Truncate(3 << 20); err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("in the middle"), 2<<20)
			return err
		},
	}
	for i := range 50 {
		writes = append(writes, func() error {
			return os.WriteFile(in(fmt.Sprintf("etc/deep/%02d", i)), []byte{byte(i)}, 0o644)
		})
	}
	rand.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	for _, w := range writes {
		must(w())
	}
	must(os.Link(in("usr/lib/big"), in("etc/also-big")))
	must(os.Link(in("usr/lib/big"), in("zz-big")))
	must(os.Chown(in("sudo"), 70000, 12))
	must(os.Chmod(in("sudo"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
	must(os.Chmod(in("tmp"), 0o777|fs.ModeSticky))
	must(unix.Setxattr(in("sudo"), "user.note", []byte("text\x00and bytes"), 0))
	must(unix.Setxattr(in("sudo"), "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	must(unix.Setxattr(in("usr"), "trusted.secret", []byte("dropped"), 0))
	// Times last, directories after what is in them.
	var names []string
	must(filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error { names = append(names, p); return err }))
	slices.Sort(names)
	slices.Reverse(names)
	for _, p := range names {
		rel, _ := filepath.Rel(dir, p)
		ns := int64(1_600_000_000_000_000_000) + int64(canon.Sum([]byte(rel))[0])*1_000_000_007
		ts := []unix.Timespec{unix.NsecToTimespec(ns), unix.NsecToTimespec(ns)}
		must(unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	// Names of one inode were each given a time; the last one must not depend on their order.
	ts := []unix.Timespec{unix.NsecToTimespec(1_600_000_000_123_456_789), unix.NsecToTimespec(0)}
	must(unix.UtimesNanoAt(unix.AT_FDCWD, in("zz-big"), ts, unix.AT_SYMLINK_NOFOLLOW))
	return dir
}

func buildDir(t *testing.T, dir string, opts Options) (canon.Hash, Manifest, Stats) {
	t.Helper()
	h, m, s, err := BuildDir(context.Background(), dir, Discard{}, opts)
	if err != nil {
		t.Fatal(err)
	}
	return h, m, s
}

// differences says in what two manifests that should be equal are not.
func differences(a, b Manifest) string {
	var out strings.Builder
	for _, d := range Diff(a, b) {
		fmt.Fprintf(&out, "%s %q: %s\n", d.Change, d.Path, strings.Join(d.Fields, ", "))
	}
	fmt.Fprintf(&out, "config %+v, %+v", a.Config, b.Config)
	return out.String()
}

func TestSameTreeFromElsewhereHasTheSameDigest(t *testing.T) {
	dir := sourceDir(t)
	want, m, stats := buildDir(t, dir, Options{})
	if stats.Files != 59 || stats.DroppedXattrs != 1 || stats.Entries != uint64(len(m.Entries)) || stats.UniqueBytes != stats.Bytes-20 {
		t.Errorf("stats are %+v", stats)
	}
	t.Run("built again", func(t *testing.T) {
		got, m2, _ := buildDir(t, dir, Options{Workers: 1})
		if got != want {
			t.Fatal(differences(m, m2))
		}
	})
	t.Run("created in another order", func(t *testing.T) {
		got, m2, _ := buildDir(t, sourceDir(t), Options{})
		if got != want {
			t.Fatal(differences(m, m2))
		}
	})
	t.Run("copied to another file system", func(t *testing.T) {
		tmpfs := t.TempDir()
		if err := unix.Mount("tmpfs", tmpfs, "tmpfs", 0, "size=64m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unmount(t, tmpfs) })
		dst := filepath.Join(tmpfs, "copy")
		if out, err := exec.Command("cp", "-a", dir, dst).CombinedOutput(); err != nil {
			t.Fatalf("cp -a: %v\n%s", err, out)
		}
		got, m2, _ := buildDir(t, dst, Options{})
		if got != want {
			t.Fatal(differences(m, m2))
		}
	})
	for _, args := range [][]string{{}, {"--sparse"}, {"--gzip"}, {"--zstd"}} {
		t.Run(strings.Join(append([]string{"tar"}, args...), " "), func(t *testing.T) {
			got, m2, _, err := BuildTar(context.Background(), gnuTar(t, dir, args...), Discard{}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Fatal(differences(m, m2))
			}
		})
	}
}

// gnuTar makes an archive of dir with the system's tar.
func gnuTar(t *testing.T, dir string, args ...string) io.Reader {
	t.Helper()
	args = append(args, "--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", dir, "-cf", "-", ".")
	out, err := exec.Command("tar", args...).Output()
	if err != nil {
		t.Fatalf("tar: %v", err)
	}
	return bytes.NewReader(out)
}

func TestSocketsAreKept(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, m, _ := buildDir(t, dir, Options{})
	if e, ok := m.Lookup("s"); !ok || e.Type() != "socket" {
		t.Fatalf("the socket became %+v", e)
	}
}

// TestUnprivilegedBuildIsTheSame runs this test again as nobody, over a copy
// that nobody owns.
func TestUnprivilegedBuildIsTheSame(t *testing.T) {
	const env = "FLIST_TEST_UNPRIVILEGED"
	clamp := int64(1_500_000_000_000_000_000)
	opts := Options{RootOwned: true, ClampMTime: &clamp}
	if dir := os.Getenv(env); dir != "" {
		h, m, _ := buildDir(t, dir, opts)
		for _, e := range m.Entries {
			if e.UID != 0 || e.GID != 0 || e.MTime > clamp {
				t.Fatalf("%q: owner %d:%d, time %d", e.Path, e.UID, e.GID, e.MTime)
			}
		}
		fmt.Printf("digest=%s\n", h)
		return
	}
	requireRoot(t)
	dir, err := os.MkdirTemp("", "flist-unprivileged")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for i := range 20 {
		p := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(p, []byte(p[:3]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	want, _, _ := buildDir(t, dir, opts)
	exe := dir + ".test" // beside dir, where nobody may read it
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(exe)
	if out, err := exec.Command("chown", "-R", "65534:65534", dir).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v %s", err, out)
	}
	cmd := exec.Command(exe, "-test.run=^TestUnprivilegedBuildIsTheSame$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), env+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("digest="+want.String())) {
		t.Fatalf("as nobody, want digest=%s: %v\n%s", want, err, out)
	}
}

func TestFileThatChangesWhileReadIsAnError(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "growing")
	if err := os.WriteFile(p, bytes.Repeat([]byte("x"), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := NewTree(Discard{}, Options{})
	s := dirScan{tree: tree, links: map[inodeKey][]byte{}}
	if err := s.scan(context.Background(), dir, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, bytes.Repeat([]byte("y"), 1001), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.hash(context.Background(), 2); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Fatalf("want an error that says it changed, have %v", err)
	}
}

func TestSinkFailureEndsTheBuild(t *testing.T) {
	full := errors.New("the sink is full")
	dir := t.TempDir()
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(fmt.Sprint(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, _, err := BuildDir(context.Background(), dir, failing{full}, Options{}); !errors.Is(err, full) {
		t.Fatalf("directory: %v", err)
	}
	if _, _, _, err := BuildTar(context.Background(), gnuTar(t, dir), failing{full}, Options{}); !errors.Is(err, full) {
		t.Fatalf("tar: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Put(context.Context, canon.Hash, []byte) error { return f.err }

func TestCancelledBuildStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, _, err := BuildDir(ctx, t.TempDir(), Discard{}, Options{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("directory: %v", err)
	}
	if _, _, _, err := BuildTar(ctx, tarOf(t, file("a", "b")), Discard{}, Options{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("tar: %v", err)
	}
}

func TestTreeDoesNotDependOnTheOrderOfAdding(t *testing.T) {
	type step func(*Tree) error
	steps := []step{
		func(t *Tree) error { return t.AddDir("/usr/lib/", Meta{Mode: 0o750, MTime: 5}) },
		func(t *Tree) error { return t.AddDir("usr", Meta{Mode: 0o700, MTime: 6}) },
		func(t *Tree) error {
			return t.AddFile(context.Background(), "usr/lib/x", Meta{Mode: 0o755}, strings.NewReader("x"))
		},
		func(t *Tree) error {
			return t.AddFile(context.Background(), "./bin/y", Meta{Mode: 0o755}, strings.NewReader("y"))
		},
		func(t *Tree) error { return t.AddSymlink("usr/sbin", "../bin", Meta{Mode: 0o777}) },
		func(t *Tree) error { return t.AddDevice("dev/console", ModeChar, 5, 1, Meta{Mode: 0o600}) },
	}
	var want canon.Hash
	for round := range 50 {
		tree := NewTree(Discard{}, Options{})
		for _, i := range rand.Perm(len(steps)) {
			if err := steps[i](tree); err != nil {
				t.Fatal(err)
			}
		}
		h, m, _, err := tree.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			want = h
		} else if h != want {
			t.Fatalf("round %d: %+v", round, m.List())
		}
		if e, _ := m.Lookup("usr/lib"); e.Mode != ModeDir|0o750 || e.MTime != 5 {
			t.Fatalf("usr/lib lost its metadata: %+v", e)
		}
	}
}

func TestBudgetsBoundEverySource(t *testing.T) {
	dir := t.TempDir()
	for i := range 10 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), bytes.Repeat([]byte("x"), 1000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, o := range map[string]Options{"bytes": {MaxBytes: 9999}, "entries": {MaxEntries: 10}} {
		if _, _, _, err := BuildDir(context.Background(), dir, Discard{}, o); problem.Code(err) != codeTooLarge {
			t.Errorf("directory, %s: %v", name, err)
		}
		if _, _, _, err := BuildTar(context.Background(), gnuTar(t, dir), Discard{}, o); problem.Code(err) != codeTooLarge {
			t.Errorf("tar, %s: %v", name, err)
		}
	}
	exact := Options{MaxBytes: 10_000, MaxEntries: 11}
	if _, _, _, err := BuildDir(context.Background(), dir, Discard{}, exact); err != nil {
		t.Errorf("a source that just fits is refused: %v", err)
	}
}

// tarOf makes an archive of entries.
func tarOf(t testing.TB, entries ...tarEntry) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.h.Size = int64(len(e.body))
		if e.h.ModTime.IsZero() {
			e.h.ModTime = time.Unix(1_600_000_000, 0)
		}
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

type tarEntry struct {
	h    tar.Header
	body string
}

func file(name, body string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body}
}
func dir(name string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func symlink(name, target string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, ""}
}
func hardlink(name, target string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}, ""}
}
