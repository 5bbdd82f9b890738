package node

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/zero-os/zos/node/protocol"
)

// memory lists the resident memory of the OS's own processes.
func memory() []protocol.Consumer {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []protocol.Consumer
	for _, e := range entries {
		pid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err != nil || filepath.Dir(exe) != "/bin" {
			continue
		}
		c := protocol.Consumer{Name: filepath.Base(exe), PID: pid}
		rollup, err := os.ReadFile(filepath.Join("/proc", e.Name(), "smaps_rollup"))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(rollup), "\n") {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			kib, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				continue
			}
			switch f[0] {
			case "Rss:":
				c.Resident = kib << 10
			case "Private_Clean:", "Private_Dirty:":
				c.Private += kib << 10
			}
		}
		out = append(out, c)
	}
	return out
}
