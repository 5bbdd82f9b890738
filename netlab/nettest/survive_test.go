package nettest

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/netlab"
	"github.com/zero-os/zos/netlab/netnode"
	"github.com/zero-os/zos/network/agent"
)

// lan is the prefixes of site number i.
func lan(i int) []string { return []string{fmt.Sprintf("192.168.%d.0/24", i)} }

// talk is a connection between the first two nodes of a mesh that goes on for
// the whole test.
func talk(t *testing.T, m meshOf) *netnode.Talk {
	t.Helper()
	at := netip.AddrPortFrom(netnode.Router4(m.nodes[1].Config.Number), 80)
	netnode.Echo(t, m.routers[1], at)
	c := netnode.NewTalk(t, m.routers[0], at)
	c.Goes(t, "the nodes talk", 10)
	return c
}

// path waits until both see each other by a path.
func (m meshOf) path(t *testing.T, path string) {
	t.Helper()
	a, b := m.nodes[0], m.nodes[1]
	netnode.Until(t, "both use the path "+path, func() bool {
		return a.Peer(m.id, b.Config.Number).Path == path && b.Peer(m.id, a.Config.Number).Path == path
	})
}

// A connection lives on while the ways below it change: from the relay to a
// direct path, to another address of a node, to another site, and back to the
// relay when nothing else is left.
func TestConnectionsSurviveChangesOfTheNodesAddress(t *testing.T) {
	w := netnode.NewWorld(t, 2)
	homeA := w.Lab.Site("home", netlab.SiteConfig{WAN: w.Internet, NAT: netlab.PortRestricted, LAN: lan(1)})
	homeB := w.Lab.Site("office", netlab.SiteConfig{WAN: w.Internet, NAT: netlab.FullCone, LAN: lan(2)})
	closed := w.Lab.Site("closed", netlab.SiteConfig{WAN: w.Internet, NAT: netlab.Symmetric, LAN: lan(3), BlockUDP: true})
	a, b := w.Node(0, homeA.Host("a")), w.Node(1, homeB.Host("b"))
	m := mesh(t, "web", a, b)
	c := talk(t, m)
	m.path(t, agent.PathDirect)
	c.Goes(t, "directly", 10)

	for _, step := range []struct {
		what string
		do   func()
		path string
	}{
		{"another address in the same site", func() { a.Host.NIC(0).Move(homeA.LAN) }, agent.PathDirect},
		{"into the other's site", func() { a.Host.NIC(0).Move(homeB.LAN) }, agent.PathDirect},
		{"onto the internet", func() { a.Host.NIC(0).Move(w.Internet) }, agent.PathDirect},
		{"where UDP does not pass", func() { a.Host.NIC(0).Move(closed.LAN) }, agent.PathRelay},
		{"home again", func() { a.Host.NIC(0).Move(homeA.LAN) }, agent.PathDirect},
	} {
		c.Reset()
		step.do()
		c.Goes(t, step.what, 20)
		m.path(t, step.path)
		t.Logf("%s: longest silence %s", step.what, c.Silence().Round(time.Millisecond))
	}
}

// busy counts the frames that pass each server, to find out which one is used.
type busy struct {
	mu sync.Mutex
	n  map[netip.Addr]int
}

func (b *busy) see(p netlab.Packet) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n[p.Flow.Dst.Addr()]++
}

// used is the server over which the connection goes now.
func (b *busy) used(t *testing.T, w *netnode.World, c *netnode.Talk) int {
	t.Helper()
	b.mu.Lock()
	clear(b.n)
	b.mu.Unlock()
	c.Goes(t, "to see which server is used", 50)
	b.mu.Lock()
	defer b.mu.Unlock()
	best := 0
	for i, s := range w.Servers {
		if b.n[s.Host.Addr4()] > b.n[w.Servers[best].Host.Addr4()] {
			best = i
		}
	}
	if b.n[w.Servers[best].Host.Addr4()] < 50 {
		t.Fatalf("no server is used: %v", b.n)
	}
	return best
}

// Both nodes are where no direct path is possible, and lose the server that
// they use: it is killed, hangs, is cut off; then two of the three are.
func TestConnectionsSurviveTheLossOfRelays(t *testing.T) {
	w := netnode.NewWorld(t, 3)
	a := w.Node(0, w.Lab.Site("one", netlab.SiteConfig{WAN: w.Internet, NAT: netlab.Symmetric, LAN: lan(1)}).Host("a"))
	b := w.Node(1, w.Lab.Site("two", netlab.SiteConfig{WAN: w.Internet, NAT: netlab.Symmetric, LAN: lan(2)}).Host("b"))
	traffic := &busy{n: map[netip.Addr]int{}}
	w.Internet.Tap(traffic.see)
	m := mesh(t, "web", a, b)
	c := talk(t, m)
	m.path(t, agent.PathRelay)
	survive := func(what string, do func()) {
		t.Helper()
		c.Reset()
		do()
		c.Goes(t, what, 50)
		t.Logf("%s: longest silence %s", what, c.Silence().Round(time.Millisecond))
	}
	links := func(up int) {
		t.Helper()
		for _, n := range []*netnode.Node{a, b} {
			netnode.Until(t, fmt.Sprintf("%d servers are connected", up), func() bool {
				have := 0
				for _, l := range n.Status().Links {
					if l.Up {
						have++
					}
				}
				return have == up
			})
		}
	}
	cut := netlab.Shape{Cut: true}
	links(3)
	i := traffic.used(t, w, c)
	survive("the server is killed", func() { w.Servers[i].Kill() })
	links(2)
	survive("it comes back", func() { w.Servers[i] = w.Restart(w.Servers[i]); links(3) })
	i = traffic.used(t, w, c)
	survive("the server hangs", func() { w.Servers[i].Freeze(true) })
	survive("it goes on", func() { w.Servers[i].Freeze(false); links(3) })
	i = traffic.used(t, w, c)
	survive("the server is cut off", func() { w.Servers[i].Host.NIC(0).Shape(cut, cut) })
	j := traffic.used(t, w, c)
	survive("another is cut off", func() { w.Servers[j].Host.NIC(0).Shape(cut, cut) })
	survive("they are back", func() {
		for _, s := range w.Servers {
			s.Host.NIC(0).Shape(netlab.Shape{}, netlab.Shape{})
		}
	})
	if got := a.Peer(m.id, 1).Path; got != agent.PathRelay {
		t.Errorf("two symmetric NATs, and the path is %s", got)
	}
}

// All servers are gone: direct paths go on. They come back: so does the rest.
func TestDirectPathsNeedNoServer(t *testing.T) {
	w := netnode.NewWorld(t, 1)
	a, b := w.Node(0, w.Lab.Host("a", w.Internet)), w.Node(1, w.Lab.Host("b", w.Internet))
	m := mesh(t, "web", a, b)
	c := talk(t, m)
	m.path(t, agent.PathDirect)
	s := w.Servers[0]
	s.Kill()
	c.Goes(t, "without a server", 100)
	if got := a.Peer(m.id, 1).Path; got != agent.PathDirect {
		t.Errorf("the path is %q", got)
	}
	w.Servers[0] = w.Restart(s)
	netnode.Until(t, "the server is found again", func() bool { return a.Status().Links[0].Up })
	c.Goes(t, "with the server again", 10)
}
