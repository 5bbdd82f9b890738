package wireguard

import (
	"context"
	"errors"
	"log/slog"
)

// Host is the encrypted side of devices: one network namespace, and what its
// devices share there (the sockets that receive probes of kernel devices).
// A node opens one; a test one per simulated node.
type Host struct {
	logger *slog.Logger
}

// OpenHost opens the namespace netns as the one where encrypted sockets live;
// 0: the one that the calling thread is in. The descriptor is needed only
// during the call.
func OpenHost(netns int, logger *slog.Logger) (*Host, error) {
	return &Host{logger: logger}, nil
}

// New makes a device. An interface of that name left by an earlier process is
// deleted first; Adopt keeps it. Until ctx ends it may take.
func (h *Host) New(ctx context.Context, c Config) (Device, error) {
	return nil, errors.ErrUnsupported
}

// Adopt takes over the interface c.Name that outlived the process that made it,
// with all peers and sessions; c.PrivateKey is ignored. Peers that were relayed
// are again. fs.ErrNotExist: there is none, which is always so for Userspace.
func (h *Host) Adopt(ctx context.Context, c Config) (Device, error) {
	return nil, errors.ErrUnsupported
}

// Close frees what the host holds. Devices must be closed or abandoned first.
func (h *Host) Close() error { return nil }

// New makes a device whose encrypted side is the namespace of the calling
// thread. Processes with more than a few devices share a Host.
func New(ctx context.Context, c Config) (Device, error) { return nil, errors.ErrUnsupported }

// Adopt is Host.Adopt for a device as New makes it.
func Adopt(ctx context.Context, c Config) (Device, error) { return nil, errors.ErrUnsupported }
