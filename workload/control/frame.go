package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Type says what a frame is. On the wire a frame is its type in one byte, the length
// of its payload in four (big-endian), and the payload.
type Type byte

// The frames of a connection. Those of a later version are refused, not skipped: both
// ends of a connection are of one release.
const (
	// FrameRequest is the first frame of every connection and carries a Request.
	FrameRequest Type = 1
	// FrameStdin, FrameStdout and FrameStderr carry bytes of a stream; an empty
	// FrameStdout or FrameStderr has no meaning. FrameCloseStdin ends the first.
	FrameStdin      Type = 2
	FrameStdout     Type = 3
	FrameStderr     Type = 4
	FrameCloseStdin Type = 5
	// FrameResize carries a terminal's new size: rows and columns, two bytes each.
	FrameResize Type = 6
	// FrameSignal carries one byte, the signal for the program that was asked for.
	FrameSignal Type = 7
	// FrameExit carries an exit code in four bytes, FrameResult JSON, FrameError an
	// encoded error. One of them is the last frame of every answer.
	FrameExit   Type = 8
	FrameResult Type = 9
	FrameError  Type = 10
)

// MaxFrame bounds the payload of every frame but a FrameRequest, in bytes.
const MaxFrame = 64 << 10

const headerSize = 5

// ErrFrame says that what came is no frame of this protocol.
var ErrFrame = errors.New("not a frame of the control protocol")

// limit is how large a payload may be, -1 if there is no such frame.
func (t Type) limit() int {
	switch t {
	case FrameRequest:
		return MaxRequest
	case FrameStdin, FrameStdout, FrameStderr, FrameResult, FrameError:
		return MaxFrame
	case FrameCloseStdin:
		return 0
	case FrameResize, FrameExit:
		return 4
	case FrameSignal:
		return 1
	}
	return -1
}

// check tells whether a frame may have a payload of n bytes.
func (t Type) check(n uint32) error {
	most := t.limit()
	switch {
	case most < 0:
		return fmt.Errorf("type %d: %w", byte(t), ErrFrame)
	case n > uint32(most):
		return fmt.Errorf("frame of type %d with %d bytes, at most %d are allowed: %w", byte(t), n, most, ErrFrame)
	case most <= 4 && n != uint32(most):
		return fmt.Errorf("frame of type %d with %d bytes, want %d: %w", byte(t), n, most, ErrFrame)
	}
	return nil
}

// readFrame reads one frame. The payload is in *buf, which it makes larger as bytes
// arrive: a length that is only claimed costs no memory. io.EOF says that the other
// side closed between two frames.
func readFrame(r io.Reader, buf *[]byte) (Type, []byte, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	t, n := Type(h[0]), binary.BigEndian.Uint32(h[1:])
	if err := t.check(n); err != nil {
		return 0, nil, err
	}
	b := (*buf)[:0]
	for have := 0; have < int(n); {
		step := min(int(n)-have, 32<<10)
		if cap(b) < have+step {
			b = append(make([]byte, 0, max(have+step, min(2*cap(b), int(n)))), b...)
		}
		b = b[:have+step]
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
		have += step
	}
	*buf = b
	return t, b, nil
}

// appendFrame appends one frame to dst.
func appendFrame(dst []byte, t Type, payload []byte) ([]byte, error) {
	if uint64(len(payload)) > MaxRequest {
		return nil, fmt.Errorf("%d bytes in a frame: %w", len(payload), ErrFrame)
	}
	if err := t.check(uint32(len(payload))); err != nil {
		return nil, err
	}
	dst = append(dst, byte(t))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(payload)))
	return append(dst, payload...), nil
}
