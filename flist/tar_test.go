package flist

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func TestHostileArchiveIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		code    string
		entries []tarEntry
	}{
		"dot dot":                       {codeUnsafe, []tarEntry{file("../etc/passwd", "x")}},
		"dot dot in the middle":         {codeUnsafe, []tarEntry{dir("a"), file("a/../../x", "x")}},
		"absolute with dot dot":         {codeUnsafe, []tarEntry{file("/../x", "x")}},
		"hard link out":                 {codeUnsafe, []tarEntry{hardlink("a", "../../etc/shadow")}},
		"hard link to nothing":          {codeUnsafe, []tarEntry{hardlink("a", "/etc/shadow")}},
		"hard link to a directory":      {codeUnsafe, []tarEntry{dir("d"), hardlink("a", "d")}},
		"link loop in the middle":       {codeUnsafe, []tarEntry{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")}},
		"long name":                     {codeUnsafe, []tarEntry{file(strings.Repeat("n", 256), "x")}},
		"long target":                   {codeUnsafe, []tarEntry{symlink("a", strings.Repeat("n", 4096))}},
		"very long path":                {codeUnsafe, []tarEntry{file(strings.Repeat("n/", 100_000)+"x", "x")}},
		"path that is too long":         {codeUnsafe, []tarEntry{file(strings.Repeat("n/", 2048)+"x", "x")}},
		"root as a file":                {codeUnsafe, []tarEntry{file(".", "x")}},
		"root as a link":                {codeUnsafe, []tarEntry{symlink("/", "etc")}},
		"empty target":                  {codeInvalid, []tarEntry{symlink("a", "")}},
		"overlay whiteout":              {codeInvalid, []tarEntry{{tar.Header{Name: "w", Typeflag: tar.TypeChar}, ""}}},
		"device that does not fit":      {codeUnreadable, []tarEntry{{tar.Header{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 70000}, ""}}},
		"time that does not fit":        {codeUnreadable, []tarEntry{{tar.Header{Name: "d", Typeflag: tar.TypeDir, ModTime: time.Unix(1<<62, 0)}, ""}}},
		"file of unknown type":          {codeUnreadable, []tarEntry{{tar.Header{Name: "v", Typeflag: 'V'}, ""}}},
		"chain through many deep links": {codeUnsafe, deepChain()},
	} {
		t.Run(name, func(t *testing.T) {
			_, m, _, err := BuildTar(context.Background(), tarOf(t, c.entries...), Discard{}, Options{})
			if problem.Code(err) != c.code {
				t.Fatalf("want %s, have %v, %d entries", c.code, err, len(m.Entries))
			}
		})
	}
}

// deepChain makes, with names that are all short enough, a directory whose
// path is longer than any that Linux allows.
func deepChain() []tarEntry {
	steps := strings.Repeat("/x", 1000)
	return []tarEntry{
		symlink("l0", "x"), symlink("l1", "l0"+steps), symlink("l2", "l1"+steps), symlink("l3", "l2"+steps), dir("l3/y"),
	}
}

func TestArchivesQuirksAreUnderstood(t *testing.T) {
	for name, c := range map[string]struct {
		entries []tarEntry
		want    string
	}{
		"absolute names are below the root":     {[]tarEntry{file("/etc/x", "1"), file("//y", "2")}, "etc/ etc/x=1 y=2"},
		"a path through a link stays inside":    {[]tarEntry{symlink("out", "/../../../etc"), file("out/passwd", "x")}, "etc/ etc/passwd=x out->/../../../etc"},
		"a relative link is resolved":           {[]tarEntry{dir("a"), dir("b"), symlink("a/up", "../b"), file("a/up/x", "1")}, "a/ a/up->../b b/ b/x=1"},
		"a dangling link in the middle is made": {[]tarEntry{symlink("lib", "usr/lib"), file("lib/x", "1")}, "lib->usr/lib usr/ usr/lib/ usr/lib/x=1"},
		"the last of duplicates wins":           {[]tarEntry{file("a", "1"), file("a", "2"), dir("a"), file("a", "3")}, "a=3"},
		"a link is replaced, not followed":      {[]tarEntry{file("t", "1"), symlink("a", "t"), file("a", "2")}, "a=2 t=1"},
		"a directory entry replaces a link":     {[]tarEntry{dir("t"), symlink("a", "t"), dir("a"), file("a/x", "1")}, "a/ a/x=1 t/"},
		"a directory's children survive it":     {[]tarEntry{file("d/x", "1"), dir("d")}, "d/ d/x=1"},
		"a hard link to a link is one itself":   {[]tarEntry{symlink("s", "t"), hardlink("h", "s")}, "h->t s->t"},
		"a hard link through a link":            {[]tarEntry{dir("d"), file("d/x", "1"), symlink("s", "d"), hardlink("h", "s/x")}, "d/ d/x=1 h==d/x s->d"},
		"whiteouts are plain names":             {[]tarEntry{file("a", "1"), file(".wh.a", "2")}, ".wh.a=2 a=1"},
		"nothing":                               {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sink := newStoreSink()
			_, m, _, err := BuildTar(context.Background(), tarOf(t, c.entries...), sink, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := names(m, sink); got != c.want {
				t.Errorf("have %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestArchiveBombsAreBounded(t *testing.T) {
	small := Options{MaxBytes: 1 << 20, MaxEntries: 100}
	t.Run("announced size", func(t *testing.T) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "huge", Typeflag: tar.TypeReg, Size: math.MaxInt64}); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := BuildTar(context.Background(), &b, Discard{}, Options{}); problem.Code(err) != codeTooLarge {
			t.Fatal(err)
		}
	})
	t.Run("sparse file", func(t *testing.T) {
		dir := t.TempDir()
		f, err := os.Create(dir + "/sparse")
		if err != nil {
			t.Fatal(err)
		}
		f.Truncate(8 << 40)
		f.Close()
		if _, _, _, err := BuildTar(context.Background(), gnuTar(t, dir, "--sparse"), Discard{}, Options{}); problem.Code(err) != codeTooLarge {
			t.Fatal(err)
		}
	})
	t.Run("compressed zeros", func(t *testing.T) {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		for range 3 {
			w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: 1 << 29})
			io.CopyN(w, zeros{}, 1<<29)
		}
		w.Close()
		z.Close()
		counted := &countingReader{r: &b}
		if _, _, _, err := BuildTar(context.Background(), counted, Discard{}, small); problem.Code(err) != codeTooLarge {
			t.Fatal(err)
		}
	})
	t.Run("endless headers", func(t *testing.T) {
		// Extended headers that no entry follows never reach the entry count.
		var one bytes.Buffer
		w := tar.NewWriter(&one)
		w.WriteHeader(&tar.Header{Name: strings.Repeat("n", 300), Typeflag: tar.TypeReg, Format: tar.FormatPAX})
		header := one.Bytes()[:1024]
		endless := &countingReader{r: repeat{header}}
		if _, _, _, err := BuildTar(context.Background(), endless, Discard{}, small); problem.Code(err) != codeTooLarge {
			t.Fatalf("after %d bytes: %v", endless.n, err)
		}
	})
	t.Run("endless entries", func(t *testing.T) {
		var one bytes.Buffer
		tar.NewWriter(&one).WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg})
		endless := &countingReader{r: repeat{one.Bytes()}}
		if _, _, _, err := BuildTar(context.Background(), endless, Discard{}, small); problem.Code(err) != codeTooLarge || endless.n > 4<<20 {
			t.Fatalf("after %d bytes: %v", endless.n, err)
		}
	})
	t.Run("large extended header", func(t *testing.T) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeReg, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 900_000)}})
		if _, _, _, err := BuildTar(context.Background(), &b, Discard{}, Options{}); err == nil {
			t.Fatal("an attribute of 900,000 bytes was taken")
		}
	})
	t.Run("cut", func(t *testing.T) {
		all, _ := io.ReadAll(tarOf(t, dir("d"), file("d/x", strings.Repeat("x", 5000))))
		for _, n := range []int{1, 511, 513, 1024 + 100, 1024 + 512 + 100} {
			if _, _, _, err := BuildTar(context.Background(), bytes.NewReader(all[:n]), Discard{}, Options{}); err == nil {
				t.Errorf("the first %d bytes are taken for an archive", n)
			}
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// repeat is an endless stream of one text.
type repeat struct{ b []byte }

func (r repeat) Read(p []byte) (int, error) {
	n := 0
	for len(p)-n >= len(r.b) {
		n += copy(p[n:], r.b)
	}
	if n == 0 {
		return 0, errors.New("buffer is too small")
	}
	return n, nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, tiny()))
	f.Add(encode(f, Manifest{V: Version, Entries: []Entry{{Mode: ModeDir}}}))
	f.Add([]byte{0xa3})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, h, err := Encode(m)
		if err != nil || !bytes.Equal(again, b) || h != canon.Sum(b) {
			t.Fatalf("what decodes encodes otherwise: %v", err)
		}
		var first, second bytes.Buffer
		if err := WriteEROFS(&first, m); err != nil {
			t.Fatalf("a valid manifest has no image: %v", err)
		}
		if err := WriteEROFS(&second, m); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatal("two images of one manifest differ")
		}
		m.List()
	})
}

func FuzzTarImport(f *testing.F) {
	for _, entries := range [][]tarEntry{
		{dir("d"), file("d/x", "content"), symlink("s", "d"), hardlink("h", "d/x"), file("s/y", "z")},
		{file("a/.wh.b", ""), file(".wh..wh..opq", "")},
		{{tar.Header{Name: "n", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}},
	} {
		b, _ := io.ReadAll(tarOf(f, entries...))
		f.Add(b)
	}
	// One worker: with more, the order of events is chance, and the fuzzer takes
	// chance for news.
	opts := Options{MaxBytes: 64 << 10, MaxEntries: 1000, Workers: 1}
	f.Fuzz(func(t *testing.T, b []byte) {
		sink := newStoreSink()
		h, m, _, err := BuildTar(context.Background(), bytes.NewReader(b), sink, opts)
		if err == nil {
			consistent(t, h, m, sink)
		}
		// The same bytes as a layer over a lower one.
		tree := NewTree(Discard{}, opts)
		for _, p := range []string{"d/x", "a/b", "s/y"} {
			if err := tree.AddFile(context.Background(), p, Meta{}, strings.NewReader(p)); err != nil {
				t.Fatal(err)
			}
		}
		tree.layer = 1
		err = readTar(context.Background(), bytes.NewReader(b), tree.content.budget, func(h *tar.Header, body io.Reader, _ int) error {
			if done, err := tree.whiteout([]byte(h.Name)); done || err != nil {
				return err
			}
			n, err := tree.tarNode(h)
			if err != nil || n == nil {
				return err
			}
			if n.meta.Mode&ModeType == ModeRegular {
				if n.file, err = tree.content.file(context.Background(), body, h.Size); err != nil {
					return err
				}
			}
			return tree.put([]byte(h.Name), n)
		})
		if err != nil {
			return
		}
		if _, m, _, err := tree.Manifest(); err == nil {
			if err := Validate(m); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// consistent checks what every successful build promises.
func consistent(t *testing.T, h canon.Hash, m Manifest, sink *storeSink) {
	t.Helper()
	b, again, err := Encode(m)
	if err != nil || again != h {
		t.Fatalf("manifest: %v", err)
	}
	if _, err := Decode(b); err != nil {
		t.Fatalf("a built manifest does not decode: %v", err)
	}
	m.Files(func(p []byte, f *File) bool {
		data := sink.content(f)
		if canon.Sum(data) != f.Digest || plainVerity(data) != f.Verity || uint64(len(data)) != f.Size {
			t.Fatalf("%q: the sink has other content", p)
		}
		return true
	})
}
