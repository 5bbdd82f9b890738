package gateway

import (
	"net/netip"
	"time"

	"github.com/zero-os/zos/canon"
)

// Status is what a Server says of itself.
type Status struct {
	Routes  []RouteStatus // in the order of the Config
	Conns   int           // of TCP, now, with those that haven't said a name
	Flows   int           // of UDP, now
	Unknown uint64        // connections that named nothing published, since the start
	Junk    uint64        // connections that sent no ClientHello, since the start
	Refused uint64        // connections closed by a bound of the process or of a client, since the start
	LogLost uint64        // access records dropped, since the start
}

// RouteStatus is a route as it is served. Counters live as long as the route's ID.
type RouteStatus struct {
	ID       string
	Contract canon.Hash
	Workload string
	Problem  string // why it isn't served; "": it is
	Conns    int    // connections or flows, now
	Total    uint64 // connections or flows
	In, Out  uint64 // bytes from and to clients
	Failures uint64 // connections and requests that reached no backend, or were refused by a bound
	Requests uint64 // of mode terminate
	Errors   uint64 // requests that were answered with 500 or more
	Backends []BackendStatus
}

// BackendStatus is the health of a backend as this gateway sees it.
type BackendStatus struct {
	Name    string
	Addr    netip.AddrPort
	Healthy bool
	Checked bool      // false: nothing is known yet, it counts as healthy
	Since   time.Time // of the present state
	Error   string    // the last one, also when it is healthy again
	Conns   int       // of this route, now
}
