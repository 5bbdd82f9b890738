package netlab

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// Forward accepts TCP connections in the host and leads each to an address
// outside of the laboratory, in this process's own namespace: so that services
// of the machine, as those of a grid on its loopback, are seen by hosts as the
// host's. They see the machine's loopback as the client. It returns where it
// listens.
func (h *Host) Forward(listen, outside string) net.Addr {
	h.lab.tb.Helper()
	return h.lab.carry(h.Listen("tcp", listen), func() (net.Conn, error) { return net.Dial("tcp", outside) })
}

// Reach is the other way round: it accepts TCP connections at an address outside
// of the laboratory and leads each to one that the host can dial, so that
// programs of the machine reach services that run in the host.
func (h *Host) Reach(outside, inside string) net.Addr {
	h.lab.tb.Helper()
	l, err := net.Listen("tcp", outside)
	if err != nil {
		h.lab.tb.Fatalf("netlab: listen at %s: %v", outside, err)
	}
	return h.lab.carry(l, func() (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return h.Dial(ctx, "tcp", inside)
	})
}

// carry leads what l accepts to what dial makes, until the laboratory closes.
func (l *Lab) carry(in net.Listener, dial func() (net.Conn, error)) net.Addr {
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
	l.work.Add(1)
	go func() {
		defer l.work.Done()
		for {
			c, err := in.Accept()
			if err != nil {
				return
			}
			if !keep(c) {
				return
			}
			l.work.Add(1)
			go func() {
				defer l.work.Done()
				defer drop(c)
				out, err := dial()
				if err != nil || !keep(out) {
					return
				}
				defer drop(out)
				splice(c.(*net.TCPConn), out.(*net.TCPConn))
			}()
		}
	}()
	l.onClose(func() error {
		err := in.Close()
		mu.Lock()
		defer mu.Unlock()
		closed = true
		for c := range open {
			c.Close()
		}
		return err
	})
	return in.Addr()
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
