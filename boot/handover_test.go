package boot_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
)

func TestHandoverComesBackAsItWasWritten(t *testing.T) {
	h := boot.Handover{
		V: 1, Grid: canon.Sum([]byte("g")), Slot: canon.Sum([]byte("s")), SlotName: "n1", Hint: "mac:x",
		Disk:  boot.Disk{Kind: boot.DiskReal, Device: "/dev/vda", Serial: "A", Size: 1 << 40, Data: boot.DataDir, Fresh: true},
		Clock: boot.Clock{Source: "ntp", Time: 5, Floor: 4}, Release: []byte{1, 2}, Sequence: 9,
		OS: canon.Sum([]byte("os")), Checkpoint: contract.Checkpoint{Height: 3, Time: 4}, Floor: 9, TPM: "/dev/tpmrm0",
		Network:  boot.Network{Interface: "eth0", Addresses: []string{"10.0.2.15/24"}, DNS: []string{"10.0.2.3"}, Lease: 60},
		Kernel:   boot.KernelState{Version: "6.12", Lockdown: "integrity", Signed: true, Ignored: []string{"x"}},
		Degraded: []string{"disk: none"}, Steps: []boot.Step{{Name: "mounts", Millis: 3, Tries: 1, Detail: "9"}},
	}
	path := filepath.Join(t.TempDir(), "boot.cbor")
	for range 2 { // replacing is as good as writing
		if err := boot.WriteHandover(path, h); err != nil {
			t.Fatal(err)
		}
	}
	got, err := boot.ReadHandover(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, h) {
		t.Errorf("read %+v\nwrote %+v", got, h)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := boot.ReadHandover(path); err == nil {
		t.Error("a torn hand-over was read")
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".new-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestFloorOfADiskOnlyRises(t *testing.T) {
	dir := t.TempDir()
	want := func(floor uint64) {
		t.Helper()
		if got, err := boot.ReadFloor(dir); err != nil || got != floor {
			t.Fatalf("floor %d, %v; want %d", got, err, floor)
		}
	}
	want(0)
	for _, c := range []struct{ raise, want uint64 }{{4, 4}, {2, 4}, {0, 4}, {1 << 63, 1 << 63}} {
		if err := boot.RaiseFloor(dir, c.raise); err != nil {
			t.Fatal(err)
		}
		want(c.want)
	}
}

func TestDamagedFloorIsNamedAndMended(t *testing.T) {
	dir := t.TempDir()
	for _, content := range []string{"", "x", "\x1b", strings.Repeat("\x00", 2<<20)} {
		if err := os.WriteFile(filepath.Join(dir, boot.FloorFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if floor, err := boot.ReadFloor(dir); err == nil {
			t.Errorf("%.8q was read as %d", content, floor)
		}
	}
	if err := boot.RaiseFloor(dir, 3); err != nil {
		t.Fatal(err)
	}
	if got, err := boot.ReadFloor(dir); err != nil || got != 3 {
		t.Errorf("floor %d, %v", got, err)
	}
}
