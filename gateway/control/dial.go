package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/gateway"
)

// Bounds of the stock of sockets of one network.
const (
	minStock = 8   // it begins with
	maxStock = 256 // under load: half a minute of connections while a daemon restarts needs more than any stock
)

// Dialer connects sockets that the daemon made in a tenant's namespace. It keeps
// some of each network ready, more of those that are used more, so that a
// connection rarely waits for the daemon, and some can be made while it is away.
type Dialer struct {
	fetch func(context.Context, SocketsRequest) ([]int, error)

	mu     sync.Mutex
	stocks map[string]*stock
	closed bool
	life   context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup
}

// stock is the unconnected TCP sockets of one network.
type stock struct {
	fds     []int
	want    int  // how many are to be there
	filling bool // somebody asks for more
	failed  error
	more    chan struct{} // closed and made anew when some came, or it failed
}

// NewDialer makes a Dialer of the process' sockets. Close it.
func NewDialer(p *Process) *Dialer { return newDialer(p.Sockets) }

func newDialer(fetch func(context.Context, SocketsRequest) ([]int, error)) *Dialer {
	d := &Dialer{fetch: fetch, stocks: map[string]*stock{}}
	d.life, d.end = context.WithCancel(context.Background())
	return d
}

// Keep forgets the stocks of networks that are not among these, and closes their
// sockets.
func (d *Dialer) Keep(networks map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, s := range d.stocks {
		if !networks[name] {
			s.close()
			delete(d.stocks, name)
		}
	}
}

// Close closes all sockets that are not connected.
func (d *Dialer) Close() {
	d.mu.Lock()
	d.closed = true
	for name, s := range d.stocks {
		s.close()
		delete(d.stocks, name)
	}
	d.mu.Unlock()
	d.end()
	d.wg.Wait()
}

func (s *stock) close() {
	for _, fd := range s.fds {
		unix.Close(fd)
	}
	s.fds = nil
}

// Dial connects to an address in a network, by "tcp" or "udp". The connection is
// one of gateway.Connect or a *net.UDPConn. Errors of the connection itself are
// syscall errors or deadlines; all others are the dialer's.
func (d *Dialer) Dial(ctx context.Context, network, proto string, to netip.AddrPort) (net.Conn, error) {
	if !to.IsValid() {
		return nil, errors.New("dial: no address")
	}
	fd, err := d.socket(ctx, network, proto == "udp")
	if err != nil {
		return nil, fmt.Errorf("get a socket of network %s: %w", network, err)
	}
	var c net.Conn
	if proto == "udp" {
		c, err = datagrams(fd, to)
	} else {
		c, err = gateway.Connect(ctx, fd, to)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: proto, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

// socket takes one out of the stock.
func (d *Dialer) socket(ctx context.Context, network string, udp bool) (int, error) {
	if udp {
		fds, err := d.fetch(ctx, SocketsRequest{Network: network, UDP: true, Count: 1})
		if err != nil {
			return -1, err
		}
		for _, fd := range fds[1:] {
			unix.Close(fd)
		}
		return fds[0], nil
	}
	for waited := false; ; waited = true {
		d.mu.Lock()
		if d.closed {
			d.mu.Unlock()
			return -1, net.ErrClosed
		}
		s := d.stocks[network]
		if s == nil {
			s = &stock{want: minStock, more: make(chan struct{})}
			d.stocks[network] = s
		}
		if n := len(s.fds); n > 0 {
			fd := s.fds[n-1]
			s.fds = s.fds[:n-1]
			if n-1 < s.want/2 {
				d.fill(network, s)
			}
			d.mu.Unlock()
			return fd, nil
		}
		if waited && s.failed != nil {
			err := s.failed
			d.mu.Unlock()
			return -1, err
		}
		s.want = min(2*s.want, maxStock)
		d.fill(network, s)
		more := s.more
		d.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return -1, fmt.Errorf("%w: %w", ErrAway, context.Cause(ctx))
		}
	}
}

// fill asks for more, unless somebody does already. The caller holds the lock.
func (d *Dialer) fill(network string, s *stock) {
	if s.filling || d.closed {
		return
	}
	s.filling, s.failed = true, nil
	count := min(s.want-len(s.fds), MaxBatch)
	d.wg.Go(func() {
		ctx, cancel := context.WithTimeout(d.life, askTimeout)
		fds, err := d.fetch(ctx, SocketsRequest{Network: network, Count: uint64(count)})
		cancel()
		d.mu.Lock()
		defer d.mu.Unlock()
		s.filling, s.failed = false, err
		s.fds = append(s.fds, fds...)
		if d.stocks[network] != s {
			s.close() // forgotten meanwhile
			s.failed = net.ErrClosed
		}
		close(s.more)
		s.more = make(chan struct{})
	})
}

// datagrams connects a socket for UDP, which it owns from now on; that takes no time.
func datagrams(fd int, to netip.AddrPort) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	// The sockets are of family IPv6 and take both.
	if err := unix.Connect(fd, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}
