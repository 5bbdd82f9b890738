package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes of a frame: an Ethernet header, and more than any card of ours sends.
const (
	headerSize = 14
	MaxFrame   = 66000
)

// MAC is an Ethernet address.
type MAC [6]byte

// Broadcast reaches everyone.
var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// group tells whether m is a multicast or broadcast address.
func (m MAC) group() bool { return m[0]&1 != 0 }

// ErrFrame is returned, wrapped, when a stream does not hold frames. It cannot
// be read any further, because lengths frame it.
var ErrFrame = errors.New("not an Ethernet frame")

// ReadFrame reads the next frame from r into a slice of its own. A frame that
// is shorter than an Ethernet header is skipped.
func ReadFrame(r io.Reader) ([]byte, error) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > MaxFrame {
			return nil, fmt.Errorf("%w: %d bytes", ErrFrame, n)
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(r, frame); err != nil {
			return nil, err
		}
		if n >= headerSize {
			return frame, nil
		}
	}
}

// AppendFrame appends frame as it travels to b.
func AppendFrame(b, frame []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(frame)))
	return append(b, frame...)
}

func destination(frame []byte) MAC { return MAC(frame[0:6]) }
func origin(frame []byte) MAC      { return MAC(frame[6:12]) }
