package gateway

import (
	"net/netip"
	"time"

	"github.com/zero-os/zos/canon"
)

// Outcomes of a Record.
const (
	OutcomeOK        = "ok"         // both sides ended it
	OutcomeNoBackend = "no-backend" // none could be connected to
	OutcomeLimit     = "limit"      // too many connections of the route, or its contract
	OutcomeReset     = "reset"      // one side reset it
	OutcomeIdle      = "idle"       // no byte for too long
	OutcomeStalled   = "stalled"    // one side took no byte for too long
	OutcomeDrained   = "drained"    // the route or the backend was removed
	OutcomeStopped   = "stopped"    // the process ends
)

// Record is a line of a published route's access log: a connection, a flow of
// datagrams or, of mode terminate, a request.
type Record struct {
	Time     time.Time // when it began
	Route    string    // its ID
	Contract canon.Hash
	Workload string
	Client   netip.AddrPort
	Backend  string // name; "" if none was reached
	In, Out  uint64 // bytes from and to the client, without what TCP and IP add
	Duration time.Duration
	Outcome  string // one of the Outcome constants

	// Of a request; bounded by the Terminator.
	Method, Host, Path string
	Status             int

	// Lost counts the records of this route that were dropped before this one.
	Lost uint64
}
