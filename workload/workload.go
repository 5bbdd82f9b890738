// Package workload is what a node can run: one folder per kind, all behind the
// same three verbs.
package workload

import (
	"context"
	"net"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/spec/plan"
)

// ID names a workload on a node, across versions of its contract.
type ID struct {
	Contract canon.Hash
	Name     string
}

// Desired is one workload that a proven contract says this node must run.
type Desired struct {
	ID      ID
	Version uint64 // version of the contract
	Plan    plan.Workload
	// Deployment is the whole plan that Plan is part of: what the contract's
	// other workloads and nodes are. Shared by all of a contract, read-only.
	Deployment *plan.Plan
}

// Status is what the kernel shows of a workload right now.
type Status struct {
	State    string // a contract.State… constant
	Version  uint64 // version of the contract that it was started from
	Reason   string // problem code, "" when running
	Detail   string // one line for people
	ExitCode int
	Verity   bool // every page-in of its files is checked by the kernel
	// Ready says that it runs and is healthy: by its health check, or, without one,
	// because it has run for a while; or that it was a job and has exited with 0.
	Ready bool
	// Isolation is the class that it really runs in, a plan.Isolation… constant; "" of
	// kinds that have none.
	Isolation string
	Restarts  uint64 // starts beyond the first, of this version
}

// Kind runs one kind of workload. Calls for one ID never overlap; calls for
// different IDs may. A Kind keeps no state of its own that the kernel or the
// data disk can't tell again: after a restart of the caller, Observe finds
// what runs.
type Kind interface {
	// Ensure makes the workload run as desired, or returns why it can't yet.
	// It is idempotent, replaces an older version, and is called again with
	// backoff after every error for as long as the contract stands.
	Ensure(ctx context.Context, d Desired) error
	// Observe lists everything of this kind that exists on the node, including
	// remnants that nothing desires any more.
	Observe(ctx context.Context) (map[ID]Status, error)
	// Remove ends a workload and deletes everything it left on the node:
	// processes, mounts, cgroups, namespaces, interfaces and bytes. It is
	// idempotent.
	Remove(ctx context.Context, id ID) error
}

// Controlled is a Kind whose running workloads can be asked for something.
type Controlled interface {
	Kind
	// Control opens a connection to what keeps the workload running, for one
	// control.Request. The problem not-running says that nothing does. The caller has
	// judged the right to ask, and closes it.
	Control(ctx context.Context, id ID) (net.Conn, error)
}
