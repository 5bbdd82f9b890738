package nettest

import (
	"fmt"
	"net/netip"
	"testing"

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
		t.Logf("%s: longest silence %s", step.what, c.Silence())
	}
}

// Both nodes are where no direct path is possible, and lose one server after
// the other: killed, hanging, cut off.
func TestConnectionsSurviveTheLossOfRelays(t *testing.T) {
	w := netnode.NewWorld(t, 3)
	a := w.Node(0, w.Lab.Site("one", netlab.SiteConfig{WAN: w.Internet, NAT: netlab.Symmetric, LAN: lan(1)}).Host("a"))
	b := w.Node(1, w.Lab.Site("two", netlab.SiteConfig{WAN: w.Internet, NAT: netlab.Symmetric, LAN: lan(2)}).Host("b"))
	m := mesh(t, "web", a, b)
	c := talk(t, m)
	m.path(t, agent.PathRelay)
	survive := func(what string, do func()) {
		t.Helper()
		c.Reset()
		do()
		c.Goes(t, what, 20)
		t.Logf("%s: longest silence %s", what, c.Silence())
	}
	first := w.Servers[0]
	survive("one server is killed", func() { first.Kill() })
	survive("it comes back", func() { w.Servers[0] = w.Restart(first) })
	survive("one hangs", func() { w.Servers[1].Freeze(true) })
	survive("it goes on", func() { w.Servers[1].Freeze(false) })
	survive("two are cut off", func() {
		for _, s := range w.Servers[1:] {
			s.Host.NIC(0).Shape(netlab.Shape{Cut: true}, netlab.Shape{Cut: true})
		}
	})
	survive("they are back", func() {
		for _, s := range w.Servers[1:] {
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
