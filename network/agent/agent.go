package agent

import (
	"context"
	"errors"
	"net/netip"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/network"
)

// Agent keeps the networks of a node. Its methods may be called from several
// goroutines.
type Agent struct {
	cfg Config
}

// New makes an agent and registers its method with the messenger. It does
// nothing before Run.
func New(cfg Config) (*Agent, error) { return nil, errors.ErrUnsupported }

// Run works until ctx ends. Devices outlive it where their engine can, so that
// a restarted daemon adopts them; the others are closed.
func (a *Agent) Run(ctx context.Context) error { return errors.ErrUnsupported }

// Ensure makes the network t exist on this node, with its plaintext in the
// router namespace netns (a file descriptor; the agent keeps a duplicate). It
// is idempotent, takes over changes of the topology, adopts a kernel device that
// is there, and returns when this node's device stands: peers follow by
// themselves, Status tells how far they are.
func (a *Agent) Ensure(ctx context.Context, t network.Topology, netns int) error {
	return errors.ErrUnsupported
}

// Remove ends a network and deletes its devices and routes. Removing one that is
// not there is no error.
func (a *Agent) Remove(ctx context.Context, id canon.Hash) error { return errors.ErrUnsupported }

// Status tells how a network is now, false if there is none of this id.
func (a *Agent) Status(id canon.Hash) (Status, bool) { return Status{}, false }

// Relayed takes a packet that a relay brought from a slot. It doesn't keep
// packet and never blocks for long.
func (a *Agent) Relayed(from canon.Hash, packet []byte) {}

// Observed takes what a relay server answered to an observation probe: the
// address from which it came.
func (a *Agent) Observed(token [16]byte, addr netip.AddrPort) {}

// Changed tells that the node's addresses may have changed. The agent watches by
// itself; this is for those who know earlier.
func (a *Agent) Changed() {}
