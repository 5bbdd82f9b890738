package module

import "testing"

func TestNameIsTheKernels(t *testing.T) {
	for file, want := range map[string]string{
		"000-virtio_net.ko.xz":            "virtio_net",
		"012-sha256-ssse3.ko.xz":          "sha256_ssse3",
		"/lib/modules/x/8021q.ko":         "8021q",
		"9p-x.ko.zst":                     "9p_x",
		"/modules/001-crc32c-intel.ko.xz": "crc32c_intel",
	} {
		if got := Name(file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
}

func TestMissingDirectoryIsAnError(t *testing.T) {
	if n, err := LoadDir(t.TempDir()+"/none", nil); err == nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
}
