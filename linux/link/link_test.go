package link

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t testing.TB, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	a, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 15))}, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestLeaseIsReadFromTheAnswer(t *testing.T) {
	got, err := parseAck(ack(t,
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(net.IPv4(10, 0, 2, 2)),
		dhcpv4.WithDNS(net.IPv4(10, 0, 2, 3), net.IPv4zero, net.IPv4(1, 1, 1, 1), net.IPv4(8, 8, 8, 8), net.IPv4(9, 9, 9, 9)),
		dhcpv4.WithLeaseTime(86400),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0x78})),
	))
	if err != nil {
		t.Fatal(err)
	}
	if got.Address.Prefix != "10.0.2.15/24" || got.Address.Gateway != "10.0.2.2" || got.Time != 24*time.Hour || got.Address.MTU != 1400 {
		t.Errorf("lease %+v", got)
	}
	if strings.Join(got.Address.DNS, " ") != "10.0.2.3 1.1.1.1 8.8.8.8" {
		t.Errorf("name servers %v", got.Address.DNS)
	}
}

func TestAnswersThatMakeNoSenseAreRefusedOrBounded(t *testing.T) {
	for _, ip := range []net.IP{nil, net.IPv4zero, net.IPv4bcast, net.IPv4(224, 0, 0, 1), net.IPv4(127, 0, 0, 1)} {
		if l, err := parseAck(ack(t, dhcpv4.WithYourIP(ip))); err == nil {
			t.Errorf("address %v was taken: %+v", ip, l)
		}
	}
	for name, c := range map[string]struct {
		modifier dhcpv4.Modifier
		ok       func(Lease) bool
	}{
		"no lease time":      {dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 1)), func(l Lease) bool { return l.Time == defaultLease }},
		"a lease of nothing": {dhcpv4.WithLeaseTime(0), func(l Lease) bool { return l.Time >= shortestLease }},
		"an endless lease":   {dhcpv4.WithLeaseTime(0xffffffff), func(l Lease) bool { return l.Time == longestLease }},
		"a mask with holes":  {dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0)), func(l Lease) bool { return l.Address.Prefix == "10.0.2.15/8" }},
		"gateway 0.0.0.0":    {dhcpv4.WithRouter(net.IPv4zero), func(l Lease) bool { return l.Address.Gateway == "" }},
		"a tiny MTU":         {dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 68})), func(l Lease) bool { return l.Address.MTU == 0 }},
		"a huge MTU":         {dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, []byte{0xff, 0xff})), func(l Lease) bool { return l.Address.MTU == 0 }},
	} {
		l, err := parseAck(ack(t, c.modifier))
		if err != nil || !c.ok(l) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

func TestOnlyAddressesComeIntoResolvConf(t *testing.T) {
	if got := ResolvConf([]string{"10.0.2.3", "x\nnameserver 6.6.6.6", "fd00::1"}); got != "nameserver 10.0.2.3\nnameserver fd00::1\n" {
		t.Errorf("got %q", got)
	}
}

func FuzzParseAck(f *testing.F) {
	f.Add(ack(f, dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(60)).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := parseAck(a)
		if err != nil {
			return
		}
		if _, _, err := net.ParseCIDR(l.Address.Prefix); err != nil {
			t.Errorf("prefix %q: %v", l.Address.Prefix, err)
		}
		if l.Time < shortestLease || l.Time > longestLease || len(l.Address.DNS) > 3 {
			t.Errorf("lease %+v", l)
		}
	})
}
