package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/netns"
)

// Host is a network namespace with cards on segments.
type Host struct {
	lab  *Lab
	name string
	ns   *os.File // held by descriptors only: it ends with them, even if we are killed
	// foreign: made by somebody else, see Lab.Enter
	foreign bool

	mu    sync.Mutex
	links map[string]struct{} // interfaces that the laboratory made
	nics  []*NIC
	next  int // number of the next card
}

// NIC is a host's card on a segment.
type NIC struct {
	host *Host
	name string
	file *os.File
	port *port

	mu    sync.Mutex
	seg   *Segment
	addrs []netip.Prefix
}

// Host makes a host with a card on each segment (eth0, eth1, …) that has an
// address of each of the segment's prefixes. It has default routes where a
// segment has a router.
func (l *Lab) Host(name string, segments ...*Segment) *Host {
	l.tb.Helper()
	ns, err := netns.New()
	if err != nil {
		l.tb.Fatalf("netlab: host %s: %v", name, err)
	}
	h := &Host{lab: l, name: name, ns: ns, links: map[string]struct{}{}}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	h.must("prepare", func() error {
		for _, kv := range [][2]string{
			// Nothing is said or believed unasked, so that a capture shows what
			// the tested programs do.
			{"ipv6/conf/all/accept_ra", "0"}, {"ipv6/conf/default/accept_ra", "0"},
			{"ipv6/conf/default/router_solicitations", "0"}, {"ipv6/conf/default/accept_dad", "0"},
			{"ipv6/conf/default/dad_transmits", "0"},
		} {
			if err := sysctl(kv[0], kv[1]); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	for _, s := range segments {
		h.Connect(s)
	}
	return h
}

// sysctl sets a value below /proc/sys/net in the calling thread's namespace.
func sysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set net/%s to %s: %w", name, value, err)
	}
	return nil
}

// must runs f in the namespace; a failure ends the test.
func (h *Host) must(what string, f func() error) {
	h.lab.tb.Helper()
	if err := h.Try(f); err != nil {
		h.lab.tb.Fatalf("netlab: host %s: %s: %v", h.name, what, err)
	}
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Lab is the host's laboratory.
func (h *Host) Lab() *Lab { return h.lab }

// Fd is the host's network namespace, owned by the laboratory.
func (h *Host) Fd() int { return int(h.ns.Fd()) }

// Path names the namespace for programs as nsenter, as long as this process
// lives.
func (h *Host) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.Fd()) }

// Do runs f on a thread in the host's namespace and waits for it. Sockets that
// f makes stay in it wherever they are used; goroutines that f starts do not
// run in it. Do within Do enters the other host and comes back.
func (h *Host) Do(f func()) {
	h.lab.tb.Helper()
	if err := h.Try(func() error { f(); return nil }); err != nil {
		h.lab.tb.Fatalf("netlab: host %s: %v", h.name, err)
	}
}

// Try is Do for functions that fail.
func (h *Host) Try(f func() error) error { return netns.Do(h.Fd(), f) }

// Listen is net.Listen in the host. The caller closes it.
func (h *Host) Listen(network, address string) net.Listener {
	h.lab.tb.Helper()
	var l net.Listener
	h.must("listen on "+address, func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l
}

// ListenPacket is net.ListenPacket in the host. The caller closes it.
func (h *Host) ListenPacket(network, address string) *net.UDPConn {
	h.lab.tb.Helper()
	var c *net.UDPConn
	h.must("listen on "+address, func() error {
		p, err := net.ListenPacket(network, address)
		if err == nil {
			c = p.(*net.UDPConn)
		}
		return err
	})
	return c
}

// Dial connects from the host to a numeric address. Its form is that of
// net.Dialer.DialContext, for http.Transport and others.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial from host %s: %w", h.name, err)
	}
	var c net.Conn
	// A numeric address is dialled by this goroutine, so on this thread.
	err = h.Try(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, a.String())
		return err
	})
	return c, err
}

// Start starts the program in the host's network namespace.
func (h *Host) Start(cmd *exec.Cmd) error { return h.Try(cmd.Start) }

// Run runs a program in the host and returns its output; failing ends the test.
func (h *Host) Run(name string, args ...string) string {
	h.lab.tb.Helper()
	out, err := h.Output(exec.Command(name, args...))
	if err != nil {
		h.lab.tb.Fatalf("netlab: host %s: %v", h.name, err)
	}
	return out
}

// Output runs the program in the host and returns what it wrote to both outputs.
func (h *Host) Output(cmd *exec.Cmd) (string, error) {
	var out []byte
	err := h.Try(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), err
}

// Sysctl sets a value below /proc/sys/net, as "ipv4/ip_forward".
func (h *Host) Sysctl(name, value string) {
	h.lab.tb.Helper()
	h.must("set up", func() error { return sysctl(name, value) })
}

// Nft gives a rule set to the nft program in the host.
func (h *Host) Nft(rules string) {
	h.lab.tb.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := h.Output(cmd); err != nil {
		h.lab.tb.Fatalf("netlab: host %s: %v (nft is in the package nftables; run: sudo make deps)\n%s\n%s", h.name, err, out, rules)
	}
}

// Connect plugs a new card into the segment: ethN, up, with the addresses
// ("192.0.2.1/24"), or with free ones of each of the segment's prefixes.
func (h *Host) Connect(s *Segment, addrs ...string) *NIC {
	h.lab.tb.Helper()
	h.mu.Lock()
	name := fmt.Sprintf("eth%d", h.next)
	h.next++
	h.mu.Unlock()
	return h.connect(name, s, 0, addrs)
}

func (h *Host) connect(name string, s *Segment, mtu int, addrs []string) *NIC {
	h.lab.tb.Helper()
	n := &NIC{host: h, name: name}
	h.must("make card "+name, func() (err error) {
		if n.file, err = openTAP(name); err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if mtu != 0 {
			if err := netlink.LinkSetMTU(link, mtu); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	})
	h.mu.Lock()
	h.links[name] = struct{}{}
	h.nics = append(h.nics, n)
	h.mu.Unlock()
	n.port = &port{name: h.name + "/" + name, write: func(f []byte) {
		_, _ = n.file.Write(f) // a card that is down takes nothing
	}}
	n.plug(s, addrs)
	h.lab.work.Add(1)
	go n.read()
	return n
}

// read offers what the card sends to its segment until it closes.
func (n *NIC) read() {
	defer n.host.lab.work.Done()
	buf := make([]byte, 1<<16)
	for {
		size, err := n.file.Read(buf)
		if errors.Is(err, unix.EIO) { // the interface is down
			continue
		}
		if err != nil {
			return
		}
		n.mu.Lock()
		s := n.seg
		n.mu.Unlock()
		if s != nil {
			s.offer(n.port, append([]byte(nil), buf[:size]...))
		}
	}
}

// plug joins the segment and gives the card its addresses and routes.
func (n *NIC) plug(s *Segment, addrs []string) {
	n.host.lab.tb.Helper()
	prefixes := s.addresses(addrs)
	n.mu.Lock()
	n.seg, n.addrs = s, prefixes
	n.mu.Unlock()
	s.plug(n.port)
	n.host.must("configure "+n.name, func() error {
		link, err := netlink.LinkByName(n.name)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
			// An IPv4-only card has no link-local address either.
			if err := sysctl("ipv6/conf/"+n.name+"/disable_ipv6", "1"); err != nil {
				return err
			}
		} else if err := sysctl("ipv6/conf/"+n.name+"/disable_ipv6", "0"); err != nil {
			return err
		}
		for _, p := range prefixes {
			a := &netlink.Addr{IPNet: ipNet(p)}
			if p.Addr().Is6() {
				a.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, a); err != nil {
				return fmt.Errorf("add address %s: %w", p, err)
			}
		}
		return nil
	})
	s.mu.Lock()
	sites := slices.Clone(s.sites)
	s.mu.Unlock()
	for _, r := range sites {
		n.route(r)
	}
}

// route adds a route over the card, if it has an address of that family and
// is not the router itself.
func (n *NIC) route(r siteRoute) {
	n.host.lab.tb.Helper()
	n.mu.Lock()
	addrs := slices.Clone(n.addrs)
	n.mu.Unlock()
	if !slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is4() == r.via.Is4() && p.Addr() != r.via }) ||
		slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr() == r.via }) {
		return
	}
	n.host.must("add route", func() error {
		link, err := netlink.LinkByName(n.name)
		if err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.prefix), Gw: r.via.AsSlice(), Protocol: unix.RTPROT_STATIC}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("%s via %s: %w", r.prefix, r.via, err)
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addresses reads the addresses, or takes free ones.
func (s *Segment) addresses(addrs []string) []netip.Prefix {
	s.lab.tb.Helper()
	var list []netip.Prefix
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			s.lab.tb.Fatalf("netlab: segment %s: %v", s.name, err)
		}
		s.mu.Lock()
		s.used[p.Addr()] = true
		s.mu.Unlock()
		list = append(list, p)
	}
	if len(addrs) == 0 {
		for _, p := range s.prefixes {
			list = append(list, netip.PrefixFrom(s.address(p), p.Bits()))
		}
	}
	return list
}

// Move plugs the card into another segment. Its addresses and routes go, and
// it gets new ones, as a host that roams. Moving to its own segment renumbers.
func (n *NIC) Move(s *Segment, addrs ...string) {
	n.host.lab.tb.Helper()
	n.mu.Lock()
	old := n.seg
	n.seg = nil
	n.mu.Unlock()
	if old != nil {
		old.unplug(n.port)
	}
	n.host.must("take the addresses of "+n.name, func() error {
		link, err := netlink.LinkByName(n.name)
		if err != nil {
			return err
		}
		// Routes and neighbours of the old segment go with the addresses.
		if err := netlink.LinkSetDown(link); err != nil {
			return err
		}
		have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range have {
			if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	})
	n.plug(s, addrs)
}

// Carrier plugs the cable in or out, which the host's kernel notices. Cutting
// by Shape is what it does not notice.
func (n *NIC) Carrier(on bool) {
	n.host.lab.tb.Helper()
	if err := setCarrier(n.file, on); err != nil {
		n.host.lab.tb.Fatalf("netlab: host %s: cable of %s: %v", n.host.name, n.name, err)
	}
}

// Shape sets how the card's cable treats frames: those that the host sends,
// and those that it gets.
func (n *NIC) Shape(sent, got Shape) {
	n.mu.Lock()
	s := n.seg
	n.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	n.port.in.Shape, n.port.out.Shape = sent, got
}

// Name is the interface's name.
func (n *NIC) Name() string { return n.name }

// Segment is where the card is plugged in.
func (n *NIC) Segment() *Segment {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seg
}

// Prefixes are the card's addresses.
func (n *NIC) Prefixes() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.addrs)
}

// NIC is card number i.
func (h *Host) NIC(i int) *NIC {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nics[i]
}

// Addr4 is the host's first IPv4 address, invalid if it has none.
func (h *Host) Addr4() netip.Addr { return h.addr(netip.Addr.Is4) }

// Addr6 is the host's first IPv6 address, invalid if it has none.
func (h *Host) Addr6() netip.Addr { return h.addr(netip.Addr.Is6) }

func (h *Host) addr(is func(netip.Addr) bool) netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.nics {
		for _, p := range n.Prefixes() {
			if is(p.Addr()) {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}

// AddrPort is the host's first IPv4 address, or else its first IPv6 one, with
// the port.
func (h *Host) AddrPort(port uint16) netip.AddrPort {
	a := h.Addr4()
	if !a.IsValid() {
		a = h.Addr6()
	}
	return netip.AddrPortFrom(a, port)
}

// Veth makes a plain kernel link between two hosts, not switched, shaped or
// seen by the laboratory, for measuring throughput. addrs may be "".
func (h *Host) Veth(name, addr string, peer *Host, peerName, peerAddr string) {
	h.lab.tb.Helper()
	h.must("make veth "+name, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peerName, PeerNamespace: netlink.NsFd(peer.Fd()),
		})
	})
	for _, end := range []struct {
		h          *Host
		name, addr string
	}{{h, name, addr}, {peer, peerName, peerAddr}} {
		end.h.mu.Lock()
		end.h.links[end.name] = struct{}{}
		end.h.mu.Unlock()
		end.h.must("configure veth "+end.name, func() error {
			link, err := netlink.LinkByName(end.name)
			if err != nil {
				return err
			}
			if end.addr != "" {
				p, err := netip.ParsePrefix(end.addr)
				if err != nil {
					return err
				}
				if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}); err != nil {
					return err
				}
			}
			return netlink.LinkSetUp(link)
		})
	}
}

func (h *Host) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, n := range h.nics {
		errs = append(errs, n.file.Close())
	}
	return errors.Join(append(errs, h.ns.Close())...)
}

// Enter makes a Host of a namespace that somebody else made, by its path: for
// Do and what is built on it. The laboratory doesn't look for what is left in
// it.
func (l *Lab) Enter(name, path string) *Host {
	l.tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		l.tb.Fatalf("netlab: enter %s: %v", name, err)
	}
	h := &Host{lab: l, name: name, ns: f, foreign: true, links: map[string]struct{}{}}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	return h
}
