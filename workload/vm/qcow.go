package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// An empty image of changes, in QEMU's qcow2 (docs/interop/qcow2.txt, version 3): the
// header, a refcount table, a refcount block, and an L1 table without an entry. Which
// image it changes is not named in it.

const (
	clusterBits = 16
	cluster     = 1 << clusterBits
	// perL1 is how many bytes of the disk an entry of the L1 table is for.
	perL1 = cluster / 8 * cluster
	// maxVirtual bounds a disk: with it, one refcount block counts all clusters here.
	maxVirtual = 1 << 50
)

// writeQcow makes the image at path, for a disk of size bytes. It is there whole or not.
func writeQcow(path string, size uint64) error {
	if size == 0 || size%512 != 0 || size > maxVirtual {
		return fmt.Errorf("make image of changes: %d bytes are no disk", size)
	}
	l1 := (size + perL1 - 1) / perL1
	tables := (l1*8 + cluster - 1) / cluster
	used := 3 + tables
	b := make([]byte, used*cluster)
	copy(b, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], size)
	be.PutUint32(b[36:], uint32(l1))
	be.PutUint64(b[40:], 3*cluster) // L1 table
	be.PutUint64(b[48:], cluster)   // refcount table
	be.PutUint32(b[56:], 1)         // in clusters
	be.PutUint32(b[96:], 4)         // refcounts of 16 bits
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[cluster:], 2*cluster)
	for i := range used {
		be.PutUint16(b[2*cluster+2*i:], 1)
	}
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return fmt.Errorf("make image of changes: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("make image of changes: %w", err)
	}
	return nil
}

// growQcow makes the disk in the image at path size bytes large, if it is smaller. A
// monitor has written the image since: what is not as writeQcow left it stays as it is.
func growQcow(path string, size uint64) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("grow image of changes: %w", err)
	}
	err = growHeader(f, size)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("grow image of changes: %w", err)
	}
	return nil
}

func growHeader(f *os.File, size uint64) error {
	b := make([]byte, 48)
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	be := binary.BigEndian
	old, l1 := be.Uint64(b[24:]), (size+perL1-1)/perL1
	// The table may become longer within the clusters that it had from the beginning.
	room := (uint64(be.Uint32(b[36:]))*8 + cluster - 1) / cluster * cluster / 8
	if string(b[:4]) != "QFI\xfb" || be.Uint32(b[20:]) != clusterBits || be.Uint64(b[40:]) != 3*cluster || old >= size || size > maxVirtual || l1 > room {
		return nil
	}
	be.PutUint64(b[24:], size)
	be.PutUint32(b[36:], uint32(l1))
	// In one write: a longer table with the old size would do as well, the reverse not.
	if _, err := f.WriteAt(b[24:40], 24); err != nil {
		return err
	}
	return f.Sync()
}
