package verity

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Where the kernel has fs-verity all of it is tried, elsewhere that its absence
// is told; store/storetest is run in a machine that has it.
func TestEnableAndMeasureAgreeWithSupported(t *testing.T) {
	dir := t.TempDir()
	ok, err := Supported(dir)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Fatalf("the probe left %v (%v)", left, err)
	}
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Measure(path)
	if !ok {
		if !errors.Is(err, ErrUnsupported) || !errors.Is(Enable(path), ErrUnsupported) {
			t.Fatalf("measure: %v, want %v", err, ErrUnsupported)
		}
		return
	}
	if !errors.Is(err, unix.ENODATA) {
		t.Fatalf("measuring a plain file: %v", err)
	}
	for range 2 {
		if err := Enable(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Measure(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("other"), 0o600); err == nil {
		t.Fatal("a file with fs-verity was written to")
	}
}

func TestProbeOfNoDirectoryIsAnError(t *testing.T) {
	if ok, err := Supported(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Fatalf("supported: %v", ok)
	}
}
