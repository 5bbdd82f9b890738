package firststage

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/linux/ext4"
)

// Label is our mark on a data disk. It lies in the first bytes of the device,
// which ext4 leaves to boot loaders, so it can be read without mounting
// anything and survives damage to the file system. It names the slot the disk
// works for: a UUID alone would not, since a copied disk has the same.
type Label struct {
	V    uint64     `cbor:"v"`
	Grid canon.Hash `cbor:"grid"`
	Slot canon.Hash `cbor:"slot"`
	UUID []byte     `cbor:"uuid"` // of the file system, 16 bytes
}

// On disk: magic, length of the CBOR as two bytes and its CRC-32C as four, both
// little endian, then the CBOR.
const (
	labelMagic  = "zos-data"
	labelHeader = len(labelMagic) + 2 + 4
	maxLabel    = 512 - labelHeader
)

// Encode returns the bytes for the start of the disk, at most 512.
func (l Label) Encode() ([]byte, error) {
	b, err := canon.Marshal(l)
	if err != nil {
		return nil, err
	}
	out := []byte(labelMagic)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(b)))
	out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return append(out, b...), nil
}

// decodeLabel reads what Encode gave; ok is false for anything else. The bytes
// come from a disk that may be anybody's.
func decodeLabel(head []byte) (l Label, ok bool) {
	if len(head) < labelHeader || !bytes.HasPrefix(head, []byte(labelMagic)) {
		return Label{}, false
	}
	n := int(binary.LittleEndian.Uint16(head[len(labelMagic):]))
	if n > maxLabel || len(head) < labelHeader+n {
		return Label{}, false
	}
	body := head[labelHeader:][:n]
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(head[len(labelMagic)+2:]) {
		return Label{}, false
	}
	if err := canon.UnmarshalLimit(body, maxLabel, &l); err != nil || l.V != 1 || len(l.UUID) != 16 {
		return Label{}, false
	}
	return l, true
}

// Content is what the start of a disk shows.
type Content string

const (
	Blank     Content = "blank"               // nothing but zeros
	Foreign   Content = "foreign data"        // not ours, whatever it is
	OtherSlot Content = "another slot's data" // ours, but of another slot or grid
	Damaged   Content = "our damaged data"    // our label for this slot, no file system that belongs to it
	Ours      Content = "our data"            // our label and its file system
)

// ReadContent judges the first ext4.HeadSize bytes of a disk for a slot.
func ReadContent(head []byte, grid, slot canon.Hash) Content {
	l, ok := decodeLabel(head)
	if !ok {
		if len(bytes.Trim(head, "\x00")) == 0 {
			return Blank
		}
		return Foreign
	}
	if l.Grid != grid || l.Slot != slot {
		return OtherSlot
	}
	sb, err := ext4.ParseSuperblock(head)
	if err != nil || sb.Label != labelMagic || !sb.Verity || !bytes.Equal(sb.UUID[:], l.UUID) {
		return Damaged
	}
	return Ours
}
