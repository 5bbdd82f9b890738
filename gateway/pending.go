package gateway

import (
	"net"
	"sync"
)

// pending are the connections that haven't said a name yet, oldest first. When
// there are too many the oldest gives way: a client that is not slow has said
// it long before it is that.
type pending struct {
	mu          sync.Mutex
	first, last *waiting
	n, most     int
}

// waiting is one of them.
type waiting struct {
	c          *net.TCPConn
	prev, next *waiting
	in         bool
}

// add takes a connection in; what had to give way is closed, and true returned.
func (p *pending) add(c *net.TCPConn) (w *waiting, evicted bool) {
	w = &waiting{c: c, in: true}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n >= p.most {
		abort(p.first.c)
		p.drop(p.first)
		evicted = true
	}
	w.prev = p.last
	if p.last != nil {
		p.last.next = w
	} else {
		p.first = w
	}
	p.last = w
	p.n++
	return w, evicted
}

// remove takes it out, and returns false if it was closed to give way.
func (p *pending) remove(w *waiting) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !w.in {
		return false
	}
	p.drop(w)
	return true
}

func (p *pending) drop(w *waiting) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		p.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		p.last = w.prev
	}
	w.in, w.prev, w.next = false, nil, nil
	p.n--
}

// closeAll closes all that wait; those who hold them end them.
func (p *pending) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.first != nil {
		abort(p.first.c)
		p.drop(p.first)
	}
}

// abort closes a connection by a reset: nothing of it stays in the kernel.
func abort(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
