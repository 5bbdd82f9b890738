package path

import (
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

// pingSize is the length of pings and pongs: both are equal, so nobody can use a
// node to make more of less.
const pingSize = 1 + 8

// Message is one of the three. ID is of TypePing and TypePong: the ping's.
type Message struct {
	Type Type
	ID   uint64
	Tell Tell
}

// Encode returns the plaintext of m.
func (m Message) Encode() []byte {
	if m.Type == TypeTell {
		return append([]byte{byte(m.Type)}, m.Tell.Encode()...)
	}
	return append64([]byte{byte(m.Type)}, m.ID)
}

// DecodeMessage reads what Encode gave, and nothing else.
func DecodeMessage(b []byte) (Message, error) {
	if len(b) > 0 {
		switch t := Type(b[0]); {
		case (t == TypePing || t == TypePong) && len(b) == pingSize:
			return Message{Type: t, ID: read64(b[1:])}, nil
		case t == TypeTell:
			tell, err := DecodeTell(b[1:])
			return Message{Type: t, Tell: tell}, err
		}
	}
	return Message{}, fmt.Errorf("read path message: %d bytes are not one", len(b))
}

func append64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }
func read64(b []byte) uint64             { return binary.BigEndian.Uint64(b) }
