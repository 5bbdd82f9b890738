package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Buffers of one connection, in bytes: what clients send is mostly small.
const (
	bufferIn  = 4 << 10
	bufferOut = 16 << 10
)

// spliced are the connections that were handed in.
type spliced struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

func (p *spliced) init() { p.conns = map[net.Conn]struct{}{} }

func (p *spliced) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	p.wg.Add(1)
	return true
}

func (p *spliced) remove(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	p.wg.Done()
}

func (p *spliced) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
}

// ServeConn serves one client on c until either side ends, and closes c. The
// engine bounds how long a client may take to say its role.
func (s *Server) ServeConn(c net.Conn) error {
	if !s.spliced.add(c) {
		c.Close()
		return errors.New("serve a bus client: the bus is stopping")
	}
	defer s.spliced.remove(c)
	defer c.Close()
	in, err := s.nats.InProcessConn()
	if err != nil {
		return fmt.Errorf("serve a bus client: %w", err)
	}
	defer in.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Neither has a method that would bypass the small buffer.
		io.CopyBuffer(onlyWriter{in}, onlyReader{c}, make([]byte, bufferIn))
		in.Close() // the engine may be in the middle of a write
	}()
	io.CopyBuffer(onlyWriter{c}, onlyReader{in}, make([]byte, bufferOut))
	c.Close()
	<-done
	return nil
}

type onlyWriter struct{ io.Writer }

type onlyReader struct{ io.Reader }
