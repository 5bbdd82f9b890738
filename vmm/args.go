package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/zero-os/zos/vmm/tree"
)

// Args is QEMU's command line for the machine, its program first. It depends on
// the Config alone. The error's code is "machine-invalid".
//
// What the Config names goes in as an argument of its own or as JSON, never into
// one of QEMU's comma-separated lists; those hold constants and numbers only.
func (c Config) Args() ([]string, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	a := &args{list: []string{tree.QEMU, "-L", tree.Data, "-nodefaults", "-no-user-config", "-display", "none"}}
	// A guest that breaks out of the device model can start nothing, on top of
	// what the container forbids.
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.add("-name", "guest="+c.Name) // nameRE has no comma
	if c.UUID != "" {
		a.add("-uuid", c.UUID)
	}
	c.processor(a)
	c.boot(a)
	a.socket("qmp", c.QMP)
	a.add("-mon", "chardev=qmp,mode=control")
	if c.Console != 0 {
		a.socket("console", c.Console)
		a.add("-serial", "chardev:console")
	} else {
		a.add("-serial", "none")
	}
	c.devices(a)
	return a.list, a.err
}

func (c Config) processor(a *args) {
	board := map[Board]string{
		// The PIT, the PIC and option ROMs of cards are of no use to a kernel that
		// QEMU loads; RTC and ACPI (power button, PCI) are.
		MicroVM: "microvm,pcie=on,acpi=on,rtc=on,pit=off,pic=off,usb=off,graphics=off,auto-kernel-cmdline=off",
		Q35:     "q35,smm=off,vmport=off,hpet=off,smbus=off,sata=off,usb=off,graphics=off",
	}[c.Board]
	// Memory that the monitor's own core dumps do not hold, and that the kernel does
	// not merge with another machine's, which would tell each about the other.
	a.add("-machine", board+",memory-backend=ram,mem-merge=off,dump-guest-core=off")
	if c.Accel == KVM {
		// Without virtualisation of its own: a guest cannot reach KVM's nested paths.
		a.add("-accel", "kvm", "-cpu", "host,svm=off,vmx=off")
	} else {
		a.add("-accel", "tcg,thread=multi", "-cpu", "max")
	}
	a.add("-m", fmt.Sprintf("%dM", c.Memory>>20), "-smp", itoa(c.CPUs))
	// Shared, so that virtiofsd and vhost can be given it; a memfd, so that it has
	// no path.
	a.json("-object", dict{"qom-type": "memory-backend-memfd", "id": "ram", "size": c.Memory, "share": true})
	reboot := "shutdown"
	if c.Reboot {
		reboot = "reset"
	}
	// A panicked guest makes QEMU exit with 1: told from a shutdown even if nobody
	// was attached.
	a.add("-action", "reboot="+reboot+",shutdown=poweroff,panic=exit-failure,watchdog=reset")
	if c.Paused {
		a.add("-S")
	}
}

func (c Config) boot(a *args) {
	if k := c.Kernel; k != nil {
		a.add("-kernel", k.Image)
		if k.Initrd != "" {
			a.add("-initrd", k.Initrd)
		}
		if k.Cmdline != "" {
			a.add("-append", k.Cmdline)
		}
		return
	}
	a.json("-blockdev", dict{"driver": "file", "node-name": "uefi-code", "filename": tree.OVMFCode, "read-only": true})
	a.fdset(c.UEFI.Vars)
	a.json("-blockdev", dict{"driver": "file", "node-name": "uefi-vars", "filename": fdsetPath(c.UEFI.Vars)})
	a.add("-machine", "pflash0=uefi-code,pflash1=uefi-vars")
}

func (c Config) devices(a *args) {
	a.json("-device", dict{"driver": "virtio-rng-pci"})
	a.json("-device", dict{"driver": "pvpanic-pci"})
	// What the guest frees is given back to the node; Resize inflates it.
	a.json("-device", dict{"driver": "virtio-balloon-pci", "id": "balloon", "free-page-reporting": true, "deflate-on-oom": true})
	for i, d := range c.Disks {
		id := "disk" + itoa(i)
		a.disk(id, d)
		dev := dict{"driver": "virtio-blk-pci", "id": id + "-dev", "drive": id, "serial": d.Serial, "num-queues": 1}
		if c.UEFI != nil {
			dev["bootindex"] = i + 1
		}
		a.json("-device", dev)
	}
	for i, n := range c.NICs {
		id := "nic" + itoa(i)
		netdev := "tap,id=" + id + ",fd=" + itoa(int(n.Tap))
		if n.Vhost != 0 {
			netdev += ",vhost=on,vhostfd=" + itoa(int(n.Vhost))
		}
		a.add("-netdev", netdev)
		dev := dict{"driver": "virtio-net-pci", "id": id + "-dev", "netdev": id, "mac": n.MAC, "romfile": ""}
		if n.MTU != 0 {
			dev["host_mtu"] = n.MTU
		}
		a.json("-device", dev)
	}
	for i, s := range c.Shares {
		id := "share" + itoa(i)
		a.add("-chardev", "socket,id="+id+",fd="+itoa(int(s.Socket)))
		a.json("-device", dict{"driver": "vhost-user-fs-pci", "id": id + "-dev", "chardev": id, "tag": s.Tag, "queue-size": 512})
	}
	if v := c.Vsock; v != nil {
		a.json("-device", dict{"driver": "vhost-vsock-pci", "id": "vsock", "guest-cid": v.CID, "vhostfd": itoa(int(v.File))})
	}
	if c.Agent != 0 {
		a.json("-device", dict{"driver": "virtio-serial-pci", "id": "serial", "max_ports": 2})
		a.socket("agent", c.Agent)
		a.json("-device", dict{"driver": "virtserialport", "chardev": "agent", "name": AgentPort})
	}
}

// args builds a command line.
type args struct {
	list []string
	err  error
}

type dict = map[string]any

func (a *args) add(s ...string) { a.list = append(a.list, s...) }

// json adds an option whose value QEMU reads as JSON. Keys are sorted by
// encoding/json, so equal configurations give equal command lines.
func (a *args) json(option string, v dict) {
	b, err := json.Marshal(v)
	a.err = errors.Join(a.err, err)
	a.add(option, string(b))
}

// socket adds a chardev on an inherited listening socket. QEMU does not wait for a
// connection, and accepts the next one when one has ended.
func (a *args) socket(id string, fd FD) {
	a.add("-chardev", "socket,id="+id+",fd="+itoa(int(fd))+",server=on,wait=off")
}

// fdset makes an inherited file known under fdsetPath.
func (a *args) fdset(fd FD) {
	a.add("-add-fd", "fd="+itoa(int(fd))+",set="+itoa(int(fd)))
}

// disk adds the block nodes of a disk, the one for the device named id.
func (a *args) disk(id string, d Disk) {
	file := func(node string, fd FD, readOnly bool) {
		a.fdset(fd)
		a.json("-blockdev", dict{
			"driver": "file", "node-name": node, "filename": fdsetPath(fd), "read-only": readOnly, "discard": "unmap",
			// Whoever opened the file knows that it is used once.
			"locking": "off", "cache": dict{"direct": false, "no-flush": false},
		})
	}
	file(id+"-file", d.File, d.ReadOnly)
	if d.Base == 0 {
		a.json("-blockdev", dict{"driver": "raw", "node-name": id, "file": id + "-file", "read-only": d.ReadOnly, "discard": "unmap"})
		return
	}
	file(id+"-base-file", d.Base, true)
	a.json("-blockdev", dict{"driver": "raw", "node-name": id + "-base", "file": id + "-base-file", "read-only": true})
	a.json("-blockdev", dict{
		"driver": "qcow2", "node-name": id, "file": id + "-file", "backing": id + "-base", "read-only": d.ReadOnly, "discard": "unmap",
	})
}

func fdsetPath(fd FD) string { return "/dev/fdset/" + itoa(int(fd)) }

func itoa(n int) string { return strconv.Itoa(n) }
