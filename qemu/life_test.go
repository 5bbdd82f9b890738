package qemu

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zero-os/zos/qemu/segment"
)

// TestMain lets the test binary play a program that owns machines and then is
// killed, or that runs as nobody.
func TestMain(m *testing.M) {
	if dir := os.Getenv("QEMU_TEST_OWNER"); dir != "" {
		if err := ownMachines(dir); err != nil {
			fmt.Println("owner:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// ownMachines starts a machine with everything that has a process, prints the
// process ids, and waits for its end or the end of its input.
func ownMachines(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	vm, err := Start(ctx, Config{
		Name: "owned", MemoryMB: 64, Firmware: BIOS, Dir: filepath.Join(dir, "vm"), TPM: filepath.Join(dir, "tpm"),
		Console: filepath.Join(dir, "console"), Network: &Network{MAC: "52:54:00:00:00:01", Segment: filepath.Join(dir, "segment")},
	})
	if err != nil {
		return err
	}
	fmt.Println("running", os.Getuid(), vm.PID(), vm.tpm.cmd.Process.Pid)
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // its end is the sign to stop
	return vm.Stop(ctx)
}

func startOwner(t *testing.T, dir string, attr *syscall.SysProcAttr) (cmd *exec.Cmd, uid, qemu, tpm int, stop func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A copy, because nobody may not look into where the test binary is.
	copied := filepath.Join(dir, "owner")
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(copied)
	cmd.Env = append(os.Environ(), "QEMU_TEST_OWNER="+dir, "TMPDIR="+dir, "HOME="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(line, "running %d %d %d", &uid, &qemu, &tpm); err != nil {
		_ = cmd.Process.Kill()
		t.Fatalf("owner says %q", line)
	}
	return cmd, uid, qemu, tpm, func() { in.Close() }
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if gone(pid) {
			return
		}
	}
	t.Errorf("process %d is still there", pid)
}

// gone tells whether a process has ended; a zombie that its new parent has not
// reaped has.
func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	i := strings.LastIndexByte(string(b), ')')
	return i < 0 || i+2 >= len(b) || b[i+2] == 'Z'
}

func TestMachinesDieWithTheirOwner(t *testing.T) {
	dir := t.TempDir()
	cmd, _, qemu, tpm, _ := startOwner(t, dir, nil)
	if gone(qemu) || gone(tpm) {
		t.Fatal("the machine does not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	waitGone(t, qemu)
	waitGone(t, tpm)

	// The socket that stays behind is in nobody's way.
	cmd, _, _, _, stop := startOwner(t, dir, nil)
	if c, err := segment.Dial(filepath.Join(dir, "segment")); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	stop()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestMachinesNeedNoRoot(t *testing.T) {
	const nobody = 65534
	dir, err := os.MkdirTemp("", "zos-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var attr *syscall.SysProcAttr
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd, uid, qemu, tpm, stop := startOwner(t, dir, attr)
	if uid == 0 {
		t.Error("the machine's owner is root")
	}
	stop()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	waitGone(t, qemu)
	waitGone(t, tpm)
	if _, err := os.Stat(filepath.Join(dir, "segment")); !os.IsNotExist(err) {
		t.Errorf("segment socket: %v", err)
	}
}

func TestDiskInUseIsNamed(t *testing.T) {
	c := testConfig(t)
	startTest(t, c)
	c.Console += "2"
	_, err := Start(context.Background(), c)
	if err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("a second machine on the same disk: %v", err)
	}
}

func TestPortsCarryBytesAndFirmwareIsPrivate(t *testing.T) {
	c := testConfig(t)
	c.Firmware, c.Dir = UEFI, t.TempDir()
	c.Ports = []Port{{Name: "results", Path: filepath.Join(c.Dir, "results")}}
	vm := startTest(t, c)
	if _, err := os.Stat(filepath.Join(c.Dir, "uefi-vars.fd")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Ports[0].Path); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := vm.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestImpossibleMachinesAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no name":             func(c *Config) { c.Name = "" },
		"name with a comma":   func(c *Config) { c.Name = "a,b" },
		"no memory":           func(c *Config) { c.MemoryMB = 0 },
		"no console":          func(c *Config) { c.Console = "" },
		"unknown firmware":    func(c *Config) { c.Firmware = "openfirmware" },
		"unknown accelerator": func(c *Config) { c.Accel = "xen" },
		"long serial":         func(c *Config) { c.Disks[0].Serial = strings.Repeat("x", 21) },
		"serial with a comma": func(c *Config) { c.Disks[0].Serial = "a,readonly=on" },
		"unknown format":      func(c *Config) { c.Disks[0].Format = "vmdk" },
		"no MAC":              func(c *Config) { c.Network = &Network{} },
		"long boot file":      func(c *Config) { c.Network = &Network{MAC: "52:54:00:00:00:01", BootFile: strings.Repeat("x", 128)} },
		"bad UUID":            func(c *Config) { c.UUID = "1" },
		"initrd, no kernel":   func(c *Config) { c.Initrd = "x" },
		"bad port":            func(c *Config) { c.Ports = []Port{{Name: "a,b"}} },
		"a missing disk":      func(c *Config) { c.Disks[0].Path += "-missing" },
	} {
		c := testConfig(t)
		change(&c)
		if vm, err := Start(context.Background(), c); err == nil {
			_ = vm.Kill()
			t.Errorf("%s: started", name)
		}
	}
}

func TestProbeRunsAGuest(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// Emulation always works, so this tests the probe itself …
	if err := probe(ctx, TCG); err != nil {
		t.Error(err)
	}
	// … and this that its answer for KVM is one that a machine agrees with.
	accel, why := ProbeAccel(ctx)
	t.Logf("accelerator %s (%v)", accel, why)
	if (accel == TCG) != (why != nil) {
		t.Errorf("%s, but %v", accel, why)
	}
	c := testConfig(t)
	c.Accel = ""
	vm := startTest(t, c)
	if vm.Accel() != accel {
		t.Errorf("the machine runs with %s", vm.Accel())
	}
	waitLine(t, vm, "hello from the guest")
}
