package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/guest/filter"
	"github.com/zero-os/zos/workload/control"
)

// fileRights are what copying files into a workload takes: files of any owner.
var fileRights = []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID}

// restrict gives the calling thread to the user and takes its rights, for good: every
// capability but keep leaves all five sets, the bounding one included, and system calls
// are filtered as in namespaces. A privileged program keeps what its user has.
func restrict(u control.User, noNewPrivs, privileged bool, keep []int) error {
	// A session keyring of its own; the agent's would be shared by all.
	if _, _, e := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0); e != 0 {
		return fmt.Errorf("leave the keyring: %w", e)
	}
	if !privileged {
		// First, since it takes a right, or no_new_privs, which not all have. What this
		// function and execve(2) need is in it: runc does the same.
		if err := filter.Install(); err != nil {
			return err
		}
		last, err := lastCapability()
		if err != nil {
			return err
		}
		for c := range last + 1 {
			if contains(keep, c) {
				continue
			}
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			return fmt.Errorf("drop ambient capabilities: %w", err)
		}
	}
	// Raw: package syscall would change every thread, and this one execs alone.
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return fmt.Errorf("leave groups: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID), uintptr(u.GID)); e != 0 {
		return fmt.Errorf("become group %d: %w", u.GID, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID)); e != 0 {
		return fmt.Errorf("become user %d: %w", u.UID, e)
	}
	if !privileged {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		for _, c := range keep {
			sets[c/32].Effective |= 1 << (c % 32)
			sets[c/32].Permitted |= 1 << (c % 32)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0); e != 0 {
			return fmt.Errorf("drop capabilities: %w", e)
		}
	}
	if noNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("forbid new privileges: %w", err)
		}
	}
	return nil
}

func contains(all []int, c int) bool {
	for _, k := range all {
		if k == c {
			return true
		}
	}
	return false
}

// lastCapability is the highest that the kernel knows.
func lastCapability() (int, error) {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, fmt.Errorf("count capabilities: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 || n > 63 {
		return 0, fmt.Errorf("count capabilities: the kernel says %.20q", b)
	}
	return n, nil
}
