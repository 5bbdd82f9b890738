package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/cpio"
	"github.com/zero-os/zos/qemu"
)

// Options of RunInVM; the zero value is a machine of 512 MB with one processor
// and nothing attached.
type Options struct {
	Run      string            // -test.run pattern; "" runs every test of the build
	Tags     string            // build tags of the test binary; "" means "invm"
	Modules  []string          // kernel modules, loaded with what they depend on
	MemoryMB int               // 0 means 512
	CPUs     int               // 0 means 1
	Disks    []qemu.Disk       // /dev/vda, /dev/vdb, …
	TPM      string            // state directory of a TPM; "" means none
	Network  *qemu.Network     // nil means none
	Files    map[string]string // path in the guest → file on the host, mode kept
	Env      []string          // NAME=value; PATH=/bin, HOME and TMPDIR=/tmp are set
	Args     []string          // further arguments of the test binary
	Cmdline  string            // further kernel command line
	Timeout  time.Duration     // of the whole run; 0 means 3 minutes
	Steady   bool              // as in qemu.Config: for measures
}

// RunInVM compiles the tests of the package at pkg (a path or import path, "."
// for the calling test's own) and runs them in a virtual machine under the
// node's kernel. It fails t unless at least one test ran and all passed. The
// doc of this package shows its use. It returns the console's text.
func RunInVM(t testing.TB, pkg string, o Options) string {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Minute
	}
	if soak := os.Getenv("ZOS_SOAK"); soak != "" { // tests that take long run, too
		o.Env = append(slices.Clip(o.Env), "ZOS_SOAK="+soak)
	}
	if len(o.Disks) > 0 {
		o.Modules = append([]string{"virtio_blk"}, o.Modules...)
	}
	if o.Network != nil {
		o.Modules = append([]string{"virtio_net"}, o.Modules...)
	}
	if slices.Contains(o.Modules, "kvm_amd") {
		o.Cmdline += periodicTick
	}
	kernel, err := boot.OpenKernel(Kernel(t))
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := writeTestInitrd(t, kernel, initrd, buildTest(t, pkg, o.Tags), o); err != nil {
		t.Fatal(err)
	}
	m := NewMachine(t, qemu.Config{
		Name: "vmtest", MemoryMB: o.MemoryMB, CPUs: o.CPUs, Disks: o.Disks, TPM: o.TPM, Network: o.Network, Steady: o.Steady,
		Kernel: kernel.Image, Initrd: initrd, NoReboot: true,
		// A panic reboots at once, which with NoReboot ends the machine.
		Cmdline: strings.TrimSpace("console=ttyS0 loglevel=4 panic=-1 oops=panic " + o.Cmdline),
	})
	started := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
	defer cancel()
	code, ran, err := followTest(ctx, m)
	text := m.ConsoleText(t)
	switch {
	case err != nil:
		t.Fatalf("tests of %s in the machine: %v", pkg, err)
	case code != 0:
		t.Fatalf("tests of %s failed in the machine with exit code %d", pkg, code)
	case !ran:
		t.Fatalf("tests of %s: none ran in the machine (build tags %q, pattern %q)", pkg, tags(o.Tags), o.Run)
	}
	t.Logf("tests of %s passed under kernel %s with %s in %.1f s", pkg, kernel.Version, m.Accel(), time.Since(started).Seconds())
	return text
}

// periodicTick is for machines that run machines. QEMU 7.2's emulation of SVM now and
// then loses a timer's interrupt: a kernel that asks for each by itself then waits for
// ever, idle, when nothing else interrupts it; one that has a tick waits for the next.
const periodicTick = " highres=off nohz=off"

func tags(s string) string {
	if s == "" {
		return "invm"
	}
	return s
}

// buildTest compiles a package's tests statically; with cgo the guest would
// need this host's libraries.
func buildTest(t testing.TB, pkg, buildTags string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "test")
	cmd := exec.Command("go", "test", "-c", "-tags", tags(buildTags), "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile tests of %s: %v\n%s", pkg, err, b)
	}
	if _, err := os.Stat(out); err != nil {
		t.Fatalf("compile tests of %s: it has no tests with build tags %q", pkg, tags(buildTags))
	}
	return out
}

func writeTestInitrd(t testing.TB, k *boot.Kernel, path, test string, o Options) error {
	t.Helper()
	init, err := os.ReadFile(BuildStatic(t, "github.com/zero-os/zos/vmtest/tinyinit"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	entries, err := boot.InitrdEntries(ctx, k, init, o.Modules)
	if err != nil {
		return err
	}
	files := map[string]string{"test": test}
	for guest, host := range o.Files {
		files[strings.TrimPrefix(guest, "/")] = host
	}
	for guest, host := range files {
		b, err := os.ReadFile(host)
		if err != nil {
			return err
		}
		info, err := os.Stat(host)
		if err != nil {
			return err
		}
		entries = append(entries, cpio.File(guest, uint32(info.Mode().Perm()), b))
	}
	args := append([]string{"-test.v", "-test.timeout=" + o.Timeout.String()}, o.Args...)
	if o.Run != "" {
		args = append(args, "-test.run="+o.Run)
	}
	entries = append(entries,
		cpio.File("args", 0o644, []byte(strings.Join(args, "\x00"))),
		cpio.File("env", 0o644, []byte(strings.Join(o.Env, "\x00"))))
	// Not compressed: it lives in this machine's page cache for seconds, and
	// decompressing under emulation takes longer than copying.
	var b bytes.Buffer
	if err := cpio.Write(&b, entries); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// followTest reads the console to the machine's end and returns the exit code
// that tinyinit reported and whether any test ran.
func followTest(ctx context.Context, m *Machine) (code int, ran bool, err error) {
	code = -1
	for {
		line, err := m.console.Line(ctx)
		if errors.Is(err, io.EOF) {
			if code < 0 {
				return 0, ran, errors.New("the machine ended before the tests did")
			}
			return code, ran, nil
		}
		if err != nil {
			return 0, ran, err
		}
		if strings.HasPrefix(line, "=== RUN ") {
			ran = true
		}
		if rest, ok := strings.CutPrefix(line, "vmtest: exit "); ok {
			if code, err = strconv.Atoi(rest); err != nil {
				return 0, ran, fmt.Errorf("read exit code: %w", err)
			}
		}
	}
}
