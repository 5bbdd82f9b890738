// Package disk lists a machine's disks with what identifies them. It opens none
// for writing and decides nothing.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Disk is a whole disk, never a partition.
type Disk struct {
	Name      string // e.g. "vda"
	Device    string // e.g. "/dev/vda"
	Serial    string // as the hardware says, trimmed; empty when it says none
	Size      uint64 // bytes
	ReadOnly  bool
	Removable bool
}

// maxSerial bounds what is read as a serial number, in bytes.
const maxSerial = 256

// List returns the disks that sysfs shows at sys (normally "/sys"), by name.
// Devices without hardware behind them (zram, loop, dm, md, ram, nbd) are left
// out, and so is what holds no medium.
func List(sys string) ([]Disk, error) {
	dir := filepath.Join(sys, "block")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without any block device yet
	}
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Disk
	for _, e := range entries {
		d, ok := read(filepath.Join(dir, e.Name()), e.Name())
		if ok {
			disks = append(disks, d)
		}
	}
	slices.SortFunc(disks, func(a, b Disk) int { return strings.Compare(a.Name, b.Name) })
	return disks, nil
}

func read(dir, name string) (Disk, bool) {
	// Only what sits on a bus has a device link; optical and floppy drives do too.
	if _, err := os.Lstat(filepath.Join(dir, "device")); err != nil ||
		strings.HasPrefix(name, "sr") || strings.HasPrefix(name, "fd") {
		return Disk{}, false
	}
	sectors, err := strconv.ParseUint(attribute(dir, "size"), 10, 64)
	if err != nil || sectors == 0 || sectors > 1<<54 {
		return Disk{}, false
	}
	return Disk{
		Name:      name,
		Device:    "/dev/" + strings.ReplaceAll(name, "!", "/"),
		Serial:    serial(dir),
		Size:      sectors * 512, // the unit of this file is 512 bytes whatever the disk's sectors are
		ReadOnly:  attribute(dir, "ro") != "0",
		Removable: attribute(dir, "removable") == "1",
	}, true
}

// serial reads the serial number where each kind of disk keeps it: virtio on the
// disk, NVMe on the controller, SCSI and ATA in vital product data page 0x80.
func serial(dir string) string {
	for _, name := range []string{"serial", "device/serial"} {
		if s := clean(attribute(dir, name)); s != "" {
			return s
		}
	}
	page := attribute(dir, "device/vpd_pg80")
	return clean(parseVPD80(page))
}

// parseVPD80 takes the serial out of a unit serial number page: byte 1 is the
// page's code and bytes 2 and 3 its length (SPC-4, 7.8.15).
func parseVPD80(page string) string {
	if len(page) < 4 || page[1] != 0x80 {
		return ""
	}
	n := int(page[2])<<8 | int(page[3])
	return page[4:][:min(n, len(page)-4)]
}

// clean trims padding. A serial with unprintable bytes is none: it could not be
// written into a slot, so nothing may match it.
func clean(s string) string {
	s = strings.Trim(s, " \t\n\x00")
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return ""
		}
	}
	return s
}

func attribute(dir, name string) string {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSerial))
	if err != nil {
		return ""
	}
	if strings.HasSuffix(name, "pg80") {
		return string(b)
	}
	return strings.TrimSpace(string(b))
}

// Head reads the first n bytes of the device without changing anything on it.
func Head(device string, n int) ([]byte, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, fmt.Errorf("read start of disk: %w", err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("read start of disk %s: %w", device, err)
	}
	return b, nil
}

// ForgetPartitions tells the kernel to read the partition table again, after the
// disk was given new content. A disk in use refuses, which is no harm.
func ForgetPartitions(f *os.File) {
	_ = unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
}

// blkZeroOut is BLKZEROOUT, _IO(0x12, 127).
const blkZeroOut = 0x127f

// Zero makes the bytes of the device from start to end read as zero, by the
// disk's own command where it has one. Both must be multiples of 4096.
func Zero(f *os.File, start, end uint64) error {
	area := [2]uint64{start, end - start}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&area))); errno != 0 {
		return fmt.Errorf("zero %s: %w", f.Name(), errno)
	}
	return nil
}
