package server

import (
	"net/netip"
	"sync"
)

// Bounds of connections that have not proven anything yet.
const (
	halfOpenMost    = 512 // of all
	halfOpenPerSite = 64  // of one IPv4 address or IPv6 /64: nodes of one site share one
)

// guard bounds the half-open connections, of all and of each site, so that one
// site can't take the places of all others.
type guard struct {
	most, perSite int
	mu            sync.Mutex
	all           int
	sites         map[netip.Addr]int
}

func newGuard(most, perSite int) *guard {
	return &guard{most: most, perSite: perSite, sites: map[netip.Addr]int{}}
}

// site is who stands behind an address.
func site(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// enter takes a place; leave gives it back, and may be called again.
func (g *guard) enter(a netip.Addr) (leave func(), ok bool) {
	a = site(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= g.most || g.sites[a] >= g.perSite {
		return nil, false
	}
	g.all++
	g.sites[a]++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.all--
		if g.sites[a]--; g.sites[a] == 0 {
			delete(g.sites, a)
		}
	}), true
}
