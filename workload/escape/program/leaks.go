package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// leakAttempts look for what whoever started the workload may have left to it.
func leakAttempts() map[string]attempt {
	return map[string]attempt{
		// CVE-2024-21626 and its like: a descriptor of the node's that was not closed.
		"leak/descriptors": func() (string, string) {
			// Process 1 has what the runtime gave; this one has what Go opens.
			return descriptors("/proc/1/fd")
		},
		"leak/workdir": func() (string, string) {
			// A working directory outside of the root reads as (unreachable).
			for _, pid := range []string{"self", "1"} {
				at, err := os.Readlink("/proc/" + pid + "/cwd")
				if err != nil || !strings.HasPrefix(at, "/") {
					return "ok", fmt.Sprintf("%s works in %q (%v)", pid, at, err)
				}
			}
			return "none", ""
		},
		"leak/workdir-by-descriptor": func() (string, string) {
			for fd := 3; fd < 64; fd++ {
				path := fmt.Sprintf("/proc/1/fd/%d/../../../../../../../../proc/1/root/etc", fd)
				if _, err := os.Stat(path); err == nil {
					return "ok", path
				}
			}
			return "none", ""
		},
		"leak/runtime-executable": func() (string, string) {
			// CVE-2019-5736: process 1 must be the workload's program, not the runtime.
			at, err := os.Readlink("/proc/1/exe")
			if err != nil {
				return verdict(err)
			}
			if strings.Contains(at, "runc") || strings.Contains(at, "memfd") {
				return "ok", at
			}
			return "none", ""
		},
		"leak/other-processes": func() (string, string) {
			pids, err := filepath.Glob("/proc/[0-9]*")
			if err != nil {
				return verdict(err)
			}
			// Process 1 is this one.
			if len(pids) > 1 {
				return "ok", fmt.Sprintf("%d processes", len(pids))
			}
			return "none", ""
		},
		"leak/environment": func() (string, string) {
			for _, e := range os.Environ() {
				if strings.HasPrefix(e, "_LIBCONTAINER") || strings.HasPrefix(e, "ZOS_") || strings.HasPrefix(e, "NOTIFY_SOCKET") {
					return "ok", e
				}
			}
			return "none", ""
		},
		"leak/sockets": func() (string, string) {
			b, err := os.ReadFile("/proc/net/unix")
			if err != nil {
				return verdict(err)
			}
			if lines := strings.Count(string(b), "\n"); lines > 1 {
				return "ok", fmt.Sprintf("%d sockets", lines-1)
			}
			return "none", ""
		},
		// Links that leave the root: .. and absolute ones end at the workload's root.
		"link/above-root": func() (string, string) {
			a, err := os.Stat("/")
			if err != nil {
				return verdict(err)
			}
			b, err := os.Stat("/../../../../../..")
			if err != nil {
				return verdict(err)
			}
			if !os.SameFile(a, b) {
				return "ok", ""
			}
			return "none", ""
		},
		"link/root-of-1": func() (string, string) {
			a, err := os.Stat("/")
			if err != nil {
				return verdict(err)
			}
			b, err := os.Stat("/proc/1/root/")
			if err != nil {
				return verdict(err)
			}
			if !os.SameFile(a, b) {
				return "ok", ""
			}
			return "none", ""
		},
		// A mask is a mount: renaming what is around it must not uncover it.
		"race/rename-mask": do(func() error { return unix.Rename("/proc/sys", "/proc/sys2") }),
		"race/mask":        raceMask,
	}
}

func descriptors(dir string) (string, string) {
	fds, err := os.ReadDir(dir)
	if err != nil {
		return verdict(err)
	}
	var found []string
	for _, fd := range fds {
		n, err := strconv.Atoi(fd.Name())
		if err != nil || n <= 2 {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil {
			continue
		}
		// What Go's own runtime opens: to wait for descriptors and children, and to
		// learn how many processors it has.
		own := strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "anon_inode:[pidfd]") || strings.HasPrefix(target, "pipe:") ||
			target == "/dev/null" || target == "/sys/fs/cgroup/cpu.max" || target == dir || strings.HasPrefix(target, "/proc/1/")
		if !own {
			found = append(found, target)
		}
	}
	if len(found) > 0 {
		return "ok", strings.Join(found, " ")
	}
	return "none", ""
}

// raceMask opens masked and read-only files again and again, by paths whose links
// another thread exchanges, for half a second.
func raceMask() (string, string) {
	dir, err := os.MkdirTemp("/tmp", "race")
	if err != nil {
		return verdict(err)
	}
	defer os.RemoveAll(dir)
	link, other := filepath.Join(dir, "link"), filepath.Join(dir, "other")
	if err := os.Symlink("/proc", link); err != nil {
		return verdict(err)
	}
	if err := os.Symlink("/tmp", other); err != nil {
		return verdict(err)
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
		}
	}()
	got, detail := "none", ""
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		for _, path := range []string{"kcore", "sys/kernel/core_pattern", "sysrq-trigger"} {
			flags := os.O_WRONLY
			if path == "kcore" {
				flags = os.O_RDONLY
			}
			f, err := os.OpenFile(filepath.Join(link, path), flags, 0)
			if err != nil {
				continue
			}
			if n, _ := f.Read(make([]byte, 4)); path != "kcore" || n > 0 {
				got, detail = "ok", path
			}
			f.Close()
		}
	}
	stop.Store(true)
	<-done
	return got, detail
}
