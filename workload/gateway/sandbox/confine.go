package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Jail is what a process is confined to.
type Jail struct {
	// Root is an existing directory on which the process' root is mounted, in its
	// own mount namespace: outside of it nothing is seen there.
	Root string
	UID  int // unprivileged, and nobody else's
	GID  int
	// Files are copied into the new root, by their path in it: text that is made
	// by the node itself.
	Files map[string]string
	Open  uint64 // descriptors that it may have
	// KeepFD is the last descriptor that it keeps; those after it are closed.
	KeepFD int
}

// program is the path of the program in its new root.
const program = "/zos-gateway"

// Attr is how the process is started: in namespaces of its own, the network
// namespace being that of the starting thread. cgroup is a descriptor of the
// cgroup to start in, -1: that of the caller.
func Attr(cgroup int) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if cgroup >= 0 {
		a.UseCgroupFD, a.CgroupFD = true, cgroup
	}
	return a
}

// Confine confines the calling process, which Attr started, and executes its own
// program again with these arguments. It returns only errors.
func Confine(j Jail, args, env []string) error {
	if j.UID <= 0 || j.GID <= 0 {
		return errors.New("confine: root is not unprivileged")
	}
	// The thread that lets go of its rights is the one that executes; the others
	// end with that.
	runtime.LockOSThread()
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"let it be ended before the daemon when memory is short", func() error {
			return os.WriteFile("/proc/self/oom_score_adj", []byte("200"), 0)
		}},
		{"make its root", j.root},
		{"limit it", j.limit},
		{"close what it does not need", func() error {
			return unix.CloseRange(uint(j.KeepFD)+1, ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
		}},
		{"let go of its rights", j.drop},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("confine: %s: %w", step.what, err)
		}
	}
	return fmt.Errorf("confine: execute: %w", unix.Exec(program, append([]string{program}, args...), env))
}

// root makes a file system with the program in it the root, read-only.
func (j Jail) root() error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("part from the node's mounts: %w", err)
	}
	if err := unix.Mount("zos-gateway", j.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=256m,nr_inodes=64"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := j.fill(self); err != nil {
		return err
	}
	if err := unix.Chdir(j.Root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the node's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	return unix.Sethostname([]byte("gateway"))
}

// fill puts the program and the files there. The program is mounted, so that it
// takes no memory; from a file system that can't be, it is copied.
func (j Jail) fill(self *os.File) error {
	at := filepath.Join(j.Root, program)
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o555)
	if err != nil {
		return err
	}
	err = unix.Mount("/proc/self/exe", at, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
	} else {
		_, err = io.Copy(f, self)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("bring the program there: %w", err)
	}
	for name, text := range j.Files {
		to := filepath.Join(j.Root, filepath.Clean("/"+name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, []byte(text), 0o444); err != nil {
			return err
		}
	}
	return nil
}

// limit sets resource limits that it can't raise again.
func (j Jail) limit() error {
	for what, n := range map[int]uint64{
		unix.RLIMIT_NOFILE: j.Open, unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: 256 << 10, unix.RLIMIT_MSGQUEUE: 0, unix.RLIMIT_MEMLOCK: 0,
	} {
		var now unix.Rlimit
		if err := unix.Getrlimit(what, &now); err != nil {
			return fmt.Errorf("resource %d: %w", what, err)
		}
		// A node's root may raise them; whoever may not keeps the lower one.
		err := unix.Setrlimit(what, &unix.Rlimit{Cur: n, Max: n})
		if errors.Is(err, unix.EPERM) && now.Max < n {
			err = unix.Setrlimit(what, &unix.Rlimit{Cur: now.Max, Max: now.Max})
		}
		if err != nil {
			return fmt.Errorf("resource %d: %w", what, err)
		}
	}
	return nil
}

// lastCapability is as many as any kernel knows.
const lastCapability = 63

// drop lets go of everything, on the calling thread.
func (j Jail) drop() error {
	for c := range uintptr(lastCapability + 1) {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	const noRoot, noRootLocked, noFixup, fixupLocked, keepLocked, noAmbient, ambientLocked = 1, 2, 4, 8, 32, 64, 128
	bits := uintptr(noRoot | noRootLocked | noFixup | fixupLocked | keepLocked | noAmbient | ambientLocked)
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, bits, 0, 0, 0); err != nil {
		return fmt.Errorf("secure bits: %w", err)
	}
	// The calls that concern this thread alone; package syscall's would change all.
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return fmt.Errorf("groups: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(j.GID), uintptr(j.GID), uintptr(j.GID)); e != 0 {
		return fmt.Errorf("group: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(j.UID), uintptr(j.UID), uintptr(j.UID)); e != 0 {
		return fmt.Errorf("user: %w", e)
	}
	// Without the fix-up of the kernel (secure bits) these stay until here.
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&head, &none[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	return nil
}
