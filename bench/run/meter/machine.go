package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/module"
)

// machine is process 1 of a plain machine: it takes orders from its serial port, one a
// line. The first disk is an ext4, is at /data; the second, an EROFS, at /run.
func machine() error {
	fmt.Println("hello") // before all else: what a start is measured by
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if _, err := module.LoadDir("/modules", nil); err != nil {
		return err
	}
	for _, d := range []struct {
		device, dir, kind string
		flags             uintptr
	}{{"/dev/vda", "/data", "ext4", 0}, {"/dev/vdb", "/run", "erofs", unix.MS_RDONLY}} {
		if _, err := os.Stat(d.device); err != nil {
			continue
		}
		if err := unix.Mount(d.device, d.dir, d.kind, d.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", d.device, err)
		}
	}
	tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	if t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err == nil {
		t.Lflag &^= unix.ECHO
		_ = unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t)
	}
	fmt.Fprintln(tty, "ready")
	for in := bufio.NewScanner(tty); in.Scan(); {
		args := strings.Fields(in.Text())
		if len(args) == 0 {
			continue
		}
		if args[0] == "address" {
			err = address(args[1])
			fmt.Fprintln(tty, "result 0")
		} else {
			err = do(args, tty)
		}
		if err != nil {
			fmt.Fprintln(tty, "failed", err)
		}
	}
	return nil
}

// address gives eth0 one.
func address(cidr string) error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}
