package netlab

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
)

// flushConntrack empties the connection table of the calling thread's namespace.
func flushConntrack() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }

// DHCPConfig is what a site's DHCP server says. The router is always the site's.
type DHCPConfig struct {
	BootFile string        // URL for the network boot ROM, as http://…/boot.ipxe; "": none
	DNS      []string      // name servers
	MTU      int           // 0: not said
	Lease    time.Duration // 0: an hour
}

// ipxeOptions tells iPXE not to wait two seconds for a proxy DHCP server: its
// encapsulated option 176 (no-pxedhcp), set.
var ipxeOptions = []byte{176, 1, 1}

type dhcpServer struct {
	site   *Site
	prefix netip.Prefix
	router netip.Addr

	mu     sync.Mutex
	config DHCPConfig
	leases map[string]netip.Addr // by hardware address
}

func (s *Site) serveDHCP(c DHCPConfig) {
	s.lab.tb.Helper()
	d := &dhcpServer{site: s, config: c, leases: map[string]netip.Addr{}}
	for _, p := range s.LAN.prefixes {
		if p.Addr().Is4() {
			d.prefix, d.router = p, p.Addr().Next()
		}
	}
	s.dhcp = d
	if !d.prefix.IsValid() {
		return // an IPv6-only site
	}
	var server *server4.Server
	s.Router.must("serve DHCP", func() error {
		conn, err := server4.NewIPv4UDPConn("lan", &net.UDPAddr{Port: dhcpv4.ServerPort})
		if err != nil {
			return err
		}
		server, err = server4.NewServer("lan", nil, d.answer, server4.WithConn(conn))
		return err
	})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve() }()
	s.lab.onClose(func() error {
		err := server.Close()
		<-ended
		if errors.Is(err, net.ErrClosed) {
			err = nil
		}
		return err
	})
}

// SetBootFile changes the URL that machines are told from now on.
func (s *Site) SetBootFile(url string) {
	s.dhcp.mu.Lock()
	defer s.dhcp.mu.Unlock()
	s.dhcp.config.BootFile = url
}

// Lease is the address that the site gave to a hardware address.
func (s *Site) Lease(mac string) (netip.Addr, bool) {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return netip.Addr{}, false
	}
	s.dhcp.mu.Lock()
	defer s.dhcp.mu.Unlock()
	a, ok := s.dhcp.leases[hw.String()]
	return a, ok
}

// Reserve decides the address that a hardware address will get.
func (s *Site) Reserve(mac string) netip.Addr {
	s.lab.tb.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		s.lab.tb.Fatalf("netlab: site %s: %v", s.LAN.name, err)
	}
	return s.dhcp.lease(hw)
}

// lease is the address of a hardware address: always the same.
func (d *dhcpServer) lease(hw net.HardwareAddr) netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.leases[hw.String()]
	if !ok {
		a = d.site.LAN.address(d.prefix)
		d.leases[hw.String()] = a
	}
	return a
}

func (d *dhcpServer) answer(conn net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
	var kind dhcpv4.MessageType
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		kind = dhcpv4.MessageTypeAck
	default:
		return
	}
	a := d.lease(m.ClientHWAddr)
	// A client that asks for what it had elsewhere is told to begin anew.
	if want := m.RequestedIPAddress(); kind == dhcpv4.MessageTypeAck && want != nil && !want.Equal(a.AsSlice()) {
		kind = dhcpv4.MessageTypeNak
	}
	d.mu.Lock()
	c := d.config
	d.mu.Unlock()
	lease := c.Lease
	if lease == 0 {
		lease = time.Hour
	}
	options := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(d.router.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(d.router.AsSlice())),
	}
	if kind != dhcpv4.MessageTypeNak {
		options = append(options,
			dhcpv4.WithYourIP(a.AsSlice()),
			dhcpv4.WithLeaseTime(uint32(lease/time.Second)),
			dhcpv4.WithNetmask(net.CIDRMask(d.prefix.Bits(), 32)),
			dhcpv4.WithRouter(d.router.AsSlice()),
		)
		var dns []net.IP
		for _, a := range c.DNS {
			dns = append(dns, net.ParseIP(a))
		}
		if len(dns) > 0 {
			options = append(options, dhcpv4.WithDNS(dns...))
		}
		if c.MTU > 0 {
			options = append(options, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{byte(c.MTU >> 8), byte(c.MTU)}))
		}
		if c.BootFile != "" {
			options = append(options,
				dhcpv4.WithOption(dhcpv4.OptBootFileName(c.BootFile)),
				dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(175), ipxeOptions))
		}
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, options...)
	if err != nil {
		return
	}
	if len(c.BootFile) < 128 {
		reply.BootFileName = c.BootFile
	}
	_, _ = conn.WriteTo(reply.ToBytes(), peer) // lost as any datagram: the client asks again
}
