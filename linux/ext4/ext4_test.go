package ext4

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func image(t *testing.T, tmpl Template, size int64, boot []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := tmpl.Write(f, [16]byte{1, 2, 3}, boot, false); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWrittenFileSystemPassesTheRealCheck(t *testing.T) {
	fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Fatalf("%v; run: sudo make deps", err)
	}
	for name, tmpl := range map[string]Template{"journaled": Journaled, "volatile": Volatile} {
		path := image(t, tmpl, int64(tmpl.Size()), []byte("boot area"))
		if out, err := exec.Command(fsck, "-f", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%s: e2fsck: %v\n%s", name, err, out)
		}
		head, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if uint64(len(head)) != tmpl.Size() {
			t.Errorf("%s: template wrote %d bytes, Size says %d", name, len(head), tmpl.Size())
		}
		if !bytes.HasPrefix(head, []byte("boot area\x00")) {
			t.Errorf("%s: boot area is %q", name, head[:16])
		}
		sb, err := ParseSuperblock(head)
		if err != nil {
			t.Fatal(err)
		}
		want := Superblock{Label: "zos-data", UUID: [16]byte{1, 2, 3}, Size: tmpl.Size(), Verity: true, Clean: true, Checksum: true}
		if sb != want {
			t.Errorf("%s: superblock %+v, want %+v", name, sb, want)
		}
	}
}

// torn stops writing after n writes, as a power cut does.
type torn struct {
	*os.File
	left int
}

func (d *torn) WriteAt(b []byte, off int64) (int, error) {
	if d.left == 0 {
		return 0, os.ErrClosed
	}
	d.left--
	return d.File.WriteAt(b, off)
}

func TestInterruptedFormatIsNotTakenForAFileSystem(t *testing.T) {
	for left := range 20 {
		f, err := os.Create(filepath.Join(t.TempDir(), "img"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(64 << 20); err != nil {
			t.Fatal(err)
		}
		if err := Journaled.Write(&torn{f, left}, [16]byte{1}, nil, false); err == nil {
			t.Fatal("the write succeeded, the test tests nothing")
		}
		head := make([]byte, HeadSize)
		if _, err := f.ReadAt(head, 0); err != nil {
			t.Fatal(err)
		}
		if sb, err := ParseSuperblock(head); err == nil {
			t.Errorf("after %d writes there is a superblock already: %+v", left, sb)
		}
	}
}

func FuzzParseSuperblock(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, HeadSize))
	good := make([]byte, HeadSize)
	good[BootSize+offMagic], good[BootSize+offMagic+1] = 0x53, 0xEF
	copy(good[BootSize+offLabel:], "zos-data")
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		sb, err := ParseSuperblock(b)
		if err != nil && sb != (Superblock{}) {
			t.Errorf("error %v with a superblock %+v", err, sb)
		}
		if len(sb.Label) > 16 {
			t.Errorf("label of %d bytes", len(sb.Label))
		}
	})
}
