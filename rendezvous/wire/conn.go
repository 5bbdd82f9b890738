package wire

import (
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Conn lies between TLS and TCP, and makes one system call where TLS makes one
// for each record of 16 KiB: that halves the cost of a relayed packet. It holds
// memory only while bytes are in it, so that a thousand idle connections cost
// nothing.
type Conn struct {
	net.Conn
	raw     syscall.RawConn
	buffers *Buffers

	in   []byte // what was received and not yet read; the reader's
	held []byte // the chunk that in is part of
	err  error
	recv func(fd uintptr) bool

	mu   sync.Mutex
	hold bool
	out  []byte // what is written while hold is set
}

// maxHeld bounds what a Conn gathers before it writes.
const maxHeld = chunk

// NewConn wraps a TCP connection.
func NewConn(c net.Conn, buffers *Buffers) *Conn {
	out := &Conn{Conn: c, buffers: buffers}
	if s, ok := c.(syscall.Conn); ok {
		out.raw, _ = s.SyscallConn() // without it, reads are plain
	}
	out.recv = func(fd uintptr) bool {
		b := buffers.get()[:chunk]
		n, err := unix.Read(int(fd), b)
		for err == unix.EINTR {
			n, err = unix.Read(int(fd), b)
		}
		if n > 0 {
			out.held, out.in, out.err = b, b[:n], nil
			return true
		}
		buffers.put(b)
		if err == unix.EAGAIN {
			return false // waits for more, holding nothing
		}
		if out.err = err; err == nil {
			out.err = io.EOF
		}
		return true
	}
	return out
}

// Read returns what is there. One goroutine may call it.
func (c *Conn) Read(p []byte) (int, error) {
	if c.raw == nil {
		return c.Conn.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.in) == 0 {
		if err := c.raw.Read(c.recv); err != nil {
			return 0, err
		}
		if len(c.in) == 0 {
			return 0, c.err
		}
	}
	n := copy(p, c.in)
	if c.in = c.in[n:]; len(c.in) == 0 {
		c.buffers.put(c.held)
		c.held, c.in = nil, nil
	}
	return n, nil
}

// Write writes at once, or with what else Batch's function writes.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hold {
		return c.Conn.Write(p)
	}
	if len(c.out)+len(p) > maxHeld {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > maxHeld {
		return c.Conn.Write(p)
	}
	if c.out == nil {
		c.out = c.buffers.get()
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

// flush writes what is held; c is locked.
func (c *Conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	c.buffers.put(c.out)
	c.out = nil
	return err
}

// batch makes one write of those that fn makes.
func (c *Conn) batch(fn func() error) error {
	c.mu.Lock()
	c.hold = true
	c.mu.Unlock()
	err := fn()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = false
	if err != nil {
		c.buffers.put(c.out)
		c.out = nil
		return err
	}
	return c.flush()
}
