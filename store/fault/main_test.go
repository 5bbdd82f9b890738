package fault_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// diskEnv names a block device to work on: set in the virtual machine, whose own
// memory file systems can't back a mount.
const diskEnv = "ZOS_TEST_DISK"

func TestMain(m *testing.M) {
	if disk := os.Getenv(diskEnv); disk != "" {
		if err := os.MkdirAll("/disk", 0o755); err != nil {
			panic(err)
		}
		if err := unix.Mount(disk, "/disk", "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
			panic(err)
		}
		if err := os.Setenv("TMPDIR", "/disk"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}
