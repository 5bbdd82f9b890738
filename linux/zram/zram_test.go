package zram

import (
	"os"
	"path/filepath"
	"testing"
)

// device makes a directory with the attributes of a zram device.
func device(t *testing.T, disksize string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"disksize": disksize, "comp_algorithm": "[lz4] lz4hc zstd deflate\n", "reset": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func content(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFirstKnownAlgorithmAndWholePagesAreUsed(t *testing.T) {
	dir := device(t, "0\n")
	if err := setup(dir, 10<<20+5, []string{"842", "zstd", "lz4"}); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir, "comp_algorithm"); got != "zstd" {
		t.Errorf("algorithm %q", got)
	}
	if got := content(t, dir, "disksize"); got != "10485760" {
		t.Errorf("size %q", got)
	}
	if got := content(t, dir, "reset"); got != "" {
		t.Errorf("an unused device was reset: %q", got)
	}
}

func TestUnknownAlgorithmsLeaveTheKernelsOwn(t *testing.T) {
	dir := device(t, "0\n")
	if err := setup(dir, 4096, []string{"842"}); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir, "comp_algorithm"); got[0] != '[' {
		t.Errorf("algorithm %q", got)
	}
}

func TestDeviceOfAFailedTryIsResetFirst(t *testing.T) {
	dir := device(t, "4096\n")
	if err := setup(dir, 8192, nil); err != nil {
		t.Fatal(err)
	}
	if content(t, dir, "reset") != "1" || content(t, dir, "disksize") != "8192" {
		t.Error("not reset, or not sized anew")
	}
}

func TestMissingModuleIsAnError(t *testing.T) {
	if err := setup(t.TempDir(), 4096, nil); err == nil {
		t.Error("no error without a device")
	}
}
