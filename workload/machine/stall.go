package machine

import (
	"context"
	"os"
	"path/filepath"

	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/workload/logs"
)

// A monitor that finds no room for what its guest writes pauses the guest, which
// neither sees an error nor loses anything: it writes again when it goes on. Its
// disks are then as a power cut would leave them. What the shim notes of it is a file
// in its directory, which is there for as long as the guest waits.
const stallFile = "stalled"

// Stalled tells whether the machine of the shim in dir waits for room on its disk.
func Stalled(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, stallFile))
	return err == nil
}

// stir has the machine's state looked at; it never blocks.
func (i *instance) stir() {
	select {
	case i.stirred <- struct{}{}:
	default: // it will be
	}
}

// stalls notes, whenever something has changed, whether the machine waits.
func (i *instance) stalls() {
	for {
		select {
		case <-i.ctx.Done():
			return
		case <-i.over:
			return
		case <-i.stirred:
		}
		ctx, cancel := context.WithTimeout(i.ctx, controlLimit)
		st, err := i.qmp.State(ctx)
		cancel()
		if err == nil {
			i.stall(st == vmm.Failed)
		}
	}
}

// stall notes whether the machine waits.
func (i *instance) stall(waits bool) {
	if waits == Stalled(i.engine.dir) {
		return
	}
	path, text := filepath.Join(i.engine.dir, stallFile), "the machine goes on\n"
	if waits {
		text = "no room on the machine's disk for what it writes: it waits\n"
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			text = err.Error() + "\n"
		}
	} else if err := os.Remove(path); err != nil {
		text = err.Error() + "\n"
	}
	_ = i.engine.ring.Write(logs.Node, []byte(text))
}
