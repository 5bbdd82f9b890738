package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/bench/table"
	"github.com/zero-os/zos/device"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/spec/plan"
)

// Where a laptop, a gateway and a node are. The laptop reaches the gateway only.
const (
	laptopLink  = "192.0.2.1/24"
	publicLink  = "192.0.2.2/24"
	gatewayLink = "10.66.0.1/24"
	routerLink  = "10.66.0.2/24"
	databaseAt  = "10.20.2.1:5432" // in the network
)

// join is what zos net join takes from when it has the node's answer to the first
// packet that comes back out of the network.
func (b *bench) join() error {
	spaces := map[string]*os.File{}
	for _, name := range []string{"laptop", "public", "node"} {
		ns, err := newNetNS()
		if err != nil {
			return err
		}
		defer ns.Close()
		spaces[name] = ns
	}
	for _, link := range [][4]string{{"laptop", laptopLink, "public", publicLink}, {"public", gatewayLink, "node", routerLink}} {
		if err := wire(spaces[link[0]], link[2], link[1], spaces[link[2]], link[0], link[3]); err != nil {
			return err
		}
	}
	own, entry := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	c := device.Config{
		Title: "laptop", Domain: "front.internal", PrivateKey: own,
		Addresses: []netip.Addr{netip.MustParseAddr("10.20.2.5"), netip.MustParseAddr("fd3a:91c7:5e02:1402::5")},
		DNS:       []netip.Addr{netip.MustParseAddr("10.20.2.1")},
		Ranges:    []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd3a:91c7:5e02::/48")},
		Entry:     entry.Public(), Preshared: wireguard.NewPrivateKey(),
		Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParsePrefix(publicLink).Addr(), joinPort)},
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	node, err := roleIn(spaces["node"], "entry", entry.String(), string(text))
	if err != nil {
		return err
	}
	defer node.stop()
	to := netip.AddrPortFrom(netip.MustParsePrefix(routerLink).Addr(), plan.EntryPort).String()
	gate, err := roleIn(spaces["public"], "gateway", serving{At: c.Endpoints[0].Addr().String(), Entry: to}.arg())
	if err != nil {
		return err
	}
	defer gate.stop()
	all := map[string][]float64{}
	most := map[string]float64{}
	for range 2 * b.turns {
		for _, way := range []string{"packet", "connection"} {
			p, err := roleIn(spaces["laptop"], "join", string(text), way)
			if err != nil {
				return err
			}
			var seconds float64
			err = p.ask("go", &seconds)
			p.stop()
			if err != nil {
				return fmt.Errorf("join: %w", err)
			}
			all[way] = append(all[way], seconds)
			most[way] = max(most[way], seconds)
		}
	}
	b.Add("zos net join, from the node's answer to the first packet back out of the network",
		fmt.Sprintf("median %.0f ms, most %.0f ms of %d; a TCP connection begun at once median %.0f ms, most %.0f ms", table.Median(all["packet"])*1e3, most["packet"]*1e3, len(all["packet"]),
			table.Median(all["connection"])*1e3, most["connection"]*1e3), "≤ 3000 ms", max(most["packet"], most["connection"]) <= 3)
	return nil
}

// wire joins two namespaces by a cable whose ends have names and addresses.
func wire(a *os.File, aName, aAddr string, b *os.File, bName, bAddr string) error {
	err := netns.Do(int(a.Fd()), func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aName
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.Fd())})
	})
	return errors.Join(err, netns.Do(int(a.Fd()), func() error { return address(aName, aAddr) }), netns.Do(int(b.Fd()), func() error { return address(bName, bAddr) }))
}

// address gives a link of the thread's namespace addresses, and sets it up.
func address(name string, prefixes ...string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, p := range prefixes {
		a, err := netlink.ParseAddr(p)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, name, err)
		}
	}
	return netlink.LinkSetUp(l)
}

// playEntry is the router of a node: a network's entry with a KEY, which lets the
// device of a CONFIGURATION in, and a database behind it.
func playEntry(args []string) error {
	key, err := wireguard.ParseKey(args[0])
	if err != nil {
		return err
	}
	var c device.Config
	if err := json.Unmarshal([]byte(args[1]), &c); err != nil {
		return err
	}
	ns, err := netns.Current()
	if err != nil {
		return err
	}
	defer ns.Close()
	e, err := wireguard.OpenEntry(context.Background(), wireguard.EntryConfig{Name: "entry", PrivateKey: key, NetNS: int(ns.Fd()), Port: plan.EntryPort})
	if err != nil {
		return err
	}
	defer e.Close()
	peer := wireguard.Peer{PublicKey: c.PrivateKey.Public(), PresharedKey: c.Preshared}
	for _, a := range c.Addresses {
		peer.AllowedIPs = append(peer.AllowedIPs, netip.PrefixFrom(a, a.BitLen()))
	}
	if err := e.SetPeers([]wireguard.Peer{peer}); err != nil {
		return err
	}
	if err := address("entry", "10.20.2.1/16"); err != nil {
		return err
	}
	echo, err := net.ListenPacket("udp", databaseAt)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(b[:n], from)
		}
	}()
	l, err := net.Listen("tcp", databaseAt)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// joinOnce brings this machine into the network of a CONFIGURATION, and returns the
// seconds until something came back out of it: a "packet" or a "connection".
func joinOnce(args []string) (any, error) {
	var c device.Config
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return nil, err
	}
	ns, err := netns.Current()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	began := time.Now()
	// With a descriptor the resolver of this computer, which is not the laptop's,
	// is left alone.
	link, err := device.Up(ctx, c, device.Options{Name: "zos-front", NetNS: int(ns.Fd())})
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- link.Run(ctx, nil) }()
	first := firstPacket
	if args[1] == "connection" {
		first = firstConnection
	}
	err = first(ctx)
	took := time.Since(began)
	cancel()
	return took.Seconds(), errors.Join(err, <-ended, link.Close())
}

// firstPacket sends a packet every 10 ms until one is back.
func firstPacket(ctx context.Context) error {
	c, err := net.Dial("udp", databaseAt)
	if err != nil {
		return err
	}
	defer c.Close()
	for b := []byte("hello"); ctx.Err() == nil; {
		if _, err := c.Write(b); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := c.Read(b); err == nil {
			return nil
		}
	}
	return ctx.Err()
}

// firstConnection makes a connection, as a program does that was started at once.
func firstConnection(ctx context.Context) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", databaseAt)
	if err != nil {
		return err
	}
	return c.Close()
}
