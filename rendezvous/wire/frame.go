package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Type is what a frame is.
type Type byte

// Types of frames; package documentation has the table.
const (
	Hello    Type = 1
	Welcome  Type = 2
	Refused  Type = 3
	Recv     Type = 4
	Gone     Type = 5
	Observed Type = 6
	UDPUsed  Type = 7
	Pong     Type = 8

	LoginFrame Type = 16
	Send       Type = 17
	Watch      Type = 18
	Unwatch    Type = 19
	UDPOff     Type = 20
	Ping       Type = 21

	// Between servers.
	ClusterHello Type = 32 // purpose (1 byte)
	ClusterJoin  Type = 33 // slot
	ClusterLeft  Type = 34 // slot
	ClusterRelay Type = 35 // from, to, packet
	ClusterAlive Type = 36 // nothing
)

// Sizes in bytes.
const (
	MaxPacket     = 2049 // what a client relays: one byte of its own, and a packet
	MaxFrame      = 4096 // of type and body
	ChallengeSize = 32
	SessionSize   = 8
	TokenSize     = 16
	lengthSize    = 2
)

var (
	errFrame = errors.New("read frame: its length is not allowed")
	errShort = errors.New("read frame: it is too short for its type")
)

// Reader reads frames. It holds no more than its buffer.
type Reader struct {
	b    *bufio.Reader
	held int // of the frame that was returned last
}

// NewReader reads frames from r.
func NewReader(r io.Reader) *Reader { return &Reader{b: bufio.NewReaderSize(r, 16<<10)} }

// Next returns the next frame. Its body is valid until the next call.
func (r *Reader) Next() (Type, []byte, error) {
	if r.held > 0 {
		r.b.Discard(r.held) // it is buffered: can't fail
		r.held = 0
	}
	head, err := r.b.Peek(lengthSize)
	if err != nil {
		return 0, nil, noEOF(head, err)
	}
	n := int(binary.BigEndian.Uint16(head))
	if n < 1 || n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: %d", errFrame, n)
	}
	frame, err := r.b.Peek(lengthSize + n)
	if err != nil {
		return 0, nil, noEOF(frame, err)
	}
	r.held = len(frame)
	return Type(frame[lengthSize]), frame[lengthSize+1:], nil
}

// Buffered tells whether the next frame was read already, so that Next does not
// wait.
func (r *Reader) Buffered() bool {
	rest := r.b.Buffered() - r.held
	if rest < lengthSize {
		return false
	}
	b, _ := r.b.Peek(r.held + lengthSize) // it is buffered: can't fail
	return rest >= lengthSize+int(binary.BigEndian.Uint16(b[r.held:]))
}

// Rest is what follows the last frame, for a protocol that goes on otherwise.
// The Reader is not used after it.
func (r *Reader) Rest() io.Reader {
	r.b.Discard(r.held) // it is buffered: can't fail
	r.held = 0
	return r.b
}

// noEOF makes an end within a frame different from one between frames.
func noEOF(had []byte, err error) error {
	if errors.Is(err, io.EOF) && len(had) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Append adds a frame of a type and the parts of its body to b.
func Append(b []byte, t Type, x, y, z []byte) []byte {
	n := 1 + len(x) + len(y) + len(z)
	b = append(b, byte(n>>8), byte(n), byte(t))
	b = append(b, x...)
	b = append(b, y...)
	return append(b, z...)
}

// Slot splits a body that begins with a slot.
func Slot(body []byte) (slot canon.Hash, rest []byte, err error) {
	if len(body) < canon.HashSize {
		return slot, nil, errShort
	}
	return canon.Hash(body[:canon.HashSize]), body[canon.HashSize:], nil
}

// Packet splits the body of a Send or Recv: the other side and the packet.
func Packet(body []byte) (canon.Hash, []byte, error) {
	slot, packet, err := Slot(body)
	if err == nil && (len(packet) == 0 || len(packet) > MaxPacket) {
		err = errFrame
	}
	return slot, packet, err
}

// Token reads the body of a Watch or Unwatch.
func Token(body []byte) ([TokenSize]byte, error) {
	if len(body) != TokenSize {
		return [TokenSize]byte{}, errShort
	}
	return [TokenSize]byte(body), nil
}

// ParseRefusal reads the body of a Refused as an error with the server's code.
func ParseRefusal(body []byte) error {
	code, text, ok := bytes.Cut(body, []byte{0})
	if !ok || len(code) == 0 || len(code) > 64 || len(text) > 1024 {
		return problem.New("login-refused", "the server refuses and does not say why")
	}
	return problem.New("login-refused", "the server refuses: %.512q (%.64q)", text, code)
}

// ObservedBody is the body of an Observed: where a token was seen.
func ObservedBody(token [TokenSize]byte, from netip.AddrPort) []byte {
	ip := from.Addr().As16()
	b := append(token[:], ip[:]...)
	return binary.BigEndian.AppendUint16(b, from.Port())
}

// ParseObserved reads the body of an Observed.
func ParseObserved(body []byte) (token [TokenSize]byte, from netip.AddrPort, err error) {
	if len(body) != TokenSize+16+2 {
		return token, from, errShort
	}
	token = [TokenSize]byte(body[:TokenSize])
	ip := netip.AddrFrom16([16]byte(body[TokenSize : TokenSize+16])).Unmap()
	return token, netip.AddrPortFrom(ip, binary.BigEndian.Uint16(body[TokenSize+16:])), nil
}
