package container

import (
	"context"
	"net"

	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/shim"
)

var _ workload.Controlled = (*Kind)(nil)

// Control implements workload.Controlled: it connects to the workload's shim.
func (k *Kind) Control(ctx context.Context, id workload.ID) (net.Conn, error) {
	return shim.Dial(ctx, k.place(id).run)
}
