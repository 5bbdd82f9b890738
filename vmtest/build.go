package vmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zero-os/zos/boot"
)

// NodeCmdline seals the kernel as nodes do: what Options.Modules names is loaded
// before, and nothing later.
const NodeCmdline = "lockdown=integrity module.sig_enforce=1"

// BuildRunc compiles runc as releases do, with seccomp, which needs cgo, and static,
// and returns the file's path.
func BuildRunc(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "runc")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "seccomp osusergo netgo",
		"-ldflags", "-s -w -extldflags -static", "-o", out, "github.com/opencontainers/runc")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build runc: %v (run: make deps)\n%s", err, b)
	}
	return out
}

// BuildShim compiles the program that keeps one workload and returns the file's path.
func BuildShim(t testing.TB) string {
	t.Helper()
	return BuildStatic(t, "github.com/zero-os/zos/cmd/zos-shim")
}

// BlankDisk is a file of size bytes, all zero, that ends with the test.
func BlankDisk(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// GuestInitrd is what a release's micro-VMs start from: the real agent, as process 1.
func GuestInitrd(t testing.TB) []byte {
	t.Helper()
	initrd, err := boot.GuestInitrd(t.Context(), Kernel(t), BuildStatic(t, "github.com/zero-os/zos/cmd/zos-guest"))
	if err != nil {
		t.Fatal(err)
	}
	return initrd
}

// VMMDisk is an ext4 with what a release's VMM flist holds, and the given initrd for
// the guests.
func VMMDisk(t testing.TB, initrd []byte) string {
	t.Helper()
	dir := t.TempDir()
	tree, disk := filepath.Join(dir, "tree"), filepath.Join(dir, "disk")
	if err := boot.WriteVMM(boot.VMMOptions{KernelDir: Kernel(t), Initrd: initrd}, tree); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", tree, disk, "400M").CombinedOutput(); err != nil {
		t.Fatalf("make a disk of the VMM's files: %v (run: make deps)\n%s", err, out)
	}
	return disk
}

// Report logs which tests passed, by the console of RunInVM, and the lines in which
// they say "measured:".
func Report(t testing.TB, console string) {
	t.Helper()
	for line := range strings.Lines(console) {
		if strings.Contains(line, "measured:") || strings.Contains(line, "--- PASS") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
