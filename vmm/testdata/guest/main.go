// Command guest is process 1 of the machines of this package's tests: it mounts
// the share, says what it finds, does what it is told over the port, and powers
// off when the power button or the port says so.
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/module"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("guest: failed:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func run() error {
	for dir, fs := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs"} {
		if err := unix.Mount(fs, dir, fs, 0, ""); err != nil {
			return err
		}
	}
	if _, err := module.LoadDir("/modules", nil); err != nil {
		return err
	}
	port, err := openPort("zos.agent")
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Fprintf(port, format+"\n", args...) }
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	say("agent %d", now.Nano()/1e6)
	in := bufio.NewScanner(port)
	for in.Scan() {
		f := strings.Fields(in.Text())
		switch {
		case len(f) == 1 && f[0] == "off":
			return nil
		case len(f) == 1 && f[0] == "panic":
			_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		case len(f) == 1 && f[0] == "share":
			if err := unix.Mount("root", "/newroot", "virtiofs", unix.MS_RDONLY, ""); err != nil {
				say("mount: %v", err)
				continue
			}
			say("mounted")
		case len(f) == 2 && f[0] == "read":
			b, err := os.ReadFile(f[1])
			say("%q %v", string(b), err)
		case len(f) == 2 && f[0] == "write":
			say("%v", os.WriteFile(f[1], []byte("x"), 0o644))
		case len(f) == 2 && f[0] == "size": // reads it all, and tells how fast
			began := time.Now()
			b, err := os.ReadFile(f[1])
			say("%d %d %v", len(b), time.Since(began).Milliseconds(), err)
		default:
			say("what is %q", in.Text())
		}
	}
	return in.Err()
}

// openPort opens the virtio port with a name.
func openPort(name string) (*os.File, error) {
	for end := time.Now().Add(30 * time.Second); ; {
		files, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(f)), os.O_RDWR, 0)
			}
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no port %s", name)
		}
		time.Sleep(time.Millisecond)
	}
}
