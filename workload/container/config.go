package container

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zero-os/zos/spec/plan"
)

// Sizes in memory that a container may fill; they count against its memory limit.
const (
	tmpSize = 64 << 20
	shmSize = 64 << 20
)

// ociConfig is the container's configuration for runc. It is a pure function of
// the plan, the range of user ids, the cgroup's path and the network namespace,
// except that the seccomp profile follows the machine's architecture. A zero
// namespace gives the container one of its own, without any route.
func ociConfig(name string, c plan.Container, r plan.Resources, idBase uint32, cgroupPath string, ns Namespace) (*specs.Spec, error) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: idBase, Size: idRange}}
	oomScore := 500 // the node's own processes are spared when its memory runs out
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: name,
		Root:     &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			User: specs.User{UID: c.UID, GID: c.GID},
			Args: c.Args,
			Env:  c.Env,
			Cwd:  c.WorkDir,
			// Present and empty: all five sets.
			Capabilities:    &specs.LinuxCapabilities{},
			NoNewPrivileges: c.NoNewPrivs,
			OOMScoreAdj:     &oomScore,
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
				{Type: "RLIMIT_MEMLOCK", Soft: 8 << 20, Hard: 8 << 20},
				// A low soft limit, because old programs close them one by one.
				{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288},
			},
		},
		Mounts: mounts(ns),
		Linux: &specs.Linux{
			UIDMappings: ids,
			GIDMappings: ids,
			CgroupsPath: cgroupPath,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace},
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: ns.Path},
				{Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				// The shim sets cpu.max once the program runs: runc's own work before
				// that is the node's, and took seconds on a tenth of a core.
				// Out of memory ends the whole container, not a part of it that the
				// rest then waits for.
				Unified: map[string]string{"memory.oom.group": "1"},
			},
			RootfsPropagation: "private",
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	limit(s.Linux.Resources, r)
	profile, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("make seccomp profile: %w", err)
	}
	s.Linux.Seccomp = profile
	return s, nil
}

func mounts(ns Namespace) []specs.Mount {
	sysfs := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
	var files []specs.Mount
	if ns.Path != "" {
		// The kernel lets only the owner of a network namespace mount its sysfs, and
		// that is the node.
		sysfs.Type, sysfs.Source, sysfs.Options = "bind", ns.Sysfs, append(sysfs.Options, "rbind")
		// Last, and inside the root file system whatever the image made of these
		// paths: runc resolves links below its root.
		for path, source := range map[string]string{"/etc/hosts": ns.Hosts, "/etc/resolv.conf": ns.ResolvConf} {
			files = append(files, specs.Mount{Destination: path, Type: "bind", Source: source, Options: []string{"bind", "ro", "nosuid", "noexec", "nodev"}})
		}
		slices.SortFunc(files, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
	}
	return append([]specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shmSize)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		sysfs,
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmp", Options: []string{"nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", tmpSize)}},
	}, files...)
}
