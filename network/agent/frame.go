package agent

import (
	"encoding/binary"

	"github.com/zero-os/zos/canon"
)

// Frames are what agents give to the relay: a header, then the packet. One link
// to a relay carries all networks of a node.
//
//	1 byte   type
//	8 bytes  the network's id, its beginning
//	4 bytes  the key epoch, its low bits
const frameSize = 1 + 8 + 4

// Types of frames.
const (
	frameData  = 1 // a packet of WireGuard
	framePath  = 2 // a sealed message of package path
	frameBegin = 3 // 8 bytes, a number that rises: let the receiver, which initiates, begin an exchange
)

// tag is a device in a frame.
type tag [frameSize - 1]byte

func tagOf(id canon.Hash, epoch uint64) (t tag) {
	copy(t[:8], id[:])
	binary.BigEndian.PutUint32(t[8:], uint32(epoch))
	return t
}

func appendFrame(dst []byte, kind byte, t tag, packet []byte) []byte {
	return append(append(append(dst, kind), t[:]...), packet...)
}

// parseFrame reads what anyone at all sent. packet is a part of b.
func parseFrame(b []byte) (kind byte, t tag, packet []byte, ok bool) {
	if len(b) < frameSize || b[0] < frameData || b[0] > frameBegin || b[0] == frameBegin && len(b) != frameSize+8 || len(b) == frameSize {
		return 0, tag{}, nil, false
	}
	return b[0], tag(b[1:frameSize]), b[frameSize:], true
}
