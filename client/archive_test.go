package client

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zero-os/zos/problem"
)

func archive(t testing.TB, entries ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := ""
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Typeflag, content = tar.TypeReg, "content"
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

func into(t testing.TB, dir string) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// A node can send any archive; whatever is in it, nothing beside the directory that
// was named changes, and no link leads out of it.
func TestArchiveOfALyingNodeStaysInItsDirectory(t *testing.T) {
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
	file := func(name string) tar.Header { return tar.Header{Name: name} }
	for name, tc := range map[string]struct {
		entries []tar.Header
		refused bool // the archive is; else it is unpacked without what is bad
	}{
		"parent":                  {[]tar.Header{file("../victim")}, true},
		"parent inside":           {[]tar.Header{file("a/../../victim")}, true},
		"absolute":                {[]tar.Header{file("/tmp/victim")}, true},
		"through a link out":      {[]tar.Header{dir("a"), link("a/l", ".."), file("a/l/victim")}, false},
		"through an absolute one": {[]tar.Header{dir("a"), link("a/l", "/"), file("a/l/victim")}, false},
		"through a link inside":   {[]tar.Header{dir("a"), dir("a/d"), link("a/l", "d"), file("a/l/victim")}, true},
		"link then file":          {[]tar.Header{dir("a"), link("a/victim", "../../victim"), file("a/victim")}, false},
		"a link up by a link":     {[]tar.Header{dir("a"), dir("a/b"), dir("a/b/c"), link("a/b/c/up", "../.."), link("a/z", "b/c/up/../../victim")}, false},
		"hard link":               {[]tar.Header{dir("a"), {Name: "a/l", Typeflag: tar.TypeLink, Linkname: "../victim"}}, false},
		"device":                  {[]tar.Header{dir("a"), {Name: "a/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, false},
		"pipe":                    {[]tar.Header{dir("a"), {Name: "a/pipe", Typeflag: tar.TypeFifo}}, false},
		"over the directory":      {[]tar.Header{file(".")}, true},
		"link over the directory": {[]tar.Header{link("a", "/etc")}, true},
		"file over a directory":   {[]tar.Header{dir("a"), dir("a/d"), file("a/d")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			target := filepath.Join(top, "target")
			victim := filepath.Join(top, "victim")
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Unpack(archive(t, tc.entries...), into(t, target), "")
			if (err != nil) != tc.refused || err != nil && problem.Code(err) != "archive-unsafe" {
				t.Errorf("unpacked with %v, refused: %v is wanted", err, tc.refused)
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != "mine" {
				t.Errorf("the file outside holds %q, %v", b, err)
			}
			found, err := os.ReadDir(top)
			if err != nil || len(found) != 2 {
				t.Errorf("beside the target there is %v, %v", found, err)
			}
			err = filepath.WalkDir(target, func(p string, e fs.DirEntry, err error) error {
				if err != nil || e.Type()&(fs.ModeDevice|fs.ModeNamedPipe) != 0 {
					t.Errorf("%s: %v, %v", p, e, err)
				}
				if e.Type()&fs.ModeSymlink != 0 {
					real, err := filepath.EvalSymlinks(p)
					if err == nil && real != target && !strings.HasPrefix(real, target+"/") {
						t.Errorf("%s leads to %s", p, real)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTreeComesOutAsItWasPacked(t *testing.T) {
	src := t.TempDir()
	for name, mode := range map[string]fs.FileMode{"run.sh": 0o755, "sub/data": 0o640, "sub/deep/x": 0o600} {
		p := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub/data", filepath.Join(src, "current")); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]string{"tree": "new/", ".": ""} {
		var b bytes.Buffer
		if err := Pack(&b, src, name); err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		if name == "." {
			// The content of a directory has no first part to replace.
			b.Reset()
			if err := Pack(&b, src, "x"); err != nil {
				t.Fatal(err)
			}
		}
		skipped, err := Unpack(&b, into(t, out), strings.TrimSuffix(at, "/"))
		if err != nil || len(skipped) > 0 {
			t.Fatal(err, skipped)
		}
		got, err := os.ReadFile(filepath.Join(out, at, "current"))
		if err != nil || string(got) != "sub/data" {
			t.Errorf("%s: through the link: %q, %v", name, got, err)
		}
		if info, err := os.Stat(filepath.Join(out, at, "run.sh")); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		if info, err := os.Stat(filepath.Join(out, at, "sub/deep/x")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// A file of holes is some hundred bytes of an archive, and as large on disk as it says.
func TestAFileOfHolesDoesNotFillTheDisk(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// tar.Writer writes no such records: they get their names below.
	h := tar.Header{Name: "a/huge", Typeflag: tar.TypeReg, Mode: 0o644, Size: 512, Format: tar.FormatPAX, PAXRecords: map[string]string{
		"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.realsize": "67108864", "XXX.sparse.name": "a/huge",
	}}
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(append([]byte("0\n"), make([]byte, 510)...)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	evil := bytes.ReplaceAll(b.Bytes(), []byte("XXX.sparse."), []byte("GNU.sparse."))
	if got, err := tar.NewReader(bytes.NewReader(evil)).Next(); err != nil || got.Size != 64<<20 {
		t.Fatalf("the archive is not as it should be: %+v, %v", got, err)
	}
	dir := t.TempDir()
	skipped, err := Unpack(bytes.NewReader(evil), into(t, dir), "x")
	if err != nil || len(skipped) != 1 {
		t.Errorf("skipped %v, %v", skipped, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "x", "huge")); err == nil {
		t.Error("the file was written")
	}
}

// FuzzUnpack: whatever a node sends, nothing comes to be beside the directory, and no
// link leads out of it.
func FuzzUnpack(f *testing.F) {
	add := func(entries ...tar.Header) {
		b, err := io.ReadAll(archive(f, entries...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(tar.Header{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "a/f"}, tar.Header{Name: "a/l", Typeflag: tar.TypeSymlink, Linkname: "f"})
	add(tar.Header{Name: "a/b/up", Typeflag: tar.TypeSymlink, Linkname: "../.."}, tar.Header{Name: "a/b/up/f"})
	add(tar.Header{Name: "../f"})
	add(tar.Header{Name: "a/h", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return
		}
		top := t.TempDir()
		target := filepath.Join(top, "target")
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		_, _ = Unpack(bytes.NewReader(b), into(t, target), "")
		if ents, err := os.ReadDir(top); err != nil || len(ents) != 1 {
			t.Errorf("beside the target there is %v, %v", ents, err)
		}
		err := filepath.WalkDir(target, func(p string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if e.Type()&^(fs.ModeSymlink|fs.ModeDir) != 0 {
				t.Errorf("%s is of type %s", p, e.Type())
			}
			if e.Type()&fs.ModeSymlink != 0 {
				if real, err := filepath.EvalSymlinks(p); err == nil && real != target && !strings.HasPrefix(real, target+"/") {
					t.Errorf("%s leads to %s", p, real)
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
	})
}
