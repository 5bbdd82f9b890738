package client

import (
	"archive/tar"
	"bytes"
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
