package netlab

import (
	"io"
	"net"
	"sync"
)

// Forward accepts TCP connections in the host and leads each to an address
// outside of the laboratory, in this process's own namespace: so that services
// of the machine, as those of a grid on its loopback, are seen by hosts as the
// host's. They see the machine's loopback as the client. It returns where it
// listens.
func (h *Host) Forward(listen, outside string) net.Addr {
	h.lab.tb.Helper()
	l := h.Listen("tcp", listen)
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	closed := false
	// keep notes a connection for Close, or closes it if that was called.
	keep := func(c net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			c.Close()
			return false
		}
		open[c] = struct{}{}
		return true
	}
	drop := func(c net.Conn) {
		c.Close()
		mu.Lock()
		defer mu.Unlock()
		delete(open, c)
	}
	h.lab.work.Add(1)
	go func() {
		defer h.lab.work.Done()
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			if !keep(in) {
				return
			}
			h.lab.work.Add(1)
			go func() {
				defer h.lab.work.Done()
				defer drop(in)
				out, err := net.Dial("tcp", outside)
				if err != nil || !keep(out) {
					return
				}
				defer drop(out)
				splice(in.(*net.TCPConn), out.(*net.TCPConn))
			}()
		}
	}()
	h.lab.onClose(func() error {
		err := l.Close()
		mu.Lock()
		defer mu.Unlock()
		closed = true
		for c := range open {
			c.Close()
		}
		return err
	})
	return l.Addr()
}

// splice copies both ways until both have ended.
func splice(a, b *net.TCPConn) {
	var wg sync.WaitGroup
	for _, d := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		wg.Go(func() {
			_, err := io.Copy(d[0], d[1])
			if err != nil {
				// One direction broke: so has the connection.
				d[0].Close()
				d[1].Close()
				return
			}
			_ = d[0].CloseWrite()
		})
	}
	wg.Wait()
}
