package footprint

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBytesAreThoseOnDisk(t *testing.T) {
	dir := t.TempDir()
	before, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if before.Bytes != 0 || len(before.Mounts) == 0 || len(before.Cgroups) == 0 || len(before.Namespaces) == 0 || len(before.Interfaces) == 0 || len(before.Processes) == 0 {
		t.Fatalf("an empty directory on a running machine: %+v", before)
	}
	file := filepath.Join(dir, "c", "file")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 1<<30); err != nil { // sparse: costs nothing
		t.Fatal(err)
	}
	after, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if after.Files != 1 || after.Bytes < 100_000 || after.Bytes > 1<<20 {
		t.Errorf("%d bytes for a file of 100000 with a hole", after.Bytes)
	}
	if twice, err := Read(dir, filepath.Join(dir, "c")); err != nil || twice.Files != 2 || twice.Bytes <= after.Bytes {
		t.Errorf("two directories: %d files of %d bytes, %v", twice.Files, twice.Bytes, err)
	}
	if missing, err := Read(filepath.Join(dir, "missing")); err != nil || missing.Bytes != 0 {
		t.Errorf("missing directory: %+v, %v", missing, err)
	}
}
