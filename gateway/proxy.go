package gateway

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// proxyHeader is what a backend is told a client's address by (HAProxy's
// doc/proxy-protocol.txt §2): version 1 is a line, 2 is binary.
func proxyHeader(version int, udp bool, client, public netip.AddrPort) []byte {
	client = netip.AddrPortFrom(client.Addr().Unmap().WithZone(""), client.Port())
	public = netip.AddrPortFrom(public.Addr().Unmap().WithZone(""), public.Port())
	v4 := client.Addr().Is4() && public.Addr().Is4()
	if version == 1 {
		family := "TCP6 "
		if v4 {
			family = "TCP4 "
		}
		return []byte("PROXY " + family + client.Addr().String() + " " + public.Addr().String() + " " +
			strconv.Itoa(int(client.Port())) + " " + strconv.Itoa(int(public.Port())) + "\r\n")
	}
	const inet4, inet6 = 0x10, 0x20
	family, from, to := byte(inet6), client.Addr().As16(), public.Addr().As16()
	addresses := append(from[:], to[:]...)
	if v4 {
		a, b := client.Addr().As4(), public.Addr().As4()
		family, addresses = inet4, append(a[:], b[:]...)
	}
	if udp {
		family |= 2
	} else {
		family |= 1
	}
	out := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, family) // version 2, on behalf of another
	out = binary.BigEndian.AppendUint16(out, uint16(len(addresses)+4))
	out = append(out, addresses...)
	out = binary.BigEndian.AppendUint16(out, client.Port())
	return binary.BigEndian.AppendUint16(out, public.Port())
}
