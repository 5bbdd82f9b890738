package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt tries one thing. got is "ok" if it worked, an errno's name if it was denied,
// "masked" for a file that reads as nothing, or "none" if there was nothing to find.
type attempt func() (got, detail string)

func attempts() map[string]attempt {
	all := map[string]attempt{}
	for _, m := range []map[string]attempt{mountAttempts(), namespaceAttempts(), kernelAttempts(), deviceAttempts(), leakAttempts(), networkAttempts()} {
		for name, a := range m {
			if _, ok := all[name]; ok {
				panic("two attempts are called " + name)
			}
			all[name] = a
		}
	}
	return all
}

// verdict names an error.
func verdict(err error) (string, string) {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok", ""
	case errors.As(err, &errno):
		if name := unix.ErrnoName(errno); name != "" {
			return name, ""
		}
		return fmt.Sprintf("errno %d", int(errno)), ""
	}
	return "error", err.Error()
}

// do is an attempt that consists of one call.
func do(f func() error) attempt { return func() (string, string) { return verdict(f()) } }

// call is a system call with plain arguments.
func call(nr uintptr, args ...uintptr) attempt {
	return do(func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	})
}

// opened is call for one that returns a descriptor, which is closed: what the runtime
// left is looked for among what is open.
func opened(nr uintptr, args ...uintptr) attempt {
	return do(func() error {
		var a [6]uintptr
		copy(a[:], args)
		fd, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno != 0 {
			return errno
		}
		return unix.Close(int(fd))
	})
}

// text is a zero-terminated string for call; it lives as long as the process.
func text(s string) uintptr {
	b := append([]byte(s), 0)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// zeros is memory of n bytes for call.
func zeros(n int) uintptr {
	b := make([]byte, n)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// kept are the arguments of calls, for as long as the process lives.
var kept []any

// writeFile tries to write what a file has already, or else a value that does nothing.
func writeFile(path, value string) attempt {
	return func() (string, string) {
		old, _ := os.ReadFile(path)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return verdict(err)
		}
		defer f.Close()
		if value == "" {
			value = string(old)
		}
		if _, err = f.WriteString(value); err == nil && len(old) > 0 && string(old) != value {
			_, _ = f.WriteAt(old, 0)
		}
		return verdict(err)
	}
}

// readFile tries to read a file's first bytes.
func readFile(path string) attempt {
	return func() (string, string) {
		f, err := os.Open(path)
		if err != nil {
			return verdict(err)
		}
		defer f.Close()
		var b [16]byte
		n, err := f.Read(b[:])
		if n == 0 && (err == nil || errors.Is(err, io.EOF)) {
			return "masked", ""
		}
		return verdict(err)
	}
}

// openFile tries to open a file as the flags say.
func openFile(path string, flags int) attempt {
	return do(func() error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
}

func mountAttempts() map[string]attempt {
	mount := func(source, fstype string, flags uintptr, data string) attempt {
		return do(func() error {
			dir, err := os.MkdirTemp("/tmp", "mount")
			if err != nil {
				return err
			}
			if err := unix.Mount(source, dir, fstype, flags, data); err != nil {
				return err
			}
			return unix.Unmount(dir, unix.MNT_DETACH)
		})
	}
	return map[string]attempt{
		"mount/tmpfs":    mount("tmpfs", "tmpfs", 0, ""),
		"mount/proc":     mount("proc", "proc", 0, ""),
		"mount/sysfs":    mount("sysfs", "sysfs", 0, ""),
		"mount/cgroup2":  mount("cgroup2", "cgroup2", 0, ""),
		"mount/cgroup1":  mount("cgroup", "cgroup", 0, "none,name=escape"),
		"mount/devtmpfs": mount("dev", "devtmpfs", 0, ""),
		"mount/debugfs":  mount("debugfs", "debugfs", 0, ""),
		"mount/overlay":  mount("overlay", "overlay", 0, "lowerdir=/bin:/tmp"),
		"mount/disk":     mount("/dev/vda", "ext4", unix.MS_RDONLY, ""),
		"mount/bind":     mount("/", "", unix.MS_BIND|unix.MS_REC, ""),
		"mount/bind-proc-sys-over-mask": do(func() error {
			return unix.Mount("/proc/sys", "/tmp", "", unix.MS_BIND, "")
		}),
		"mount/remount-proc-sys-writable": do(func() error {
			return unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "")
		}),
		"mount/remount-sys-writable":    do(func() error { return unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") }),
		"mount/remount-cgroup-writable": do(func() error { return unix.Mount("", "/sys/fs/cgroup", "", unix.MS_REMOUNT|unix.MS_BIND, "") }),
		"mount/propagation":             do(func() error { return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "") }),
		"mount/unmask-kcore":            do(func() error { return unix.Unmount("/proc/kcore", unix.MNT_DETACH) }),
		"mount/unmask-proc-sys":         do(func() error { return unix.Unmount("/proc/sys", unix.MNT_DETACH) }),
		"mount/umount-root":             do(func() error { return unix.Unmount("/dev/shm", unix.MNT_DETACH) }),
		"mount/move":                    do(func() error { return unix.Mount("/dev/shm", "/tmp", "", unix.MS_MOVE, "") }),
		"mount/fsopen":                  call(unix.SYS_FSOPEN, text("tmpfs"), 0),
		"mount/fspick":                  call(unix.SYS_FSPICK, ^uintptr(99), text("/"), 0),
		"mount/open-tree":               call(unix.SYS_OPEN_TREE, ^uintptr(99), text("/"), 1),
		"mount/move-mount":              call(unix.SYS_MOVE_MOUNT, ^uintptr(99), text("/dev/shm"), ^uintptr(99), text("/tmp"), 0),
		"mount/setattr":                 call(unix.SYS_MOUNT_SETATTR, ^uintptr(99), text("/proc/sys"), 0, zeros(32), 32),
		"root/pivot": do(func() error {
			return unix.PivotRoot(".", ".")
		}),
		"root/chroot": do(func() error { return unix.Chroot("/tmp") }),
		// The classic: leave a chroot by a directory that is held open.
		"root/chroot-by-descriptor": do(func() error {
			fd, err := unix.Open("/", unix.O_DIRECTORY|unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			if err := unix.Chroot("/tmp"); err != nil {
				return err
			}
			if err := unix.Fchdir(fd); err != nil {
				return err
			}
			return unix.Chdir("../../../../../../../..")
		}),
		// The shocker: a file by its number, past every mount.
		"root/open-by-handle": do(func() error {
			handle := make([]byte, 4+4+8)
			*(*uint32)(unsafe.Pointer(&handle[0])) = 8
			*(*uint32)(unsafe.Pointer(&handle[4])) = 1
			handle[8] = 2
			fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			_, _, errno := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(fd), uintptr(unsafe.Pointer(&handle[0])), unix.O_RDONLY)
			if errno != 0 {
				return errno
			}
			return nil
		}),
	}
}

func namespaceAttempts() map[string]attempt {
	all := map[string]attempt{}
	for name, flag := range map[string]int{
		"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "net": unix.CLONE_NEWNET, "pid": unix.CLONE_NEWPID,
		"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
	} {
		all["unshare/"+name] = do(func() error { return unix.Unshare(flag) })
	}
	all["unshare/user-by-clone"] = func() (string, string) {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return verdict(errno)
		}
		if pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return "ok", ""
	}
	all["unshare/user-by-clone3"] = call(unix.SYS_CLONE3, 0, 0)
	for name, file := range map[string]string{"mnt": "mnt", "user": "user", "net": "net", "pid": "pid", "cgroup": "cgroup", "uts": "uts"} {
		// Process 1 is the workload's own, or else the very thing to find out.
		all["setns/"+name+"-of-1"] = do(func() error {
			fd, err := unix.Open("/proc/1/ns/"+file, unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			return unix.Setns(fd, 0)
		})
	}
	all["setns/pidfd-of-1"] = do(func() error {
		fd, err := unix.PidfdOpen(1, 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWNET)
	})
	all["setns/parent-of-user"] = func() (string, string) {
		fd, err := unix.Open("/proc/self/ns/user", unix.O_RDONLY, 0)
		if err != nil {
			return verdict(err)
		}
		const nsGetParent = 0xb702
		parent, err := unix.IoctlRetInt(fd, nsGetParent)
		if err != nil {
			return verdict(err)
		}
		return verdict(unix.Setns(parent, unix.CLONE_NEWUSER))
	}
	return all
}

func kernelAttempts() map[string]attempt {
	return map[string]attempt{
		"sysctl/core-pattern":    writeFile("/proc/sys/kernel/core_pattern", "|/escape"),
		"sysctl/modprobe":        writeFile("/proc/sys/kernel/modprobe", "/escape"),
		"sysctl/hostname":        writeFile("/proc/sys/kernel/hostname", ""),
		"sysctl/sysrq":           writeFile("/proc/sys/kernel/sysrq", ""),
		"sysctl/drop-caches":     writeFile("/proc/sys/vm/drop_caches", "1"),
		"sysctl/overcommit":      writeFile("/proc/sys/vm/overcommit_memory", ""),
		"sysctl/max-user-ns":     writeFile("/proc/sys/user/max_user_namespaces", ""),
		"sysctl/ip-forward":      writeFile("/proc/sys/net/ipv4/ip_forward", ""),
		"sysctl/binfmt-register": writeFile("/proc/sys/fs/binfmt_misc/register", ":escape:E::escape::/escape:"),
		"proc/sysrq-trigger":     writeFile("/proc/sysrq-trigger", "h"),
		"proc/kcore":             readFile("/proc/kcore"),
		"proc/kmsg":              readFile("/proc/kmsg"),
		"proc/kallsyms":          kallsyms,
		"proc/keys":              readFile("/proc/keys"),
		"proc/timer-list":        readFile("/proc/timer_list"),
		"proc/sched-debug":       readFile("/proc/sched_debug"),
		"proc/interrupts":        readFile("/proc/interrupts"),
		"proc/scsi":              writeFile("/proc/scsi/scsi", "scsi add-single-device 0 0 0 0"),
		"proc/irq":               writeFile("/proc/irq/default_smp_affinity", ""),
		"proc/mtrr":              writeFile("/proc/mtrr", "x"),
		"proc/oom-score":         writeFile("/proc/self/oom_score_adj", "-1000"),
		"proc/uid-map":           writeFile("/proc/self/uid_map", "0 0 4294967295"),
		"proc/1-environ":         readFile("/proc/1/environ"),
		"proc/1-mem":             openFile("/proc/1/mem", unix.O_RDWR),
		"cgroup/release-agent":   writeFile("/sys/fs/cgroup/release_agent", "/escape"),
		"cgroup/subtree-control": writeFile("/sys/fs/cgroup/cgroup.subtree_control", "+memory"),
		"cgroup/memory-max":      writeFile("/sys/fs/cgroup/memory.max", "max"),
		"cgroup/pids-max":        writeFile("/sys/fs/cgroup/pids.max", "max"),
		"cgroup/procs":           writeFile("/sys/fs/cgroup/cgroup.procs", "0"),
		"cgroup/mkdir":           do(func() error { return os.Mkdir("/sys/fs/cgroup/escape", 0o755) }),
		"sys/uevent-helper":      writeFile("/sys/kernel/uevent_helper", "/escape"),
		"sys/power":              writeFile("/sys/power/state", ""),
		"sys/rescan":             writeFile("/sys/bus/pci/rescan", "1"),
		"sys/firmware":           openDirectory("/sys/firmware"),
		"sys/debug":              openDirectory("/sys/kernel/debug"),
		"sys/security":           openDirectory("/sys/kernel/security"),
		"sys/tracing":            openDirectory("/sys/kernel/tracing"),
		"sys/module-parameter":   writeFile("/sys/module/kernel/parameters/panic", ""),
		"sys/thermal":            writeFile("/sys/class/block/vda/queue/read_ahead_kb", ""),

		"kernel/init-module":   call(unix.SYS_INIT_MODULE, zeros(16), 16, text("")),
		"kernel/finit-module":  call(unix.SYS_FINIT_MODULE, 0, text(""), 0),
		"kernel/delete-module": call(unix.SYS_DELETE_MODULE, text("escape"), unix.O_NONBLOCK),
		"kernel/kexec":         call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		"kernel/kexec-file":    call(unix.SYS_KEXEC_FILE_LOAD, ^uintptr(0), ^uintptr(0), 0, 0, 0),
		// Wrong magic numbers: the kernel checks rights first.
		"kernel/reboot":        call(unix.SYS_REBOOT, 0, 0, 0, 0),
		"kernel/swapon":        call(unix.SYS_SWAPON, text("/dev/null"), 0),
		"kernel/acct":          call(unix.SYS_ACCT, text("/tmp")),
		"kernel/quotactl":      call(unix.SYS_QUOTACTL, 0x800002<<8, text("/dev/vda"), 0, 0),
		"kernel/settimeofday":  do(func() error { tv := unix.Timeval{Sec: -1}; return unix.Settimeofday(&tv) }),
		"kernel/clock-settime": do(func() error { ts := unix.Timespec{Sec: -1}; return unix.ClockSettime(unix.CLOCK_REALTIME, &ts) }),
		"kernel/adjtimex":      do(func() error { _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK, Tick: 10000}); return err }),
		"kernel/syslog":        do(func() error { _, err := unix.Klogctl(3, make([]byte, 16)); return err }),
		"kernel/sethostname": do(func() error {
			var u unix.Utsname
			_ = unix.Uname(&u)
			return unix.Sethostname([]byte(unix.ByteSliceToString(u.Nodename[:])))
		}),
		"kernel/iopl":           call(unix.SYS_IOPL, 3),
		"kernel/ioperm":         call(unix.SYS_IOPERM, 0x80, 1, 1),
		"kernel/bpf-program":    opened(unix.SYS_BPF, unix.BPF_PROG_LOAD, zeros(128), 128),
		"kernel/bpf-map":        opened(unix.SYS_BPF, unix.BPF_MAP_CREATE, bpfMap(), 72),
		"kernel/perf":           opened(unix.SYS_PERF_EVENT_OPEN, perfAttr(), 0, ^uintptr(0), ^uintptr(0), 0),
		"kernel/io-uring":       opened(unix.SYS_IO_URING_SETUP, 4, zeros(120)),
		"kernel/userfaultfd":    opened(unix.SYS_USERFAULTFD, unix.O_CLOEXEC),
		"kernel/userfaultfd-um": opened(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1),
		"kernel/fanotify":       opened(unix.SYS_FANOTIFY_INIT, 4, unix.O_RDONLY),
		"kernel/add-key": do(func() error {
			_, err := unix.AddKey("user", "escape", []byte("x"), unix.KEY_SPEC_SESSION_KEYRING)
			return err
		}),
		"kernel/keyctl": do(func() error {
			_, err := unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, unix.KEY_SPEC_USER_SESSION_KEYRING, 1, 0, 0)
			return err
		}),
		"kernel/request-key":     do(func() error { _, err := unix.RequestKey("user", "escape", "", 0); return err }),
		"kernel/kcmp":            call(unix.SYS_KCMP, 1, 1, 0, 0, 0),
		"kernel/process-vm-read": call(unix.SYS_PROCESS_VM_READV, 1, 0, 0, 0, 0, 0),
		"kernel/lookup-dcookie":  call(unix.SYS_LOOKUP_DCOOKIE, 0, 0, 0),
		"kernel/vhangup":         call(unix.SYS_VHANGUP),
		"kernel/nice":            do(func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) }),
		"kernel/realtime":        call(unix.SYS_SCHED_SETSCHEDULER, 0, 1, schedParam()),
		"kernel/rlimit":          do(func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}) }),
		"kernel/mlock-unlimited": do(func() error { return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 1 << 40, Max: 1 << 40}) }),
		"kernel/set-mempolicy":   call(unix.SYS_MIGRATE_PAGES, 1, 8, zeros(8), zeros(8)),

		"rights/capset": do(func() error {
			head, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
			data[0].Permitted, data[0].Effective = 1<<unix.CAP_SYS_ADMIN, 1<<unix.CAP_SYS_ADMIN
			data[0].Permitted = data[0].Effective
			data[0].Effective |= 1 << unix.CAP_SYS_ADMIN
			return unix.Capset(&head, &data[0])
		}),
		"rights/ambient": do(func() error {
			return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_SYS_ADMIN, 0, 0)
		}),
		"rights/bounding-keep": do(func() error { return unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_CHOWN, 0, 0, 0) }),
		"rights/file-caps": do(func() error {
			if err := os.WriteFile("/tmp/caps", nil, 0o755); err != nil {
				return err
			}
			defer os.Remove("/tmp/caps")
			// VFS_CAP_REVISION_2, and no capability.
			return unix.Setxattr("/tmp/caps", "security.capability", append([]byte{0, 0, 0, 2}, make([]byte, 16)...), 0)
		}),
		"rights/trusted-xattr": do(func() error {
			if err := os.WriteFile("/tmp/trusted", nil, 0o644); err != nil {
				return err
			}
			defer os.Remove("/tmp/trusted")
			return unix.Setxattr("/tmp/trusted", "trusted.overlay.redirect", []byte("/"), 0)
		}),
		"rights/setuid-other": call(unix.SYS_SETUID, 12345),
		"rights/no-new-privs-off": func() (string, string) {
			before, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
			if before == 0 {
				return "ok", "it is off"
			}
			return verdict(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0))
		},
	}
}

// kallsyms is a leak only if the addresses are not all zero.
func kallsyms() (string, string) {
	b := make([]byte, 4096)
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return verdict(err)
	}
	defer f.Close()
	n, err := f.Read(b)
	if err != nil || n == 0 {
		return "masked", ""
	}
	for _, line := range strings.Split(string(b[:n]), "\n") {
		if address, _, ok := strings.Cut(line, " "); ok && strings.Trim(address, "0") != "" {
			return "ok", line
		}
	}
	return "masked", ""
}

// openDirectory is "ok" only if there is something in it.
func openDirectory(path string) attempt {
	return func() (string, string) {
		entries, err := os.ReadDir(path)
		if err != nil {
			return verdict(err)
		}
		if len(entries) == 0 {
			return "masked", ""
		}
		return "ok", fmt.Sprintf("%d entries", len(entries))
	}
}

func bpfMap() uintptr {
	b := make([]uint32, 18)
	b[0], b[1], b[2], b[3] = 2, 4, 8, 1 // an array of one
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

func perfAttr() uintptr {
	a := &unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK}
	a.Size = uint32(unsafe.Sizeof(*a))
	kept = append(kept, a)
	return uintptr(unsafe.Pointer(a))
}

func schedParam() uintptr {
	b := []uint32{1}
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

func deviceAttempts() map[string]attempt {
	all := map[string]attempt{}
	for _, name := range []string{"mem", "kmem", "port", "kmsg", "kvm", "vda", "sda", "nvme0n1", "fuse", "loop-control", "loop0", "mapper/control", "tpm0", "tpmrm0",
		"vhost-net", "vhost-vsock", "vsock", "net/tun", "input/event0", "fb0", "dri/card0", "snapshot", "uinput", "userfaultfd", "hpet", "rtc0", "watchdog", "console", "ttyS0", "hvc0"} {
		all["dev/"+strings.ReplaceAll(name, "/", "-")] = openFile("/dev/"+name, unix.O_RDWR)
	}
	for name, d := range map[string]struct {
		mode         uint32
		major, minor uint32
	}{"mem": {unix.S_IFCHR, 1, 1}, "port": {unix.S_IFCHR, 1, 4}, "kmsg": {unix.S_IFCHR, 1, 11}, "kvm": {unix.S_IFCHR, 10, 232}, "vda": {unix.S_IFBLK, 254, 0}, "sda": {unix.S_IFBLK, 8, 0}, "null": {unix.S_IFCHR, 1, 3}} {
		all["mknod/"+name] = do(func() error {
			path := filepath.Join("/tmp", "node-"+name)
			defer os.Remove(path)
			return unix.Mknod(path, d.mode|0o666, int(unix.Mkdev(d.major, d.minor)))
		})
		all["mknod/"+name+"-on-root"] = do(func() error {
			path := "/node-" + name
			defer os.Remove(path)
			return unix.Mknod(path, d.mode|0o666, int(unix.Mkdev(d.major, d.minor)))
		})
	}
	return all
}
