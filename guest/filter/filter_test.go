package filter

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/guest/filter/compile"
)

var update = flag.Bool("update", false, "write amd64.bpf from the profile")

// last is the highest call that runc's libseccomp knows of those in the profile.
const last = 456 // futex_requeue

// numbers are those of an architecture, from the source of golang.org/x/sys.
func numbers(t *testing.T, arch string) map[string]uint32 {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+arch+".go"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint32{}
	for _, m := range regexp.MustCompile(`(?m)^\s*SYS_(\w+)\s*=\s*(\d+)$`).FindAllStringSubmatch(string(b), -1) {
		n, err := strconv.ParseUint(m[2], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		got[strings.ToLower(m[1])] = uint32(n)
	}
	if len(got) < 300 {
		t.Fatalf("%d calls of %s", len(got), arch)
	}
	return got
}

// program is the filter of today's profile.
func program(t *testing.T) []bpf.Instruction {
	t.Helper()
	// As in package container: no capability at all.
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		t.Fatal(err)
	}
	code, err := compile.Profile(p, []compile.Arch{
		{Audit: unix.AUDIT_ARCH_X86_64, Wide: true, Numbers: numbers(t, "amd64"), Last: last},
		{Audit: unix.AUDIT_ARCH_I386, Numbers: numbers(t, "386"), Last: last},
	})
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestEmbeddedFilterIsTheProfiles(t *testing.T) {
	raw, err := bpf.Assemble(program(t))
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for _, r := range raw {
		_ = binary.Write(&want, binary.LittleEndian, r) // to a buffer it never fails
	}
	if *update {
		if err := os.WriteFile("amd64.bpf", want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want.String() != amd64 {
		t.Error("the profile has changed: go test ./guest/filter -update, and look at what is different")
	}
	if _, err := decode([]byte(amd64)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "1234567", strings.Repeat("x", 8*4097)} {
		if _, err := decode([]byte(bad)); err == nil {
			t.Errorf("a filter of %d bytes is taken", len(bad))
		}
	}
}

// judge runs the filter on one call. The virtual machine reads big-endian words.
func judge(t *testing.T, vm *bpf.VM, arch, nr uint32, args ...uint64) string {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data, nr)
	binary.BigEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	v, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	switch uint32(v) {
	case unix.SECCOMP_RET_ALLOW:
		return "allow"
	case unix.SECCOMP_RET_KILL_PROCESS:
		return "kill"
	case unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM):
		return "EPERM"
	case unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS):
		return "ENOSYS"
	}
	return fmt.Sprintf("%#x", v)
}

// The golden file of class namespace is what runc's filter says, asked from inside.
func TestVerdictsAreThoseOfContainersInNamespaces(t *testing.T) {
	vm, err := bpf.NewVM(program(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../workload/escape/testdata/namespace.golden")
	if err != nil {
		t.Fatal(err)
	}
	byName := numbers(t, "amd64")
	args := map[string]struct {
		nr  uint32
		arg uint64
	}{
		"clone(newuser)": {unix.SYS_CLONE, unix.CLONE_NEWUSER}, "clone(newns)": {unix.SYS_CLONE, unix.CLONE_NEWNS},
		"socket(vsock)": {unix.SYS_SOCKET, unix.AF_VSOCK}, "socket(alg)": {unix.SYS_SOCKET, unix.AF_ALG},
		"socket(packet)": {unix.SYS_SOCKET, unix.AF_PACKET}, "personality(any)": {unix.SYS_PERSONALITY, 0x0100},
	}
	compared := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "syscall" {
			continue
		}
		c, special := args[f[1]]
		nr, known := byName[f[1]]
		if !special && !known {
			t.Errorf("no number of %s", f[1])
			continue
		}
		if special {
			nr = c.nr
		}
		if got := judge(t, vm, unix.AUDIT_ARCH_X86_64, nr, c.arg); got != f[2] {
			t.Errorf("%s (%d): %s, in namespaces %s", f[1], nr, got, f[2])
		}
		compared++
	}
	if compared < 380 {
		t.Errorf("%d calls compared", compared)
	}
}

func TestArgumentsAndArchitecturesDecide(t *testing.T) {
	vm, err := bpf.NewVM(program(t))
	if err != nil {
		t.Fatal(err)
	}
	const x64, x86 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	for _, c := range []struct {
		arch, nr uint32
		arg      uint64
		want     string
	}{
		{x64, unix.SYS_SOCKET, unix.AF_UNIX, "allow"},
		{x64, unix.SYS_SOCKET, unix.AF_INET6, "allow"},
		{x64, unix.SYS_SOCKET, unix.AF_VSOCK, "EPERM"},
		{x64, unix.SYS_SOCKET, 1<<32 | unix.AF_UNIX, "EPERM"}, // 64 bits are compared
		{x64, unix.SYS_SOCKET, 1 << 20, "EPERM"},
		{x64, unix.SYS_PERSONALITY, 0xffffffff, "allow"},
		{x64, unix.SYS_PERSONALITY, 0xffffffffffffffff, "EPERM"},
		{x64, unix.SYS_PERSONALITY, 0x20008, "allow"},
		{x64, unix.SYS_PERSONALITY, 0x0040000, "EPERM"}, // ADDR_NO_RANDOMIZE
		{x64, unix.SYS_CLONE, unix.CLONE_THREAD | unix.CLONE_VM, "allow"},
		{x64, unix.SYS_CLONE, unix.CLONE_NEWNET | unix.CLONE_VM, "EPERM"},
		{x64, unix.SYS_CLONE3, 0, "ENOSYS"},
		{x64, last, 0, "allow"},
		{x64, last + 1, 0, "ENOSYS"},
		{x64, 1 << 30, 0, "ENOSYS"}, // read, of the x32 kind
		{x64, 1<<32 - 1, 0, "ENOSYS"},
		{x86, 3, 0, "allow"},  // read
		{x86, 21, 0, "EPERM"}, // mount
		{x86, 359, unix.AF_VSOCK, "EPERM"},
		{x86, 359, unix.AF_INET, "allow"},
		{x86, 120, unix.CLONE_NEWUSER, "EPERM"},
		{x86, 26, 0, "allow"}, // ptrace; on x86-64 it is msync
		{x64, unix.SYS_MOUNT, 0, "EPERM"},
		{0xc00000b7, unix.SYS_READ, 0, "kill"}, // arm64
	} {
		if got := judge(t, vm, c.arch, c.nr, c.arg); got != c.want {
			t.Errorf("architecture %#x, call %d, argument %#x: %s, want %s", c.arch, c.nr, c.arg, got, c.want)
		}
	}
}
