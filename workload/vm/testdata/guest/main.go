// Command guest is process 1 of the machines in tests: what a distribution's init does,
// as far as the tests look.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		say("failed: %v", err)
	}
	unix.Sync()
	time.Sleep(100 * time.Millisecond) // the last bytes leave the serial port
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func say(format string, args ...any) { fmt.Printf("guest: "+format+"\r\n", args...) }

func run() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := modules(); err != nil {
		return err
	}
	for _, look := range []func() error{root, runs, disks, seed} {
		if err := look(); err != nil {
			say("%v", err)
		}
	}
	go typed()
	return button()
}

// modules loads those of the image in order.
func modules() error {
	all, err := filepath.Glob("/modules/*")
	if err != nil {
		return err
	}
	sort.Strings(all)
	for _, path := range all {
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		flags := 0
		if strings.HasSuffix(path, ".xz") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE
		}
		// Those of hardware that this machine doesn't have are in the image too.
		_ = unix.FinitModule(fd, "", flags)
		unix.Close(fd)
	}
	return nil
}

// root says what the root file system is, and whether it takes what a root's takes.
func root() error {
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[1] == "/" {
			say("root %s %s", f[0], f[2])
		}
	}
	if err := os.WriteFile("/owned", []byte("x"), 0o600); err != nil {
		return fmt.Errorf("write to the root: %w", err)
	}
	if err := os.Chown("/owned", 1000, 65534); err != nil {
		return fmt.Errorf("give a file away: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/owned", &st); err != nil {
		return err
	}
	say("owned %d:%d", st.Uid, st.Gid)
	return nil
}

// runs counts the starts of this machine, on its root.
func runs() error {
	b, _ := os.ReadFile("/runs")
	n, _ := strconv.Atoi(string(b))
	f, err := os.Create("/runs")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprint(f, n+1); err != nil {
		return err
	}
	say("run %d", n+1)
	return f.Sync()
}

// bySerial finds a disk.
func bySerial(serial string) (string, error) {
	all, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return "", err
	}
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == serial {
			return "/dev/" + filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", fmt.Errorf("no disk %s", serial)
}

// disks counts the starts on the disk "data" too.
func disks() error {
	path, err := bySerial("data")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 1<<20); err != nil {
		return err
	}
	b[0]++
	if _, err := f.WriteAt(b, 1<<20); err != nil {
		return err
	}
	say("disk data of %d bytes, start %d", size, b[0])
	return nil
}

// seed reads what the machine is told.
func seed() error {
	path, err := bySerial("cidata")
	if err != nil {
		return err
	}
	if err := os.MkdirAll("/mnt", 0o755); err != nil {
		return err
	}
	if err := unix.Mount(path, "/mnt", "iso9660", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount the seed: %w", err)
	}
	defer unix.Unmount("/mnt", 0)
	ents, err := os.ReadDir("/mnt")
	if err != nil {
		return err
	}
	var names []string
	for _, e := range ents {
		names = append(names, e.Name())
	}
	b, err := os.ReadFile("/mnt/meta-data")
	say("seed %s: %s", strings.Join(names, " "), strings.TrimSpace(string(b)))
	return err
}

// typed repeats what comes from the console.
func typed() {
	s := bufio.NewScanner(os.Stdin)
	for s.Scan() {
		say("typed %s", s.Text())
	}
}

// button says that the machine is up, and waits until somebody presses the power button.
func button() error {
	const evKey, keyPower = 1, 116
	all, err := filepath.Glob("/dev/input/event*")
	if err != nil {
		return err
	}
	pressed := make(chan bool)
	for _, path := range all {
		f, err := os.Open(path) // before it is said: what is pressed earlier is lost
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 24)
			for {
				if _, err := f.Read(b); err != nil {
					return
				}
				if binary.LittleEndian.Uint16(b[16:]) == evKey && binary.LittleEndian.Uint16(b[18:]) == keyPower && b[20] == 1 {
					pressed <- true
				}
			}
		}()
	}
	say("up")
	<-pressed
	say("asked to end")
	return nil
}
