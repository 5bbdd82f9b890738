package cpio

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() []Entry {
	return []Entry{
		File("modules/00-a.ko", 0o644, []byte("abc")),
		File("init", 0o755, []byte("#elf")),
		Char("dev/console", 0o600, 5, 1),
	}
}

func write(t *testing.T, entries []Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	b := write(t, sample())
	if len(b)%Align != 0 {
		t.Errorf("archive of %d bytes is not padded to %d", len(b), Align)
	}
	got, err := Read(b)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		Dir("dev", 0o755), Char("dev/console", 0o600, 5, 1),
		File("init", 0o755, []byte("#elf")),
		Dir("modules", 0o755), File("modules/00-a.ko", 0o644, []byte("abc")),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestOrderOfInputDoesNotMatter(t *testing.T) {
	s := sample()
	a := write(t, s)
	s[0], s[2] = s[2], s[0]
	if !bytes.Equal(a, write(t, s)) {
		t.Error("another order of the same entries gave other bytes")
	}
}

func TestCpioProgramAgrees(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Fatal("cpio is missing: run sudo make deps")
	}
	cmd := exec.Command(cpio, "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(write(t, sample()))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio -t: %v: %s", err, out)
	}
	want := "dev\ndev/console\ninit\nmodules\nmodules/00-a.ko\n"
	if string(out) != want {
		t.Errorf("cpio lists %q, want %q", out, want)
	}
}

func TestOurReaderReadsTheirArchive(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte("hi"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-o", "-H", "newc", "--quiet")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader("hello\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cpio -o: %v (missing? run sudo make deps)", err)
	}
	got, err := Read(out)
	if err != nil || len(got) != 1 || got[0].Name != "hello" || string(got[0].Data) != "hi" {
		t.Errorf("read %+v, %v", got, err)
	}
}

func TestBadEntriesAreRefused(t *testing.T) {
	for name, entries := range map[string][]Entry{
		"absolute":         {File("/init", 0o755, nil)},
		"parent":           {File("../init", 0o755, nil)},
		"empty":            {File("", 0o755, nil)},
		"unclean":          {File("a//b", 0o755, nil)},
		"zero byte":        {File("a\x00b", 0o755, nil)},
		"trailer":          {File(trailer, 0o755, nil)},
		"twice":            {File("a", 0o755, nil), File("a", 0o755, nil)},
		"file as a parent": {File("a", 0o755, nil), File("a/b", 0o755, nil)},
	} {
		if err := Write(&bytes.Buffer{}, entries); err == nil {
			t.Errorf("%s: written without an error", name)
		}
	}
}

func TestCutArchiveIsRefused(t *testing.T) {
	b := write(t, sample())
	end := bytes.Index(b, []byte(trailer))
	for n := 0; n < end; n++ {
		if _, err := Read(b[:n]); err == nil {
			t.Fatalf("the first %d bytes of the archive were accepted", n)
		}
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, sample()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:200])
	f.Add([]byte(magic + strings.Repeat("f", 104)))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := Read(b)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if Write(&out, entries) != nil {
			return // names that we would not write
		}
		if _, err := Read(out.Bytes()); err != nil {
			t.Errorf("our own archive is refused: %v", err)
		}
	})
}
