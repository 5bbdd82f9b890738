package gateway

import (
	"context"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/gateway/control"
)

// Store keeps what the gateways of a contract share: certificates and locks.
type Store interface {
	// Do does what the process asks for a contract that is served here.
	Do(ctx context.Context, r control.StoreRequest) (control.StoreReply, error)
	// Forget deletes everything of a contract: its last gateway here is gone.
	Forget(contract canon.Hash) error
}
