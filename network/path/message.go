package path

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Type of a message between two agents.
type Type uint8

const (
	TypePing Type = 1 + iota // over a direct address: is this a path?
	TypePong                 // its answer, to where it came from
	TypeTell                 // through the relay
)

// Lengths of pings; a pong is as long as its ping, so nobody can use a node to
// make more of less. A full one is padded: sealed, and with the eight bytes by
// which probes are told apart, it is a UDP datagram of 1312 bytes, as the largest
// packet of a network with an MTU of 1280 is (WireGuard adds 32). A path that
// swallows large packets does not answer it.
const (
	pingSize     = 1 + 8
	fullPingSize = 1312 - 8 - Overhead
)

// Message is one of the three. ID and Full are of TypePing and TypePong: the
// ping's.
type Message struct {
	Type Type
	ID   uint64
	Full bool
	Tell Tell
}

// Encode returns the plaintext of m.
func (m Message) Encode() []byte {
	if m.Type == TypeTell {
		return append([]byte{byte(m.Type)}, m.Tell.Encode()...)
	}
	b := append64([]byte{byte(m.Type)}, m.ID)
	if m.Full {
		b = append(b, make([]byte, fullPingSize-pingSize)...)
	}
	return b
}

// DecodeMessage reads what Encode gave, and nothing else.
func DecodeMessage(b []byte) (Message, error) {
	if len(b) > 0 {
		switch t := Type(b[0]); {
		case (t == TypePing || t == TypePong) && len(b) == pingSize:
			return Message{Type: t, ID: read64(b[1:])}, nil
		case (t == TypePing || t == TypePong) && len(b) == fullPingSize && len(bytes.Trim(b[pingSize:], "\x00")) == 0:
			return Message{Type: t, ID: read64(b[1:]), Full: true}, nil
		case t == TypeTell:
			tell, err := DecodeTell(b[1:])
			return Message{Type: t, Tell: tell}, err
		}
	}
	return Message{}, fmt.Errorf("read path message: %d bytes are not one", len(b))
}

func append64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }
func read64(b []byte) uint64             { return binary.BigEndian.Uint64(b) }
