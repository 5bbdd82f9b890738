package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// probe lists what surrounds the program: nothing in it depends on the machine, the
// time or the run, so that it can be compared with a file.
func probe() []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if strings.HasPrefix(key, "Cap") || slices.Contains([]string{"NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups"}, key) {
			say("status %s %s", key, strings.Join(strings.Fields(value), " "))
		}
	}
	namespaces(say)
	for _, path := range []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/bus", "/proc/fs", "/proc/irq",
		"/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/security", "/sys/fs/cgroup/cgroup.procs",
	} {
		say("path %s %s", path, path2word(path))
	}
	mounts(say)
	devices, _ := filepath.Glob("/dev/*")
	for _, d := range devices {
		if info, err := os.Lstat(d); err == nil {
			say("device %s %s", d, info.Mode())
		}
	}
	for name, resource := range map[string]int{"core": unix.RLIMIT_CORE, "memlock": unix.RLIMIT_MEMLOCK, "nofile": unix.RLIMIT_NOFILE} {
		var r unix.Rlimit
		if unix.Getrlimit(resource, &r) == nil {
			say("limit %s %d", name, r.Max)
		}
	}
	lsm(say)
	calls, numbers := map[string][6]uintptr{}, map[string]uintptr{}
	for nr, name := range syscallNames {
		if name == "uprobe" || name == "uretprobe" {
			continue // no filter sees them, and they end who is no probe
		}
		calls[name], numbers[name] = [6]uintptr{}, nr
	}
	// Where an argument decides.
	for name, c := range map[string]struct {
		nr   uintptr
		args [6]uintptr
	}{
		"clone(newuser)":   {unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER}},
		"clone(newns)":     {unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWNS}},
		"socket(vsock)":    {unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK}},
		"socket(alg)":      {unix.SYS_SOCKET, [6]uintptr{unix.AF_ALG}},
		"socket(packet)":   {unix.SYS_SOCKET, [6]uintptr{unix.AF_PACKET}},
		"personality(any)": {unix.SYS_PERSONALITY, [6]uintptr{0x0100}},
	} {
		calls[name], numbers[name] = c.args, c.nr
	}
	got, err := verdicts(calls, numbers)
	if err != nil {
		say("syscall: %v", err)
	}
	for name, v := range got {
		say("syscall %s %s", name, v)
	}
	sort.Strings(lines)
	return lines
}

// namespaces tells which are the workload's own, as far as it can be seen from inside.
func namespaces(say func(string, ...any)) {
	for _, file := range []string{"uid_map", "gid_map", "setgroups"} {
		b, err := os.ReadFile("/proc/self/" + file)
		if err != nil {
			got, _ := verdict(err)
			say("namespace user %s %s", file, got)
			continue
		}
		fields := strings.Fields(string(b))
		if len(fields) == 3 {
			fields[1] = "base" // which range it is differs from one workload to the next
			if fields[2] == "4294967295" {
				fields[1] = "all"
			}
		}
		say("namespace user %s %s", file, strings.Join(fields, " "))
	}
	// The first namespaces of a kernel have fixed inode numbers (<linux/proc_ns.h>).
	for name, first := range map[string]uint64{"ipc": 0xefffffff, "uts": 0xeffffffe, "user": 0xeffffffd, "pid": 0xeffffffc, "cgroup": 0xeffffffb, "time": 0xeffffffa} {
		var st unix.Stat_t
		if unix.Stat("/proc/self/ns/"+name, &st) != nil {
			continue
		}
		if st.Ino == first {
			say("namespace %s the kernel's first", name)
		} else {
			say("namespace %s its own", name)
		}
	}
	b, _ := os.ReadFile("/proc/self/cgroup")
	say("namespace cgroup path %s", strings.TrimSpace(string(b)))
	links, _ := os.ReadDir("/sys/class/net")
	for _, l := range links {
		say("interface %s", l.Name())
	}
}

// path2word is what a program gets that opens the path for writing, then for reading.
func path2word(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		got, _ := verdict(err)
		return got
	}
	if info.IsDir() {
		got, _ := openDirectory(path)()
		var st unix.Statfs_t
		if unix.Statfs(path, &st) == nil && st.Flags&unix.ST_RDONLY != 0 {
			got += " read-only"
		}
		return "directory " + got
	}
	write, _ := openFile(path, unix.O_WRONLY)()
	read := "unread"
	if path != "/proc/sysrq-trigger" && path != "/proc/kmsg" {
		read, _ = readFile(path)()
	}
	return "write " + write + " read " + read
}

// mounts lists destinations, types and flags: sources and sizes are the node's.
func mounts(say func(string, ...any)) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		say("mount: %v", err)
		return
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 1 {
			continue
		}
		say("mount %s %s %s", f[4], g[0], strings.Join(append([]string{f[5]}, f[6:]...), " "))
	}
}

func lsm(say func(string, ...any)) {
	if b, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil {
		say("lsm list %s", strings.TrimSpace(string(b)))
	}
	for _, name := range []string{"current", "apparmor/current", "smack/current"} {
		b, err := os.ReadFile("/proc/self/attr/" + name)
		if err != nil {
			got, _ := verdict(err)
			say("lsm %s %s", name, got)
			continue
		}
		say("lsm %s %q", name, strings.TrimRight(string(b), "\x00\n"))
	}
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1)
	if errno != 0 {
		got, _ := verdict(errno)
		say("lsm landlock %s", got)
	} else {
		say("lsm landlock version %d", abi)
	}
}
