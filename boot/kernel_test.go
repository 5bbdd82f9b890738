package boot_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fetchKernel runs the script on a directory of its own.
func fetchKernel(t *testing.T, dest string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("./fetch-kernel.sh", dest)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestOnlyThePinnedKernelIsUnpacked(t *testing.T) {
	dir := t.TempDir()
	deb := filepath.Join(dir, "other.deb")
	if err := os.WriteFile(deb, []byte("not the kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(dir, "kernel")
	out, err := fetchKernel(t, dest, "ZOS_KERNEL_DEB="+deb)
	if err == nil || !strings.Contains(out, "pins") || !strings.Contains(out, "run: ") {
		t.Errorf("another package: %v: %s", err, out)
	}
	out, err = fetchKernel(t, dest, "ZOS_KERNEL_DEB="+deb+"-missing")
	if err == nil || !strings.Contains(out, "run: unset ZOS_KERNEL_DEB") {
		t.Errorf("a missing package: %v: %s", err, out)
	}
	left, err := filepath.Glob(dest + "*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestMissingPackageNamesTheCommand(t *testing.T) {
	// An apt that knows no package and asks nobody.
	dir := t.TempDir()
	apt := filepath.Join(dir, "apt-get")
	if err := os.WriteFile(apt, []byte("#!/bin/sh\necho 'E: unable to locate package' >&2; exit 100\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := fetchKernel(t, filepath.Join(dir, "kernel"), "PATH="+dir+":"+os.Getenv("PATH"))
	if err == nil || !strings.Contains(out, "unable to locate package") || !strings.Contains(out, "make deps") {
		t.Errorf("%v: %s", err, out)
	}
}
