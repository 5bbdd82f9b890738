//go:build !invm

package wireguard

import (
	"os"
	"testing"
	"time"

	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs the promises with the kernel's engine, and with one
// of each kind, under the node's kernel.
func TestInTheNodesKernel(t *testing.T) {
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:     os.Getenv("ZOS_INVM_RUN"),
		Modules: []string{"wireguard", "veth", "tun"},
		Cmdline: vmtest.NodeCmdline,
		Timeout: 8 * time.Minute,
	})
	vmtest.Report(t, console)
}
