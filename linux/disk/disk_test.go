package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sysfs makes a tree like /sys with block/<name>/<attribute> files.
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, "block", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestDisksAreListedWithTheSerialOfTheirKind(t *testing.T) {
	got, err := List(sysfs(t, map[string]string{
		"vda/size": "2048\n", "vda/ro": "0\n", "vda/serial": "virtio-1", "vda/device/x": "",
		"nvme0n1/size": "4096\n", "nvme0n1/ro": "0\n", "nvme0n1/device/serial": "S4EV  \n",
		"sda/size": "8\n", "sda/ro": "1\n", "sda/removable": "1\n", "sda/device/vpd_pg80": "\x00\x80\x00\x08 WD-123 ",
		"sdb/size": "8\n", "sdb/ro": "0\n", "sdb/device/vpd_pg80": "\x00\x83\x00\x02xx",
		"vdb/size": "8\n", "vdb/ro": "0\n", "vdb/serial": "evil\x1b[2J", "vdb/device/x": "",
		// None of these is a disk with a medium.
		"zram0/size": "2048\n", "zram0/ro": "0\n",
		"loop0/size": "2048\n", "loop0/ro": "0\n",
		"sr0/size": "2048\n", "sr0/ro": "0\n", "sr0/device/x": "",
		"sdc/size": "0\n", "sdc/ro": "0\n", "sdc/device/x": "",
		"sdd/size": "-1\n", "sdd/ro": "0\n", "sdd/device/x": "",
		"sde/size": "99999999999999999999\n", "sde/ro": "0\n", "sde/device/x": "",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{
		{Name: "nvme0n1", Device: "/dev/nvme0n1", Serial: "S4EV", Size: 4096 * 512},
		{Name: "sda", Device: "/dev/sda", Serial: "WD-123", Size: 4096, ReadOnly: true, Removable: true},
		{Name: "sdb", Device: "/dev/sdb", Size: 4096},
		{Name: "vda", Device: "/dev/vda", Serial: "virtio-1", Size: 2048 * 512},
		{Name: "vdb", Device: "/dev/vdb", Size: 4096},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got  %+v\nwant %+v", got[i], want[i])
		}
	}
}

func TestMachineWithoutDisksIsNoError(t *testing.T) {
	if got, err := List(t.TempDir()); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestHeadOfAShortDiskIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	if err := os.WriteFile(path, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Head(path, 2048); err == nil {
		t.Error("100 bytes passed for 2048")
	}
}

func FuzzParseVPD80(f *testing.F) {
	f.Add("\x00\x80\x00\x08 WD-123 ")
	f.Add("\x00\x80\xff\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(parseVPD80(s))
		if strings.ContainsFunc(got, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
			t.Errorf("serial %q", got)
		}
	})
}
