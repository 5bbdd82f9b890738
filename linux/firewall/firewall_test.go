package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

// lab is two namespaces joined by a veth: host, which is guarded, and peer.
type lab struct {
	host, peer netns.NsHandle
}

// Addresses of the lab.
const (
	hostIP = "10.7.7.1"
	peerIP = "10.7.7.2"
)

func newLab(t *testing.T) lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root, e.g. sudo make test")
	}
	l := lab{host: namespace(t), peer: namespace(t)}
	in(t, l.host, func() {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "down0", PeerNamespace: netlink.NsFd(l.peer)}))
		configure(t, "up0", hostIP)
	})
	in(t, l.peer, func() { configure(t, "down0", peerIP) })
	for end := time.Now().Add(10 * time.Second); ping(t, l.peer, hostIP) != nil; {
		if time.Now().After(end) {
			t.Fatal("the lab's link does not come up")
		}
	}
	return l
}

// namespace makes a network namespace that ends with the test.
func namespace(t *testing.T) netns.NsHandle {
	t.Helper()
	var h netns.NsHandle
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var err error
		h, err = netns.New()
		done <- err
	}()
	must(t, <-done)
	t.Cleanup(func() { h.Close() })
	return h
}

// in runs fn on a thread in namespace ns. A failure in it fails the test.
func in(t *testing.T, ns netns.NsHandle, fn func()) {
	t.Helper()
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = netns.Set(ns); err != nil {
			return
		}
		fn()
	}()
	<-done
	must(t, err)
	if t.Failed() {
		t.FailNow()
	}
}

func configure(t *testing.T, name, ip string) {
	t.Helper()
	for _, n := range []string{"lo", name} {
		l, err := netlink.LinkByName(n)
		must(t, err)
		must(t, netlink.LinkSetUp(l))
		if n == name {
			must(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ip).To4(), Mask: net.CIDRMask(24, 32)}}))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
}

// listenTCP opens a port in a namespace and says who came.
func listenTCP(t *testing.T, ns netns.NsHandle, addr string) net.Listener {
	t.Helper()
	var ln net.Listener
	in(t, ns, func() {
		var err error
		ln, err = net.Listen("tcp", addr)
		must(t, err)
	})
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	return ln
}

// reads connects from a namespace and tells whether the other side's greeting comes.
func reads(t *testing.T, ns netns.NsHandle, addr string) bool {
	t.Helper()
	ok := false
	in(t, ns, func() {
		c, err := net.DialTimeout("tcp", addr, 1500*time.Millisecond)
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		b := make([]byte, 5)
		n, _ := c.Read(b)
		ok = string(b[:n]) == "hello"
	})
	return ok
}

func (l lab) fw() Host { return Host{NetNS: int(l.host)} }

func TestNothingComesInUnasked(t *testing.T) {
	l := newLab(t)
	listenTCP(t, l.host, hostIP+":7001")
	listenTCP(t, l.peer, peerIP+":7002")
	// The control: without the firewall the port is found.
	if !reads(t, l.peer, hostIP+":7001") {
		t.Fatal("control: an open port was not found before the firewall")
	}
	if ping(t, l.peer, hostIP) != nil {
		t.Fatal("control: no echo before the firewall")
	}
	must(t, l.fw().Apply())
	if reads(t, l.peer, hostIP+":7001") {
		t.Error("a connection came in")
	}
	if ping(t, l.peer, hostIP) == nil {
		t.Error("an echo request was answered")
	}
	if !reads(t, l.host, peerIP+":7002") {
		t.Error("the node's own connection got no answer")
	}
	must(t, l.fw().Remove())
	if !reads(t, l.peer, hostIP+":7001") {
		t.Error("control: the port is not found after the firewall was removed")
	}
}

func TestLoopbackAndOpenConnectionsLive(t *testing.T) {
	l := newLab(t)
	listenTCP(t, l.host, "127.0.0.1:7003")
	var srv net.Listener
	in(t, l.peer, func() {
		var err error
		srv, err = net.Listen("tcp", peerIP+":7004")
		must(t, err)
	})
	defer srv.Close()
	must(t, l.fw().Apply())
	if !reads(t, l.host, "127.0.0.1:7003") {
		t.Error("the loopback interface is cut")
	}
	var c net.Conn
	in(t, l.host, func() {
		var err error
		c, err = net.DialTimeout("tcp", srv.Addr().String(), time.Second)
		must(t, err)
	})
	defer c.Close()
	s, err := srv.Accept()
	must(t, err)
	defer s.Close()
	must(t, l.fw().Apply()) // again, under an open connection
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("the open connection broke when the firewall was applied again: %v", err)
	}
}

func TestOnlyDHCPAnswersPassAmongDatagrams(t *testing.T) {
	l := newLab(t)
	var dhcp, other *net.UDPConn
	in(t, l.host, func() {
		var err error
		dhcp, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 68})
		must(t, err)
		other, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 5000})
		must(t, err)
	})
	defer dhcp.Close()
	defer other.Close()
	must(t, l.fw().Apply())
	send := func(from, to int) {
		in(t, l.peer, func() {
			c, err := net.DialUDP("udp4", &net.UDPAddr{Port: from}, &net.UDPAddr{IP: net.ParseIP(hostIP), Port: to})
			must(t, err)
			defer c.Close()
			_, err = c.Write([]byte("x"))
			must(t, err)
		})
	}
	got := func(c *net.UDPConn) bool {
		c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		return err == nil
	}
	for _, tc := range []struct {
		from, to int
		conn     *net.UDPConn
		want     bool
	}{
		{67, 68, dhcp, true},
		{1067, 68, dhcp, false},
		{67, 5000, other, false},
	} {
		send(tc.from, tc.to)
		if got(tc.conn) != tc.want {
			t.Errorf("datagram %d→%d: arrived %v, want %v", tc.from, tc.to, !tc.want, tc.want)
		}
	}
}

// TestNeighboursFindTheNode: IPv6 needs neighbour discovery to pass in both
// directions, or not even the node's own connections work.
func TestNeighboursFindTheNode(t *testing.T) {
	l := newLab(t)
	must(t, l.fw().Apply())
	local, hostLocal := linkLocal(t, l.peer, "down0"), linkLocal(t, l.host, "up0")
	listenTCP(t, l.peer, fmt.Sprintf("[%s%%down0]:7005", local))
	listenTCP(t, l.host, fmt.Sprintf("[%s%%up0]:7006", hostLocal))
	// The peer has to ask for the node's address, and is refused only then.
	forget(t, l.peer, "down0")
	if reads(t, l.peer, fmt.Sprintf("[%s%%down0]:7006", hostLocal)) {
		t.Error("a connection came in over IPv6")
	}
	if n := neighbour(t, l.peer, "down0", hostLocal); n == nil || len(n.HardwareAddr) == 0 {
		t.Errorf("the neighbour did not resolve the node's address: %v", n)
	}
	// And the node for the peer's.
	forget(t, l.host, "up0")
	if !reads(t, l.host, fmt.Sprintf("[%s%%up0]:7005", local)) {
		t.Error("the node can't reach an IPv6 neighbour")
	}
}

// forget empties the table of IPv6 neighbours.
func forget(t *testing.T, ns netns.NsHandle, name string) {
	t.Helper()
	in(t, ns, func() {
		link, err := netlink.LinkByName(name)
		must(t, err)
		all, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V6)
		must(t, err)
		for _, n := range all {
			if n.State&netlink.NUD_NOARP == 0 {
				must(t, netlink.NeighDel(&n))
			}
		}
	})
}

// neighbour is what the table says of an address.
func neighbour(t *testing.T, ns netns.NsHandle, name, ip string) *netlink.Neigh {
	t.Helper()
	var found *netlink.Neigh
	in(t, ns, func() {
		link, err := netlink.LinkByName(name)
		must(t, err)
		all, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V6)
		must(t, err)
		for _, n := range all {
			if n.IP.String() == ip {
				found = &n
			}
		}
	})
	return found
}

// linkLocal waits for duplicate address detection and returns the address.
func linkLocal(t *testing.T, ns netns.NsHandle, name string) string {
	t.Helper()
	var found string
	for end := time.Now().Add(10 * time.Second); found == "" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		in(t, ns, func() {
			link, err := netlink.LinkByName(name)
			must(t, err)
			addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
			must(t, err)
			for _, a := range addrs {
				if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
					found = a.IP.String()
				}
			}
		})
	}
	if found == "" {
		t.Fatalf("%s has no IPv6 address", name)
	}
	return found
}

func TestForwardingIsDropped(t *testing.T) {
	l := newLab(t)
	must(t, l.fw().Apply())
	// A third namespace behind the host.
	inner := namespace(t)
	in(t, l.host, func() {
		must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "in0"}, PeerName: "ct0", PeerNamespace: netlink.NsFd(inner)}))
		configure(t, "in0", "10.8.8.1")
	})
	route := func(ns netns.NsHandle, dst, gw string) {
		in(t, ns, func() {
			_, n, _ := net.ParseCIDR(dst)
			must(t, netlink.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(gw)}))
		})
	}
	in(t, inner, func() { configure(t, "ct0", "10.8.8.2") })
	route(inner, "10.7.7.0/24", "10.8.8.1")
	route(l.peer, "10.8.8.0/24", hostIP)
	listenTCP(t, l.peer, peerIP+":7007")
	if reads(t, inner, peerIP+":7007") {
		t.Error("the host forwarded a packet")
	}
	must(t, l.fw().Remove())
	if !reads(t, inner, peerIP+":7007") {
		t.Error("control: forwarding does not work without the firewall")
	}
}

func TestApplyTwiceIsApplyOnce(t *testing.T) {
	l := newLab(t)
	must(t, l.fw().Apply())
	first := list(t, l.host)
	must(t, l.fw().Apply())
	if second := list(t, l.host); second != first {
		t.Errorf("applied twice:\n%s\nonce:\n%s", second, first)
	}
	must(t, l.fw().Verify())
}

// list is what the nft program sees.
func list(t *testing.T, ns netns.NsHandle) string {
	t.Helper()
	var out []byte
	in(t, ns, func() {
		var err error
		if out, err = exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil {
			t.Errorf("nft list ruleset: %v: %s (apt-get install nftables)", err, out)
		}
	})
	return string(out)
}

func TestTheRulesReadAsMeant(t *testing.T) {
	l := newLab(t)
	must(t, l.fw().Apply())
	want := `table inet zos {
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "zeg*" drop
		iifname "lo" accept
		ct state established,related accept
		meta nfproto ipv4 udp sport 67 udp dport 68 accept
		icmpv6 type nd-neighbor-solicit ip6 hoplimit 255 accept
		icmpv6 type nd-neighbor-advert ip6 hoplimit 255 accept
		icmpv6 type nd-router-advert ip6 hoplimit 255 ip6 saddr fe80::/10 accept
		icmpv6 type mld-listener-query ip6 hoplimit 1 ip6 saddr fe80::/10 accept
	}

	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid drop
		iifname "zeg*" jump egress
		oifname "zeg*" ct state established,related accept
	}

	chain egress {
		ip6 daddr != 2000::/3 drop
		ip daddr 0.0.0.0/8 drop
		ip daddr 10.0.0.0/8 drop
		ip daddr 100.64.0.0/10 drop
		ip daddr 127.0.0.0/8 drop
		ip daddr 169.254.0.0/16 drop
		ip daddr 172.16.0.0/12 drop
		ip daddr 192.0.0.0/24 drop
		ip daddr 192.168.0.0/16 drop
		ip daddr 198.18.0.0/15 drop
		ip daddr 224.0.0.0/4 drop
		ip daddr 240.0.0.0/4 drop
		ip daddr 168.63.129.16 drop
		ip6 daddr 2001::/32 drop
		ip6 daddr 2002::/16 drop
		ip saddr != 198.18.0.0/15 drop
		ip6 saddr != fc7a:6f73::/32 drop
		oifname "zeg*" drop
		oifname "lo" drop
		accept
	}

	chain output {
		type filter hook output priority filter; policy accept;
	}

	chain masquerade {
		type nat hook postrouting priority srcnat; policy accept;
		iifname "zeg*" masquerade
	}
}
`
	if got := list(t, l.host); got != want {
		t.Errorf("nft list ruleset:\n%s\nwant:\n%s", got, want)
	}
}

func TestAlterationsAreFound(t *testing.T) {
	l := newLab(t)
	if err := l.fw().Verify(); problem.Code(err) != "firewall-altered" {
		t.Errorf("no table: %v", err)
	}
	for name, command := range map[string]string{
		"deleted":        "delete table inet zos",
		"flushed":        "flush chain inet zos input",
		"opened":         "insert rule inet zos input accept",
		"port opened":    "add rule inet zos input tcp dport 22 accept",
		"policy":         "chain inet zos input { policy accept; }",
		"forward policy": "chain inet zos forward { policy accept; }",
		"chain added":    "add chain inet zos more",
		"set added":      "add set inet zos more { type ipv4_addr; }",
		"egress opened":  "insert rule inet zos egress accept",
	} {
		must(t, l.fw().Apply())
		must(t, l.fw().Verify())
		in(t, l.host, func() {
			if out, err := exec.Command("nft", strings.Fields(command)...).CombinedOutput(); err != nil {
				t.Errorf("nft %s: %v: %s", command, err, out)
			}
		})
		if err := l.fw().Verify(); problem.Code(err) != "firewall-altered" {
			t.Errorf("%s: Verify says %v", name, err)
		}
	}
	// One changed byte inside a rule.
	must(t, l.fw().Apply())
	c, err := Namespace(l.host).conn()
	must(t, err)
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	must(t, err)
	for _, ch := range chains {
		if ch.Name != "input" {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		must(t, err)
		r := rules[2]
		for _, e := range r.Exprs {
			if cmp, ok := e.(*expr.Cmp); ok && len(cmp.Data) == 4 {
				cmp.Data[3]++
			}
		}
		c.ReplaceRule(r)
		must(t, c.Flush())
	}
	if err := l.fw().Verify(); problem.Code(err) != "firewall-altered" {
		t.Errorf("one changed byte: Verify says %v", err)
	}
}

func TestMasksAreThePrefix(t *testing.T) {
	for _, p := range []string{"fe80::/10", "2000::/3", "::/0", "fd00::/127"} {
		prefix := netip.MustParsePrefix(p)
		got := Source(prefix)[3].(*expr.Bitwise).Mask
		if want := net.CIDRMask(prefix.Bits(), 128); string(got) != string(want) {
			t.Errorf("%s: mask %x, want %x", p, got, want)
		}
	}
}

// ping sends one echo request and waits for the answer.
func ping(t *testing.T, ns netns.NsHandle, ip string) error {
	t.Helper()
	var result error
	in(t, ns, func() {
		c, err := net.Dial("ip4:icmp", ip)
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1})
		must(t, err)
		c.SetReadDeadline(time.Now().Add(700 * time.Millisecond))
		b := make([]byte, 64)
		for {
			n, err := c.Read(b)
			if err != nil {
				result = err
				return
			}
			if n > 20 && b[20] == 0 {
				return
			}
		}
	})
	return result
}
