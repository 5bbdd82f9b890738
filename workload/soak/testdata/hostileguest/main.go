// Command hostileguest is process 1 of a guest that attacks its virtio devices: it
// takes the agent's place in the initrd, so the whole guest is its own. It finds the
// devices on the PCI bus, talks to them without any driver, and gives them queues and
// descriptors that are wrong in every way that comes to a random mind: addresses of
// nothing, of other devices' registers and of its own pages, lengths up to 4 GiB, chains
// that end in themselves, indirect tables, sizes that are no power of two, queues that
// move while they are used.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	// Process 1 must not end: its guest would.
	for {
		if err := attack(); err != nil {
			say("%v", err)
		}
		time.Sleep(time.Second)
	}
}

// say goes to the console, where there is one.
func say(format string, args ...any) {
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(f, format+"\n", args...)
		f.Close()
	}
}

func attack() (err error) {
	debug.SetPanicOnFault(true)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	for fstype, dir := range map[string]string{"proc": "/proc", "sysfs": "/sys"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fstype, dir, fstype, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	pool, err := newPool(64)
	if err != nil {
		return err
	}
	all, err := filepath.Glob("/sys/bus/pci/devices/*")
	if err != nil {
		return err
	}
	var devices []*device
	for _, dir := range all {
		d, err := open(dir)
		if err != nil {
			say("%s: %v", dir, err)
			continue
		}
		if d != nil {
			devices = append(devices, d)
			pool.wrong = append(pool.wrong, d.physical, d.physical+0x1000, d.physical+0x3000)
		}
	}
	if len(devices) == 0 {
		return errors.New("no virtio device")
	}
	for round := uint64(0); ; round++ {
		r := rand.New(rand.NewPCG(round, 1))
		devices[r.IntN(len(devices))].bother(r, pool)
	}
}

// pool is memory of this process whose physical addresses are known.
type pool struct {
	pages [][]byte
	at    []uint64
	wrong []uint64 // addresses at which no memory is
}

func newPool(n int) (*pool, error) {
	raw, err := unix.Mmap(-1, 0, n*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_LOCKED|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	maps, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	p := &pool{wrong: []uint64{0, 0xfff, 1 << 30, 1 << 40, 1<<63 + 1, ^uint64(0), ^uint64(0) - 0xfff, 0xfee00000, 0xfec00000, 0xffffffff}}
	for i := range n {
		page := raw[i*4096 : (i+1)*4096]
		b := make([]byte, 8)
		if _, err := maps.ReadAt(b, int64(uintptr(unsafe.Pointer(&page[0]))/4096*8)); err != nil {
			return nil, err
		}
		e := binary.LittleEndian.Uint64(b)
		if e>>63 == 0 || e&(1<<55-1) == 0 {
			return nil, errors.New("a page's address is not told")
		}
		p.pages, p.at = append(p.pages, page), append(p.at, e&(1<<55-1)*4096)
	}
	return p, nil
}

// address is one of a page, or a wrong one now and then.
func (p *pool) address(r *rand.Rand, wrong int) uint64 {
	if r.IntN(100) < wrong {
		return p.wrong[r.IntN(len(p.wrong))] + r.Uint64N(3)
	}
	return p.at[r.IntN(len(p.at))] + uint64(r.IntN(256))*16*uint64(r.IntN(2))
}

// device is a modern virtio device on the PCI bus.
type device struct {
	bar      []byte
	physical uint64
	common   uint32
	config   uint32
	length   uint32
	notify   uint32
	factor   uint32
}

const virtio = 0x1af4

// open maps the registers of the device at dir; nil if it is not one of virtio.
func open(dir string) (*device, error) {
	file, err := os.OpenFile(dir+"/config", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	c := make([]byte, 256)
	if n, err := file.ReadAt(c, 0); n < 64 {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if binary.LittleEndian.Uint16(c) != virtio {
		return nil, nil
	}
	// The kernel's own driver leaves: registers that one uses cannot be mapped. It has
	// done so already where the device has none.
	if err := os.WriteFile(dir+"/driver/unbind", []byte(filepath.Base(dir)), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("take it from its driver: %w", err)
	}
	// Memory and bus mastering on, as a driver would.
	command := binary.LittleEndian.Uint16(c[4:]) | 6
	if _, err := file.WriteAt(binary.LittleEndian.AppendUint16(nil, command), 4); err != nil {
		return nil, err
	}
	d := &device{}
	bar := -1
	for at := int(c[0x34]); at >= 0x40 && at < 0xf0; at = int(c[at+1]) {
		if c[at] != 9 {
			continue
		}
		offset, length := binary.LittleEndian.Uint32(c[at+8:]), binary.LittleEndian.Uint32(c[at+12:])
		switch c[at+3] {
		case 1:
			d.common, bar = offset, int(c[at+4])
		case 2:
			d.notify, d.factor = offset, binary.LittleEndian.Uint32(c[at+16:])
		case 4:
			d.config, d.length = offset, length
		}
	}
	if bar < 0 {
		return nil, errors.New("not a modern one")
	}
	mem, err := os.OpenFile(fmt.Sprintf("%s/resource%d", dir, bar), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	st, err := mem.Stat()
	if err != nil {
		return nil, err
	}
	if d.bar, err = unix.Mmap(int(mem.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map its registers: %w", err)
	}
	lines, err := os.ReadFile(dir + "/resource")
	if err != nil {
		return nil, err
	}
	_, err = fmt.Sscanf(strings.Split(string(lines), "\n")[bar], "0x%x", &d.physical)
	return d, err
}

func (d *device) w8(at uint32, v uint8)   { *(*uint8)(unsafe.Pointer(&d.bar[at])) = v }
func (d *device) w16(at uint32, v uint16) { *(*uint16)(unsafe.Pointer(&d.bar[at])) = v }
func (d *device) w32(at uint32, v uint32) { *(*uint32)(unsafe.Pointer(&d.bar[at])) = v }
func (d *device) r8(at uint32) uint8      { return *(*uint8)(unsafe.Pointer(&d.bar[at])) }
func (d *device) r16(at uint32) uint16    { return *(*uint16)(unsafe.Pointer(&d.bar[at])) }
func (d *device) r32(at uint32) uint32    { return *(*uint32)(unsafe.Pointer(&d.bar[at])) }

func (d *device) w64(at uint32, v uint64) {
	d.w32(at, uint32(v))
	d.w32(at+4, uint32(v>>32))
}

// Registers of the common configuration.
const (
	features  = 4
	selected  = 8
	accepted  = 12
	queues    = 18
	status    = 20
	queue     = 22
	size      = 24
	vector    = 26
	enable    = 28
	notifyOff = 30
	descs     = 32
	avail     = 40
	used      = 48
)

// bother sets the device up as a driver does, with something wrong, and uses it.
func (d *device) bother(r *rand.Rand, p *pool) {
	at := d.common
	d.w8(at+status, 0)
	for n := 0; d.r8(at+status) != 0 && n < 100; n++ {
	}
	d.w8(at+status, 3)
	for half := range uint32(2) {
		d.w32(at, half)
		have := d.r32(at + features)
		if r.IntN(3) == 0 {
			have &= r.Uint32()
		}
		if r.IntN(20) == 0 {
			have |= r.Uint32()
		}
		if half == 1 {
			have |= 1 // version 1, or it would be no modern device
		} else {
			have &^= 1 << 29 * uint32(r.IntN(2)) // indirect descriptors, or not
		}
		d.w32(at+selected, half)
		d.w32(at+accepted, have)
	}
	d.w8(at+status, 11)
	n := min(int(d.r16(at+queues)), 8)
	for q := range n {
		d.w16(at+queue, uint16(q))
		most := d.r16(at + size)
		if most == 0 {
			continue
		}
		entries := uint16(1) << r.IntN(8)
		if r.IntN(10) == 0 {
			entries = uint16(r.Uint32())
		}
		d.w16(at+size, entries)
		d.w16(at+vector, uint16(r.Uint32()))
		for _, reg := range []uint32{descs, avail, used} {
			d.w64(at+reg, p.address(r, 5)&^15)
		}
		d.w16(at+enable, 1)
	}
	d.w8(at+status, 15)
	for range 1 + r.IntN(20) {
		p.scribble(r)
		if n > 0 {
			q := uint16(r.IntN(n))
			d.w16(at+queue, q)
			off := d.notify + uint32(d.r16(at+notifyOff))*d.factor
			if int(off)+2 <= len(d.bar) {
				d.w16(off, q)
			}
		}
		switch r.IntN(12) {
		case 0: // moves a queue that is in use
			d.w64(at+[]uint32{descs, avail, used}[r.IntN(3)], p.address(r, 30))
		case 1:
			if d.length >= 4 {
				if reg := d.config + uint32(r.IntN(int(min(d.length, 64))))&^3; int(reg)+4 <= len(d.bar) {
					d.w32(reg, r.Uint32())
				}
			}
		case 2:
			d.w8(at+status, uint8(r.Uint32()))
		case 3:
			if reg := r.IntN(len(d.bar)) &^ 3; reg+4 <= len(d.bar) {
				d.w32(uint32(reg), r.Uint32())
			}
		}
	}
}

// scribble fills the pages, of which each may be a table of descriptors, a ring or a
// buffer, with what might be either.
func (p *pool) scribble(r *rand.Rand) {
	for range 6 {
		page := p.pages[r.IntN(len(p.pages))]
		switch r.IntN(3) {
		case 0: // descriptors
			for i := 0; i+16 <= 2048; i += 16 {
				binary.LittleEndian.PutUint64(page[i:], p.address(r, 10))
				binary.LittleEndian.PutUint32(page[i+8:], []uint32{0, 1, 16, 512, 4096, 1 << 20, 1<<31 + 1, ^uint32(0), r.Uint32N(4096)}[r.IntN(9)])
				binary.LittleEndian.PutUint16(page[i+12:], []uint16{0, 1, 2, 3, 4, 5, 6, 7, uint16(r.Uint32())}[r.IntN(9)])
				binary.LittleEndian.PutUint16(page[i+14:], []uint16{uint16(i / 16), uint16(i/16 + 1), uint16(r.IntN(128)), uint16(r.Uint32())}[r.IntN(4)])
			}
		case 1: // a ring
			binary.LittleEndian.PutUint16(page, uint16(r.IntN(2)))
			binary.LittleEndian.PutUint16(page[2:], []uint16{1, 2, 16, 127, uint16(r.Uint32())}[r.IntN(5)])
			for i := 4; i+2 <= 1024; i += 2 {
				binary.LittleEndian.PutUint16(page[i:], []uint16{0, uint16(r.IntN(128)), uint16(r.IntN(128)), uint16(r.Uint32())}[r.IntN(4)])
			}
		case 2: // what a device's request begins with
			for i := 0; i+4 <= 256; i += 4 {
				binary.LittleEndian.PutUint32(page[i:], []uint32{0, 1, 4, 8, 11, uint32(r.IntN(64)), r.Uint32()}[r.IntN(7)])
			}
		}
	}
}
