package segment

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Kind is what is at the other end of a port.
type Kind int

// The kinds of port.
const (
	Node    Kind = iota // the machine's network card
	Gateway             // the user network: gets only what is for it
	Peer                // whoever attached
)

// Bounds. A peer that does not read loses frames after queueSize of them; node
// and gateway lose none, the sender waits.
const (
	queueSize  = 1024
	maxPeers   = 16
	maxLearned = 1024
)

// Switch forwards frames between its ports.
type Switch struct {
	mu      sync.Mutex
	ports   map[*port]struct{}
	learned map[MAC]*port
	closed  bool

	listener *net.UnixListener
	path     string
	work     sync.WaitGroup
}

type port struct {
	kind  Kind
	conn  net.Conn
	queue chan []byte
	gone  chan struct{} // closed when the port is given up
	once  sync.Once
}

// New returns a switch without ports. Close it.
func New() *Switch {
	return &Switch{ports: map[*port]struct{}{}, learned: map[MAC]*port{}}
}

// Attach adds a port that speaks on conn, and takes conn over.
func (s *Switch) Attach(conn net.Conn, kind Kind) error {
	p := &port{kind: kind, conn: conn, queue: make(chan []byte, queueSize), gone: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	peers := 0
	for q := range s.ports {
		if q.kind == Peer {
			peers++
		}
	}
	if s.closed || kind == Peer && peers >= maxPeers {
		conn.Close()
		return fmt.Errorf("attach to segment: closed, or %d peers are attached already", peers)
	}
	s.ports[p] = struct{}{}
	s.work.Add(2)
	go s.read(p)
	go s.write(p)
	return nil
}

// Listen lets peers attach at a unix socket, which only this user may open.
// Close removes it.
func (s *Switch) Listen(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("open segment: %w", err)
	}
	defer dir.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short(dir, path), Net: "unix"})
	if err != nil {
		return fmt.Errorf("open segment %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it would use the short name
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("open segment: %w", err)
	}
	s.listener, s.path = l, path
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			_ = s.Attach(c, Peer) // the peer sees its connection close
		}
	}()
	return nil
}

// short names path through an open directory: the address of a unix socket has
// at most 107 bytes, paths have more.
func short(dir *os.File, path string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path)
}

// Dial attaches to the segment whose socket is at path. The connection carries
// frames as ReadFrame and AppendFrame know them.
func Dial(path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("attach to segment: %w", err)
	}
	defer dir.Close()
	c, err := net.Dial("unix", short(dir, path))
	if err != nil {
		return nil, fmt.Errorf("attach to segment %s: %w", path, err)
	}
	return c, nil
}

// Close detaches everyone, removes the socket and waits for its goroutines. It
// may be called again.
func (s *Switch) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.work.Wait()
		return nil
	}
	s.closed = true
	for p := range s.ports {
		p.giveUp()
	}
	l := s.listener
	s.mu.Unlock()
	var err error
	if l != nil {
		err = l.Close()
		if rm := os.Remove(s.path); rm != nil && !os.IsNotExist(rm) {
			err = rm
		}
	}
	s.work.Wait()
	if err != nil {
		return fmt.Errorf("close segment: %w", err)
	}
	return nil
}

func (p *port) giveUp() {
	p.once.Do(func() {
		close(p.gone)
		p.conn.Close()
	})
}

// read forwards what comes in at p until it ends.
func (s *Switch) read(p *port) {
	defer s.work.Done()
	defer s.detach(p)
	r := bufio.NewReaderSize(p.conn, 64<<10)
	for {
		frame, err := ReadFrame(r)
		if err != nil {
			return
		}
		for _, q := range s.route(p, frame) {
			q.send(frame)
		}
	}
}

func (s *Switch) detach(p *port) {
	p.giveUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, p)
	for mac, q := range s.learned {
		if q == p {
			delete(s.learned, mac)
		}
	}
}

// route learns where the sender is and returns the ports that get the frame.
func (s *Switch) route(from *port, frame []byte) []*port {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := origin(frame); !src.group() {
		old := s.learned[src]
		// A peer cannot take over the node's or the gateway's address.
		if (old == nil && len(s.learned) < maxLearned) || (old != nil && (old.kind == Peer || from.kind != Peer)) {
			s.learned[src] = from
		}
	}
	dst := destination(frame)
	if to := s.learned[dst]; to != nil && !dst.group() {
		if to == from {
			return nil
		}
		return []*port{to}
	}
	var to []*port
	for p := range s.ports {
		// What nobody is known for is not the gateway's: it would take it for
		// traffic to forward.
		if p != from && (dst.group() || p.kind != Gateway || from.kind == Node) {
			to = append(to, p)
		}
	}
	return to
}

func (p *port) send(frame []byte) {
	if p.kind == Peer {
		select {
		case p.queue <- frame:
		default: // its loss
		}
		return
	}
	select {
	case p.queue <- frame:
	case <-p.gone:
	}
}

// write sends what is queued for p, many frames at a time.
func (s *Switch) write(p *port) {
	defer s.work.Done()
	buf := make([]byte, 0, 64<<10)
	for {
		select {
		case f := <-p.queue:
			buf = AppendFrame(buf[:0], f)
		case <-p.gone:
			return
		}
		for more := true; more && len(buf) < 32<<10; {
			select {
			case f := <-p.queue:
				buf = AppendFrame(buf, f)
			default:
				more = false
			}
		}
		if _, err := p.conn.Write(buf); err != nil {
			p.giveUp() // the reader ends too, and detaches
			// Whoever waits to send sees gone.
			return
		}
	}
}

var _ io.Closer = (*Switch)(nil)
