package gateway

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/linux/netns"
)

// A client behind a link that is narrower than ours learns of it by ICMP alone.
func TestClientsBehindNarrowLinksAreServed(t *testing.T) {
	dir := t.TempDir()
	pin := func(name string) *os.File {
		f, _, err := netns.Pin(filepath.Join(dir, name))
		must(t, err)
		t.Cleanup(func() { f.Close(); must(t, netns.Unpin(filepath.Join(dir, name))) })
		return f
	}
	public, middle, client := pin("public"), pin("middle"), pin("client")
	pair := func(a, b *os.File, an, bn string) {
		must(t, netns.Do(int(a.Fd()), func() error {
			v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: bn, PeerNamespace: netlink.NsFd(int(b.Fd()))}
			v.Name = an
			return netlink.LinkAdd(v)
		}))
	}
	pair(public, middle, "pub0", "m0")
	pair(middle, client, "m1", "c0")
	up := func(ns *os.File, name, addr string, mtu int, gw string) {
		must(t, netns.Do(int(ns.Fd()), func() error {
			l, err := netlink.LinkByName(name)
			must(t, err)
			a, err := netlink.ParseAddr(addr)
			must(t, err)
			must(t, netlink.AddrAdd(l, a))
			must(t, netlink.LinkSetMTU(l, mtu))
			must(t, netlink.LinkSetUp(l))
			if gw != "" {
				must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}))
			}
			return nil
		}))
	}
	up(public, "pub0", "198.51.100.10/24", 1500, "198.51.100.1")
	up(middle, "m0", "198.51.100.1/24", 1500, "")
	up(middle, "m1", "203.0.113.1/24", 1300, "")
	up(client, "c0", "203.0.113.2/24", 1500, "203.0.113.1") // it does not know
	must(t, netns.Do(int(middle.Fd()), func() error { return netns.Set(netns.Setting{Path: "ipv4/ip_forward", Value: "1"}) }))
	at := netip.MustParseAddr("198.51.100.10")
	table := tableOf([]opening{{at, false, 443}}, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, 0)
	must(t, firewall.Namespace(int(public.Fd())).Apply(table))

	const size = 64 << 10
	var l net.Listener
	must(t, netns.Do(int(public.Fd()), func() (err error) { l, err = net.Listen("tcp4", "198.51.100.10:443"); return err }))
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write(make([]byte, size))
		_, _ = io.Copy(io.Discard, c)
	}()
	var c net.Conn
	must(t, netns.Do(int(client.Fd()), func() (err error) {
		c, err = net.DialTimeout("tcp4", "198.51.100.10:443", 5*time.Second)
		return err
	}))
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	if n, err := io.ReadFull(c, make([]byte, size)); err != nil {
		t.Errorf("%d of %d bytes came: %v", n, size, err)
	}
}
