package control

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/zero-os/zos/problem"
)

// RequestLimit is how long the side that is asked waits for the request.
const RequestLimit = 10 * time.Second

// WriteLimit is how long one frame may take to be taken by the other side. A reader
// that stalls longer has lost its connection.
const WriteLimit = time.Minute

// Conn is a connection with frames. One goroutine may read; any may write.
type Conn struct {
	raw net.Conn
	buf []byte

	mu  sync.Mutex // of writes
	out []byte
}

// Dial sends a request over a fresh connection and returns what the answer is read
// from. It owns raw from now on, also when it fails. ctx bounds the sending alone.
func Dial(ctx context.Context, raw net.Conn, r Request) (*Conn, error) {
	c := &Conn{raw: raw}
	b, err := json.Marshal(r)
	if err == nil {
		stop := context.AfterFunc(ctx, func() { raw.Close() })
		err = c.Write(FrameRequest, b)
		if !stop() {
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("ask for %s: %w", r.Verb, err)
	}
	return c, nil
}

// Accept reads the request of a connection that the other side opened. On an error
// the caller closes raw.
func Accept(raw net.Conn) (*Conn, Request, error) {
	c := &Conn{raw: raw}
	var r Request
	if err := raw.SetReadDeadline(time.Now().Add(RequestLimit)); err != nil {
		return nil, r, fmt.Errorf("read request: %w", err)
	}
	t, b, err := c.Read()
	if err == nil && t != FrameRequest {
		err = fmt.Errorf("it begins with type %d: %w", byte(t), ErrFrame)
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return nil, Request{}, fmt.Errorf("read request: %w", err)
	}
	c.buf = nil // a large request's
	if err := raw.SetReadDeadline(time.Time{}); err != nil {
		return nil, Request{}, fmt.Errorf("read request: %w", err)
	}
	return c, r, nil
}

// Raw returns the connection below, for copying the rest of it elsewhere: nothing
// that was not read is buffered here.
func (c *Conn) Raw() net.Conn { return c.raw }

// Close ends the connection.
func (c *Conn) Close() error { return c.raw.Close() }

// Read returns the next frame. The payload is valid until the next Read. io.EOF
// says that the other side has closed.
func (c *Conn) Read() (Type, []byte, error) { return readFrame(c.raw, &c.buf) }

// Write sends one frame.
func (c *Conn) Write(t Type, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, err := appendFrame(c.out[:0], t, payload)
	if err != nil {
		return err
	}
	if cap(out) <= headerSize+MaxFrame {
		c.out = out
	}
	if err := c.raw.SetWriteDeadline(time.Now().Add(WriteLimit)); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	if _, err := c.raw.Write(out); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// Stream returns a writer that sends what it is given as frames of type t.
func (c *Conn) Stream(t Type) io.Writer { return stream{c, t} }

type stream struct {
	c *Conn
	t Type
}

func (s stream) Write(b []byte) (n int, err error) {
	for n < len(b) {
		part := b[n:min(len(b), n+MaxFrame/2)]
		if err := s.c.Write(s.t, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Exit sends how a program ended, as shells count it.
func (c *Conn) Exit(code int) error {
	return c.Write(FrameExit, binary.BigEndian.AppendUint32(nil, uint32(int32(code))))
}

// ExitCode reads the payload of a FrameExit.
func ExitCode(payload []byte) int { return int(int32(binary.BigEndian.Uint32(payload))) }

// Resize sends the size of a terminal.
func (c *Conn) Resize(rows, cols uint16) error {
	return c.Write(FrameResize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, rows), cols))
}

// WindowSize reads the payload of a FrameResize.
func WindowSize(payload []byte) (rows, cols uint16) {
	return binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
}

// Result sends an answer as JSON.
func (c *Conn) Result(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return c.Write(FrameResult, b)
}

// failure is the payload of a FrameError.
type failure struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// maxDetail bounds what an error says on the wire, in bytes.
const maxDetail = 4 << 10

// Fail sends err, with its problem code.
func (c *Conn) Fail(err error) error {
	detail := err.Error()
	if len(detail) > maxDetail {
		detail = detail[:maxDetail]
	}
	b, jerr := json.Marshal(failure{Code: problem.Code(err), Detail: detail})
	if jerr != nil {
		return fmt.Errorf("encode error: %w", jerr)
	}
	return c.Write(FrameError, b)
}

// Failure reads the payload of a FrameError; it never returns nil.
func Failure(payload []byte) error {
	var f failure
	if err := json.Unmarshal(payload, &f); err != nil {
		return fmt.Errorf("read the error of a workload: %w", err)
	}
	if f.Code == "" {
		return errors.New(f.Detail)
	}
	return problem.New(f.Code, "%s", f.Detail)
}

// Ask sends a request that is answered by one frame and returns the exit code, or
// reads the result into v.
func Ask(ctx context.Context, raw net.Conn, r Request, v any) (code int, err error) {
	c, err := Dial(ctx, raw, r)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	t, b, err := c.Read()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, fmt.Errorf("ask for %s: %w", r.Verb, err)
	}
	switch {
	case t == FrameError:
		return 0, Failure(b)
	case t == FrameExit:
		return ExitCode(b), nil
	case t == FrameResult && v != nil:
		if err := json.Unmarshal(b, v); err != nil {
			return 0, fmt.Errorf("ask for %s: %w", r.Verb, err)
		}
		return 0, nil
	case t == FrameResult:
		return 0, nil
	}
	return 0, fmt.Errorf("ask for %s: answered by type %d: %w", r.Verb, byte(t), ErrFrame)
}
