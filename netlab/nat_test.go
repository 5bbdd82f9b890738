package netlab_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/zero-os/zos/netlab"
)

// patience is how long a packet may take on a busy machine.
const patience = 20 * time.Second

// behaviour is what RFC 5780 finds out about a NAT.
type behaviour struct {
	translated bool // the address outside is another
	mapping    string
	filtering  string
}

// Endpoints for mapping and filtering, in RFC 4787's words.
const (
	independent = "endpoint-independent"
	byAddress   = "address-dependent"
	byPort      = "address and port-dependent"
)

// classify looks at a NAT from a host inside, with a server outside that has
// two addresses and two ports.
func classify(t *testing.T, client, server *netlab.Host, addrs [2]netip.Addr) behaviour {
	t.Helper()
	var s [2][2]*net.UDPConn // address, port
	for i, a := range addrs {
		for j, port := range []uint16{3478, 3479} {
			s[i][j] = server.ListenPacket("udp", netip.AddrPortFrom(a, port).String())
			defer s[i][j].Close()
		}
	}
	// send sends from a client's socket to a server's, and returns the address
	// that the server sees.
	send := func(c *net.UDPConn, to *net.UDPConn) netip.AddrPort {
		t.Helper()
		if _, err := c.WriteTo([]byte("?"), to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_ = to.SetReadDeadline(time.Now().Add(patience))
		_, from, err := to.ReadFromUDPAddrPort(make([]byte, 8))
		if err != nil {
			t.Fatal(err)
		}
		return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	}
	open := func() *net.UDPConn {
		c := client.ListenPacket("udp", ":0")
		t.Cleanup(func() { c.Close() })
		return c
	}
	var b behaviour

	c := open()
	first := send(c, s[0][0])
	b.translated = first.Addr() != client.Addr4() && first.Addr() != client.Addr6()
	otherPort, otherAddr := send(c, s[0][1]), send(c, s[1][0])
	switch {
	case otherAddr == first && otherPort == first:
		b.mapping = independent
	case otherPort == first:
		b.mapping = byAddress
	default:
		b.mapping = byPort
	}
	if b.translated && first.Port() == uint16(c.LocalAddr().(*net.UDPAddr).Port) {
		t.Error("the NAT keeps ports")
	}

	// What is not let in was sent before what is, over the same links.
	c = open()
	outside := net.UDPAddrFromAddrPort(send(c, s[0][0]))
	for _, m := range []struct {
		from *net.UDPConn
		text string
	}{{s[1][1], independent}, {s[0][1], byAddress}, {s[0][0], byPort}} {
		if _, err := m.from.WriteTo([]byte(m.text), outside); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("not even the server that was asked gets through: %v", err)
	}
	b.filtering = string(buf[:n])
	return b
}

func TestEveryNATIsWhatItIsCalled(t *testing.T) {
	for _, c := range []struct {
		nat  netlab.NAT
		want behaviour
	}{
		{netlab.Open, behaviour{false, independent, independent}},
		{netlab.Firewall, behaviour{false, independent, byPort}},
		{netlab.FullCone, behaviour{true, independent, independent}},
		{netlab.AddressRestricted, behaviour{true, independent, byAddress}},
		{netlab.PortRestricted, behaviour{true, independent, byPort}},
		{netlab.Symmetric, behaviour{true, byPort, byPort}},
	} {
		t.Run(string(c.nat), func(t *testing.T) {
			lab := netlab.New(t)
			internet := lab.Segment("internet", "198.51.100.0/24")
			server := lab.Host("server")
			server.Connect(internet, "198.51.100.1/24", "198.51.100.2/24")
			site := lab.Site("site", netlab.SiteConfig{WAN: internet, NAT: c.nat, LAN: []string{"192.168.1.0/24"}})
			client := site.Host("client")
			got := classify(t, client, server, [2]netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")})
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestIPv6IsFilteredButNotTranslated(t *testing.T) {
	for _, nat := range []netlab.NAT{netlab.Open, netlab.Symmetric, netlab.FullCone} {
		t.Run(string(nat), func(t *testing.T) {
			lab := netlab.New(t)
			internet := lab.Segment("internet", "198.51.100.0/24", "2001:db8::/64")
			server := lab.Host("server")
			server.Connect(internet, "2001:db8::1/64", "2001:db8::2/64")
			site := lab.Site("site", netlab.SiteConfig{WAN: internet, NAT: nat, LAN: []string{"2001:db8:7::/64"}})
			got := classify(t, site.Host("client"), server, [2]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")})
			want := behaviour{false, independent, byPort}
			if nat == netlab.Open {
				want.filtering = independent
			}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// Two hosts behind one NAT that use the same port are told apart.
func TestTwoHostsBehindOneCone(t *testing.T) {
	lab := netlab.New(t)
	internet := lab.Segment("internet", "198.51.100.0/24")
	server := lab.Host("server", internet)
	site := lab.Site("site", netlab.SiteConfig{WAN: internet, NAT: netlab.FullCone, LAN: []string{"192.168.1.0/24"}})
	s := server.ListenPacket("udp", ":99")
	defer s.Close()
	other := server.ListenPacket("udp", ":100")
	defer other.Close()
	seen := map[netip.AddrPort]bool{}
	for i := range 3 {
		c := site.Host(fmt.Sprintf("client%d", i)).ListenPacket("udp", ":5000")
		defer c.Close()
		if _, err := c.WriteTo([]byte{byte(i)}, net.UDPAddrFromAddrPort(server.AddrPort(99))); err != nil {
			t.Fatal(err)
		}
		_ = s.SetReadDeadline(time.Now().Add(patience))
		_, from, err := s.ReadFromUDPAddrPort(make([]byte, 1))
		if err != nil || seen[from] {
			t.Fatalf("seen as %v, %v", from, err)
		}
		seen[from] = true
		if _, err := other.WriteToUDPAddrPort([]byte{byte(i)}, from); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 1)
		if _, err := c.Read(buf); err != nil || buf[0] != byte(i) {
			t.Fatalf("client %d got %v, %v", i, buf, err)
		}
	}
}
