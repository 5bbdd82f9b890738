//go:build invm

package firststage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/linux/ext4"
	"github.com/zero-os/zos/linux/verity"
)

// In this machine /dev/vda has the serial "named", vdb "foreign", vdc "copy".
const vda, vdb, vdc = "/dev/vda", "/dev/vdb", "/dev/vdc"

// openData runs the disk step and returns what it chose and printed.
func openData(t *testing.T, named ...string) (boot.Disk, string) {
	t.Helper()
	var out bytes.Buffer
	d, err := data{
		dir: "/tmp/data", sys: "/sys", grid: gridID, console: NewConsole(&out),
		slot: Slot{ID: slotID, Slot: contract.Slot{Disks: named}},
	}.open(context.Background())
	if err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	return d, out.String()
}

func unmount(t *testing.T) {
	t.Helper()
	if isMountPoint("/tmp/data") {
		if err := unix.Unmount("/tmp/data", 0); err != nil {
			t.Fatal(err)
		}
	}
}

// wipe overwrites n bytes of a device, past the kernel's cache of it.
func wipe(t *testing.T, device string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func digest(t *testing.T, device string) string {
	t.Helper()
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, 64<<20)); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}

// provesVerity enables fs-verity on a file of the mounted file system.
func provesVerity(t *testing.T) {
	t.Helper()
	path := "/tmp/data/verified"
	_ = os.Remove(path)
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verity.Enable(path); err != nil {
		t.Errorf("the file system has no fs-verity: %v", err)
	}
}

func TestLifeOfADataDiskInTheKernel(t *testing.T) {
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	wipe(t, vda, 0, noise) // somebody's data, but the farm named the disk
	wipe(t, vdb, 0, noise)
	wipe(t, vdb, 32<<20, noise)
	before := digest(t, vdb)

	start := time.Now()
	d, console := openData(t, "other", "named")
	t.Logf("formatted in %s", time.Since(start))
	if d.Kind != boot.DiskReal || d.Device != vda || d.Serial != "named" || !d.Fresh {
		t.Fatalf("opened %+v\n%s", d, console)
	}
	if !strings.Contains(console, "/dev/vdb is left alone") {
		t.Errorf("nothing is said of the foreign disk:\n%s", console)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/tmp/data", &fs); err != nil {
		t.Fatal(err)
	}
	if size := fs.Blocks * uint64(fs.Bsize); size < 500<<20 {
		t.Errorf("the file system has %d MiB of a disk of 600", size>>20)
	}
	if fs.Files < 30000 {
		t.Errorf("%d inodes", fs.Files)
	}
	provesVerity(t)
	kept := "/tmp/data/kept"
	if err := boot.WriteFile(kept, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}

	// The next boot finds it, named or not.
	for _, named := range [][]string{{"named"}, nil} {
		if d, console = openData(t, named...); d.Device != vda || d.Fresh {
			t.Fatalf("named %q: opened %+v\n%s", named, d, console)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("named %q: %v", named, err)
		}
	}
	unmount(t)

	// A copy of it beside it: without a name nobody knows which is older.
	head := make([]byte, 1<<20)
	f, err := os.Open(vda)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(f, head); err != nil {
		t.Fatal(err)
	}
	f.Close()
	wipe(t, vdc, 0, head)
	if d, console = openData(t); d.Kind != boot.DiskZram || strings.Count(console, "and so does another disk") != 2 {
		t.Fatalf("two copies: opened %+v\n%s", d, console)
	}
	if !strings.Contains(d.Reason, "/dev/vda carries this slot's label, and so does another disk") {
		t.Errorf("reason is %q", d.Reason)
	}
	if d, console = openData(t, "named"); d.Device != vda || d.Fresh {
		t.Fatalf("two copies, one named: opened %+v\n%s", d, console)
	}
	unmount(t)
	wipe(t, vdc, 0, make([]byte, 1<<20))

	// Its file system is broken behind an intact superblock: group descriptors and bitmaps.
	broken := make([]byte, 64<<10)
	_, _ = rand.Read(broken)
	wipe(t, vda, 4096, broken)
	was := digest(t, vda)
	if d, console = openData(t); d.Kind != boot.DiskZram {
		t.Fatalf("broken and not named: opened %+v\n%s", d, console)
	}
	if digest(t, vda) != was {
		t.Error("a disk that the farm did not name was changed")
	}
	if d, console = openData(t, "named"); d.Device != vda || !d.Fresh || !strings.Contains(console, "damaged and will be formatted") {
		t.Fatalf("broken and named: opened %+v\n%s", d, console)
	}
	unmount(t)

	if digest(t, vdb) != before {
		t.Error("the foreign disk was changed")
	}
}

func TestDiskOfAnotherSlotInTheKernel(t *testing.T) {
	l := ourLabel()
	l.Slot = gridID
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(vdc, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := ext4.Journaled.Write(f, [16]byte(l.UUID), b, false); err != nil {
		t.Fatal(err)
	}
	f.Close()
	wipe(t, vda, 0, make([]byte, 8192))
	before := digest(t, vdc)
	if d, console := openData(t); d.Kind != boot.DiskZram || !strings.Contains(console, "another slot's data") {
		t.Fatalf("opened %+v\n%s", d, console)
	}
	if digest(t, vdc) != before {
		t.Error("another slot's disk was changed")
	}
}

func TestMemoryIsFullBeforeItIsLostInTheKernel(t *testing.T) {
	wipe(t, vda, 0, make([]byte, 8192))
	wipe(t, vdc, 0, make([]byte, 8192))
	d, console := openData(t)
	if d.Kind != boot.DiskZram || !d.Fresh || d.Reason == "" {
		t.Fatalf("opened %+v\n%s", d, console)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	if d.Size > info.Totalram*uint64(info.Unit)/2 {
		t.Errorf("%d MiB of memory for a store", d.Size>>20)
	}
	provesVerity(t)
	noise := make([]byte, 1<<20)
	var written int64
	for i := 0; ; i++ {
		_, _ = rand.Read(noise)
		f, err := os.OpenFile(filepath.Join("/tmp/data", "fill"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(noise)
		err = errors.Join(err, f.Sync(), f.Close())
		if err != nil {
			if !errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EIO) {
				t.Fatalf("after %d MiB: %v, want a clean lack of space", written>>20, err)
			}
			break
		}
		written += int64(len(noise))
		if uint64(written) > d.Size {
			t.Fatalf("%d MiB went into %d", written>>20, d.Size>>20)
		}
	}
	t.Logf("%d of %d MiB could be used", written>>20, d.Size>>20)
	unmount(t)
}
