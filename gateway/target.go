package gateway

import (
	"context"

	"net"

	"github.com/zero-os/zos/problem"
)

// Target is a route that is served, for a Terminator. It lives on under its ID
// when a configuration changes what it says.
type Target struct{}

// Route returns what the configuration says of it now.
func (t *Target) Route() Route { return Route{} }

// Draining is closed when the configuration has the route no longer.
func (t *Target) Draining() <-chan struct{} { return nil }

// Dial connects to the healthy backend with the fewest connections, and tries
// others when that fails. The connection counts until it is closed, is of type Backed, and is cut when a
// configuration has removed its backend, after the drain. The error is
// gateway-no-backend when none could be reached.
func (t *Target) Dial(ctx context.Context) (net.Conn, error) {
	return nil, problem.New("gateway-no-backend", "dial: the data plane is not built in yet")
}

// Backed is a connection to a backend that says which one.
type Backed interface {
	net.Conn
	Backend() string
}

// Record counts the bytes of r, and logs it; Time, Client, Backend, In, Out, Duration, Outcome and what is of a request are the caller's.
func (t *Target) Record(r Record) {}
