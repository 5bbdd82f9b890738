package gateway

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// Limits of a Config.
const (
	MaxRoutes   = 65536 // of a Config
	MaxBackends = 64    // of a route
)

// Config is all that a gateway process serves. It is replaced as a whole by
// Server.Apply. Where two routes want the same name or port at one address, the
// first in order has it and the other's Status says so.
type Config struct {
	Routes []Route
}

// Route is one thing that is published.
type Route struct {
	// ID is unique in a Config and stable over the versions of its contract:
	// "<contract hex>/<workload>/<host, or port/proto>". Connections, counters and
	// health live on under it.
	ID       string
	Contract canon.Hash
	Workload string
	// Addresses are the public ones to listen at, 1 to plan.MaxAddresses.
	Addresses []netip.Addr
	Host      string // lower case, for passthrough and terminate; "" for tcp and udp
	Mode      string // one of the plan's Mode constants
	Port      uint16 // the public one; 443 for a Host
	Network   string // of the backends: a key for the Dialer
	Backends  []Backend
	Proxy     int    // version of the PROXY protocol that backends are told by; 0: none
	Check     string // one of the plan's Check constants
	Path      string // of an http check
	// Problem says why the route isn't served; "": it is. A name with a problem
	// is refused by a TLS alert, a port is not listened at.
	Problem string
}

// Backend is a place to which connections are forwarded.
type Backend struct {
	Name string // of the workload
	Addr netip.AddrPort
}

// byName tells whether routes of a mode share port 443.
func (r Route) byName() bool {
	return r.Mode == plan.ModePassthrough || r.Mode == plan.ModeTerminate
}

// equal tells whether two versions of a route say the same.
func (r Route) equal(o Route) bool {
	return r.ID == o.ID && r.Contract == o.Contract && r.Workload == o.Workload && slices.Equal(r.Addresses, o.Addresses) &&
		r.Host == o.Host && r.Mode == o.Mode && r.Port == o.Port && r.Network == o.Network && slices.Equal(r.Backends, o.Backends) &&
		r.Proxy == o.Proxy && r.Check == o.Check && r.Path == o.Path && r.Problem == o.Problem
}

// Validate refuses (gateway-config-invalid) a configuration that no node makes of an
// approved plan. It checks form only.
func (c Config) Validate() error {
	if len(c.Routes) > MaxRoutes {
		return invalid("%d routes, at most %d are allowed", len(c.Routes), MaxRoutes)
	}
	ids := make(map[string]struct{}, len(c.Routes))
	for _, r := range c.Routes {
		if err := r.validate(); err != nil {
			return err
		}
		if _, twice := ids[r.ID]; twice {
			return invalid("route %.200q occurs twice", r.ID)
		}
		ids[r.ID] = struct{}{}
	}
	return nil
}

func (r Route) validate() error {
	known := slices.Contains([]string{plan.ModePassthrough, plan.ModeTerminate, plan.ModeTCP, plan.ModeUDP}, r.Mode)
	check := slices.Contains([]string{plan.CheckTCP, plan.CheckHTTP, plan.CheckNone}, cmp.Or(r.Check, plan.CheckNone))
	switch {
	case r.ID == "" || len(r.ID) > 1024:
		return invalid("a route's id has %d bytes, want 1 to 1024", len(r.ID))
	case !known:
		return invalid("route %.200q: mode %.40q is not known", r.ID, r.Mode)
	case !check:
		return invalid("route %.200q: check %.40q is not known", r.ID, r.Check)
	case r.byName() && (!plan.ValidHost(r.Host) || r.Port != 443):
		return invalid("route %.200q: want a full host name in lower case, on port 443", r.ID)
	case !r.byName() && (r.Host != "" || r.Port == 0):
		return invalid("route %.200q: a port has no host, and a number", r.ID)
	case len(r.Addresses) == 0 || len(r.Addresses) > plan.MaxAddresses:
		return invalid("route %.200q: %d addresses, want 1 to %d", r.ID, len(r.Addresses), plan.MaxAddresses)
	case len(r.Backends) > MaxBackends:
		return invalid("route %.200q: %d backends, at most %d are allowed", r.ID, len(r.Backends), MaxBackends)
	case len(r.Backends) == 0 && r.Problem == "":
		return invalid("route %.200q has no backend", r.ID)
	case r.Proxy < 0 || r.Proxy > 2 || r.Proxy == 1 && r.Mode == plan.ModeUDP || r.Proxy != 0 && r.Mode == plan.ModeTerminate:
		return invalid("route %.200q: version %d of the PROXY protocol is not for mode %s", r.ID, r.Proxy, r.Mode)
	case r.Check == plan.CheckHTTP != (r.Path != "") || r.Path != "" && !plainPath(r.Path):
		return invalid("route %.200q: an http check has an absolute path, and no other has one", r.ID)
	}
	for _, a := range r.Addresses {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			return invalid("route %.200q: %s is no plain address", r.ID, a)
		}
	}
	seen := map[netip.AddrPort]bool{}
	for _, b := range r.Backends {
		if !b.Addr.IsValid() || b.Addr.Port() == 0 || seen[b.Addr] {
			return invalid("route %.200q: backend %s is no address with a port, or occurs twice", r.ID, b.Addr)
		}
		seen[b.Addr] = true
	}
	return nil
}

// plainPath tells whether s can stand in a request line.
func plainPath(s string) bool {
	if len(s) > plan.MaxPath || s[0] != '/' {
		return false
	}
	for _, c := range []byte(s) {
		if c <= 0x20 || c > 0x7e || c == '#' {
			return false
		}
	}
	return true
}

func invalid(format string, args ...any) error {
	return problem.New("gateway-config-invalid", "gateway configuration: "+format, args...)
}
