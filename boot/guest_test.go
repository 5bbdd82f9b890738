package boot

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/cpio"
)

// Without the kernel package `make deps` has not run, and nothing of this can be true.
func TestGuestInitrdHoldsTheAgentAndItsDriversAlone(t *testing.T) {
	dir := os.Getenv("ZOS_KERNEL")
	if dir == "" {
		dir = "../build/kernel"
	}
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, []byte("agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	first, err := GuestInitrd(context.Background(), dir, agent)
	if err != nil {
		t.Fatal(err)
	}
	again, err := GuestInitrd(context.Background(), dir, agent)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, again) {
		t.Error("two builds of the same differ")
	}
	zr, err := zstd.NewReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	var plain bytes.Buffer
	_, _ = plain.ReadFrom(zr) // padding after the frame is none of zstd's
	entries, err := cpio.Read(plain.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
		if e.Mode&0o111 != 0 && e.Mode&cpio.TypeRegular != 0 && e.Mode&cpio.TypeDir == 0 && e.Name != "init" {
			t.Errorf("%s can be run", e.Name)
		}
	}
	for group, mods := range guest.Modules() {
		for _, m := range mods {
			if !slices.ContainsFunc(names, func(n string) bool {
				return strings.HasPrefix(n, group.Dir()+"/") && strings.HasSuffix(strings.ReplaceAll(n, "-", "_"), "_"+m+".ko")
			}) {
				t.Errorf("%s is not in group %s: %q", m, group, names)
			}
		}
	}
	t.Logf("%d bytes without the agent, %d entries", len(first), len(entries))
}
