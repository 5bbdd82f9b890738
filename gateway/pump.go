package gateway

import (
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pump moves the bytes of one direction between two TCP sockets.
//
// An idle direction holds no buffer and no pipe: bytes stay in the kernel until
// they can go out. What is short is peeked at, sent, and then taken off the
// socket, so that nothing is in between when the other end takes nothing; what
// is long moves through a pipe.
type pump struct {
	src, dst        syscall.RawConn
	srcFD, dstFD    int // valid while the connections aren't closed, which is after both pumps have ended
	pool            *mover
	n               *atomic.Uint64 // bytes moved
	blocked         *atomic.Bool   // bytes wait for dst
	pipe            *pipe
	round           int // bytes since the source was last dry
	state           state
	err             error
	onRead, onWrite func(uintptr) bool
}

type state int

const (
	srcDry  state = iota // nothing to read now
	dstFull              // nothing can be written now
	ended                // the source has ended, all is written
	broken               // err
	moved                // some bytes were, and there may be more
)

// mover is what the pumps of a process share.
type mover struct {
	pipes   pipes
	buffers sync.Pool // of *[copySize]byte
}

// copySize is how much is copied at a time; beyond bulk bytes without a pause a
// direction gets a pipe.
const (
	copySize = 32 << 10
	bulk     = 64 << 10
)

func newMover(pipes int) *mover {
	m := &mover{}
	m.pipes.most = pipes
	m.buffers.New = func() any { return new([copySize]byte) }
	return m
}

// descriptor returns the number of a socket, for system calls on two at once.
func descriptor(c syscall.Conn) (syscall.RawConn, int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, -1, err
	}
	fd := -1
	if err := raw.Control(func(f uintptr) { fd = int(f) }); err != nil {
		return nil, -1, err
	}
	return raw, fd, nil
}

// run moves bytes until the source ends (nil), or something fails.
func (p *pump) run() error {
	p.onRead = func(uintptr) bool { p.move(); return p.state != srcDry }
	p.onWrite = func(uintptr) bool { p.move(); return p.state != dstFull }
	defer p.drop()
	for {
		var err error
		if p.state == dstFull {
			p.blocked.Store(true)
			err = p.dst.Write(p.onWrite)
			p.blocked.Store(false)
		} else {
			err = p.src.Read(p.onRead)
		}
		switch {
		case err != nil:
			return err
		case p.state == ended:
			return nil
		case p.state == broken:
			return p.err
		}
	}
}

// drop gives up the pipe, with what is in it.
func (p *pump) drop() {
	if p.pipe != nil {
		p.pool.pipes.put(p.pipe)
		p.pipe = nil
	}
}

// move moves what it can without waiting.
func (p *pump) move() {
	for {
		if p.pipe == nil && p.round >= bulk {
			p.pipe = p.pool.pipes.get()
		}
		if p.pipe != nil {
			p.splice()
		} else {
			p.copy()
		}
		switch p.state {
		case moved:
			continue
		case srcDry:
			p.round = 0
			p.drop()
		}
		return
	}
}

func (p *pump) fail(err error) { p.state, p.err = broken, err }

// copy sends what can be peeked at, and takes off what was sent.
func (p *pump) copy() {
	buf := p.pool.buffers.Get().(*[copySize]byte)
	defer p.pool.buffers.Put(buf)
	n, err := receive(p.srcFD, buf[:], unix.MSG_PEEK)
	switch {
	case err == unix.EAGAIN:
		p.state = srcDry
		return
	case err != nil:
		p.fail(err)
		return
	case n == 0:
		p.state = ended
		return
	}
	sent, err := send(p.dstFD, buf[:n])
	switch {
	case err == unix.EAGAIN:
		p.state = dstFull
		return
	case err != nil:
		p.fail(err)
		return
	}
	if _, err := receive(p.srcFD, buf[:sent], unix.MSG_TRUNC); err != nil {
		p.fail(err)
		return
	}
	p.count(sent)
	p.state = moved
	if sent < n {
		p.state = dstFull
	}
}

// splice fills the pipe when it is empty, and empties it.
func (p *pump) splice() {
	x := p.pipe
	if x.held == 0 {
		n, err := splice(p.srcFD, x.w, pipeSize)
		switch {
		case err == unix.EAGAIN:
			p.state = srcDry
			return
		case err != nil:
			p.fail(err)
			return
		case n == 0:
			p.state = ended
			return
		}
		x.held = n
	}
	n, err := splice(x.r, p.dstFD, x.held)
	switch {
	case err == unix.EAGAIN:
		p.state = dstFull
	case err != nil:
		p.fail(err)
	case n == 0:
		p.fail(io.ErrUnexpectedEOF)
	default:
		x.held -= n
		p.count(n)
		p.state = moved
	}
}

func (p *pump) count(n int) {
	p.round += n
	p.n.Add(uint64(n))
}

// receive, send and splice don't wait, and are repeated when a signal came. The
// first two are what package unix has, without an address to make.
func receive(fd int, b []byte, flags int) (int, error) {
	return transfer(unix.SYS_RECVFROM, fd, b, flags)
}

func send(fd int, b []byte) (int, error) {
	return transfer(unix.SYS_SENDTO, fd, b, unix.MSG_NOSIGNAL)
}

func transfer(call uintptr, fd int, b []byte, flags int) (int, error) {
	for {
		n, _, err := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
		switch err {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, err
		}
	}
}

func splice(from, to, most int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return int(n), err
		}
	}
}
