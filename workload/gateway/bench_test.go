package gateway

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/netns"
)

// BenchmarkSockets is what the broker takes for one socket of a tenant's
// namespace, in batches as the process asks for them.
func BenchmarkSockets(b *testing.B) {
	path := filepath.Join(b.TempDir(), "ns")
	ns, _, err := netns.Pin(path)
	must(b, err)
	defer func() { ns.Close(); _ = netns.Unpin(path) }()
	for made := 0; made < b.N; made += control.MaxBatch {
		fds, err := makeSockets(path, false, control.MaxBatch)
		must(b, err)
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}
