package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Limits of gateways and devices.
const (
	MaxAddresses = 8   // of a gateway
	MaxRoutes    = 256 // of a gateway
	MaxBackends  = 64  // of a route
	MaxPath      = 256 // bytes of a health check's path

	maxDevice = 1024 // bytes
)

// ValidHost tells whether s is a host name as routes have it: lower case, two
// labels or more, of letters, digits and hyphens (RFC 1123), 253 bytes at most;
// not an address. An internationalised name is written in its ASCII form.
func ValidHost(s string) bool {
	labels := strings.Split(s, ".")
	if len(s) > 253 || len(labels) < 2 {
		return false
	}
	for _, l := range labels {
		if !ValidName(l) || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
	}
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != "" // an address has a number there
}

// Validate checks a gateway by itself; Plan.Validate checks it against the
// networks and workloads that it names.
func (g Gateway) Validate() error {
	switch {
	case g.V != Version:
		return invalid("gateway configuration of version %d, this software knows %d", g.V, Version)
	case len(g.Addresses) == 0 || len(g.Addresses) > MaxAddresses:
		return invalid("gateway has %d public addresses, want 1 to %d", len(g.Addresses), MaxAddresses)
	case len(g.Routes) == 0 || len(g.Routes) > MaxRoutes:
		return invalid("gateway has %d routes, want 1 to %d", len(g.Routes), MaxRoutes)
	}
	for i, text := range g.Addresses {
		if a, ok := parseAddr(text); !ok || !a.IsGlobalUnicast() {
			return invalid("gateway: %.80q is no address in canonical form", text)
		}
		if i > 0 && g.Addresses[i-1] >= text {
			return invalid("gateway: addresses are not sorted, or %s occurs twice", text)
		}
	}
	if err := validateAttachments(g.Networks); err != nil {
		return err
	}
	for _, a := range g.Networks {
		if err := a.plain(); err != nil {
			return err
		}
		if !slices.ContainsFunc(g.Routes, func(r Route) bool { return r.Network == a.Network }) {
			return invalid("gateway is in network %s and publishes nothing of it", a.Network)
		}
	}
	type listener struct {
		udp  bool
		port uint16
	}
	ports := map[listener]bool{}
	for i, r := range g.Routes {
		if err := r.validate(); err != nil {
			return err
		}
		if i > 0 && compareRoutes(g.Routes[i-1], r) >= 0 {
			return invalid("gateway: routes are not sorted, or %s is published twice", r)
		}
		if !slices.ContainsFunc(g.Networks, func(a Attachment) bool { return a.Network == r.Network }) {
			return invalid("gateway publishes of network %s, in which it is not", r.Network)
		}
		if r.Host != "" {
			if i > 0 && g.Routes[i-1].Host == r.Host {
				return invalid("gateway: %s is published twice", r.Host)
			}
			continue
		}
		if p := (listener{r.Mode == ModeUDP, r.Port}); ports[p] {
			return invalid("gateway: %s is published twice", r)
		} else {
			ports[p] = true
		}
	}
	if hosts := slices.ContainsFunc(g.Routes, func(r Route) bool { return r.Host != "" }); hosts && (ports[listener{false, 443}] || ports[listener{false, 80}]) {
		return invalid("gateway publishes hosts, and port 80 or 443 as a whole")
	}
	return nil
}

// plain refuses what a gateway's or a device's place in a network can't have.
func (a Attachment) plain() error {
	if a.Open || len(a.Allow) > 0 || len(a.Aliases) > 0 || a.Egress != EgressNone {
		return invalid("network %s: a gateway or device is not open and has no rules, aliases or egress", a.Network)
	}
	return nil
}

func compareRoutes(a, b Route) int {
	return cmp.Or(strings.Compare(a.Host, b.Host), strings.Compare(a.Mode, b.Mode), cmp.Compare(a.Port, b.Port))
}

// SortRoutes puts routes into the order that a Gateway has them in.
func SortRoutes(routes []Route) { slices.SortFunc(routes, compareRoutes) }

func (r Route) validate() error {
	host := r.Mode == ModePassthrough || r.Mode == ModeTerminate
	switch {
	case !host && r.Mode != ModeTCP && r.Mode != ModeUDP:
		return invalid("route: mode %.40q is not known", r.Mode)
	case host && !ValidHost(r.Host):
		return invalid("route: %.80q is no full host name in lower case", r.Host)
	case host && r.Port != 443:
		return invalid("route: %s is published on port %d, hosts are on 443", r.Host, r.Port)
	case !host && (r.Host != "" || r.Port == 0):
		return invalid("route: a port has no host, and a number")
	case !ValidNetworkName(r.Network):
		return invalid("route: network name %.80q: want [a-z0-9-], 1 to %d characters", r.Network, MaxNetworkName)
	case r.Target == 0:
		return invalid("route %s: no port of its backends", r)
	case r.Entry.IsZero() == (len(r.Backends) == 0):
		return invalid("route %s: want either backends or an entry", r)
	case len(r.Backends) > MaxBackends:
		return invalid("route %s: %d backends, at most %d are allowed", r, len(r.Backends), MaxBackends)
	case !r.Entry.IsZero() && (r.Mode != ModeUDP || r.Target != EntryPort || r.Proxy != 0):
		return invalid("route %s: an entry is plain udp to port %d", r, EntryPort)
	case r.Proxy > 2 || r.Proxy == 1 && r.Mode == ModeUDP || r.Proxy != 0 && r.Mode == ModeTerminate:
		return invalid("route %s: version %d of the PROXY protocol is not for mode %s", r, r.Proxy, r.Mode)
	case r.Mode == ModeUDP && r.Check != CheckNone:
		return invalid("route %s: udp has no health check", r)
	case r.Check != CheckTCP && r.Check != CheckHTTP && r.Check != CheckNone:
		return invalid("route %s: check %.40q is not known", r, r.Check)
	case r.Check == CheckHTTP != (r.Path != ""):
		return invalid("route %s: a path belongs to an http check", r)
	case r.Path != "" && !validPath(r.Path):
		return invalid("route %s: path %.80q is no plain absolute one", r, r.Path)
	}
	if bad, ok := sortedNames(r.Backends); !ok {
		return invalid("route %s: backend %.80q is no name, or out of order", r, bad)
	}
	return nil
}

// validPath tells whether s can stand in a request line.
func validPath(s string) bool {
	if len(s) > MaxPath || s[0] != '/' {
		return false
	}
	for _, c := range []byte(s) {
		if c <= 0x20 || c > 0x7e || c == '#' {
			return false
		}
	}
	return true
}

// String shows what is published: a host, or a port with its protocol.
func (r Route) String() string {
	if r.Host != "" {
		return r.Host
	}
	return Rule{Protocol: r.Mode, First: r.Port, Last: r.Port}.Ports()
}

// Validate checks a device by itself.
func (d Device) Validate() error {
	switch {
	case d.V != Version:
		return invalid("device configuration of version %d, this software knows %d", d.V, Version)
	case len(d.Key) != 32 || canonZero(d.Key):
		return invalid("device: its WireGuard key has %d bytes or is zero, want 32", len(d.Key))
	case d.Account.IsZero():
		return invalid("device belongs to no account")
	}
	if err := d.Network.Validate(); err != nil {
		return err
	}
	return d.Network.plain()
}

func canonZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}

// publish checks a gateway against the networks of the plan. Its backends are
// checked by finish, when all workloads are known.
func (c *netCheck) publish(w Workload, g Gateway) error {
	if err := c.attach(w, g.Networks); err != nil {
		return err
	}
	for _, r := range g.Routes {
		v, ok := c.networks[r.Network]
		if !ok {
			return invalid("workload %s: the plan has no network %s", w.Name, r.Network)
		}
		if _, ok := v.nodes[r.Entry]; !ok && !r.Entry.IsZero() {
			return invalid("workload %s: the entry %s is no node of network %s", w.Name, r.Entry.Short(), r.Network)
		}
	}
	if err := c.published(w.Name, g); err != nil {
		return err
	}
	c.gateways = append(c.gateways, gatewayOf{w.Name, g})
	return nil
}

// public is something that a plan publishes at an address: a host, or a port of
// a protocol.
type public struct {
	address, what string
	port          uint16
}

// published refuses a gateway that takes what another one of the plan has at the
// same address. Hosts share ports 80 and 443 with each other, and with nothing
// else.
func (c *netCheck) published(name string, g Gateway) error {
	take := func(p public, shown string) error {
		if other, taken := c.public[p]; taken && other != name {
			return invalid("workload %s publishes %s at %s, as %s does", name, shown, p.address, other)
		}
		c.public[p] = name
		return nil
	}
	for _, address := range g.Addresses {
		for _, r := range g.Routes {
			if r.Host == "" {
				if other, taken := c.hosts[address]; taken && r.Mode == ModeTCP && (r.Port == 80 || r.Port == 443) {
					return invalid("workload %s publishes %s at %s, where %s publishes hosts", name, r, address, other)
				}
				if err := take(public{address, r.Mode, r.Port}, r.String()); err != nil {
					return err
				}
				continue
			}
			for _, port := range []uint16{80, 443} {
				if other, taken := c.public[public{address, ModeTCP, port}]; taken {
					return invalid("workload %s publishes %s at %s, where %s publishes port %d as a whole", name, r, address, other, port)
				}
			}
			if _, taken := c.hosts[address]; !taken {
				c.hosts[address] = name
			}
			if err := take(public{address, r.Host, r.Port}, r.Host); err != nil {
				return err
			}
		}
	}
	return nil
}

type gatewayOf struct {
	name string
	Gateway
}

// join checks a device against its network.
func (c *netCheck) join(w Workload, d Device) error {
	key := [32]byte(d.Key)
	if other, taken := c.keys[key]; taken {
		return invalid("workload %s: its key is that of %s", w.Name, other)
	}
	c.keys[key] = w.Name
	return c.attach(w, []Attachment{d.Network})
}

// finishGateways checks what the routes name.
func (c *netCheck) finishGateways() error {
	for _, g := range c.gateways {
		for _, r := range g.Routes {
			for _, b := range r.Backends {
				if !c.runs[b] {
					return invalid("workload %s publishes %s, which is no container", g.name, b)
				}
				if _, ok := c.networks[r.Network].attached[b]; !ok {
					return invalid("workload %s publishes %s, which is not in network %s", g.name, b, r.Network)
				}
			}
		}
	}
	return nil
}

// IsPublic tells whether a is one that the internet routes, or that stands for
// such a one in documentation and tests (RFC 5737, RFC 3849).
func IsPublic(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() &&
		!slices.ContainsFunc(PrivateIPv4(), func(p netip.Prefix) bool { return p.Contains(a) })
}
