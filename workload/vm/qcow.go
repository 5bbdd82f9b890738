package vm

import (
	"encoding/binary"
	"fmt"
	"os"
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
