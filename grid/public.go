package grid

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/sign"
)

// Ports that contracts can lease at the shared address of a gateway, besides 80
// and 443. Each is a forward of QEMU's.
const (
	firstPublicPort = 30000
	lastPublicPort  = 30015
)

// publicNet is the segment that QEMU plays behind a gateway's public card. Its
// addresses are for documentation (RFC 5737), so they are nobody's.
const publicNet = "198.51.100.0/24"

// Public is the public side of a machine: a second card, and the farm's
// addresses at it.
type Public struct {
	Args []string // QEMU's, for the card
	Pool contract.Pool
	// Forwards is at which address of this host's loopback each public one is
	// reached, both like 198.51.100.8:443/tcp; empty if it is reached by itself.
	Forwards map[string]string
}

// loopbackPublic plays the public side of machine number i on this host's
// loopback: eight addresses, of which the first is shared.
func loopbackPublic(i int) (Public, error) {
	base := netip.MustParsePrefix(publicNet).Addr().As4()
	at := func(n int) netip.Addr {
		a := base
		a[3] = byte(8*i + n)
		return netip.AddrFrom4(a)
	}
	router := base
	router[3] = 1
	p := Public{
		Forwards: map[string]string{},
		Pool: contract.Pool{
			MAC: publicMACOf(i), Shared: []string{at(0).String()}, First: firstPublicPort, Last: lastPublicPort,
			Ranges: []contract.Range{{Prefix: publicNet, Router: netip.AddrFrom4(router).String(), First: at(0).String(), Last: at(7).String()}},
		},
	}
	type end struct {
		address netip.Addr
		port    int
	}
	ends := []end{{at(0), 80}, {at(0), 443}, {at(0), 53}, {at(1), 80}, {at(1), 443}}
	for port := firstPublicPort; port <= lastPublicPort; port++ {
		ends = append(ends, end{at(0), port})
	}
	user := strings.Builder{}
	fmt.Fprintf(&user, "user,id=public,net=%s,host=%s,dns=%s,dhcpstart=%s,ipv6=off", publicNet, netip.AddrFrom4(router), netip.AddrFrom4(router).Next(),
		netip.AddrFrom4([4]byte{base[0], base[1], base[2], 240}))
	var held []io.Closer // until all are found, so that none is found twice
	defer func() {
		for _, h := range held {
			_ = h.Close()
		}
	}()
	for _, e := range ends {
		for _, proto := range []string{"tcp", "udp"} {
			if proto == "udp" && (e.port == 80 || e.port == 443) {
				continue
			}
			h, host, err := holdPort(proto)
			if err != nil {
				return p, err
			}
			held = append(held, h)
			public := netip.AddrPortFrom(e.address, uint16(e.port)).String() + "/" + proto
			p.Forwards[public] = net.JoinHostPort("127.0.0.1", strconv.Itoa(host)) + "/" + proto
			fmt.Fprintf(&user, ",hostfwd=%s:127.0.0.1:%d-%s:%d", proto, host, e.address, e.port)
		}
	}
	p.Args = []string{"-netdev", user.String(), "-device", "virtio-net-pci,netdev=public,romfile=,mac=" + publicMACOf(i)}
	return p, nil
}

// publicMACOf is the hardware address of the public card of node number i.
func publicMACOf(i int) string { return fmt.Sprintf("52:54:00:5b:%02x:%02x", i>>8&0xff, i&0xff) }

// holdPort takes a port of the loopback that nobody has; it is free again when what is
// returned is closed.
func holdPort(proto string) (io.Closer, int, error) {
	if proto == "udp" {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, 0, fmt.Errorf("find a free port: %w", err)
		}
		return c, c.LocalAddr().(*net.UDPAddr).Port, nil
	}
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, 0, fmt.Errorf("find a free port: %w", err)
	}
	return l, l.Addr().(*net.TCPAddr).Port, nil
}

// zoneOf is the domain of a grid of `zos up`: one that nobody can register
// (RFC 6761).
const zoneOf = "zos.test"

// openToThePublic makes the farm's public addresses and the grid's domain known, unless
// they are.
func (f *founding) openToThePublic(ctx context.Context, d dir, c *client.Client, machines []*machine, farmer sign.Signer) error {
	for i, m := range machines {
		if m.public == nil {
			continue
		}
		have, ok, err := client.Get[contract.PoolRecord](ctx, c, contract.KeyPool(f.slotIDs[i]))
		if err != nil {
			return err
		}
		want := m.public.Pool
		want.Farm, want.Slot, want.Sequence = f.farm, f.slotIDs[i], 1
		if ok {
			standing, _, _, err := contract.Open[contract.Pool](have.Signed, contract.KindPool, c.Grid())
			if err != nil {
				return err
			}
			if want.Sequence = standing.Sequence; samePool(c.Grid(), want, standing) {
				continue
			}
			want.Sequence++
		}
		if _, err := c.SetPool(ctx, want, farmer); err != nil {
			return fmt.Errorf("give %s its public addresses: %w", m.name, err)
		}
	}
	_, ok, err := client.Get[contract.ZoneRecord](ctx, c, contract.KeyZone)
	if err != nil || ok {
		return err
	}
	var signers []sign.Signer
	for _, name := range releaseKeys[:releaseThreshold] {
		s, err := d.signer(name)
		if err != nil {
			return err
		}
		signers = append(signers, s)
	}
	zone, err := c.NewZone(ctx, zoneOf, []canon.Hash{f.farm}, signers...)
	if err == nil {
		err = c.Submit(ctx, zone)
	}
	if err != nil {
		return fmt.Errorf("set the grid's domain: %w", err)
	}
	return nil
}

// samePool tells whether two pools say the same.
func samePool(grid canon.Hash, a, b contract.Pool) bool {
	a.Header, b.Header = contract.Header{}, contract.Header{}
	x, err := canon.Marshal(a)
	if err != nil {
		return false
	}
	y, err := canon.Marshal(b)
	return err == nil && string(x) == string(y)
}
