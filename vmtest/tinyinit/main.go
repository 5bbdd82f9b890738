// Command tinyinit is process 1 of the virtual machines that run a package's
// tests: it mounts the basics, loads modules, runs /test with /args and writes
// the result to the console. It is test support; nodes run zos-init.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Printf("vmtest: failed: %v\n", err)
		code = 125
	}
	fmt.Printf("vmtest: exit %d\n", code)
	unix.Sync()
	time.Sleep(50 * time.Millisecond) // the last bytes leave the serial port
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

type mount struct{ fstype, dir, data string }

func run() (int, error) {
	if err := leaveRootfs(); err != nil {
		return 0, err
	}
	for _, m := range []mount{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""},
		{"devpts", "/dev/pts", "ptmxmode=666"}, {"tmpfs", "/dev/shm", ""}, {"mqueue", "/dev/mqueue", ""},
		{"tmpfs", "/run", "mode=755"}, {"tmpfs", "/tmp", "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", ""}, {"fusectl", "/sys/fs/fuse/connections", ""},
	} {
		// sysfs directories exist already, and cannot be made.
		if err := os.MkdirAll(m.dir, 0o755); err != nil && !errors.Is(err, fs.ErrPermission) {
			return 0, err
		}
		if err := unix.Mount(m.fstype, m.dir, m.fstype, 0, m.data); err != nil {
			return 0, fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil {
		return 0, err
	}
	if err := loadModules("/modules"); err != nil {
		return 0, err
	}
	if err := loopbackUp(); err != nil {
		return 0, err
	}
	return runTest()
}

// leaveRootfs moves everything to a tmpfs and makes it the root: pivot_root,
// which container runtimes use, does not work from the initramfs.
func leaveRootfs() error {
	const newRoot = "/newroot"
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", newRoot, "tmpfs", 0, "mode=755,size=90%"); err != nil {
		return fmt.Errorf("mount new root: %w", err)
	}
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == newRoot || path == "/dev" {
			return filepath.SkipDir
		}
		if d.IsDir() {
			return os.MkdirAll(newRoot+path, 0o755)
		}
		return moveFile(path, newRoot+path)
	})
	if err != nil {
		return fmt.Errorf("move to new root: %w", err)
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(newRoot, "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

func moveFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Remove(from) // its memory is needed
}

func loadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	sort.Strings(files)
	for _, f := range files {
		fd, err := unix.Open(f, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open module %s: %w", f, err)
		}
		flags := 0
		if strings.HasSuffix(f, ".xz") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE
		}
		err = unix.FinitModule(fd, "", flags)
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", f, err)
		}
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

// runTest runs /test and then reaps whatever it left, as process 1 must.
func runTest() (int, error) {
	raw, err := os.ReadFile("/args")
	if err != nil {
		return 0, err
	}
	env, err := os.ReadFile("/env")
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("/test", split(raw)...)
	cmd.Env = append(split(env), "PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Dir = "/work"
	if err := os.MkdirAll(cmd.Dir, 0o755); err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if pid != cmd.Process.Pid {
			continue
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}

func split(b []byte) []string {
	var out []string
	for _, f := range bytes.Split(b, []byte{0}) {
		if len(f) > 0 {
			out = append(out, string(f))
		}
	}
	return out
}
