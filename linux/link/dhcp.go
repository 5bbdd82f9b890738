package link

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// Lease is an address that a DHCP server lent us.
type Lease struct {
	Address Address
	Time    time.Duration // how long from now
	Server  string
}

// Bounds on what a server may say: the shortest protects us from asking without
// end, the longest from a lease that is never looked at again.
const (
	shortestLease = time.Minute
	longestLease  = 7 * 24 * time.Hour
	defaultLease  = time.Hour // when the server does not say
)

// DHCP asks for an address on the link until ctx ends.
func DHCP(ctx context.Context, name string) (Lease, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return Lease{}, fmt.Errorf("ask for an address on %s: %w", name, err)
	}
	// One short try after another, because a bridge may swallow the first packets.
	c, err := nclient4.New(name, nclient4.WithHWAddr(ifi.HardwareAddr),
		nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(3))
	if err != nil {
		return Lease{}, fmt.Errorf("ask for an address on %s: %w", name, err)
	}
	defer c.Close()
	l, err := c.Request(ctx, dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU))
	if err != nil {
		return Lease{}, fmt.Errorf("ask for an address on %s: %w", name, err)
	}
	lease, err := parseAck(l.ACK)
	if err != nil {
		return Lease{}, fmt.Errorf("ask for an address on %s: %w", name, err)
	}
	return lease, nil
}

// parseAck reads a server's answer, which may hold anything.
func parseAck(ack *dhcpv4.DHCPv4) (Lease, error) {
	ip, mask := ack.YourIPAddr.To4(), ack.SubnetMask()
	if ip == nil || !usable(ip) {
		return Lease{}, fmt.Errorf("the server offers %v, which no machine can have", ack.YourIPAddr)
	}
	ones, bits := mask.Size()
	if bits != 32 || ones == 0 {
		mask = ip.DefaultMask() // the server sent none, or nonsense
	}
	l := Lease{
		Address: Address{Prefix: (&net.IPNet{IP: ip, Mask: mask}).String()},
		Time:    min(max(ack.IPAddressLeaseTime(defaultLease), shortestLease), longestLease),
	}
	if id := ack.ServerIdentifier(); id != nil {
		l.Server = id.String()
	}
	if r := ack.Router(); len(r) > 0 && usable(r[0]) {
		l.Address.Gateway = r[0].String()
	}
	for _, d := range ack.DNS() {
		if len(l.Address.DNS) < 3 && usable(d) {
			l.Address.DNS = append(l.Address.DNS, d.String())
		}
	}
	// What no Ethernet has is ignored, since setting it would fail for ever.
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= 1280 && mtu <= 9000 {
		l.Address.MTU = int(mtu)
	}
	return l, nil
}

func usable(ip net.IP) bool {
	return ip.To4() != nil && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback() && !ip.Equal(net.IPv4bcast)
}
