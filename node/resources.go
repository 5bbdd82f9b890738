package node

import (
	"path/filepath"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/workload/footprint"
)

// resources lists everything that a workload could leave behind, as the kernel
// and the data disk show it.
func resources() (protocol.Resources, error) {
	f, err := footprint.Read(dataWorkloads, dataMachines)
	if err != nil {
		return protocol.Resources{}, err
	}
	_, cached, err := footprint.Usage(filepath.Join(boot.DataDir, "objects"))
	return protocol.Resources{
		Mounts: f.Mounts, Cgroups: f.Cgroups, Namespaces: f.Namespaces, Interfaces: f.Interfaces, Processes: f.Processes,
		Bytes: f.Bytes, Files: f.Files, Cached: cached,
	}, err
}
