package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// advertise answers router solicitations on the LAN (RFC 4861): with the IPv6
// prefixes, for hosts to make addresses of (RFC 4862), or without one, with
// the word that this is no router. iPXE waits 16 s for either.
func (s *Site) advertise(mtu int) {
	s.lab.tb.Helper()
	var prefixes []netip.Prefix
	for _, p := range s.LAN.prefixes {
		if p.Addr().Is6() {
			prefixes = append(prefixes, p)
		}
	}
	var conn *icmp.PacketConn
	var dst net.IPAddr
	s.Router.must("advertise the router", func() error {
		if err := sysctl("ipv6/conf/lan/disable_ipv6", "0"); err != nil {
			return err
		}
		card, err := net.InterfaceByName("lan")
		if err != nil {
			return err
		}
		if conn, err = icmp.ListenPacket("ip6:ipv6-icmp", "::"); err != nil {
			return err
		}
		p := conn.IPv6PacketConn()
		var filter ipv6.ICMPFilter
		filter.SetAll(true)
		filter.Accept(ipv6.ICMPTypeRouterSolicitation)
		dst = net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "lan"}
		err = errors.Join(
			p.SetICMPFilter(&filter), p.SetMulticastHopLimit(255), p.SetMulticastInterface(card),
			p.JoinGroup(card, &net.IPAddr{IP: net.ParseIP("ff02::2")}),
		)
		if err != nil {
			conn.Close()
			return fmt.Errorf("set up ICMPv6: %w", err)
		}
		// The zone of a name is looked up in the namespace, so now.
		dst.Zone = fmt.Sprint(card.Index)
		return nil
	})
	message := advertisement(prefixes, mtu)
	s.lab.work.Add(1)
	go func() {
		defer s.lab.work.Done()
		buf := make([]byte, 1500)
		for {
			_, _, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteTo(message, &dst) // hosts ask again
			}
		}
	}()
	s.lab.onClose(conn.Close)
}

// advertisement is a router advertisement; the kernel fills in the checksum.
func advertisement(prefixes []netip.Prefix, mtu int) []byte {
	lifetime := uint16(0)
	if len(prefixes) > 0 {
		lifetime = 1800
	}
	b := []byte{134, 0, 0, 0, 64, 0}
	b = binary.BigEndian.AppendUint16(b, lifetime)
	b = append(b, make([]byte, 8)...)
	if mtu > 0 {
		b = append(b, 5, 1, 0, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(mtu))
	}
	const day = uint32(24 * time.Hour / time.Second)
	for _, p := range prefixes {
		b = append(b, 3, 4, byte(p.Bits()), 0xc0) // on this link, and to make addresses of
		b = binary.BigEndian.AppendUint32(b, day)
		b = binary.BigEndian.AppendUint32(b, day)
		b = append(b, 0, 0, 0, 0)
		a := p.Addr().As16()
		b = append(b, a[:]...)
	}
	return b
}
