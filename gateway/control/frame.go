package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
)

// Limits of frames, in bytes of their body.
const (
	MaxUp   = 4 << 20  // of what the process says
	MaxDown = 64 << 20 // of what the daemon says
)

// MaxBatch is how many sockets travel with one frame.
const MaxBatch = 64

// headSize is the length of a frame's head: length of the body, kind, number of
// descriptors, id; big-endian.
const headSize = 4 + 1 + 1 + 8

// frame is one message: who asks chooses the id, who answers repeats it.
type frame struct {
	kind byte
	id   uint64
	body []byte
	fds  []int
}

// decode reads the body.
func decode[T any](f frame, limit int) (T, error) {
	var v T
	if err := canon.UnmarshalLimit(f.body, limit, &v); err != nil {
		return v, fmt.Errorf("message of kind %d: %w", f.kind, err)
	}
	return v, nil
}

// errFrame says that what came is no frame: the connection is of no use any more.
var errFrame = errors.New("not a frame of the control protocol")

// writer sends frames, one at a time.
type writer struct {
	mu      sync.Mutex
	conn    *net.UnixConn
	timeout time.Duration // for one frame
}

// send encodes v and sends it with descriptors, at most MaxBatch.
func (w *writer) send(kind byte, id uint64, v any, fds ...int) error {
	body, err := canon.Marshal(v)
	if err != nil {
		return fmt.Errorf("message of kind %d: %w", kind, err)
	}
	if len(body) > MaxDown || len(fds) > MaxBatch {
		return fmt.Errorf("message of kind %d: %d bytes and %d descriptors are too many", kind, len(body), len(fds))
	}
	head := make([]byte, headSize, headSize+len(body))
	binary.BigEndian.PutUint32(head, uint32(len(body)))
	head[4], head[5] = kind, byte(len(fds))
	binary.BigEndian.PutUint64(head[6:], id)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return err
	}
	if len(fds) > 0 {
		// They travel with the first bytes, so they are there when the head is.
		n, _, err := w.conn.WriteMsgUnix(head, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		head = head[n:]
	}
	_, err = w.conn.Write(append(head, body...))
	return err
}

// readUp reads frames of the process. Descriptors that it sends are closed by the
// kernel: nobody asks for them.
func readUp(r io.Reader) (frame, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxUp || head[5] != 0 {
		return frame{}, fmt.Errorf("%w: %d bytes, %d descriptors", errFrame, n, head[5])
	}
	return body(r, head, n)
}

func body(r io.Reader, head [headSize]byte, n uint32) (frame, error) {
	f := frame{kind: head[4], id: binary.BigEndian.Uint64(head[6:])}
	// It grows with what comes, not with what was announced.
	var err error
	if f.body, err = io.ReadAll(io.LimitReader(r, int64(n))); err == nil && uint32(len(f.body)) < n {
		err = io.ErrUnexpectedEOF
	}
	return f, err
}

// downReader reads frames of the daemon, with their descriptors.
type downReader struct {
	conn *net.UnixConn
	fds  []int // that came and whose frame is not read yet
}

// Read implements io.Reader.
func (d *downReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*MaxBatch))
	n, oobn, _, _, err := d.conn.ReadMsgUnix(p, oob)
	if oobn > 0 {
		msgs, perr := unix.ParseSocketControlMessage(oob[:oobn])
		if perr != nil {
			return n, perr
		}
		for _, m := range msgs {
			if fds, err := unix.ParseUnixRights(&m); err == nil {
				d.fds = append(d.fds, fds...)
			}
		}
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (d *downReader) next() (frame, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(d, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxDown || int(head[5]) > len(d.fds) {
		return frame{}, fmt.Errorf("%w: %d bytes, %d descriptors", errFrame, n, head[5])
	}
	own := slices.Clone(d.fds[:head[5]])
	d.fds = slices.Clone(d.fds[head[5]:])
	f, err := body(d, head, n)
	f.fds = own
	if err != nil {
		f.close()
	}
	return f, err
}

// close closes what came and nobody took.
func (d *downReader) close() {
	for _, fd := range d.fds {
		unix.Close(fd)
	}
	d.fds = nil
}

// close closes the descriptors of a frame.
func (f frame) close() {
	for _, fd := range f.fds {
		unix.Close(fd)
	}
}
