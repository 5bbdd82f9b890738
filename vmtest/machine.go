package vmtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/qemu"
)

// Machine is a virtual machine that ends with its test.
type Machine struct {
	*qemu.VM
	console *qemu.Console
}

// NewMachine starts a machine. Name, MemoryMB (512), Firmware (BIOS) and
// Console may be left out. The console is attached to t if it fails.
func NewMachine(t testing.TB, c qemu.Config) *Machine {
	t.Helper()
	if c.Name == "" {
		c.Name = "vmtest"
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = 512
	}
	if c.Firmware == "" {
		c.Firmware = qemu.BIOS
	}
	if c.Console == "" {
		c.Console = filepath.Join(t.TempDir(), "console.log")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	vm, err := qemu.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{VM: vm}
	t.Cleanup(func() {
		if m.console != nil {
			m.console.Close()
		}
		if err := vm.Kill(); err != nil && !t.Failed() {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("console of %s:\n%s", c.Name, m.ConsoleText(t))
		}
	})
	if m.console, err = vm.Console(); err != nil {
		t.Fatal(err)
	}
	return m
}

// WaitConsole waits for the next console line that matches re, after those that
// earlier calls consumed, and returns its submatches.
func (m *Machine) WaitConsole(t testing.TB, re string, timeout time.Duration) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	match, err := m.console.WaitLine(ctx, regexp.MustCompile(re))
	if err != nil {
		t.Fatal(err)
	}
	return match
}

// WaitEnd waits until the machine has powered off.
func (m *Machine) WaitEnd(t testing.TB, timeout time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := m.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// ConsoleText is all that the machine has written to its console.
func (m *Machine) ConsoleText(t testing.TB) string {
	b, err := os.ReadFile(m.Config().Console)
	if err != nil {
		t.Errorf("read console: %v", err)
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// Kernel returns the directory of the unpacked kernel package that nodes run:
// $ZOS_KERNEL, else build/kernel of this repository.
func Kernel(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("ZOS_KERNEL")
	if dir == "" {
		dir = filepath.Join(moduleRoot(t), "build", "kernel")
	}
	if _, err := boot.OpenKernel(dir); err != nil {
		t.Fatalf("%v (run: make deps)", err)
	}
	return dir
}

// moduleRoot is the directory of go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").CombinedOutput()
	if err != nil {
		t.Fatalf("find the module: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// BuildStatic compiles a main package of this module as a static program, with
// the flags that releases use, and returns the file's path.
func BuildStatic(t testing.TB, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, b)
	}
	return out
}
