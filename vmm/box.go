package vmm

import (
	"fmt"
	"os"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm/tree"
)

// Box is the container around a monitor or a file server. Each runs as the first id
// of the range: what the workload's own root owns, it may open, should it be handed
// a descriptor of it.
type Box struct {
	Root   string // absolute path of the mounted VMM flist
	IDBase uint32 // first host user and group id of the workload's own range
	IDs    uint32 // size of the range; at least 2
	Cgroup string // cgroupsPath for runc
	Netns  string // path of the workload's network namespace; "" for an empty one
	Memory uint64 // bytes that all of it may use, a guest's memory included; 0: as the cgroup above says
	PIDs   uint64 // threads, at least MinThreads; 0: as the cgroup above says
}

// What a monitor and a file server need.
const (
	// Overhead is the memory, in bytes, that a monitor's container needs on top of
	// its guest's, and FileServerMemory what a file server's may use. They are limits
	// against runaways; docs/reference/isolation.md has what is measured.
	Overhead         = 96 << 20
	FileServerMemory = 96 << 20
	// MinThreads is what either may need: workers for disks, queues and processors.
	MinThreads = 128
)

// readerCapabilities are what virtiofsd needs inside its user namespace, where
// they reach no further than the workload's own files:
//
//	CAP_SYS_CHROOT       it makes the share its root, then gives this up
//	CAP_SETPCAP          it empties its bounding set, then gives this up
//	CAP_DAC_READ_SEARCH  the guest's kernel decides who reads what; the files belong to
//	                     all users of the image
//
// writerCapabilities are what it needs besides to change files as the guest's users.
var (
	readerCapabilities = []string{"CAP_SYS_CHROOT", "CAP_SETPCAP", "CAP_DAC_READ_SEARCH"}
	writerCapabilities = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP"}
)

// virtiofsd keeps the writer's capabilities and CAP_MKNOD unless it is told. What a
// guest makes with mknod it makes in its own memory: no device of the node's.
const (
	readerModcaps = "+dac_read_search:-chown:-dac_override:-fowner:-fsetid:-setgid:-setuid:-mknod:-setfcap"
	writerModcaps = "+dac_read_search:-mknod"
)

// MonitorSpec is runc's configuration of the container in which the machine's
// monitor runs: without any capability, without any file but the VMM flist and
// what it inherits, and without any device but /dev/kvm. It is a pure function,
// except that the seccomp profile follows the processor's architecture.
//
// /dev/kvm must be readable and writable by all on the node (see AllowKVM): in
// the container nobody else can see it.
func MonitorSpec(c Config, b Box) (*specs.Spec, error) {
	command, err := c.Args()
	if err != nil {
		return nil, err
	}
	s, err := b.spec(c.Name, command, nil)
	if err != nil {
		return nil, err
	}
	if c.Accel == KVM {
		major, minor := int64(10), int64(232)
		mode := os.FileMode(0o666)
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kvm", Type: "c", Major: major, Minor: minor, FileMode: &mode}}
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rw"})
	}
	return s, b.protect(s)
}

// FileServerSpec is runc's configuration of the container in which virtiofsd
// serves the directory share of the node to whoever is connected to the listening
// unix socket that it inherits as listener. What it serves read-only must never
// change: the guest keeps what it has read.
func FileServerSpec(name, share string, writable bool, listener FD, b Box) (*specs.Spec, error) {
	if !nameRE.MatchString(name) || !clean(share) || listener < 3 || listener > maxFD {
		return nil, problem.New("machine-invalid", "file server %.80q of %.80q at descriptor %d", name, share, listener)
	}
	capabilities, modcaps, cache, access := readerCapabilities, readerModcaps, "always", "ro"
	if writable {
		capabilities, modcaps, cache, access = append(slices.Clone(readerCapabilities), writerCapabilities...), writerModcaps, "auto", "rw"
	}
	s, err := b.spec(name, []string{
		tree.Virtiofsd, "-f", "--fd=" + itoa(int(listener)), "--rlimit-nofile=0", "--thread-pool-size=4",
		"-o", "source=" + tree.Share, "-o", "sandbox=chroot", "-o", "cache=" + cache, "-o", "xattr", "-o", "no_killpriv_v2",
		"-o", "modcaps=" + modcaps, "-o", "log_level=warn",
	}, capabilities)
	if err != nil {
		return nil, err
	}
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: tree.Share, Type: "bind", Source: share, Options: []string{"bind", access, "nosuid", "nodev", "noexec", "private"},
	})
	if err := b.protect(s); err != nil {
		return nil, err
	}
	// Each thread of virtiofsd has a working directory of its own. Docker's profile
	// forbids unshare altogether, lest it makes namespaces.
	s.Linux.Seccomp.Syscalls = append(s.Linux.Seccomp.Syscalls, specs.LinuxSyscall{
		Names: []string{"unshare"}, Action: specs.ActAllow,
		Args: []specs.LinuxSeccompArg{{Index: 0, Value: unix.CLONE_FS, Op: specs.OpEqualTo}},
	})
	return s, nil
}

// spec is what both containers have in common.
func (b Box) spec(name string, command []string, capabilities []string) (*specs.Spec, error) {
	switch {
	case !clean(b.Root), b.Netns != "" && !clean(b.Netns):
		return nil, problem.New("machine-invalid", "root %.80q and network namespace %.80q are not clean absolute paths", b.Root, b.Netns)
	case b.IDBase == 0, b.IDs < 2, uint64(b.IDBase)+uint64(b.IDs) > 1<<32-1:
		return nil, problem.New("machine-invalid", "%d ids from %d are not a workload's", b.IDs, b.IDBase)
	case b.Memory > MaxMemory+Overhead, b.PIDs != 0 && b.PIDs < MinThreads, b.PIDs > 1<<20:
		return nil, problem.New("machine-invalid", "%d bytes of memory and %d threads are not a monitor's limits", b.Memory, b.PIDs)
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: b.IDBase, Size: b.IDs}}
	resources := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Unified: map[string]string{"memory.oom.group": "1"},
	}
	if memory := int64(b.Memory); memory != 0 {
		resources.Memory = &specs.LinuxMemory{Limit: &memory, Swap: &memory} // together: no swap
	}
	if pids := int64(b.PIDs); pids != 0 {
		resources.Pids = &specs.LinuxPids{Limit: &pids}
	}
	oomScore := 500 // the node's own processes are spared when its memory runs out
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: name,
		Root:     &specs.Root{Path: b.Root, Readonly: true},
		Process: &specs.Process{
			User: specs.User{}, Args: command, Env: []string{"PATH=/nonexistent"}, Cwd: "/",
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Permitted: capabilities, Effective: capabilities},
			NoNewPrivileges: true,
			OOMScoreAdj:     &oomScore,
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
				{Type: "RLIMIT_MEMLOCK", Soft: 64 << 10, Hard: 64 << 10},
				// virtiofsd keeps one open for each file that the guest knows.
				{Type: "RLIMIT_NOFILE", Soft: 1 << 17, Hard: 1 << 17},
			},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmp", Options: []string{"nosuid", "nodev", "noexec", "mode=1777", "size=64k"}},
		},
		Linux: &specs.Linux{
			UIDMappings: ids, GIDMappings: ids,
			CgroupsPath: b.Cgroup,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: b.Netns}, {Type: specs.CgroupNamespace},
			},
			Resources:         resources,
			RootfsPropagation: "private",
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}, nil
}

// neverNeeded are system calls that Docker's profile allows and neither program
// makes.
var neverNeeded = []string{
	"execveat", "open_by_handle_at", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "pidfd_open", "kcmp", "semget", "semop", "semctl", "semtimedop",
	"msgget", "msgsnd", "msgrcv", "msgctl", "shmget", "shmat", "shmctl", "mq_open", "mq_unlink", "mq_notify", "mq_timedsend", "mq_timedreceive", "mq_getsetattr",
	"mknod", "swapon", "swapoff", "io_uring_setup", "io_uring_enter", "io_uring_register", "inotify_init", "inotify_init1", "fanotify_mark", "add_key", "keyctl", "request_key",
	"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "personality", "vfork",
}

// protect adds the seccomp profile: Docker's, without what is never needed.
func (b Box) protect(s *specs.Spec) error {
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return fmt.Errorf("make seccomp profile: %w", err)
	}
	for i := range profile.Syscalls {
		c := &profile.Syscalls[i]
		c.Names = slices.DeleteFunc(slices.Clone(c.Names), func(n string) bool { return slices.Contains(neverNeeded, n) })
	}
	profile.Syscalls = slices.DeleteFunc(profile.Syscalls, func(c specs.LinuxSyscall) bool { return len(c.Names) == 0 })
	s.Linux.Seccomp = profile
	return nil
}
