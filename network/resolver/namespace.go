package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/netns"
)

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
func listen(ctx context.Context, ns int, at netip.AddrPort) (u *net.UDPConn, t *net.TCPListener, err error) {
	lc := net.ListenConfig{Control: freebind}
	err = netns.Do(ns, func() error {
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
