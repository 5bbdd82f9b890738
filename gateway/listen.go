package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// NetListener opens sockets in the process' own network namespace.
type NetListener struct{}

// ListenTCP listens at an address. What connections inherit of the socket is set
// here once: Go would set it on each of them by five system calls.
func (NetListener) ListenTCP(at netip.AddrPort) (*net.TCPListener, error) {
	c := net.ListenConfig{Control: control, KeepAlive: -1}
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// ListenUDP receives at an address.
func (NetListener) ListenUDP(at netip.AddrPort) (*net.UDPConn, error) {
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
}

// A peer that is gone is noticed after 60 s and 4 probes 15 s apart.
const (
	keepAlive      = time.Minute
	keepAliveEvery = 15 * time.Second
	keepAliveTimes = 4
)

// control sets what a listening socket hands down to its connections.
func control(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) { err = KeepAlive(int(fd)) })
	if cerr != nil {
		return cerr
	}
	return err
}

// KeepAlive sets on a TCP socket how soon a peer that is gone is noticed.
// Dialers set it on sockets to backends.
func KeepAlive(fd int) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveEvery / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveTimes},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set keepalive: %w", err)
		}
	}
	return nil
}
