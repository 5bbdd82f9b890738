package qemu

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Firmware is what a machine begins with.
type Firmware string

// The firmwares. With a Kernel in the Config, BIOS starts it directly.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi" // OVMF, with a private copy of its variables
)

// Accel is how guest instructions are executed.
type Accel string

// The accelerators; "" in a Config means the result of ProbeAccel.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg" // emulation, with every CPU feature QEMU knows (nested SVM too)
)

// Config describes a machine. Paths may be relative to the working directory
// of the process; they are made absolute by Start.
type Config struct {
	Name     string // shown in process lists, [A-Za-z0-9._-]{1,63}
	MemoryMB int    // at least 64
	CPUs     int    // 0 means 1
	Machine  string // "" means q35: microvm hung in 7 of 23 boots under emulation
	Accel    Accel  // "" means what ProbeAccel finds
	Firmware Firmware

	// Dir is a directory of this machine's own, for what lives as long as it
	// (UEFI variables). "" means a temporary one if it is needed, removed by Wait.
	Dir string

	Disks []Disk
	// TPM is the directory of an emulated TPM's state, made if missing; ""
	// means that the machine has none.
	TPM string
	// UUID is the SMBIOS system UUID; "" lets QEMU show none.
	UUID string

	// Network attaches one virtio NIC; nil means a machine without a network.
	Network *Network

	// Console is the file that receives the serial console, appended to. "" is
	// not allowed: a machine that dies silently helps nobody.
	Console string

	// Kernel, Initrd and Cmdline boot a kernel directly, for tests; the network
	// and the disks are then not asked.
	Kernel, Initrd, Cmdline string

	// Ports are further byte channels from the guest to files: the guest sees
	// /dev/virtio-ports/<Name> (by /sys/class/virtio-ports/*/name).
	Ports []Port

	// NoReboot makes a guest's reboot (a panic's too) end the machine.
	NoReboot bool

	// Steady makes the machine's time that of its processor: 8 ns for an instruction,
	// and as time passes while it is idle. What is measured inside then says little of
	// what else this host does. It is emulated, with one processor.
	Steady bool

	// Extra arguments for QEMU, last on its command line.
	Extra []string
}

// Disk is a virtio block device.
type Disk struct {
	Path     string // of the image
	Format   string // "raw" or "qcow2"; "" means raw
	Serial   string // as the guest sees it, at most 20 of [A-Za-z0-9._-]
	ReadOnly bool
}

// Network is the machine's one virtio NIC on QEMU's user network, which gives
// it DHCP (10.0.2.15), and this host's loopback as 10.0.2.2.
//
// The user network is not restricted: libslirp's restrict option also cuts off
// 10.0.2.2 but for forwards that spawn a program for each connection. A guest
// can therefore dial what this user can dial, as on a NATed office network. It
// accepts nothing: no port is forwarded inwards. IPv6 is off on the gateway.
type Network struct {
	MAC string // "52:54:00:…"
	// BootFile is the URL that DHCP hands to the network boot ROM, e.g.
	// http://10.0.2.2:8080/boot.ipxe; at most 127 bytes. "" means no network boot.
	BootFile string
	// Segment is the path of a unix socket at which peers may attach to the
	// machine's layer-2 segment, detach and attach again (segment.Dial); ""
	// means none. While nobody is attached the guest notices nothing. The file
	// is removed when the machine ends.
	Segment string
}

// Port is a byte channel from the guest to a file.
type Port struct {
	Name string // [a-z0-9.-]{1,63}
	Path string // written from its beginning
}

var (
	nameRE   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)
	serialRE = regexp.MustCompile(`^[A-Za-z0-9._-]{0,20}$`)
	uuidRE   = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// check reports what QEMU would refuse, or worse, would read otherwise.
func (c Config) check() error {
	switch {
	case !nameRE.MatchString(c.Name):
		return fmt.Errorf("machine name %.80q is not %s", c.Name, nameRE)
	case c.MemoryMB < 64:
		return fmt.Errorf("machine has %d MB of memory, the least is 64", c.MemoryMB)
	case c.CPUs < 0 || c.CPUs > 64:
		return fmt.Errorf("machine has %d processors, the most is 64", c.CPUs)
	case c.Firmware != BIOS && c.Firmware != UEFI:
		return fmt.Errorf("firmware %q is neither %q nor %q", c.Firmware, BIOS, UEFI)
	case c.Accel != "" && c.Accel != KVM && c.Accel != TCG:
		return fmt.Errorf("accelerator %q is neither %q nor %q", c.Accel, KVM, TCG)
	case c.Steady && c.CPUs > 1:
		return errors.New("a steady machine has one processor")
	case c.Console == "":
		return errors.New("machine has no console file")
	case c.UUID != "" && !uuidRE.MatchString(c.UUID):
		return fmt.Errorf("SMBIOS UUID %.80q is none", c.UUID)
	case c.Kernel == "" && (c.Initrd != "" || c.Cmdline != ""):
		return errors.New("an initrd and a command line need a kernel")
	}
	for _, d := range c.Disks {
		if !serialRE.MatchString(d.Serial) {
			return fmt.Errorf("disk %s: serial %.80q is not %s", d.Path, d.Serial, serialRE)
		}
		if d.Format != "" && d.Format != "raw" && d.Format != "qcow2" {
			return fmt.Errorf("disk %s: format %q is neither raw nor qcow2", d.Path, d.Format)
		}
	}
	for _, p := range c.Ports {
		if !nameRE.MatchString(p.Name) {
			return fmt.Errorf("port name %.80q is not %s", p.Name, nameRE)
		}
	}
	if n := c.Network; n != nil {
		if _, err := net.ParseMAC(n.MAC); err != nil {
			return fmt.Errorf("network: %w", err)
		}
		if len(n.BootFile) > 127 {
			return fmt.Errorf("boot file URL of %d bytes: DHCP carries at most 127", len(n.BootFile))
		}
	}
	return nil
}

// absolute makes every path absolute, because QEMU's working directory is the
// root.
func (c Config) absolute() (Config, error) {
	var failed error
	abs := func(p string) string {
		if p == "" {
			return ""
		}
		a, err := filepath.Abs(p)
		if err != nil {
			failed = err
		}
		return a
	}
	c.Dir, c.TPM, c.Console = abs(c.Dir), abs(c.TPM), abs(c.Console)
	c.Kernel, c.Initrd = abs(c.Kernel), abs(c.Initrd)
	c.Disks = append([]Disk(nil), c.Disks...)
	for i := range c.Disks {
		c.Disks[i].Path = abs(c.Disks[i].Path)
	}
	c.Ports = append([]Port(nil), c.Ports...)
	for i := range c.Ports {
		c.Ports[i].Path = abs(c.Ports[i].Path)
	}
	if c.Network != nil {
		n := *c.Network
		n.Segment = abs(n.Segment)
		c.Network = &n
	}
	return c, failed
}

// esc doubles the commas of a value inside one of QEMU's option lists.
func esc(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// fds are the descriptors that QEMU inherits; 0 means that there is none.
type fds struct{ qmp, tpm, nic, gateway int }

// args is QEMU's command line. vars is the private copy of UEFI's variables.
func (c Config) args(accel Accel, code, vars string, fd fds) []string {
	machine := c.Machine
	if machine == "" {
		machine = "q35"
	}
	a := []string{
		"-name", "guest=" + c.Name + ",process=zos-" + c.Name,
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", machine, "-m", strconv.Itoa(c.MemoryMB),
		"-smp", strconv.Itoa(max(c.CPUs, 1)),
		"-chardev", "socket,id=qmp,fd=" + strconv.Itoa(fd.qmp),
		"-mon", "chardev=qmp,mode=control",
		"-chardev", "file,id=console,append=on,path=" + esc(c.Console),
		"-serial", "chardev:console",
		"-device", "virtio-rng-pci",
		// Restricts QEMU itself: a guest that breaks out of the device model can
		// start nothing.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	if c.Steady {
		a = append(a, "-accel", "tcg,thread=single", "-cpu", "max", "-icount", "shift=3")
	} else {
		a = append(a, accelArgs(accel)...)
	}
	if c.UUID != "" {
		a = append(a, "-uuid", c.UUID)
	}
	if c.NoReboot {
		a = append(a, "-no-reboot")
	}
	if c.Firmware == UEFI {
		a = append(a,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+esc(code),
			"-drive", "if=pflash,format=raw,unit=1,file="+esc(vars))
	}
	if c.Kernel != "" {
		a = append(a, "-kernel", c.Kernel)
		if c.Initrd != "" {
			a = append(a, "-initrd", c.Initrd)
		}
		if c.Cmdline != "" {
			a = append(a, "-append", c.Cmdline)
		}
	}
	for i, d := range c.Disks {
		id := "disk" + strconv.Itoa(i)
		format := d.Format
		if format == "" {
			format = "raw"
		}
		drive := "if=none,id=" + id + ",format=" + format + ",discard=unmap,file=" + esc(d.Path)
		if d.ReadOnly {
			drive += ",readonly=on"
		}
		dev := "virtio-blk-pci,drive=" + id
		if d.Serial != "" {
			dev += ",serial=" + d.Serial
		}
		a = append(a, "-drive", drive, "-device", dev)
	}
	if c.TPM != "" {
		a = append(a,
			"-chardev", "socket,id=tpm,fd="+strconv.Itoa(fd.tpm),
			"-tpmdev", "emulator,id=tpm0,chardev=tpm",
			"-device", "tpm-crb,tpmdev=tpm0")
	}
	if len(c.Ports) > 0 {
		a = append(a, "-device", "virtio-serial-pci")
		for i, p := range c.Ports {
			id := "port" + strconv.Itoa(i)
			a = append(a,
				"-chardev", "file,id="+id+",path="+esc(p.Path),
				"-device", "virtserialport,chardev="+id+",name="+p.Name)
		}
	}
	if c.Network != nil {
		a = append(a, c.Network.args(fd)...)
	}
	return append(a, c.Extra...)
}

// args connects the NIC to the user network: directly, or with a segment both
// to the switch of package segment, by sockets that QEMU inherits.
func (n Network) args(fd fds) []string {
	nic := "virtio-net-pci,netdev=nic,mac=" + n.MAC
	id := "id=nic"
	if n.Segment != "" {
		id = "id=user"
	}
	user := "user," + id + ",ipv6=off"
	if n.BootFile != "" {
		user += ",bootfile=" + esc(n.BootFile)
		nic += ",bootindex=0"
	} else {
		nic += ",romfile="
	}
	a := []string{"-netdev", user, "-device", nic}
	if n.Segment != "" {
		a = append(a,
			"-netdev", "socket,id=nic,fd="+strconv.Itoa(fd.nic),
			"-netdev", "socket,id=gateway,fd="+strconv.Itoa(fd.gateway),
			// A hub of two ports is QEMU's way to connect two network backends.
			"-netdev", "hubport,id=hub0,hubid=0,netdev=user",
			"-netdev", "hubport,id=hub1,hubid=0,netdev=gateway")
	}
	return a
}
