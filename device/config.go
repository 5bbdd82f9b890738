package device

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
)

// What every device's tunnel is like.
const (
	MTU = wireguard.DefaultMTU
	// Keepalive keeps the way open through routers that translate addresses:
	// most forget a UDP flow after 30 seconds or more.
	Keepalive = 25 * time.Second
)

// Limits of a Config: more comes from no node.
const (
	maxEndpoints = 16
	maxRanges    = 16
	maxDNS       = 4
)

// Config is a machine's place in a network: its own key, and what the node by
// which it enters hands out to its account.
type Config struct {
	Title      string        // for people, one line: whose network, and which machine
	Domain     string        // of the network's names, like front.internal; "" if it has none
	PrivateKey wireguard.Key // made on this machine
	// Addresses of this machine in the network: one of each family at most.
	Addresses []netip.Addr
	DNS       []netip.Addr // the network's resolver; empty if it answers no devices
	Ranges    []netip.Prefix
	Entry     wireguard.Key // public key of the node by which it enters
	Preshared wireguard.Key
	// Endpoints are the public addresses of gateways that forward to the entry,
	// best first.
	Endpoints []netip.AddrPort
}

// Check refuses what would not work, or would take more than the network's own
// packets: code "reply-invalid", since all but the key is a node's answer.
func (c Config) Check() error {
	if err := c.check(); err != nil {
		return problem.New("reply-invalid", "the configuration of this device: %w", err)
	}
	return nil
}

func (c Config) check() error {
	switch {
	case c.PrivateKey.IsZero():
		return errors.New("it has no private key")
	case c.Entry.IsZero() || c.Preshared.IsZero():
		return errors.New("it lacks the entry's key or the preshared one")
	case c.Entry == c.PrivateKey.Public():
		return errors.New("the entry's key is this machine's own")
	case len(c.Addresses) == 0 || len(c.Addresses) > 2:
		return fmt.Errorf("it has %d addresses, want one or two", len(c.Addresses))
	case len(c.Ranges) == 0 || len(c.Ranges) > maxRanges:
		return fmt.Errorf("it has %d ranges, want 1 to %d", len(c.Ranges), maxRanges)
	case len(c.Endpoints) == 0 || len(c.Endpoints) > maxEndpoints:
		return fmt.Errorf("it has %d endpoints, want 1 to %d", len(c.Endpoints), maxEndpoints)
	case len(c.DNS) > maxDNS:
		return fmt.Errorf("it has %d resolvers, want at most %d", len(c.DNS), maxDNS)
	case !plainLine(c.Title) || !plainLine(c.Domain) || strings.ContainsAny(c.Domain, " ,"):
		return errors.New("its title or domain is more than one plain line")
	}
	for _, r := range c.Ranges {
		// A node is no way into the whole world, and must not become one.
		if !r.IsValid() || r != r.Masked() || !r.Addr().IsPrivate() && !shared.Contains(r.Addr()) || r.Addr().Is4() && r.Bits() < 8 || r.Addr().Is6() && r.Bits() < 48 {
			return fmt.Errorf("%s is no range of a private network", r)
		}
	}
	for _, a := range append(slices.Clone(c.Addresses), c.DNS...) {
		if !a.IsValid() || !c.within(a) {
			return fmt.Errorf("%s is not in the network", a)
		}
	}
	if len(c.Addresses) == 2 && c.Addresses[0].Is4() == c.Addresses[1].Is4() {
		return errors.New("it has two addresses of one family")
	}
	for _, e := range c.Endpoints {
		a := e.Addr()
		if !e.IsValid() || e.Port() == 0 || !a.IsGlobalUnicast() && !a.IsLoopback() || a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("%s is no endpoint", e)
		}
		if c.within(a) { // its own packets would go into the tunnel
			return fmt.Errorf("the endpoint %s is inside the network", e)
		}
	}
	return nil
}

// shared is the range of RFC 6598, in which networks may lie beside private ones.
var shared = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)

func (c Config) within(a netip.Addr) bool {
	return slices.ContainsFunc(c.Ranges, func(r netip.Prefix) bool { return r.Contains(a) })
}

// plainLine tells whether s can stand in a line of a file.
func plainLine(s string) bool {
	return len(s) <= 512 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
