package client

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/zero-os/zos/problem"
)

// A spec that someone else wrote must not publish what lies elsewhere on the disk of
// who plans it.
func TestASpecReadsFilesOfItsOwnFolderOnly(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("private", "key")
	write("app/spec.yaml", "")
	write("app/web.conf", "listen 80")
	write("app/sub/web.conf", "listen 81")
	write("app/large", strings.Repeat("x", 100))
	for link, to := range map[string]string{"out": "../private", "abs": filepath.Join(dir, "private"), "in": "web.conf"} {
		if err := os.Symlink(to, filepath.Join(dir, "app", link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "app/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := filepath.Join(dir, "app/spec.yaml")
	for name, want := range map[string]string{"web.conf": "listen 80", "sub/web.conf": "listen 81", "./sub/../web.conf": "listen 80", "in": "listen 80"} {
		if got, err := specFile(spec, name, 64); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := specFile(spec, "large", 64); err != nil || len(got) != 65 {
		t.Errorf("large: %d bytes, %v, want one more than the limit", len(got), err)
	}
	for _, name := range []string{"../private", "sub/../../private", filepath.Join(dir, "private"), "out", "abs", "pipe", "sub", ".", "none", ""} {
		if got, err := specFile(spec, name, 64); problem.Code(err) != "source-unreadable" || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestASecretIsReadFromWhereTheSpecSays(t *testing.T) {
	dir := t.TempDir()
	spec := filepath.Join(dir, "spec.yaml")
	file := filepath.Join(dir, "value")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ZOS_TEST_SECRET", "hunter3")
	for from, want := range map[string]string{"env:ZOS_TEST_SECRET": "hunter3", "file:value": "hunter2\n", "file:" + file: "hunter2\n"} {
		if got, there, err := specValue(spec, from); err != nil || !there || string(got) != want {
			t.Errorf("%s: %q, %t, %v", from, got, there, err)
		}
	}
	for _, from := range []string{"env:ZOS_TEST_NO_SECRET", "file:none"} {
		if got, there, err := specValue(spec, from); err != nil || there {
			t.Errorf("%s: %q, %t, %v, want nothing there", from, got, there, err)
		}
	}
	if _, _, err := specValue(spec, "file:."); problem.Code(err) != "source-unreadable" {
		t.Errorf("a folder: %v", err)
	}
}
