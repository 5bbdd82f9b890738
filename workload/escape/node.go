package escape

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"embed"
	"os/exec"
)

//go:embed testdata
var goldens embed.FS

// Node is a node's kernel as a workload might change it: settings, modules, names,
// the mounts and processes that are its own. It is taken on the node.
type Node map[string]string

// settings are those below /proc/sys that nothing but an attack changes.
var settings = []string{
	"kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "kernel/domainname", "kernel/sysrq", "kernel/kptr_restrict", "kernel/dmesg_restrict",
	"kernel/unprivileged_bpf_disabled", "kernel/panic", "kernel/randomize_va_space", "kernel/modules_disabled", "kernel/kexec_load_disabled",
	"vm/overcommit_memory", "vm/panic_on_oom", "user/max_user_namespaces", "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "fs/protected_symlinks",
	"fs/protected_hardlinks", "fs/suid_dumpable",
}

// TakeNode reads the state of the node that it is called on.
func TakeNode() Node {
	n := Node{}
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return "(" + err.Error() + ")"
		}
		return strings.TrimSpace(string(b))
	}
	for _, s := range settings {
		n["/proc/sys/"+s] = read("/proc/sys/" + s)
	}
	n["/sys/kernel/uevent_helper"] = read("/sys/kernel/uevent_helper")
	n["/proc/swaps"] = read("/proc/swaps")
	n["lockdown"] = read("/sys/kernel/security/lockdown")
	var modules []string
	for line := range strings.Lines(read("/proc/modules")) {
		name, _, _ := strings.Cut(line, " ")
		modules = append(modules, name)
	}
	sort.Strings(modules)
	n["modules"] = strings.Join(modules, " ")
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		n["hostname"] = unix.ByteSliceToString(u.Nodename[:])
	}
	return n
}

// Differences are what is not the same in the later one, one line each.
func (n Node) Differences(later Node) []string {
	var all []string
	for key, was := range n {
		if is := later[key]; is != was {
			all = append(all, key+": was "+was+", is "+is)
		}
	}
	sort.Strings(all)
	return all
}

// Files lists a directory of the node's, names, modes, sizes and times, to see that
// nothing came into it, left it or was written to.
func Files(dir string) (string, error) {
	var b bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			b.WriteString(path + " " + info.Mode().String() + " " + info.ModTime().UTC().Format("15:04:05.000000") + "\n")
		}
		return err
	})
	return b.String(), err
}

// Build compiles the program, static, and returns its path.
func Build(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, "github.com/zero-os/zos/workload/escape/program")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, b)
	}
	return out
}
