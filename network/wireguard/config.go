package wireguard

import (
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// check refuses a Config that cannot be meant, and fills in what was left out.
func (c *Config) check() error {
	// What the kernel allows in a name, minus what it would take for a pattern.
	if len(c.Name) == 0 || len(c.Name) > 15 || c.Name == "." || c.Name == ".." || strings.ContainsAny(c.Name, "/:% \t\n\r\v\f\x00") {
		return fmt.Errorf("WireGuard interface name %.40q: want 1 to 15 characters without space, slash, colon or percent", c.Name)
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.MTU < 576 || c.MTU > MaxMTU {
		return fmt.Errorf("MTU %d of %s: want 576 to %d", c.MTU, c.Name, MaxMTU)
	}
	if c.NetNS <= 0 {
		return fmt.Errorf("WireGuard interface %s: no router namespace given", c.Name)
	}
	if c.RelayOnly && c.Engine == Kernel {
		return fmt.Errorf("WireGuard interface %s: the kernel's engine always opens a UDP socket, so relay-only needs userspace", c.Name)
	}
	if c.Engine < Auto || c.Engine > Userspace {
		return fmt.Errorf("WireGuard interface %s: unknown engine %d", c.Name, c.Engine)
	}
	if c.ToRelay == nil {
		c.ToRelay = func(Key, []byte) {}
	}
	if c.OnProbe == nil {
		c.OnProbe = func(netip.AddrPort, []byte) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// check refuses a peer that one of the engines would refuse or misread, and
// returns it in the one form in which peers are compared.
func (p Peer) check(own Key) (Peer, error) {
	if p.PublicKey.IsZero() || p.PublicKey == own {
		return Peer{}, fmt.Errorf("peer %s: its public key is missing, or this device's own", p.PublicKey)
	}
	if p.Keepalive < 0 || p.Keepalive%time.Second != 0 || p.Keepalive/time.Second > math.MaxUint16 {
		return Peer{}, fmt.Errorf("peer %s: keepalive %v is not 0 to 65535 whole seconds", p.PublicKey, p.Keepalive)
	}
	ips := make([]netip.Prefix, 0, len(p.AllowedIPs))
	for _, ip := range p.AllowedIPs {
		if !ip.IsValid() || ip.Addr().Is4In6() {
			return Peer{}, fmt.Errorf("peer %s: allowed addresses %v are no prefix", p.PublicKey, ip)
		}
		ips = append(ips, ip.Masked())
	}
	slices.SortFunc(ips, netip.Prefix.Compare)
	p.AllowedIPs = slices.Compact(ips)
	return p, nil
}

// without is the peer after another was given some addresses, which takes them
// from it, in both engines. It is remembered, so that giving one back is seen as a
// change.
func (p Peer) without(ips []netip.Prefix) Peer {
	p.AllowedIPs = slices.DeleteFunc(slices.Clone(p.AllowedIPs), func(ip netip.Prefix) bool { return slices.Contains(ips, ip) })
	return p
}

// checkDirect refuses what is no address that a packet can be sent to.
func checkDirect(a netip.AddrPort) (netip.AddrPort, error) {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	// A link-local address means nothing without its link, and links are named
	// differently in every namespace.
	if !a.IsValid() || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().Zone() != "" || a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() {
		return a, fmt.Errorf("%s is no address to send to", a)
	}
	return a, nil
}

// CheckProbe refuses what no device sends as a probe: nothing, too much, and what
// begins as a message of WireGuard does.
func CheckProbe(b []byte) error {
	if len(b) == 0 || len(b) > MaxProbe {
		return fmt.Errorf("probe of %d bytes: want 1 to %d", len(b), MaxProbe)
	}
	if b[0] >= 1 && b[0] <= 4 {
		return fmt.Errorf("probe begins with %#02x, as WireGuard's messages do", b[0])
	}
	return nil
}

// IsInitiation tells whether a packet that a device gave to ToRelay asks its
// peer for a handshake.
func IsInitiation(packet []byte) bool {
	return len(packet) == device.MessageInitiationSize && packet[0] == device.MessageInitiationType
}

func isProbe(b []byte) bool {
	return len(b) >= len(ProbeMagic) && len(b) <= MaxProbe && string(b[:len(ProbeMagic)]) == ProbeMagic
}
