package firststage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/disk"
	"github.com/zero-os/zos/linux/ext4"
	"github.com/zero-os/zos/linux/zram"
)

// diskWait is how long a disk that the farm named may take to appear.
const diskWait = 5 * time.Second

// dataFlags: nothing on the data disk may be a device, be executed, or give
// rights. Containers execute through overlays above it.
const dataFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME

// data finds or makes the file system for the store and mounts it at dir.
type data struct {
	dir     string
	sys     string // "/sys"
	grid    canon.Hash
	slot    Slot
	console *Console
}

// open tries the machine's disks in order and falls back to memory, so it fails
// only if even that can't be had.
func (d data) open(ctx context.Context) (boot.Disk, error) {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return boot.Disk{}, err
	}
	if isMountPoint(d.dir) { // a try before this one got this far
		if err := unix.Unmount(d.dir, 0); err != nil {
			return boot.Disk{}, fmt.Errorf("unmount %s: %w", d.dir, err)
		}
	}
	disks, err := d.candidates(ctx)
	var reasons []string
	if err != nil {
		reasons = append(reasons, err.Error())
	}
	choices := ChooseDisks(disks, d.slot.Disks)
	for _, c := range choices {
		if c.Use == Leave {
			reasons = append(reasons, c.Device+" "+c.Why)
			d.console.Printf("%s is left alone: it %s", c.Device, c.Why)
		}
	}
	for _, c := range choices {
		if c.Use == Leave {
			continue
		}
		fresh, err := d.use(c)
		if err == nil {
			return boot.Disk{Kind: boot.DiskReal, Device: c.Device, Serial: c.Serial, Size: c.Size, Data: d.dir, Fresh: fresh}, nil
		}
		reasons = append(reasons, err.Error())
		d.console.Printf("%s can't be used: %v", c.Device, err)
	}
	reason := "there is no disk"
	if len(reasons) > 0 {
		reason = strings.Join(reasons, "; ")
	}
	size, err := d.memory()
	if err != nil {
		return boot.Disk{}, fmt.Errorf("no disk (%s) and no memory for a store: %w", reason, err)
	}
	return boot.Disk{Kind: boot.DiskZram, Device: zram.Device, Size: size, Data: d.dir, Fresh: true, Reason: printable(reason, 400)}, nil
}

// candidates looks at every disk, without changing any. It gives disks that the
// farm named a moment to appear.
func (d data) candidates(ctx context.Context) ([]Candidate, error) {
	ctx, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var disks []disk.Disk
	for waiting := true; waiting; {
		var err error
		if disks, err = disk.List(d.sys); err != nil {
			return nil, err
		}
		there := slices.ContainsFunc(disks, func(k disk.Disk) bool {
			return k.Serial != "" && slices.Contains(d.slot.Disks, k.Serial)
		})
		if there || len(d.slot.Disks) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			waiting = false
		case <-tick.C:
		}
	}
	all := make([]Candidate, 0, len(disks))
	for _, k := range disks {
		c := Candidate{Device: k.Device, Serial: k.Serial, Size: k.Size, ReadOnly: k.ReadOnly}
		head, err := disk.Head(k.Device, ext4.HeadSize)
		if err != nil {
			c.Err = err
		} else {
			c.Content = ReadContent(head, d.grid, d.slot.ID)
		}
		all = append(all, c)
	}
	return all, nil
}

// use does with the disk what the choice allows, and proves that it holds data.
func (d data) use(c Choice) (fresh bool, err error) {
	if c.Use != Format {
		err = d.mount(c.Device, c.Size, "errors=remount-ro")
		if err == nil || c.Use != MountOrFormat || !isDamage(err) {
			return false, err
		}
		d.console.Printf("%s is damaged and will be formatted: %v", c.Device, err)
	}
	if err := d.format(c.Device, ext4.Journaled, false); err != nil {
		return false, err
	}
	return true, d.mount(c.Device, c.Size, "errors=remount-ro")
}

// isDamage tells a broken file system from a broken disk: formatting mends the
// first, and would destroy what a better cable might still bring back of the second.
func isDamage(err error) bool {
	return errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG) || errors.Is(err, unix.EINVAL)
}

// format makes an empty file system with our label.
func (d data) format(device string, t ext4.Template, zeroed bool) error {
	// O_EXCL: the kernel refuses it for a device that is in use.
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	defer f.Close()
	var uuid [16]byte
	if _, err := rand.Read(uuid[:]); err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80 // RFC 9562, version 4
	label, err := Label{V: 1, Grid: d.grid, Slot: d.slot.ID, UUID: uuid[:]}.Encode()
	if err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	if !zeroed {
		// Where the disk can do it, zeroing costs nothing; where it can't, the
		// template's own zeros are written.
		zeroed = disk.Zero(f, ext4.FirstBlock, t.Size()) == nil
	}
	if err := t.Write(f, uuid, label, zeroed); err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	disk.ForgetPartitions(f)
	return nil
}

// mount mounts the device, grows the file system to it, and writes to it once:
// a disk that takes no data is found out now.
func (d data) mount(device string, size uint64, options string) (err error) {
	if err := unix.Mount(device, d.dir, "ext4", dataFlags, options); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Unmount(d.dir, unix.MNT_DETACH))
		}
	}()
	if err := ext4.Grow(d.dir, size); err != nil {
		return err
	}
	probe := filepath.Join(d.dir, ".written")
	if err := boot.WriteFile(probe, []byte("the first stage could write here\n"), 0o600); err != nil {
		return fmt.Errorf("prove that %s takes data: %w", device, err)
	}
	return nil
}

// memory puts the store into compressed memory: at most half of what the machine
// has. The cap is what an incompressible store would take, so the other half is
// always there for the system.
func (d data) memory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("ask for the size of memory: %w", err)
	}
	total := info.Totalram * uint64(info.Unit)
	size := total / 2 &^ 0xfffff
	algorithms := []string{"lz4"}
	if total < 2<<30 {
		algorithms = []string{"zstd", "lz4"} // slower, but a fifth more fits
	}
	if err := zram.Setup(size, algorithms...); err != nil {
		return 0, err
	}
	if err := d.format(zram.Device, ext4.Volatile, true); err != nil {
		return 0, err
	}
	return size, d.mount(zram.Device, size, "discard")
}
