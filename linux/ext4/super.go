package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Superblock is what a file system says about itself.
type Superblock struct {
	Label    string
	UUID     [16]byte
	Size     uint64 // bytes
	Verity   bool   // files can have fs-verity
	Clean    bool   // unmounted in order; false after a power cut
	Errors   bool   // the kernel found it damaged
	Checksum bool   // the superblock's checksum is right
}

// ErrNone: there is no ext4 superblock.
var ErrNone = errors.New("no ext4 superblock")

// HeadSize is how many bytes from the start of a device ParseSuperblock needs.
const HeadSize = BootSize + superSize

// ParseSuperblock reads the superblock in the first HeadSize bytes of a device.
// It believes nothing: the bytes may be anybody's.
func ParseSuperblock(head []byte) (Superblock, error) {
	if len(head) < HeadSize {
		return Superblock{}, ErrNone
	}
	sb := head[BootSize:HeadSize]
	le := binary.LittleEndian
	if le.Uint16(sb[offMagic:]) != 0xEF53 {
		return Superblock{}, ErrNone
	}
	logBlock := le.Uint32(sb[offLogBlock:])
	if logBlock > 6 { // 64 KiB, the largest block there is
		return Superblock{}, ErrNone
	}
	blocks := uint64(le.Uint32(sb[offBlocks:])) | uint64(le.Uint32(sb[offBlocksHi:]))<<32
	if blocks > 1<<48 { // ext4's own limit; also keeps Size from wrapping
		return Superblock{}, ErrNone
	}
	label := sb[offLabel:][:16]
	if i := bytes.IndexByte(label, 0); i >= 0 {
		label = label[:i]
	}
	state := le.Uint16(sb[offState:])
	s := Superblock{
		Label:    string(label),
		Size:     blocks << (10 + logBlock),
		Verity:   le.Uint32(sb[offROCompat:])&0x8000 != 0,
		Clean:    state&1 != 0,
		Errors:   state&2 != 0,
		Checksum: le.Uint32(sb[offChecksum:]) == superChecksum(sb),
	}
	copy(s.UUID[:], sb[offUUID:])
	return s, nil
}
