package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is a network card.
type Link struct {
	Index   int
	Name    string
	MAC     string // lower case, colons
	Carrier bool   // something answers at the other end of the cable
}

// List returns the machine's network cards by name: links with hardware behind
// them, so no loopback, tunnel or bridge.
func List() ([]Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	var links []Link
	for _, l := range all {
		a := l.Attrs()
		if _, err := os.Lstat(filepath.Join("/sys/class/net", a.Name, "device")); err != nil {
			continue
		}
		links = append(links, Link{
			Index: a.Index,
			Name:  a.Name,
			MAC:   a.HardwareAddr.String(),
			// IFF_LOWER_UP, not operstate, which lags a second behind.
			Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
		})
	}
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return links, nil
}

// Up switches the link on.
func Up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// WaitCarrier waits until at least one card has a carrier and returns all that
// have, those whose MAC is prefer first. A preferred card gets a second more
// than the others before it is given up.
func WaitCarrier(ctx context.Context, prefer string) ([]Link, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var firstSeen time.Time
	for {
		links, err := List()
		if err != nil {
			return nil, err
		}
		preferable := slices.ContainsFunc(links, func(l Link) bool { return l.MAC == prefer && !l.Carrier })
		links = slices.DeleteFunc(links, func(l Link) bool { return !l.Carrier })
		if len(links) > 0 {
			if firstSeen.IsZero() {
				firstSeen = time.Now()
			}
			if !preferable || time.Since(firstSeen) > time.Second {
				slices.SortStableFunc(links, func(a, b Link) int {
					switch {
					case a.MAC == prefer && b.MAC != prefer:
						return -1
					case b.MAC == prefer && a.MAC != prefer:
						return 1
					}
					return 0
				})
				return links, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a network cable: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Address is how a link talks to the world.
type Address struct {
	Prefix  string   // CIDR
	Gateway string   // empty: none
	DNS     []string // at most 3, as resolvers read no more
	MTU     int      // 0: leave it
}

// Apply gives the link the address and makes its gateway the default route. It
// takes away other IPv4 addresses of the link and may be repeated.
func Apply(name string, a Address) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("configure %s: %w", name, err)
	}
	want, err := netlink.ParseAddr(a.Prefix)
	if err != nil {
		return fmt.Errorf("configure %s: address %q: %w", name, a.Prefix, err)
	}
	if a.MTU != 0 && a.MTU != l.Attrs().MTU {
		if err := netlink.LinkSetMTU(l, a.MTU); err != nil {
			return fmt.Errorf("configure %s: set MTU %d: %w", name, a.MTU, err)
		}
	}
	if err := netlink.AddrReplace(l, want); err != nil {
		return fmt.Errorf("configure %s: add %s: %w", name, a.Prefix, err)
	}
	old, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("configure %s: list addresses: %w", name, err)
	}
	for _, o := range old {
		if !o.Equal(*want) {
			if err := netlink.AddrDel(l, &o); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("configure %s: remove %s: %w", name, o.IPNet, err)
			}
		}
	}
	if a.Gateway == "" {
		return nil
	}
	gw := net.ParseIP(a.Gateway)
	if gw == nil {
		return fmt.Errorf("configure %s: gateway %q is no address", name, a.Gateway)
	}
	route := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("configure %s: default route via %s: %w", name, a.Gateway, err)
	}
	return nil
}

// ResolvConf returns the text of a resolv.conf for the name servers.
func ResolvConf(dns []string) string {
	var b strings.Builder
	for _, d := range dns {
		if net.ParseIP(d) != nil {
			fmt.Fprintf(&b, "nameserver %s\n", d)
		}
	}
	return b.String()
}
