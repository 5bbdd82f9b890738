package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread that is in the network namespace of the file
// descriptor: a socket belongs for ever to the one it was made in.
func inNamespace(netns int, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- onThread(netns, f) }()
	return <-done
}

func onThread(netns int, f func() error) error {
	// A thread that can't go back stays locked, and ends with this goroutine.
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the thread's network namespace: %w", err)
	}
	defer func() { _ = own.Close() }()
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	err = f()
	if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// freebind lets a socket be bound to an address that its interface is only about
// to get, or that IPv6 is still asking its neighbours about.
func freebind(network, _ string, c syscall.RawConn) error {
	var err error
	set := func(fd uintptr) {
		if network == "udp4" || network == "tcp4" {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		}
	}
	if e := c.Control(set); e != nil {
		return e
	}
	return err
}

// family is the suffix of Go's network names for an address.
func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// listen opens the sockets of one address inside the namespace.
func listen(ctx context.Context, netns int, at netip.AddrPort) (u *net.UDPConn, t *net.TCPListener, err error) {
	lc := net.ListenConfig{Control: freebind}
	err = inNamespace(netns, func() error {
		p, err := lc.ListenPacket(ctx, "udp"+family(at.Addr()), at.String())
		if err != nil {
			return err
		}
		l, err := lc.Listen(ctx, "tcp"+family(at.Addr()), at.String())
		if err != nil {
			_ = p.Close()
			return err
		}
		u, t = p.(*net.UDPConn), l.(*net.TCPListener)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listen for questions at %s: %w", at, err)
	}
	return u, t, nil
}
