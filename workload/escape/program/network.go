package main

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// networkAttempts try sockets that reach past a workload's own interfaces.
func networkAttempts() map[string]attempt {
	socket := func(domain, kind, proto int) attempt {
		return do(func() error {
			fd, err := unix.Socket(domain, kind, proto)
			if err == nil {
				unix.Close(fd)
			}
			return err
		})
	}
	option := func(level, name int) attempt {
		return do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.SetsockoptInt(fd, level, name, 1)
		})
	}
	connect := func(address string) attempt {
		return func() (string, string) {
			c, err := net.DialTimeout("tcp", address, 3*time.Second)
			if err == nil {
				c.Close()
				return "ok", address
			}
			if e, ok := err.(net.Error); ok && e.Timeout() {
				return "timeout", ""
			}
			return verdict(err)
		}
	}
	// netlink sends one request and reads the kernel's word.
	netlink := func(kind uint16, payload []byte) attempt {
		return do(func() error { return rtnetlink(unix.NETLINK_ROUTE, kind, payload) })
	}
	return map[string]attempt{
		"socket/packet":     socket(unix.AF_PACKET, unix.SOCK_RAW, 0x0300),
		"socket/packet-udp": socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0x0300),
		"socket/raw":        socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW),
		"socket/raw6":       socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6),
		"socket/vsock":      socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"socket/bluetooth":  socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 1),
		"socket/alg":        socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		"socket/xdp":        socket(unix.AF_XDP, unix.SOCK_RAW, 0),
		"vsock/to-host": do(func() error {
			fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: 1024})
			if err != unix.EINPROGRESS {
				return err
			}
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			if _, err := unix.Poll(p, 3000); err != nil {
				return err
			}
			soerr, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err != nil {
				return err
			}
			if soerr != 0 {
				return unix.Errno(soerr)
			}
			if p[0].Revents == 0 {
				return unix.ETIMEDOUT
			}
			return nil
		}),
		"option/transparent": option(unix.SOL_IP, unix.IP_TRANSPARENT),
		"option/mark":        option(unix.SOL_SOCKET, unix.SO_MARK),
		"option/bind-device": option(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE),
		"reach/metadata":     connect("169.254.169.254:80"),
		"reach/metadata6":    connect("[fd00:ec2::254]:80"),
		"reach/slirp":        connect("10.0.2.2:22"),
		"reach/node":         connect("10.0.2.15:22"),
		// AUDIT_SET, with a mask that changes nothing.
		"netlink/audit": do(func() error { return rtnetlink(unix.NETLINK_AUDIT, 1001, make([]byte, 32)) }),
		// Neighbour spoofing begins with an address, a MAC or a neighbour of one's own choice.
		"netlink/add-address":   netlink(unix.RTM_NEWADDR, []byte{unix.AF_INET, 8, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 10, 9, 8, 7}),
		"netlink/add-neighbour": netlink(unix.RTM_NEWNEIGH, []byte{unix.AF_INET, 0, 0, 0, 1, 0, 0, 0, 0x80, 0, 0, 0, 8, 0, 1, 0, 10, 9, 8, 7}),
		"netlink/link-down":     netlink(unix.RTM_NEWLINK, []byte{0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}),
		"netlink/add-route":     netlink(unix.RTM_NEWROUTE, []byte{unix.AF_INET, 32, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0, 8, 0, 1, 0, 10, 9, 8, 7, 8, 0, 4, 0, 1, 0, 0, 0}),
	}
}

func rtnetlink(protocol int, kind uint16, payload []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n := uint32(unix.NLMSG_HDRLEN + len(payload))
	msg := []byte{byte(n), byte(n >> 8), 0, 0, byte(kind), byte(kind >> 8),
		unix.NLM_F_REQUEST | unix.NLM_F_ACK, (unix.NLM_F_CREATE) >> 8, 1, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Sendto(fd, append(msg, payload...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4096)
	tv := unix.Timeval{Sec: 3}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	got, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return err
	}
	if got < 20 {
		return unix.EBADMSG
	}
	if code := int32(uint32(b[16]) | uint32(b[17])<<8 | uint32(b[18])<<16 | uint32(b[19])<<24); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}
