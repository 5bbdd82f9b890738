package ext4

import (
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Template is an empty ext4 file system that Write puts on a device.
type Template int

const (
	// Journaled survives a power cut: for disks.
	Journaled Template = iota
	// Volatile has no journal: for memory, which a power cut empties anyway.
	Volatile
)

//go:embed journaled.zst
var journaled []byte

//go:embed volatile.zst
var volatile []byte

// maxTemplate bounds what a template unpacks to.
const maxTemplate = 64 << 20

const blockSize = 4096

// FirstBlock is the size of the block that Write writes last. Whoever zeroes the
// device before it must leave that block alone.
const FirstBlock = blockSize

// BootSize is how many bytes at the start of the device ext4 leaves to others.
const BootSize = 1024

func (t Template) packed() []byte {
	if t == Volatile {
		return volatile
	}
	return journaled
}

// Size returns how many bytes the device must have at least.
func (t Template) Size() uint64 {
	if t == Volatile {
		return 16 << 20
	}
	return 64 << 20
}

// Device is what Write needs of a block device.
type Device interface {
	io.WriterAt
	Sync() error
}

// Write makes an empty file system at the start of dev with the given UUID, and
// boot (at most BootSize bytes) before its superblock. dev must hold at least
// t.Size() bytes. zeroed says that all of them after FirstBlock read as zero, which
// saves writing zeros.
//
// The first block is written last, after everything else is on the device: until
// then the device holds what it held before, as far as its superblock tells.
func (t Template) Write(dev Device, uuid [16]byte, boot []byte, zeroed bool) error {
	if len(boot) > BootSize {
		return fmt.Errorf("make file system: %d bytes for the boot area, want at most %d", len(boot), BootSize)
	}
	blocks, err := t.unpack()
	if err != nil {
		return fmt.Errorf("make file system: unpack template: %w", err)
	}
	first := blocks[0].data
	if err := personalise(first, uuid, boot); err != nil {
		return err
	}
	end := int64(blockSize) // of what is on the device
	for _, run := range blocks[1:] {
		if !zeroed {
			if err := zero(dev, end, run.offset); err != nil {
				return err
			}
		}
		if err := write(dev, run.data, run.offset); err != nil {
			return err
		}
		end = run.offset + int64(len(run.data))
	}
	if !zeroed {
		if err := zero(dev, end, int64(t.Size())); err != nil {
			return err
		}
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("make file system: %w", err)
	}
	if _, err := dev.WriteAt(first, 0); err != nil {
		return fmt.Errorf("make file system: write superblock: %w", err)
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("make file system: %w", err)
	}
	return nil
}

// run is a part of a template that is not zero: its first block, or blocks in a row after
// that.
type run struct {
	offset int64
	data   []byte
}

// unpack reads what package pack wrote. The first block is a run of its own.
func (t Template) unpack() ([]run, error) {
	zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxTemplate))
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	b, err := zr.DecodeAll(t.packed(), nil)
	if err != nil {
		return nil, err
	}
	var all []run
	for ; len(b) >= 8+blockSize; b = b[8+blockSize:] {
		offset, data := int64(binary.LittleEndian.Uint64(b))*blockSize, b[8:8+blockSize]
		last := len(all) - 1
		if last > 0 && all[last].offset+int64(len(all[last].data)) == offset {
			all[last].data = append(all[last].data, data...)
			continue
		}
		all = append(all, run{offset, append([]byte(nil), data...)})
	}
	if len(b) != 0 || len(all) == 0 || all[0].offset != 0 {
		return nil, errors.New("it is not whole")
	}
	return all, nil
}

func write(dev Device, b []byte, offset int64) error {
	if _, err := dev.WriteAt(b, offset); err != nil {
		return fmt.Errorf("make file system: write at %d: %w", offset, err)
	}
	return nil
}

// zero fills the device from one offset to another.
func zero(dev Device, from, to int64) error {
	zeros := make([]byte, min(to-from, 64*blockSize))
	for n := int64(0); from < to; from += n {
		n = min(int64(len(zeros)), to-from)
		if err := write(dev, zeros[:n], from); err != nil {
			return err
		}
	}
	return nil
}

// Offsets in the superblock (fs/ext4/ext4.h, struct ext4_super_block).
const (
	offBlocks   = 0x04
	offLogBlock = 0x18
	offMagic    = 0x38
	offState    = 0x3A
	offROCompat = 0x64
	offUUID     = 0x68
	offLabel    = 0x78
	offHashSeed = 0xEC
	offBlocksHi = 0x150
	offChecksum = 0x3FC
	superSize   = 1024
)

// personalise gives the template's first block its own UUID and hash seed: with
// one seed for all, anyone could prepare names that collide in our directories.
// The metadata checksums have a seed of their own and stay valid.
func personalise(first []byte, uuid [16]byte, boot []byte) error {
	clear(first[:BootSize])
	copy(first, boot)
	sb := first[BootSize:][:superSize]
	copy(sb[offUUID:], uuid[:])
	if _, err := rand.Read(sb[offHashSeed:][:16]); err != nil {
		return fmt.Errorf("make file system: random hash seed: %w", err)
	}
	binary.LittleEndian.PutUint32(sb[offChecksum:], superChecksum(sb))
	return nil
}

// superChecksum is the CRC-32C of the superblock up to its checksum, without the
// final inversion that the standard library does.
func superChecksum(sb []byte) uint32 {
	return ^crc32.Checksum(sb[:offChecksum], crc32.MakeTable(crc32.Castagnoli))
}

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64).
const resizeFS = 0x40086610

// Grow grows the mounted file system at dir to size bytes, rounded down to whole
// blocks. It is no error if it has that size already. About 0.5 s for 100 GB and
// 21 s for 2 TB.
func Grow(dir string, size uint64) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("grow file system: %w", err)
	}
	defer f.Close()
	blocks := size / blockSize
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("grow file system %s to %d blocks: %w", dir, blocks, errno)
	}
	return nil
}
