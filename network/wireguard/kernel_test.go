//go:build !invm

package wireguard

import (
	"os"
	"strings"
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
		Cmdline: "lockdown=integrity module.sig_enforce=1", // as nodes boot
		Args:    []string{"-test.v"},
		Timeout: 8 * time.Minute,
	})
	for line := range strings.Lines(console) {
		if strings.Contains(line, "measured:") || strings.Contains(line, "--- PASS") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
