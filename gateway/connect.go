package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Connect connects a TCP socket that a Dialer was given, and owns it from now
// on. It must not block (SOCK_NONBLOCK). An error of the connection itself is a syscall.Errno in an
// *os.SyscallError. Unlike net.FileConn it makes no second descriptor, and
// takes half as many system calls.
func Connect(ctx context.Context, fd int, to netip.AddrPort) (net.Conn, error) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("getsockopt", err)
	}
	address := sockaddr(family, to)
	// The runtime learns of the socket when it is being connected: before, it
	// would be told that the socket is ready.
	err = unix.Connect(fd, address)
	if err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	s := &socket{File: os.NewFile(uintptr(fd), "socket"), to: net.TCPAddrFromAddrPort(to)}
	if err != nil {
		err = s.await(ctx, address)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = setSilence(fd, connectionSilence)
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// connectionSilence is for how long a backend may confirm nothing of what it was
// sent, instead of a quarter of an hour: what is forwarded blindly may be worth
// more to its ends than a soon end of it. A node's daemon that is restarted, and the
// tunnel with it where the kernel has none, is back before.
const connectionSilence = 30 * time.Second

func sockaddr(family int, to netip.AddrPort) unix.Sockaddr {
	if a := to.Addr().Unmap(); family == unix.AF_INET && a.Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// socket is a connected TCP socket as a file.
type socket struct {
	*os.File
	to *net.TCPAddr
}

// await waits until a connection was made, or could not be: connect tells which,
// when it is called again.
func (s *socket) await(ctx context.Context, to unix.Sockaddr) error {
	stop := context.AfterFunc(ctx, func() { _ = s.SetWriteDeadline(time.Unix(1, 0)) })
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		switch failed = unix.Connect(int(fd), to); failed {
		case nil, unix.EISCONN:
			failed = nil
			return true
		case unix.EALREADY, unix.EINTR, unix.EINPROGRESS:
			return false
		}
		failed = os.NewSyscallError("connect", failed)
		return true
	})
	if !stop() {
		return context.Cause(ctx)
	}
	return errors.Join(err, failed)
}

// Read returns io.EOF at the end, as a net.Conn does.
func (s *socket) Read(b []byte) (int, error) {
	n, err := s.File.Read(b)
	if n == 0 && err == nil && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// CloseWrite ends this direction.
func (s *socket) CloseWrite() error {
	return onSocket(s, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// SetLinger is that of a *net.TCPConn.
func (s *socket) SetLinger(seconds int) error {
	l := unix.Linger{Onoff: 1, Linger: int32(max(0, seconds))}
	if seconds < 0 {
		l.Onoff = 0
	}
	return onSocket(s, func(fd int) error { return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &l) })
}

// RemoteAddr is what was connected to.
func (s *socket) RemoteAddr() net.Addr { return s.to }

// LocalAddr is the socket's own, asked for when it is needed.
func (s *socket) LocalAddr() net.Addr {
	out := &net.TCPAddr{}
	_ = onSocket(s, func(fd int) error {
		a, err := unix.Getsockname(fd)
		switch a := a.(type) {
		case *unix.SockaddrInet4:
			out.IP, out.Port = a.Addr[:], a.Port
		case *unix.SockaddrInet6:
			out.IP, out.Port = a.Addr[:], a.Port
		}
		return err
	})
	return out
}

var _ interface {
	net.Conn
	syscall.Conn
} = (*socket)(nil)
