package grid

import (
	"testing"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/qemu"
)

// TestAGridStartsAgainOnlyAsItWasMade plays a second `zos up --dir` with other
// options: the machines would not be those that the farm declared.
func TestAGridStartsAgainOnlyAsItWasMade(t *testing.T) {
	have := Options{Nodes: 1, Identity: IdentityDisk, Firmware: qemu.BIOS}.slotOf("node-1", 1, 512)
	for name, c := range map[string]struct {
		identity string
		memory   int
		refused  bool
	}{
		"the same":         {IdentityDisk, 512, false},
		"more memory":      {IdentityDisk, 1024, false},
		"less memory":      {IdentityDisk, 256, true},
		"another identity": {IdentityTPM, 512, true},
		"no disk":          {IdentityNone, 1024, true},
	} {
		t.Run(name, func(t *testing.T) {
			want := Options{Nodes: 1, Identity: c.identity, Firmware: qemu.BIOS}.slotOf("node-1", 1, c.memory)
			err := fitsSlot(have, want)
			if refused := problem.Code(err) == "option-invalid"; refused != c.refused || !refused && err != nil {
				t.Fatalf("%v", err)
			}
		})
	}
}
