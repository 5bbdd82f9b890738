//go:build soak && !invm

package imagetest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/cloudinit"
	"github.com/zero-os/zos/linux/mount"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
	"github.com/zero-os/zos/workload/control"
)

// TestEachMachineBoots starts both forms of the machine in a plain QEMU, as nodes do
// with their own: the tree over virtiofs with its own kernel, the disk with UEFI. Each
// is told its name, its key and a command by a NoCloud seed, and must have done it all.
func TestEachMachineBoots(t *testing.T) {
	for _, r := range machines() {
		name := r.Name
		t.Run(name, func(t *testing.T) {
			image := Get(t, name)
			started := time.Now()
			c := qemu.Config{Name: name, MemoryMB: int(image.Memory >> 20), Firmware: qemu.BIOS, NoReboot: true, Disks: []qemu.Disk{{Path: seed(t, image.Key), Serial: "cidata", ReadOnly: true}}}
			address := freePort(t)
			if image.Boot == "kernel" {
				c.Kernel, c.Initrd = image.path("boot/vmlinuz"), image.path("boot/initrd.img")
				c.Cmdline = "console=ttyS0 root=rootfs rootfstype=virtiofs rw panic=-1"
				c.Extra = share(t, image.Tree, c.MemoryMB)
			} else {
				c.Firmware = qemu.UEFI
				disk := filepath.Join(t.TempDir(), "disk.raw")
				if out, err := exec.Command("cp", "--sparse=always", image.path("disk.raw"), disk).CombinedOutput(); err != nil {
					t.Fatalf("copy the disk: %v: %s", err, out)
				}
				c.Disks = append([]qemu.Disk{{Path: disk, Serial: "root"}}, c.Disks...)
			}
			c.Extra = append(c.Extra, "-netdev", "user,id=net,ipv6=off,hostfwd=tcp:"+address+"-:22", "-device", "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:01")
			m := vmtest.NewMachine(t, c)
			m.WaitConsole(t, regexp.QuoteMeta("the seed's command ran on box as root"), image.Start)
			ctx, cancel := context.WithTimeout(t.Context(), image.Start)
			defer cancel()
			if err := image.Wait(ctx, &net.Dialer{}, address); err != nil {
				t.Fatal(err)
			}
			t.Logf("measured: %s answered after %.1f s with %s", name, time.Since(started).Seconds(), m.Accel())
		})
	}
}

// seed is a NoCloud seed on a disk.
func seed(t *testing.T, key string) string {
	t.Helper()
	b, err := cloudinit.Seed{
		Instance: "i-1", Hostname: "box",
		Keys: []string{key},
		Interfaces: []control.Iface{{
			Name: "eth0", MAC: "52:54:00:00:00:01", MTU: 1500, Addresses: []string{"10.0.2.15/24"}, Routes: []control.Route{{To: "0.0.0.0/0", Via: "10.0.2.2"}},
		}},
		Nameservers: []netip.Addr{netip.MustParseAddr("10.0.2.3")},
		UserData:    []byte("#cloud-config\nruncmd:\n  - [sh, -c, \"echo \\\"the seed's command ran on $(hostname) as $(id -un)\\\" > /dev/console\"]\n"),
	}.Image()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// share exports the tree, below a writable layer, over virtiofs and returns QEMU's
// arguments for it.
func share(t *testing.T, tree string, memoryMB int) []string {
	t.Helper()
	dir, err := os.MkdirTemp("", "imagetest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeTree(dir); err != nil {
			t.Error(err)
		}
	})
	o := mount.OverlaySpec{Lower: []string{tree}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), NoDev: true}
	root := filepath.Join(dir, "root")
	for _, d := range []string{o.Upper, o.Work, root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := mount.Overlay(o, root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Detach(root); err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(dir, "socket")
	cmd := exec.Command("/usr/lib/qemu/virtiofsd", "--socket-path="+socket, "-o", "source="+root, "-o", "cache=auto", "-o", "xattr")
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		<-done
		if t.Failed() {
			t.Logf("virtiofsd: %s", said.String())
		}
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("virtiofsd has no socket: %s", said.String())
		}
	}
	return []string{
		"-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", memoryMB), "-numa", "node,memdev=mem",
		"-chardev", "socket,id=fs,path=" + socket, "-device", "vhost-user-fs-pci,chardev=fs,tag=rootfs",
	}
}
