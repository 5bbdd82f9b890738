package qemu

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zero-os/zos/problem"
)

// bootSector is a disk whose first sector writes text to the serial port and
// halts: a guest that is up in a blink.
func bootSector(t *testing.T, text string) string {
	t.Helper()
	b := make([]byte, 1<<20)
	code := []byte{
		0xfa,       // cli
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0x00, 0x7d, // mov si, 0x7d00
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xac,       // lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz +3
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp -8
		0xf4,       // hlt
		0xeb, 0xfd, // jmp -3
	}
	copy(b, code)
	copy(b[0x100:0x1fe], text+"\x00")
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func testConfig(t *testing.T) Config {
	t.Helper()
	return Config{
		Name: "test", MemoryMB: 64, Firmware: BIOS, Accel: TCG,
		Console: filepath.Join(t.TempDir(), "console.log"),
		Disks:   []Disk{{Path: bootSector(t, "hello from the guest\r\n"), Serial: "serial-1"}},
	}
}

func startTest(t *testing.T, c Config) *VM {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	vm, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Kill(); err != nil {
			t.Error(err)
		}
	})
	return vm
}

func waitLine(t *testing.T, vm *VM, re string) []string {
	t.Helper()
	c, err := vm.Console()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, err := c.WaitLine(ctx, regexp.MustCompile(re))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGuestRunsAndSpeaks(t *testing.T) {
	vm := startTest(t, testConfig(t))
	waitLine(t, vm, "^hello from the guest$")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := vm.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := vm.Console()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if _, err := c.WaitLine(ctx, regexp.MustCompile("hello from the guest")); err != nil {
			t.Fatal(err)
		}
	}
	if err := vm.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(vm.PID(), 0); err != syscall.ESRCH {
		t.Errorf("QEMU is still there after Stop: %v", err)
	}
}

func TestWhatQEMUSaysIsInTheError(t *testing.T) {
	c := testConfig(t)
	c.Extra = []string{"-device", "no-such-device"}
	_, err := Start(context.Background(), c)
	if err == nil || !strings.Contains(err.Error(), "no-such-device") || problem.Code(err) != "machine-start" {
		t.Errorf("error is %v, want one with QEMU's own words and the code machine-start", err)
	}
}

func TestDeathOfQEMUIsReported(t *testing.T) {
	vm := startTest(t, testConfig(t))
	if err := syscall.Kill(vm.PID(), syscall.SIGTRAP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := vm.Wait(ctx)
	if problem.Code(err) != "machine-died" {
		t.Errorf("Wait gave %v, want code machine-died", err)
	}
	vm.err = nil // the cleanup need not say it again
}

func TestNothingIsLeftBehind(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	c := testConfig(t)
	dir := t.TempDir()
	c.TPM = filepath.Join(dir, "tpm")
	c.Network = &Network{MAC: "52:54:00:00:00:01", Segment: filepath.Join(dir, "seg")}
	vm := startTest(t, c)
	if _, err := os.Stat(c.Network.Segment); err != nil {
		t.Errorf("segment socket while running: %v", err)
	}
	tpm := vm.tpm.cmd.Process.Pid
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{vm.PID(), tpm} {
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "seg*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	left, err = filepath.Glob(filepath.Join(tmp, "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
