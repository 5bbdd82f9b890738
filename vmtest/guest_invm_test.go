//go:build invm

package vmtest

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGuestIsTheNodesKernel(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if got := unix.ByteSliceToString(u.Release[:]); !strings.HasPrefix(got, "6.12.") {
		t.Errorf("kernel is %s", got)
	}
}

func TestModulesAreLoaded(t *testing.T) {
	b, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"overlay", "erofs", "virtio_blk"} {
		if !strings.Contains(string(b), m+" ") {
			t.Errorf("module %s is not loaded", m)
		}
	}
}

func TestDiskShowsItsSerial(t *testing.T) {
	b, err := os.ReadFile("/sys/block/vda/serial")
	if err != nil || string(b) != "scratch-1" {
		t.Errorf("serial is %q, %v", b, err)
	}
}

func TestTPMIsThere(t *testing.T) {
	if _, err := os.Stat("/dev/tpmrm0"); err != nil {
		t.Error(err)
	}
}

func TestPivotRootWorks(t *testing.T) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		t.Errorf("root is of type %x, want tmpfs", fs.Type)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Chdir(dir); err != nil {
		t.Fatal(err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}
