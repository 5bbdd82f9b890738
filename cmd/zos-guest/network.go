package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
)

// configure names the interfaces and gives them their addresses and routes, over
// rtnetlink (rtnetlink(7)).
func configure(ifaces []control.Iface) error {
	nl, err := dialNetlink()
	if err != nil {
		return err
	}
	defer nl.close()
	if lo, err := net.InterfaceByName("lo"); err == nil {
		if err := nl.up(lo.Index); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	// What has another's name gives it away first.
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 {
			if err := nl.rename(i.Index, fmt.Sprintf("nic%d", i.Index), 0); err != nil {
				return fmt.Errorf("rename %s: %w", i.Name, err)
			}
		}
	}
	for _, i := range ifaces {
		if err := nl.configure(i); err != nil {
			return fmt.Errorf("set up interface %.20q: %w", i.Name, err)
		}
	}
	return nil
}

func (n netlink) configure(i control.Iface) error {
	mac, err := net.ParseMAC(i.MAC)
	if err != nil {
		return err
	}
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	index := 0
	for _, have := range all {
		if have.HardwareAddr.String() == mac.String() {
			index = have.Index
		}
	}
	if index == 0 {
		return fmt.Errorf("the machine has none with address %s", mac)
	}
	if err := errors.Join(n.rename(index, i.Name, i.MTU), n.up(index)); err != nil {
		return err
	}
	for _, a := range i.Addresses {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return err
		}
		if err := n.address(index, p); err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
	}
	for _, r := range i.Routes {
		if err := n.route(index, r); err != nil {
			return fmt.Errorf("route to %.50q: %w", r.To, err)
		}
	}
	return nil
}

// netlink is a socket to the kernel's routing.
type netlink struct{ fd int }

func dialNetlink() (netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return netlink{}, fmt.Errorf("open netlink: %w", err)
	}
	return netlink{fd}, nil
}

func (n netlink) close() { _ = unix.Close(n.fd) }

// do sends one request and waits for the kernel's verdict.
func (n netlink) do(kind, flags uint16, body []byte) error {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(binary.NativeEndian.AppendUint64(b, 0), body...)
	if err := unix.Sendto(n.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 8<<10)
	got, _, err := unix.Recvfrom(n.fd, answer, 0)
	if err != nil {
		return err
	}
	if got < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer is none")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// attr appends an attribute, padded.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attr32(b []byte, kind uint16, v uint32) []byte {
	return attr(b, kind, binary.NativeEndian.AppendUint32(nil, v))
}

// linkMessage is a struct ifinfomsg.
func linkMessage(index int, flags uint32) []byte {
	b := binary.NativeEndian.AppendUint32(make([]byte, 4, 64), uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, flags)
}

// rename names an interface that is down, and sets its MTU unless that is 0.
func (n netlink) rename(index int, name string, mtu int) error {
	b := attr(linkMessage(index, 0), unix.IFLA_IFNAME, append([]byte(name), 0))
	if mtu > 0 {
		b = attr32(b, unix.IFLA_MTU, uint32(mtu))
	}
	return n.do(unix.RTM_NEWLINK, 0, b)
}

func (n netlink) up(index int) error {
	return n.do(unix.RTM_NEWLINK, 0, linkMessage(index, unix.IFF_UP))
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (n netlink) address(index int, p netip.Prefix) error {
	flags := byte(0)
	if !p.Addr().Is4() {
		// The node's router answers for it; waiting for a duplicate costs a second.
		flags = unix.IFA_F_NODAD
	}
	b := []byte{family(p.Addr()), byte(p.Bits()), flags, unix.RT_SCOPE_UNIVERSE} // struct ifaddrmsg
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = attr(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	b = attr(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
	return n.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
}

func (n netlink) route(index int, r control.Route) error {
	to, err := netip.ParsePrefix(r.To)
	if err != nil {
		return err
	}
	scope, flags := byte(unix.RT_SCOPE_LINK), uint32(0)
	var via netip.Addr
	if r.Via != "" {
		if via, err = netip.ParseAddr(r.Via); err != nil {
			return err
		}
		scope = unix.RT_SCOPE_UNIVERSE
	}
	if !to.Addr().Is4() {
		scope = unix.RT_SCOPE_UNIVERSE
	}
	if r.OnLink {
		flags = unix.RTNH_F_ONLINK
	}
	// struct rtmsg
	b := []byte{family(to.Addr()), byte(to.Bits()), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, scope, unix.RTN_UNICAST}
	b = binary.NativeEndian.AppendUint32(b, flags)
	if to.Bits() > 0 {
		b = attr(b, unix.RTA_DST, to.Masked().Addr().AsSlice())
	}
	b = attr32(b, unix.RTA_OIF, uint32(index))
	switch {
	case via.IsValid() && via.Is4() == to.Addr().Is4():
		b = attr(b, unix.RTA_GATEWAY, via.AsSlice())
	case via.IsValid():
		// An IPv4 route over an IPv6 neighbour: struct rtvia.
		b = attr(b, unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, uint16(family(via))), via.AsSlice()...))
	}
	return n.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
}
