package vmm

import (
	"net"
	"path"
	"regexp"
	"strings"

	"github.com/zero-os/zos/problem"
)

// Accel is how guest instructions are executed.
type Accel string

// The accelerators. Emulation protects less (QEMU's translator is far larger than
// KVM) and is slow: tests use it, nodes do not offer it.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

// Board is the machine model.
type Board string

// The boards. MicroVM has PCI Express and little else; Q35 is a PC, which
// foreign kernels and UEFI expect.
const (
	MicroVM Board = "microvm"
	Q35     Board = "q35"
)

// Bounds of a Config. They are far beyond what nodes offer, and keep nonsense
// away from QEMU.
const (
	MinMemory  = 32 << 20 // bytes
	MaxMemory  = 16 << 40 // bytes
	MaxCPUs    = 255
	MaxDisks   = 24
	MaxNICs    = 8
	MaxShares  = 4
	MaxCmdline = 2047 // bytes, of x86 kernels
	maxFD      = 1023
)

// FD is the number that a file has in QEMU's process: 3 and more, since the
// monitor inherits 0, 1 and 2 for its own output. 0 means that there is none. The
// n-th file that is preserved for a container has number 2+n.
type FD int

// Config is all that a machine is made of. Every file is one that QEMU inherits,
// but for those of the VMM flist, which are paths inside it.
type Config struct {
	Name   string // for people, shown in process lists: [A-Za-z0-9._-]{1,63}
	UUID   string // SMBIOS's system UUID; "" shows none
	Accel  Accel
	Board  Board
	Memory uint64 // bytes, a multiple of 1 MiB; the most that Resize can give
	CPUs   int    // processors, 1 to MaxCPUs

	Kernel *Kernel // what to boot: exactly one of the two
	UEFI   *UEFI

	Disks  []Disk
	NICs   []NIC
	Shares []Share

	Vsock *Vsock // nil: the guest has none
	// Agent is a listening unix socket behind the guest's virtio port AgentPort;
	// one connection at a time. 0: none.
	Agent FD
	// Console is a listening unix socket behind the first serial port. What the
	// guest prints while nobody is connected is dropped. 0: no serial port.
	Console FD
	// QMP is a listening unix socket at which Attach's connections arrive. Whoever
	// can connect to it can do all that QEMU can.
	QMP FD

	// Reboot lets the guest restart itself. Without it, a reboot is an end.
	Reboot bool
	// Paused makes the machine wait for Machine.Resume before its first instruction.
	Paused bool
}

// Kernel is a kernel that QEMU loads itself. The files are absolute paths in
// QEMU's root; FDPath makes one of an inherited file.
type Kernel struct {
	Image   string
	Initrd  string // "" for none
	Cmdline string // at most MaxCmdline bytes of printable ASCII
}

// UEFI boots from the disks, in their order.
type UEFI struct {
	Vars FD // the machine's own variables: a private, writable copy of tree.OVMFVars
}

// Disk is a virtio block device: a raw image, or one whose changes lie elsewhere.
type Disk struct {
	Serial   string // as the guest sees it: [A-Za-z0-9._-]{1,20}
	File     FD     // opened read-write, or read-only if ReadOnly
	ReadOnly bool
	// Base is a raw image, opened for reading, that File is a qcow2 image of
	// changes to. A backing file that File itself names is not looked at. 0: File is
	// a raw image.
	Base FD
}

// NIC is a virtio network card on a tap device.
type NIC struct {
	MAC   string // unicast, e.g. "52:54:00:12:34:56"
	Tap   FD     // of /dev/net/tun, after TUNSETIFF with IFF_TAP|IFF_NO_PI|IFF_VNET_HDR
	Vhost FD     // of /dev/vhost-net; 0: QEMU copies the packets itself
	MTU   int    // told to the guest; 0: 1500
}

// Share is a directory that the guest mounts as virtiofs.
type Share struct {
	Tag    string // what the guest mounts: [A-Za-z0-9._-]{1,35}
	Socket FD     // connected to a virtiofsd
}

// Vsock gives the guest a vsock device. Only host-side programs can reach it, and
// the host can be reached by it: who listens there must expect guests.
type Vsock struct {
	CID  uint32 // 3 to 0xfffffffe, one machine's on a node
	File FD     // of /dev/vhost-vsock
}

// AgentPort is the name of the virtio port of Config.Agent.
const AgentPort = "zos.agent"

// FDPath is a path at which QEMU opens an inherited file, for Kernel. It opens it
// anew, so QEMU's user must be allowed to read it.
func FDPath(fd FD) string { return "/proc/self/fd/" + itoa(int(fd)) }

var (
	nameRE   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)
	serialRE = regexp.MustCompile(`^[A-Za-z0-9._-]{1,20}$`)
	tagRE    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,35}$`)
	uuidRE   = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	// pathRE leaves out all that any of QEMU's option parsers gives a meaning to.
	pathRE = regexp.MustCompile(`^/[A-Za-z0-9._/+-]{1,254}$`)
)

// Check reports the first thing in a Config that is not as documented; its code is
// "machine-invalid".
func (c Config) Check() error {
	bad := func(format string, args ...any) error { return problem.New("machine-invalid", format, args...) }
	switch {
	case !nameRE.MatchString(c.Name):
		return bad("machine name %.80q is not %s", c.Name, nameRE)
	case c.UUID != "" && !uuidRE.MatchString(c.UUID):
		return bad("SMBIOS UUID %.80q is none", c.UUID)
	case c.Accel != KVM && c.Accel != TCG:
		return bad("accelerator %.20q is neither %q nor %q", c.Accel, KVM, TCG)
	case c.Board != MicroVM && c.Board != Q35:
		return bad("board %.20q is neither %q nor %q", c.Board, MicroVM, Q35)
	case c.Memory < MinMemory || c.Memory > MaxMemory || c.Memory%(1<<20) != 0:
		return bad("memory of %d bytes is not a multiple of 1 MiB from %d to %d", c.Memory, MinMemory, MaxMemory)
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return bad("%d processors, 1 to %d are possible", c.CPUs, MaxCPUs)
	case (c.Kernel == nil) == (c.UEFI == nil):
		return bad("a machine boots either a kernel or by UEFI")
	case c.UEFI != nil && c.Board != Q35:
		return bad("UEFI needs the board %q", Q35)
	case c.QMP == 0:
		return bad("a machine needs a QMP socket")
	case len(c.Disks) > MaxDisks || len(c.NICs) > MaxNICs || len(c.Shares) > MaxShares:
		return bad("%d disks, %d network cards, %d shares: at most %d, %d and %d are possible",
			len(c.Disks), len(c.NICs), len(c.Shares), MaxDisks, MaxNICs, MaxShares)
	}
	if k := c.Kernel; k != nil {
		if !clean(k.Image) || k.Initrd != "" && !clean(k.Initrd) {
			return bad("kernel %.80q and initrd %.80q are not clean absolute paths", k.Image, k.Initrd)
		}
		if len(k.Cmdline) > MaxCmdline || strings.ContainsFunc(k.Cmdline, func(r rune) bool { return r < ' ' || r > '~' }) {
			return bad("the kernel command line is not at most %d printable ASCII characters", MaxCmdline)
		}
	}
	serials, tags := map[string]bool{}, map[string]bool{}
	for _, d := range c.Disks {
		if !serialRE.MatchString(d.Serial) || serials[d.Serial] {
			return bad("disk serial %.80q is not %s, or there twice", d.Serial, serialRE)
		}
		serials[d.Serial] = true
	}
	for _, n := range c.NICs {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() != n.MAC {
			return bad("%.40q is no unicast MAC address in lower case", n.MAC)
		}
		if n.MTU != 0 && (n.MTU < 68 || n.MTU > 65535) {
			return bad("network card %s: MTU %d is not from 68 to 65535", n.MAC, n.MTU)
		}
	}
	for _, s := range c.Shares {
		if !tagRE.MatchString(s.Tag) || tags[s.Tag] {
			return bad("share tag %.80q is not %s, or there twice", s.Tag, tagRE)
		}
		tags[s.Tag] = true
	}
	if v := c.Vsock; v != nil && (v.CID < 3 || v.CID == 1<<32-1) {
		return bad("vsock CID %d is not a guest's", v.CID)
	}
	return c.checkFDs()
}

// checkFDs wants each file to be inherited, and to have one use.
func (c Config) checkFDs() error {
	used := map[FD]bool{}
	for _, f := range c.files() {
		if f.fd == 0 && f.optional {
			continue
		}
		if f.fd < 3 || f.fd > maxFD || used[f.fd] {
			return problem.New("machine-invalid", "%s: descriptor %d is not one of 3 to %d of its own", f.what, f.fd, maxFD)
		}
		used[f.fd] = true
	}
	return nil
}

type usedFile struct {
	what     string
	fd       FD
	optional bool
}

func (c Config) files() []usedFile {
	files := []usedFile{{"QMP socket", c.QMP, false}, {"agent socket", c.Agent, true}, {"console socket", c.Console, true}}
	if c.UEFI != nil {
		files = append(files, usedFile{"UEFI variables", c.UEFI.Vars, false})
	}
	for _, d := range c.Disks {
		files = append(files, usedFile{"disk " + d.Serial, d.File, false}, usedFile{"base of disk " + d.Serial, d.Base, true})
	}
	for _, n := range c.NICs {
		files = append(files, usedFile{"tap of " + n.MAC, n.Tap, false}, usedFile{"vhost-net of " + n.MAC, n.Vhost, true})
	}
	for _, s := range c.Shares {
		files = append(files, usedFile{"share " + s.Tag, s.Socket, false})
	}
	if c.Vsock != nil {
		files = append(files, usedFile{"vsock", c.Vsock.File, false})
	}
	return files
}

func clean(p string) bool { return pathRE.MatchString(p) && path.Clean(p) == p }
