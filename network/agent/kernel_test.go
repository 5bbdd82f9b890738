//go:build !invm

package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/linux/firewall"
	"github.com/zero-os/zos/vmtest"
)

// TestInTheNodesKernel runs the tests with the kernel's WireGuard under the
// node's kernel.
func TestInTheNodesKernel(t *testing.T) {
	console := vmtest.RunInVM(t, ".", vmtest.Options{
		Run:      "^TestKernel",
		Modules:  append(firewall.Modules(), "wireguard", "veth", "tun"),
		MemoryMB: 768,
		Cmdline:  vmtest.NodeCmdline,
		Timeout:  8 * time.Minute,
	})
	for line := range strings.Lines(console) {
		if strings.Contains(line, "--- PASS") || strings.Contains(line, "_test.go") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
