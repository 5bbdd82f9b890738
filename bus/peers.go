package bus

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

// MaxPeerBody bounds what travels each way in a call between nodes, in bytes.
const MaxPeerBody = 32 << 10

// PeersConfig is what a node is to other nodes.
type PeersConfig struct {
	Conn    *Conn // with the role AsNode(Slot); the caller closes it
	Grid    canon.Hash
	Slot    canon.Hash
	Epoch   uint64
	Signer  sign.Signer
	Sealing *seal.PrivateKey
	// Bound reads the keys of other slots, verified, from the ledger. What it
	// says is used for up to a minute.
	Bound Bound
	// Known, if not nil, tells whether a slot may call at all: who isn't known
	// costs no look into the ledger. It must be quick.
	Known  func(slot canon.Hash) bool
	Logger *slog.Logger
	// Now is the node's clock; nil means time.Now.
	Now func() time.Time
}

// PeerHandler answers the call of another node, whose slot is proven. Its answer
// has at most MaxPeerBody bytes; an error reaches the caller with its code.
type PeerHandler func(ctx context.Context, from canon.Hash, body []byte) ([]byte, error)

// Peers is a node that calls other nodes and is called by them. It may be used
// by several goroutines.
type Peers struct{ cfg PeersConfig }

// NewPeers prepares it; register handlers, then Run it.
func NewPeers(cfg PeersConfig) (*Peers, error) {
	switch {
	case cfg.Conn == nil || cfg.Signer == nil || cfg.Sealing == nil || cfg.Bound == nil:
		return nil, errors.New("bus peers: connection, signer, sealing key and bindings are needed")
	case cfg.Grid.IsZero() || cfg.Slot.IsZero() || cfg.Epoch == 0:
		return nil, errors.New("bus peers: grid, slot and epoch are needed")
	}
	return &Peers{cfg: cfg}, nil
}

// Handle answers a method that other nodes call. Every node that the ledger
// binds may call it: what it may learn is the handler's concern.
func (p *Peers) Handle(method string, h func(ctx context.Context, from canon.Hash, body []byte) ([]byte, error)) {
}

// Run answers until ctx ends, then waits for the handlers.
func (p *Peers) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Call asks the node in a slot and returns its answer. Without a deadline in ctx
// it waits CallDeadline. Errors have the code that the other node gave, or
// "node-silent", "bus-unreachable", "request-invalid".
func (p *Peers) Call(ctx context.Context, slot canon.Hash, method string, body []byte) ([]byte, error) {
	return nil, problem.New("node-silent", "%s: node %s is not asked yet", method, slot.Short())
}
