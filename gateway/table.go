package gateway

import (
	"fmt"
	"net/netip"

	"github.com/zero-os/zos/spec/plan"
)

// place is a public socket.
type place struct {
	at  netip.AddrPort
	udp bool
}

func (p place) String() string {
	if p.udp {
		return p.at.String() + "/udp"
	}
	return p.at.String() + "/tcp"
}

// table is what a configuration makes of names and ports. It isn't changed once it is in use.
type table struct {
	routes []served
	names  map[netip.Addr]map[string]*Target
	ports  map[place]*Target // nil for 80 and 443 shared by name
}

// served is a route of the configuration with why it isn't served, if so.
type served struct {
	route   *Route
	target  *Target // nil if not served
	problem string
	places  []place
}

func (t *table) lookup(at netip.Addr, host string) *Target {
	return t.names[at][host]
}

// Ports that host names share.
const (
	portHTTPS = 443
	portHTTP  = 80
)

// claims decides what each route has: the first in order has a name or port.
// It is a pure function.
func claims(c Config, terminator bool) []served {
	type name struct {
		at   netip.Addr
		host string
	}
	names := make(map[name]string, len(c.Routes))
	ports := map[place]string{}
	out := make([]served, 0, len(c.Routes))
	for i := range c.Routes {
		r := &c.Routes[i]
		s := served{route: r, problem: r.Problem}
		switch {
		case s.problem != "":
		case r.Mode == plan.ModeTerminate && !terminator:
			s.problem = "this gateway doesn't terminate TLS"
		default:
			s.problem, s.places = claim(r, func(a netip.Addr) string { return names[name{a, r.Host}] }, ports, terminator)
		}
		if s.problem == "" {
			for _, a := range r.Addresses {
				if r.byName() {
					names[name{a, r.Host}] = r.ID
				}
			}
			for _, p := range s.places {
				if ports[p] == "" {
					ports[p] = claimedBy(r)
				}
			}
		}
		out = append(out, s)
	}
	return out
}

// sharedPort marks a port that routes with names have together.
const sharedPort = "host names"

func claimedBy(r *Route) string {
	if r.byName() {
		return sharedPort
	}
	return r.ID
}

// claim returns the places that a route needs, or why it can't have them.
func claim(r *Route, named func(netip.Addr) string, ports map[place]string, plain bool) (string, []place) {
	var places []place
	for _, a := range r.Addresses {
		if !r.byName() {
			places = append(places, place{netip.AddrPortFrom(a, r.Port), r.Mode == plan.ModeUDP})
			continue
		}
		if by := named(a); by != "" {
			return fmt.Sprintf("%s at %s is published by %s", r.Host, a, by), nil
		}
		places = append(places, place{at: netip.AddrPortFrom(a, portHTTPS)})
		if plain {
			places = append(places, place{at: netip.AddrPortFrom(a, portHTTP)})
		}
	}
	for _, p := range places {
		if by := ports[p]; by != "" && by != claimedBy(r) {
			return fmt.Sprintf("%s is used by %s", p, by), nil
		}
	}
	return "", places
}
