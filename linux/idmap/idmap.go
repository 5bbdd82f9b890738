package idmap

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Size is how many user and group ids a range holds.
const Size = 65536

// UserNamespace makes a user namespace in which the ids 0 … Size-1 are base …
// base+Size-1 of the caller's, and returns a handle on it, which alone keeps it
// alive. The caller closes it.
//
// The namespace needs a process to be born in. That child is this very program,
// stopped by ptrace before its first instruction and killed as soon as the
// handle is open: no code runs in it, and no helper program is needed.
func UserNamespace(base uint32) (*os.File, error) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(base), Size: Size}}
	// The tracer is a thread, and so is the parent whose death kills the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	proc, err := os.StartProcess("/proc/self/exe", []string{"zos-userns"}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: ids,
			GidMappings: ids,
			Ptrace:      true,
			Pdeathsig:   unix.SIGKILL,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start a process in a new user namespace: %w", err)
	}
	defer func() {
		_ = proc.Kill()
		_, _ = proc.Wait()
	}()
	// Until it is waited for, the process keeps its number even when dead, so
	// this opens the right one's namespace or none.
	ns, err := os.Open("/proc/" + strconv.Itoa(proc.Pid) + "/ns/user")
	if err != nil {
		return nil, fmt.Errorf("open the new user namespace: %w", err)
	}
	return ns, nil
}

// Mount replaces the mount at target by a clone of it that is mapped through
// the user namespace ns. The file system must allow mapping (EROFS, ext4 and btrfs
// do, overlay does not: EINVAL).
func Mount(target string, ns *os.File) error {
	clone, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone mount %s: %w", target, err)
	}
	defer unix.Close(clone)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("map ids of mount %s: %w", target, err)
	}
	if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("detach the unmapped mount %s: %w", target, err)
	}
	if err := unix.MoveMount(clone, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach the mapped mount %s: %w", target, err)
	}
	return nil
}
