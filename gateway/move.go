package gateway

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// move moves bytes from src to dst until src ends. Sockets are joined in the
// kernel; others, of a Dialer that has none, through a buffer.
func (s *Server) move(dst, src net.Conn, n *atomic.Uint64, blocked *atomic.Bool) error {
	from, ok := src.(syscall.Conn)
	to, ok2 := dst.(syscall.Conn)
	if !ok || !ok2 {
		return copyBytes(dst, src, n, blocked)
	}
	p := pump{pool: s.mover, n: n, blocked: blocked}
	var err error
	if p.src, p.srcFD, err = descriptor(from); err != nil {
		return err
	}
	if p.dst, p.dstFD, err = descriptor(to); err != nil {
		return err
	}
	return p.run()
}

func copyBytes(dst, src net.Conn, n *atomic.Uint64, blocked *atomic.Bool) error {
	buf := make([]byte, 8<<10)
	for {
		k, rerr := src.Read(buf)
		if k > 0 {
			blocked.Store(true)
			w, err := dst.Write(buf[:k])
			blocked.Store(false)
			n.Add(uint64(w))
			if err != nil {
				return err
			}
		}
		if rerr != nil {
			if errors.Is(rerr, io.EOF) {
				return nil
			}
			return rerr
		}
	}
}
