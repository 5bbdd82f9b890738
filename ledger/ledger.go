package ledger

import (
	"context"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/ledger/internal/engine"
	"github.com/zero-os/zos/ledger/wire"
)

// Config is what a ledger node needs: its directory, the grid's genesis, its
// validator key if it has one, and its addresses.
type Config = engine.Config

// Node is a running ledger node. Stop ends it, Wait waits for its end, Ready
// waits for its first provable state; URL, P2PAddr and NodeID tell where it is,
// Checkpoint its newest header.
type Node = engine.Node

// Start runs a ledger node with the contract's rules. It returns once the node
// serves its RPC address; the first block may come later, see Node.Ready. ctx
// bounds the start only.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	return engine.Start(ctx, cfg, engine.Contract{})
}

// ChainID returns the name that a grid's chain has in CometBFT.
func ChainID(grid canon.Hash) string { return wire.ChainID(grid) }
