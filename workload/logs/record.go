package logs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// Stream says where a record came from.
type Stream uint8

// The streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
	Node   Stream = 3 // remarks of the shim, e.g. "container exited: exit code 1"
)

// String names the stream.
func (s Stream) String() string {
	switch s {
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	case Node:
		return "node"
	}
	return fmt.Sprintf("stream-%d", uint8(s))
}

// MaxRecord bounds one record's payload in bytes; longer lines are split.
const MaxRecord = 16 << 10

// Record is one line without its newline, or a part of a line.
type Record struct {
	Seq    uint64 // from 1, without gaps except where the ring dropped the oldest
	Time   time.Time
	Stream Stream
	Data   []byte
	// Partial says that the line goes on in the next record of the same stream.
	Partial bool
}

const (
	headerSize  = 4 + 4 + 8 + 8 + 1
	partialFlag = 0x80 // in the stream byte
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendRecord(b []byte, r Record) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Data)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, r.Seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Time.UnixNano()))
	s := byte(r.Stream)
	if r.Partial {
		s |= partialFlag
	}
	b = append(b, s)
	b = append(b, r.Data...)
	crc := crc32.Checksum(b[start+8:], castagnoli)
	binary.LittleEndian.PutUint32(b[start+4:], crc)
	return b
}

// parseRecord reads the record at the start of b and returns the bytes it took.
// ok is false where no whole, intact record begins. Data points into b.
func parseRecord(b []byte) (r Record, n int, ok bool) {
	if len(b) < headerSize {
		return Record{}, 0, false
	}
	size := binary.LittleEndian.Uint32(b)
	if size > MaxRecord || len(b)-headerSize < int(size) {
		return Record{}, 0, false
	}
	n = headerSize + int(size)
	if crc32.Checksum(b[8:n], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return Record{}, 0, false
	}
	s := b[24]
	r = Record{
		Seq:     binary.LittleEndian.Uint64(b[8:]),
		Time:    time.Unix(0, int64(binary.LittleEndian.Uint64(b[16:]))),
		Stream:  Stream(s &^ partialFlag),
		Data:    b[headerSize:n:n],
		Partial: s&partialFlag != 0,
	}
	return r, n, true
}
