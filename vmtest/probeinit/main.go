// Command probeinit is a process 1 that says what it was booted with, and then
// stands still as a machine on the network. Tests of network boot and of the
// port scanner use it; nodes run zos-init.
//
// It prints lines that begin with "probe:". Kernel parameters:
//
//	probe.ip=10.0.2.15   bring eth0 up with this address, in a /24
//	probe.tcp=8080       accept and close TCP connections on this port
//	probe.udp=5353       echo datagrams on this port
package main

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/linux/module"
)

func main() {
	if err := run(); err != nil {
		fmt.Printf("probe: failed: %v\n", err)
	}
	fmt.Println("probe: ready")
	select {}
}

func run() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	fmt.Printf("probe: process %d\n", os.Getpid())
	n, err := module.LoadDir(boot.ModulesDir, nil)
	fmt.Printf("probe: %d modules %v\n", n, err)
	grid, err := os.ReadFile(boot.ArchivePath)
	if err != nil {
		fmt.Printf("probe: no grid archive: %v\n", err)
	} else {
		fmt.Printf("probe: grid archive %x\n", sha256.Sum256(grid))
	}
	_, err = os.Stat("/dev/tpmrm0")
	fmt.Printf("probe: tpm %t\n", err == nil)
	_, err = os.Stat("/sys/firmware/efi")
	fmt.Printf("probe: uefi %t\n", err == nil)
	return network()
}

func network() error {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	param := map[string]string{}
	for _, f := range strings.Fields(string(b)) {
		if k, v, ok := strings.Cut(f, "="); ok {
			param[k] = v
		}
	}
	ip := net.ParseIP(param["probe.ip"])
	if ip == nil {
		return nil
	}
	if err := linkUp("eth0", ip.To4()); err != nil {
		return fmt.Errorf("bring eth0 up: %w", err)
	}
	// Both families by name: Go takes a machine without lo for one without IPv6.
	for _, family := range []string{"4", "6"} {
		if port := param["probe.tcp"]; port != "" {
			l, err := net.Listen("tcp"+family, ":"+port)
			if err != nil {
				return err
			}
			go accept(l)
		}
		if port := param["probe.udp"]; port != "" {
			p, err := net.ListenPacket("udp"+family, ":"+port)
			if err != nil {
				return err
			}
			go echo(p)
		}
	}
	fmt.Printf("probe: address %s\n", ip)
	return nil
}

func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

func echo(p net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = p.WriteTo(buf[:n], from) // the prober will ask again
	}
}

// linkUp gives an interface an address in a /24, waiting for it to appear.
func linkUp(name string, ip net.IP) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(req uint, b []byte) error {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := ifr.SetInet4Addr(b); err != nil {
			return err
		}
		return unix.IoctlIfreq(s, req, ifr)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := set(unix.SIOCSIFADDR, ip)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond) // the driver finds its devices by itself
	}
	if err := set(unix.SIOCSIFNETMASK, net.IPv4(255, 255, 255, 0).To4()); err != nil {
		return err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}
