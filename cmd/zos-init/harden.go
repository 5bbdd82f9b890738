package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A setting of the running kernel.
type setting struct{ path, value string }

// settings were all tried with containers, their nested overlays, dpkg and
// databases running. Left out on purpose:
//   - kernel.modules_disabled: zosd sets it when its networks' modules are loaded;
//   - user.max_user_namespaces: zero would end containers;
//   - kernel.kexec_load_disabled: upgrades will come by kexec of signed kernels;
//   - net.*: zosd owns the host's firewall and its namespaces.
func settings() []setting {
	return []setting{
		{"kernel/kptr_restrict", "2"},
		{"kernel/dmesg_restrict", "1"},
		{"kernel/unprivileged_bpf_disabled", "1"},
		{"net/core/bpf_jit_harden", "2"},
		{"kernel/yama/ptrace_scope", "2"},
		{"kernel/perf_event_paranoid", "3"},
		{"kernel/sysrq", "0"},
		{"kernel/io_uring_disabled", "2"},
		{"fs/suid_dumpable", "0"},
		{"kernel/core_pattern", "/dev/null"},
		{"fs/protected_symlinks", "1"},
		{"fs/protected_hardlinks", "1"},
		{"fs/protected_fifos", "2"},
		{"fs/protected_regular", "2"},
		{"kernel/panic", "10"},
		{"kernel/panic_on_oops", "1"},
		{"vm/panic_on_oom", "0"},
	}
}

// harden applies the settings and what process 1 hands down to every process of
// the node, and names what this kernel refused.
func harden() (set int, missing string) {
	var refused []string
	for _, s := range settings() {
		if err := os.WriteFile(filepath.Join("/proc/sys", s.path), []byte(s.value), 0); err != nil {
			refused = append(refused, s.path)
			continue
		}
		set++
	}
	// Nobody inherits the right to change the kernel's security policy.
	for _, c := range []uintptr{unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE} {
		if _, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); errno != 0 {
			refused = append(refused, fmt.Sprintf("capability %d", c))
			continue
		}
		set++
	}
	if err := syscall.Setrlimit(unix.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		refused = append(refused, "no core dumps")
	} else {
		set++
	}
	// Controllers for the node's own cgroups and, beside them, the workloads'.
	for _, dir := range []string{"/sys/fs/cgroup", cgroups} {
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpu +memory +pids +io"), 0)
		}
		if err != nil {
			refused = append(refused, "controllers of "+dir)
			continue
		}
		set++
	}
	if len(refused) > 0 {
		missing = ", refused by this kernel: " + strings.Join(refused, ", ")
	}
	return set, missing
}

func plural(n int) string {
	if n == 1 {
		return "1 line"
	}
	return fmt.Sprintf("%d lines", n)
}
