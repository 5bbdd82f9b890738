package flist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

func encode(t testing.TB, m Manifest) []byte {
	t.Helper()
	b, h, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if h != canon.Sum(b) {
		t.Fatal("the hash is not that of the bytes")
	}
	return b
}

func TestManifestSurvivesItsBytes(t *testing.T) {
	m := sampleTree(t, Discard{})
	m.Config = Config{Entrypoint: []string{"/init", ""}, Env: []string{"A=b"}, WorkDir: "/", User: "0"}
	b := encode(t, m)
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := Diff(m, got); len(d) > 0 {
		t.Fatalf("changed: %v", d)
	}
	if again := encode(t, got); !bytes.Equal(b, again) {
		t.Fatal("encodes to other bytes")
	}
	z, err := Compress(b)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Decompress(z, 0)
	if err != nil || !bytes.Equal(plain, b) {
		t.Fatalf("compression changed it: %v", err)
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	z, err := Compress(make([]byte, 32<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decompress(z, 32<<20); err != nil {
		t.Errorf("what just fits is refused: %v", err)
	}
	if _, err := Decompress(z, 32<<20-1); problem.Code(err) != codeInvalid {
		t.Errorf("a bomb: %v", err)
	}
	// Many frames, each within the bound.
	if _, err := Decompress(bytes.Repeat(z, 3), 64<<20); problem.Code(err) != codeInvalid {
		t.Errorf("a bomb in frames: %v", err)
	}
	if _, err := Decompress([]byte("nothing"), 0); problem.Code(err) != codeInvalid {
		t.Errorf("no frame: %v", err)
	}
}

// tiny is a small valid manifest, to be made wrong.
func tiny() Manifest {
	content := &File{Size: 5, Digest: canon.Sum([]byte("hello")), Verity: plainVerity([]byte("hello"))}
	return Manifest{V: Version, Entries: []Entry{
		{Mode: ModeDir | 0o755},
		{Path: []byte("dir"), Mode: ModeDir | 0o755},
		{Path: []byte("dir/a"), Mode: ModeRegular | 0o644, File: content, Xattrs: []Xattr{{Name: []byte("user.a"), Value: []byte("v")}}},
		{Path: []byte("dir/b"), Mode: ModeRegular | 0o644, Link: []byte("dir/a"), Xattrs: []Xattr{{Name: []byte("user.a"), Value: []byte("v")}}},
		{Path: []byte("null"), Mode: ModeChar | 0o666, Rdev: 0x103},
		{Path: []byte("sym"), Mode: ModeSymlink | 0o777, Link: []byte("dir")},
	}}
}

func TestWrongManifestIsRefused(t *testing.T) {
	if err := Validate(tiny()); err != nil {
		t.Fatalf("the valid one: %v", err)
	}
	long := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	deep := []byte(strings.Repeat("x/", 2048) + "y")
	cases := map[string]func(m *Manifest){
		"other version":        func(m *Manifest) { m.V = 2 },
		"no entries":           func(m *Manifest) { m.Entries = nil },
		"no root":              func(m *Manifest) { m.Entries = m.Entries[1:] },
		"root is a file":       func(m *Manifest) { m.Entries[0].Mode = ModeRegular; m.Entries[0].File = m.Entries[2].File },
		"unsorted":             func(m *Manifest) { e := m.Entries; e[4], e[5] = e[5], e[4] },
		"duplicate":            func(m *Manifest) { m.Entries[5].Path = []byte("null") },
		"parent missing":       func(m *Manifest) { m.Entries[4].Path = []byte("lost/null") },
		"parent is a file":     func(m *Manifest) { m.Entries[4].Path = []byte("dir/b/null") },
		"parent is a link":     func(m *Manifest) { m.Entries = append(m.Entries, Entry{Path: []byte("sym/x"), Mode: ModeFIFO}) },
		"dot dot":              func(m *Manifest) { m.Entries[4].Path = []byte("dir/..") },
		"dot":                  func(m *Manifest) { m.Entries[4].Path = []byte("dir/.") },
		"leading slash":        func(m *Manifest) { m.Entries[1].Path = []byte("/dir") },
		"trailing slash":       func(m *Manifest) { m.Entries[4].Path = []byte("dir/c/") },
		"double slash":         func(m *Manifest) { m.Entries[4].Path = []byte("dir//c") },
		"NUL":                  func(m *Manifest) { m.Entries[4].Path = []byte("n\x00ll") },
		"long name":            func(m *Manifest) { m.Entries[5].Path = long(256) },
		"long path":            func(m *Manifest) { m.Entries[5].Path = deep },
		"unknown mode bits":    func(m *Manifest) { m.Entries[4].Mode |= 1 << 20 },
		"owner -1":             func(m *Manifest) { m.Entries[1].UID = noID },
		"group -1":             func(m *Manifest) { m.Entries[1].GID = noID },
		"no type":              func(m *Manifest) { m.Entries[4].Mode = 0o644; m.Entries[4].Rdev = 0 },
		"whiteout":             func(m *Manifest) { m.Entries[4].Rdev = 0 },
		"large device number":  func(m *Manifest) { m.Entries[4].Rdev = 1 << 32 },
		"directory's device":   func(m *Manifest) { m.Entries[1].Rdev = 1 },
		"directory's content":  func(m *Manifest) { m.Entries[1].File = m.Entries[2].File },
		"directory's link":     func(m *Manifest) { m.Entries[1].Link = []byte("x") },
		"file without content": func(m *Manifest) { m.Entries[2].File = nil },
		"empty symlink":        func(m *Manifest) { m.Entries[5].Link = nil },
		"long symlink":         func(m *Manifest) { m.Entries[5].Link = long(4096) },
		"symlink with NUL":     func(m *Manifest) { m.Entries[5].Link = []byte("a\x00") },
		"hard link to nothing": func(m *Manifest) { m.Entries[3].Link = []byte("dir/0") },
		"hard link forward":    func(m *Manifest) { m.Entries[3].Link = []byte("null") },
		"hard link to itself":  func(m *Manifest) { m.Entries[3].Link = []byte("dir/b") },
		"hard link to a directory": func(m *Manifest) {
			m.Entries[3].Link = []byte("dir")
		},
		"hard link to a hard link": func(m *Manifest) {
			e := m.Entries[3]
			e.Path, e.Link = []byte("dir/c"), []byte("dir/b")
			m.Entries = append(m.Entries[:4:4], append([]Entry{e}, m.Entries[4:]...)...)
		},
		"hard link with content":     func(m *Manifest) { m.Entries[3].File = m.Entries[2].File },
		"hard link's other mode":     func(m *Manifest) { m.Entries[3].Mode ^= 1 },
		"hard link's other owner":    func(m *Manifest) { m.Entries[3].UID++ },
		"hard link's other time":     func(m *Manifest) { m.Entries[3].MTime++ },
		"hard link's other xattrs":   func(m *Manifest) { m.Entries[3].Xattrs = nil },
		"huge file":                  func(m *Manifest) { m.Entries[2].File.Size = MaxFileSize + 1 },
		"file without its chunks":    func(m *Manifest) { m.Entries[2].File.Size = ChunkedAbove + 1 },
		"chunk of a small file":      func(m *Manifest) { m.Entries[2].File.Chunks = make([]canon.Hash, 1) },
		"empty file of another hash": func(m *Manifest) { m.Entries[2].File.Size = 0 },
		"xattr of unknown class":     func(m *Manifest) { m.Entries[1].Xattrs = []Xattr{{Name: []byte("other.a")}} },
		"xattr without a name":       func(m *Manifest) { m.Entries[1].Xattrs = []Xattr{{Name: []byte("user.")}} },
		"xattr with NUL":             func(m *Manifest) { m.Entries[1].Xattrs = []Xattr{{Name: []byte("user.a\x00b")}} },
		"xattr with a long name":     func(m *Manifest) { m.Entries[1].Xattrs = []Xattr{{Name: append([]byte("user."), long(251)...)}} },
		"xattr with a long value":    func(m *Manifest) { m.Entries[1].Xattrs = []Xattr{{Name: []byte("user.a"), Value: long(65536)}} },
		"xattrs unsorted": func(m *Manifest) {
			m.Entries[1].Xattrs = []Xattr{{Name: []byte("user.b")}, {Name: []byte("user.a")}}
		},
		"xattr twice": func(m *Manifest) {
			m.Entries[1].Xattrs = []Xattr{{Name: []byte("user.a")}, {Name: []byte("user.a")}}
		},
		"xattrs too large together": func(m *Manifest) {
			for i := range 3 {
				m.Entries[1].Xattrs = append(m.Entries[1].Xattrs, Xattr{Name: fmt.Appendf(nil, "user.%d", i), Value: long(60000)})
			}
		},
		"too many xattrs": func(m *Manifest) {
			for i := range MaxXattrs + 1 {
				m.Entries[1].Xattrs = append(m.Entries[1].Xattrs, Xattr{Name: fmt.Appendf(nil, "user.%05d", i)})
			}
		},
		"configuration that is no text": func(m *Manifest) { m.Config.User = "\xff" },
		"configuration with NUL":        func(m *Manifest) { m.Config.Env = []string{"A=\x00"} },
		"long configuration":            func(m *Manifest) { m.Config.Cmd = []string{strings.Repeat("x", MaxConfigString+1)} },
		"too many arguments":            func(m *Manifest) { m.Config.Cmd = make([]string, MaxConfigItems+1) },
	}
	for name, change := range cases {
		m := tiny()
		change(&m)
		if err := Validate(m); problem.Code(err) != codeInvalid {
			t.Errorf("%s: Validate says %v", name, err)
		}
		if _, _, err := Encode(m); problem.Code(err) != codeInvalid {
			t.Errorf("%s: Encode says %v", name, err)
		}
		// The same through its bytes, which no Encode has made.
		b, err := canon.Marshal(m)
		if err != nil {
			continue // it has no bytes either
		}
		if _, err := Decode(b); problem.Code(err) != codeInvalid {
			t.Errorf("%s: Decode says %v", name, err)
		}
	}
}

func TestLargestEntriesAreAccepted(t *testing.T) {
	m := tiny()
	deep := strings.Repeat("d", 255)
	path := ""
	for len(path)+256 < MaxPath {
		path += deep
		m.Entries = append(m.Entries, Entry{Path: []byte("z/" + path)[2:], Mode: ModeDir})
		path += "/"
	}
	m.Entries = append(m.Entries, Entry{
		Path: []byte(path + strings.Repeat("e", MaxPath-len(path))), Mode: ModeSymlink, Link: bytes.Repeat([]byte("l"), MaxPath),
		Xattrs: []Xattr{{Name: append([]byte("user."), bytes.Repeat([]byte("n"), 250)...), Value: make([]byte, MaxXattrValue)}},
	})
	// They sort before "dir".
	entries := append([]Entry{m.Entries[0]}, m.Entries[6:]...)
	m.Entries = append(entries, m.Entries[1:6]...)
	got, err := Decode(encode(t, m))
	if err != nil {
		t.Fatal(err)
	}
	dir := mountEROFS(t, writeImage(t, got))
	t.Chdir(dir)
	for _, e := range m.Entries[1:16] { // one directory after the other: no path may be as long as all of them
		if err := os.Chdir(string(e.Path[bytes.LastIndexByte(e.Path, '/')+1:])); err != nil {
			t.Fatal(err)
		}
	}
	last := m.Entries[16]
	target, err := os.Readlink(string(last.Path[bytes.LastIndexByte(last.Path, '/')+1:]))
	if err != nil || target != string(last.Link) {
		t.Fatalf("the deepest link has %d bytes, %v", len(target), err)
	}
}

func TestOnlyTheCanonicalBytesDecode(t *testing.T) {
	good := encode(t, tiny())
	if _, err := Decode(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if _, err := Decode(good[:i]); err == nil {
			t.Fatalf("the first %d bytes decode", i)
		}
		for _, bit := range []byte{1, 0x20, 0x80} {
			b := bytes.Clone(good)
			b[i] ^= bit
			m, err := Decode(b)
			if err == nil && !bytes.Equal(encode(t, m), b) {
				t.Fatalf("byte %d changed decodes to what encodes otherwise", i)
			}
		}
	}
	if _, err := Decode(append(bytes.Clone(good), 0)); err == nil {
		t.Fatal("a byte more decodes")
	}
}

// TestDecodeAllocatesInProportion counts bytes while decoding hostile input: a
// short text that claims a million entries, chunks or attributes.
func TestDecodeAllocatesInProportion(t *testing.T) {
	good := encode(t, tiny())
	head := good[:bytes.Index(good, []byte("gentries"))+8]
	million := []byte{0x9a, 0, 0x10, 0, 0}
	nulls := bytes.Repeat([]byte{0xf6}, 1<<20)
	entry := []byte{0x89, 0x40, 0x19, 0x41, 0xed, 0, 0, 0, 0, 0x40}
	for name, b := range map[string][]byte{
		"entries": append(append(bytes.Clone(head), million...), nulls...),
		"xattrs":  append(append(append(append(bytes.Clone(head), 0x81), entry...), million...), nulls...),
		"chunks": append(append(append(append(append(append(bytes.Clone(head), 0x81), entry...), 0x80, 0x84, 0x1b, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff),
			bytes.Repeat(append([]byte{0x58, 32}, make([]byte, 32)...), 2)...), million...), nulls...),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Decode(b)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: it decodes", name)
		}
		allocated := after.TotalAlloc - before.TotalAlloc
		if allocated > 16<<10 {
			t.Errorf("%s: %d bytes were allocated to refuse %d", name, allocated, len(b))
		}
	}
}

// syntheticTree has as many entries as a large distribution image.
func syntheticTree(t testing.TB, n int) Manifest {
	t.Helper()
	tree := NewTree(Discard{}, Options{})
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		p := fmt.Sprintf("usr/share/package-%04d/directory-%02d/file-%06d.dat", i/60, i/20%3, i)
		f := &File{Size: uint64(1 + r.IntN(ChunkedAbove))}
		for j := range f.Digest {
			f.Digest[j], f.Verity[j] = byte(r.Uint32()), byte(r.Uint32())
		}
		if err := tree.put([]byte(p), &node{meta: Meta{Mode: ModeRegular | 0o644, MTime: int64(i)}, file: f}); err != nil {
			t.Fatal(err)
		}
	}
	_, m, _, err := tree.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestLargeManifest states the figures; it fails only when something is wrong
// by an order of magnitude.
func TestLargeManifest(t *testing.T) {
	m := syntheticTree(t, 65_000)
	start := time.Now()
	b := encode(t, m)
	encoded := time.Since(start)
	start = time.Now()
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	decoded := time.Since(start)
	z, err := Compress(b)
	if err != nil {
		t.Fatal(err)
	}
	image := writeImage(t, got)
	t.Logf("%d entries: %d bytes, %d compressed; encode %v, decode %v", len(m.Entries), len(b), len(z), encoded, decoded)
	dir := mountEROFS(t, image)
	compareTree(t, dir, got, false)
}

func TestDiffNamesWhatChanged(t *testing.T) {
	a, b := tiny(), tiny()
	b.Entries[1].Mode ^= 1
	b.Entries[1].UID++
	b.Entries[2].File.Digest[0]++
	b.Entries[5].Link = []byte("null")
	b.Entries[4].Path = []byte("nulm")
	want := []Change{
		{[]byte("dir"), "changed", []string{"mode", "owner"}},
		{[]byte("dir/a"), "changed", []string{"content"}},
		{[]byte("null"), "removed", []string{}},
		{[]byte("nulm"), "added", []string{}},
		{[]byte("sym"), "changed", []string{"link"}},
	}
	if got := Diff(a, b); !reflect.DeepEqual(got, want) {
		t.Fatalf("have %v\nwant %v", got, want)
	}
	if got := Diff(a, a); len(got) != 0 {
		t.Fatalf("a manifest differs from itself: %v", got)
	}
}

func TestListingSaysWhatAnEntryIs(t *testing.T) {
	m := sampleTree(t, Discard{})
	byPath := map[string]Listing{}
	for _, l := range m.List() {
		byPath[l.Path] = l
	}
	for path, want := range map[string]string{
		"": "dir 0755", "dir": "dir 1777", "big": "file 0755", "dir/suid": "file 6755", "dir/hard": "hardlink 0755",
		"link": "symlink 0777", "null": "char 0666", "blk": "block 0660", "fifo": "fifo 0640",
	} {
		l := byPath[path]
		if got := l.Type + " " + l.Mode; got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
	if l := byPath["big"]; l.Size != 3_200_000 || l.Chunks != 7 || len(l.Digest) != 64 || len(l.Verity) != 64 {
		t.Errorf("big: %+v", l)
	}
	if l := byPath["bad\xff\xfename\n"]; string(l.Raw) != l.Path {
		t.Errorf("a name that is not text has no raw form: %+v", l)
	}
	total, unique, files := m.Bytes()
	if files != 7+manyFiles || unique >= total {
		t.Errorf("%d bytes, %d unique, %d files", total, unique, files)
	}
}

func TestTreeRefusesWhatCannotBe(t *testing.T) {
	ctx := context.Background()
	tree := NewTree(Discard{}, Options{})
	if err := tree.AddFile(ctx, "f", Meta{}, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for name, err := range map[string]error{
		"dot dot":             tree.AddDir("a/../b", Meta{}),
		"file as root":        tree.AddFile(ctx, "/", Meta{}, strings.NewReader("")),
		"link as root":        tree.AddLink("/", "f"),
		"link to nothing":     tree.AddLink("l", "absent"),
		"link to a directory": tree.AddLink("l", "/"),
		"long name":           tree.AddDir(strings.Repeat("x", 256), Meta{}),
		"NUL":                 tree.AddDir("a\x00b", Meta{}),
		"major number":        tree.AddDevice("d", ModeBlock, 4096, 0, Meta{}),
		"minor number":        tree.AddDevice("d", ModeBlock, 0, 1<<20, Meta{}),
		"no device":           tree.AddDevice("d", ModeRegular, 1, 1, Meta{}),
		"long target":         tree.AddSymlink("s", strings.Repeat("x", 4096), Meta{}),
		"failing reader":      tree.AddFile(ctx, "g", Meta{}, failingReader{broken}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, m, _, err := tree.Manifest(); err != nil || len(m.Entries) != 2 {
		t.Fatalf("the tree was changed by what failed: %v, %v", m.List(), err)
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }
