package nettest

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
	"github.com/zero-os/zos/network/agent"
)

const marker = "plaintext-7f3a91c4"

// outsiders are addresses that no network has: what is sent there must go
// nowhere at all.
var outsiders = []string{"203.0.113.9", "198.18.0.10", "192.168.3.1", "224.0.0.251", "255.255.255.255", "2001:db8::a", "2001:db8:ffff::1", "ff02::1", "ff02::fb"}

// shout sends the marker to every address over and over, for as long as the
// test lasts, from the moment of the call.
type shout struct{ tries atomic.Int64 }

func shouting(t *testing.T, from *netlab.Host, to ...netip.Addr) *shout {
	t.Helper()
	s := &shout{}
	for _, o := range outsiders {
		to = append(to, netip.MustParseAddr(o))
	}
	var socks [2]*net.UDPConn
	socks[0], socks[1] = from.ListenPacket("udp4", ":0"), from.ListenPacket("udp6", ":0")
	links := map[bool]string{true: "wg0", false: "wg1"}
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond): // leaves the processor to others
			}
			a := to[n%len(to)]
			sock := socks[0]
			if a.Is6() {
				sock = socks[1]
			}
			dst := &net.UDPAddr{IP: a.AsSlice(), Port: 7}
			if a.IsMulticast() {
				dst.Zone = links[n%2 == 0]
			}
			// No route, no device: refused is what should be.
			_, _ = sock.WriteTo([]byte(marker), dst)
			s.tries.Add(1)
		}
	})
	t.Cleanup(func() {
		close(stop)
		work.Wait()
		socks[0].Close()
		socks[1].Close()
	})
	return s
}

// goes waits until so many further packets were tried.
func (s *shout) goes(t *testing.T, n int64) {
	t.Helper()
	want := s.tries.Load() + n
	netnode.Until(t, "packets were sent", func() bool { return s.tries.Load() >= want })
}

// hearing counts the markers that arrive in a namespace.
func hearing(t *testing.T, h *netlab.Host, at ...netip.Addr) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	for _, a := range at {
		c := h.ListenPacket("udp", netip.AddrPortFrom(a, 7).String())
		done := make(chan struct{})
		go func() {
			defer close(done)
			b := make([]byte, 100)
			for {
				size, err := c.Read(b)
				if err != nil {
					return
				}
				if string(b[:size]) == marker {
					n.Add(1)
				}
			}
		}()
		t.Cleanup(func() {
			c.Close()
			<-done
		})
	}
	return &n
}

// Whatever happens to devices, keys and daemons, no byte of a tenant's packets
// and no packet that is not one of ours is on any link outside of the nodes.
func TestNothingLeavesInPlaintext(t *testing.T) {
	w := netnode.NewWorld(t, 2)
	closed := w.Lab.Site("closed", netlab.SiteConfig{WAN: w.Internet, NAT: netlab.Symmetric, LAN: lan(3), BlockUDP: true})
	u := watch(w, marker, closed.LAN)
	hostA, hostB, hostC := w.Lab.Host("a", w.Internet), w.Lab.Host("b", w.Internet), closed.Host("c")
	for _, h := range []*netlab.Host{hostA, hostB, hostC} {
		u.between(h.Addr4(), h.Addr6())
	}
	quick := func(c *netnode.Config) {
		c.Periods = agent.Periods{Rotate: 6 * time.Second, Overlap: 3 * time.Second, Linger: 500 * time.Millisecond, Renew: time.Second}
	}
	a, b, c := w.Node(0, hostA, quick), w.Node(1, hostB, quick), w.Node(2, hostC, quick)
	topology := netnode.Mesh("web", 0, 1, 2)
	ra, rb, rc := a.Router(topology), b.Router(topology), c.Router(topology)
	// Everybody shouts before there is any device.
	address := func(i int) []netip.Addr { return []netip.Addr{netnode.Router4(i), netnode.Router6(i)} }
	sa := shouting(t, ra, append(address(1), address(2)...)...)
	sb := shouting(t, rb, append(address(0), address(2)...)...)
	sc := shouting(t, rc, append(address(0), address(1)...)...)
	atB, atC := hearing(t, rb, address(1)...), hearing(t, rc, address(2)...)
	arrive := func(what string) {
		t.Helper()
		nb, nc := atB.Load()+50, atC.Load()+50
		netnode.Until(t, what+": markers arrive where they belong", func() bool { return atB.Load() >= nb && atC.Load() >= nc })
	}
	sa.goes(t, 200)
	u.clean(t, "before the networks")

	for _, n := range []*netnode.Node{a, b, c} {
		n.Ensure(topology)
	}
	arrive("start")
	u.clean(t, "start")

	epoch := a.Status(topology.ID).Networks[0].KeyEpoch
	netnode.Until(t, "two keys later", func() bool {
		return a.Status(topology.ID).Networks[0].KeyEpoch >= epoch+2
	})
	arrive("after two rotations")
	u.clean(t, "key rotation")

	for _, what := range []string{"down", "delete"} {
		for _, name := range agent.DeviceNames() {
			args := []string{"link", "set", name, "down"}
			if what == "delete" {
				args = []string{"link", "delete", name}
			}
			_, _ = ra.Output(command("ip", args...)) // one of the two may not be there now
		}
		sa.goes(t, 2000)
		u.clean(t, "devices: "+what)
	}
	// The next key brings new devices, if nothing else did.
	arrive("devices were deleted")
	u.clean(t, "devices are back")

	a.Kill()
	sa.goes(t, 2000)
	sb.goes(t, 2000)
	sc.goes(t, 2000)
	u.clean(t, "the daemon was killed")

	// A new daemon and, since the old one made it, a new router namespace; who
	// is still in the old one goes on shouting into the void.
	a = w.Node(0, hostA, quick)
	again := a.Router(topology)
	shouting(t, again, append(address(1), address(2)...)...)
	a.Ensure(topology)
	arrive("a new daemon")
	u.clean(t, "a new daemon")
	for _, kind := range []string{"tcp to a server", "udp to a server", "WireGuard", "probe"} {
		u.mu.Lock()
		if u.kinds[kind] == 0 {
			t.Errorf("no frame of the kind %s was seen: %v", kind, u.kinds)
		}
		u.mu.Unlock()
	}

	// The control: one node's network gets a plaintext way out, on purpose.
	hostA.Nft("flush ruleset")
	hostA.Sysctl("ipv4/ip_forward", "1")
	hostA.Run("ip", "route", "add", "203.0.113.0/24", "via", hostB.Addr4().String())
	hostA.Veth("leak", "10.99.0.1/24", again, "leak", "10.99.0.2/24")
	again.Run("ip", "route", "add", "203.0.113.0/24", "via", "10.99.0.1")
	netnode.Until(t, "the control is seen", func() bool { return len(u.Hits()) > 0 })
}
