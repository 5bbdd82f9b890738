package gateway

import (
	"sync"

	"golang.org/x/sys/unix"
)

// pipes are the kernel's, through which bytes move from one socket to another
// without being copied (splice). A connection has one only while bytes move: an
// idle one would cost two open files and pages that the kernel grants a user
// a bounded number of (fs.pipe-user-pages-soft, 64 MiB).
type pipes struct {
	mu   sync.Mutex
	free []*pipe
	n    int // made
	most int
}

// pipe is one of them, empty when it is in the pool.
type pipe struct {
	r, w int
	held int // bytes in it
}

// pipeSize is what a pipe has by default; more was not faster.
const pipeSize = 64 << 10

// get returns an empty pipe, or nil if there are none to be had: then bytes are
// copied.
func (p *pipes) get() *pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		out := p.free[n-1]
		p.free = p.free[:n-1]
		return out
	}
	if p.n >= p.most {
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil
	}
	p.n++
	return &pipe{r: fds[0], w: fds[1]}
}

// idlePipes is how many wait for the next burst.
const idlePipes = 64

// put gives a pipe back; one that isn't empty is closed.
func (p *pipes) put(x *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x.held == 0 && len(p.free) < idlePipes {
		p.free = append(p.free, x)
		return
	}
	p.n--
	x.close()
}

func (x *pipe) close() {
	_ = unix.Close(x.r)
	_ = unix.Close(x.w)
}

func (p *pipes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.free {
		x.close()
	}
	p.n -= len(p.free)
	p.free = nil
}
