//go:build !invm

package vmm

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

func box() Box {
	return Box{Root: "/run/zos/vmm", IDBase: 1 << 20, IDs: 65536, Cgroup: "/zos/w", Memory: 512 << 20, PIDs: MinThreads}
}

// TestContainersAreTheGoldenOnes shows any change of what monitors and file servers
// may do; the seccomp profile has a test of its own.
func TestContainersAreTheGoldenOnes(t *testing.T) {
	monitor, err := MonitorSpec(full(), box())
	if err != nil {
		t.Fatal(err)
	}
	reader, err := FileServerSpec("web", "/run/zos/w/rootfs", false, 3, box())
	if err != nil {
		t.Fatal(err)
	}
	writer, err := FileServerSpec("web", "/run/zos/w/rootfs", true, 3, box())
	if err != nil {
		t.Fatal(err)
	}
	for file, s := range map[string]*specs.Spec{"testdata/monitor.json": monitor, "testdata/reader.json": reader, "testdata/writer.json": writer} {
		s.Linux.Seccomp = nil
		b, err := json.MarshalIndent(s, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, file, string(b)+"\n")
	}
}

func TestMonitorHasNoRightAndOneDevice(t *testing.T) {
	for accel, devices := range map[Accel]int{KVM: 1, TCG: 0} {
		c := full()
		c.Accel = accel
		s, err := MonitorSpec(c, box())
		if err != nil {
			t.Fatal(err)
		}
		caps := s.Process.Capabilities
		if n := len(caps.Bounding) + len(caps.Effective) + len(caps.Permitted) + len(caps.Inheritable) + len(caps.Ambient); n != 0 || !s.Process.NoNewPrivileges || !s.Root.Readonly {
			t.Errorf("%s: %+v", accel, caps)
		}
		allowed := 0
		for _, d := range s.Linux.Resources.Devices {
			if d.Allow {
				allowed++
			}
		}
		if len(s.Linux.Devices) != devices || allowed != devices || s.Linux.Resources.Devices[0].Allow {
			t.Errorf("%s: devices %+v, rules %+v", accel, s.Linux.Devices, s.Linux.Resources.Devices)
		}
		var kinds []string
		for _, n := range s.Linux.Namespaces {
			kinds = append(kinds, string(n.Type))
		}
		slices.Sort(kinds)
		if got := strings.Join(kinds, " "); got != "cgroup ipc mount network pid user uts" {
			t.Errorf("%s: namespaces %s", accel, got)
		}
		for _, m := range s.Mounts {
			if m.Type == "bind" {
				t.Errorf("%s: the monitor sees %s", accel, m.Source)
			}
		}
	}
}

// allows tells whether a profile lets a system call through with any arguments.
func allows(p *specs.LinuxSeccomp, name string) bool {
	for _, c := range p.Syscalls {
		if c.Action == specs.ActAllow && len(c.Args) == 0 && slices.Contains(c.Names, name) {
			return true
		}
	}
	return false
}

func TestSeccompLeavesOutWhatNeitherNeeds(t *testing.T) {
	monitor, err := MonitorSpec(full(), box())
	if err != nil {
		t.Fatal(err)
	}
	server, err := FileServerSpec("web", "/srv", false, 3, box())
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*specs.Spec{"monitor": monitor, "file server": server} {
		p := s.Linux.Seccomp
		if p == nil || p.DefaultAction == specs.ActAllow {
			t.Fatalf("%s: profile %+v", name, p)
		}
		for _, call := range append([]string{"mount", "setns", "unshare", "bpf", "userfaultfd", "init_module", "kexec_load", "open_by_handle_at", "pivot_root", "perf_event_open"}, neverNeeded...) {
			if allows(p, call) {
				t.Errorf("%s: %s is allowed", name, call)
			}
		}
		for _, call := range []string{"read", "ioctl", "memfd_create", "execve", "clone3"} {
			if !allows(p, call) && call != "clone3" {
				t.Errorf("%s: %s is not allowed", name, call)
			}
		}
		if got := allows(p, "chroot"); got != (name == "file server") {
			t.Errorf("%s: chroot is %t", name, got)
		}
	}
	found := false
	for _, c := range server.Linux.Seccomp.Syscalls {
		if slices.Contains(c.Names, "unshare") {
			found = true
			if len(c.Args) != 1 || c.Args[0].Value != unix.CLONE_FS || c.Args[0].Op != specs.OpEqualTo {
				t.Errorf("unshare with %+v", c.Args)
			}
		}
	}
	if !found {
		t.Error("the file server's threads cannot have working directories of their own")
	}
}

func TestNonsenseBoxesAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Box){
		"no root":            func(b *Box) { b.Root = "" },
		"a relative root":    func(b *Box) { b.Root = "vmm" },
		"a root with dots":   func(b *Box) { b.Root = "/run/../etc" },
		"a relative netns":   func(b *Box) { b.Netns = "x" },
		"the node's ids":     func(b *Box) { b.IDBase = 0 },
		"no ids":             func(b *Box) { b.IDs = 0 },
		"ids over the end":   func(b *Box) { b.IDBase = 1<<32 - 10 },
		"too few threads":    func(b *Box) { b.PIDs = 1 },
		"too many threads":   func(b *Box) { b.PIDs = 1 << 40 },
		"more than a number": func(b *Box) { b.Memory = 1 << 63 },
	} {
		b := box()
		change(&b)
		if _, err := MonitorSpec(full(), b); problem.Code(err) != "machine-invalid" {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := FileServerSpec("web", "/srv", false, 3, b); problem.Code(err) != "machine-invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, share := range []string{"", "srv", "/srv/../etc", "/srv,sandbox=none", "/a b", "/a\n"} {
		if _, err := FileServerSpec("web", share, false, 3, box()); problem.Code(err) != "machine-invalid" {
			t.Errorf("share %q: %v", share, err)
		}
	}
	for _, fd := range []FD{-1, 0, 1, 2, 5000} {
		if _, err := FileServerSpec("web", "/srv", false, fd, box()); problem.Code(err) != "machine-invalid" {
			t.Errorf("descriptor %d: %v", fd, err)
		}
	}
}
