package node

import (
	"fmt"
	"os"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/boot/firststage"
	"github.com/zero-os/zos/contract"
)

// Places in a node's file system, besides those of package boot.
const (
	dataKeys      = boot.DataDir + "/keys"
	dataWorkloads = boot.DataDir + "/workloads"
	dataMachines  = boot.DataDir + "/machines"
	dataEvents    = boot.DataDir + "/events"
	dataGateways  = boot.DataDir + "/gateways"
	runKeys       = boot.RunDir + "/keys"
	faultDir      = boot.RunDir + "/fault"
	faultSocket   = boot.RunDir + "/fault.sock"
	cgroupRoot    = "/sys/fs/cgroup/zos"
	gatewayCgroup = "/sys/fs/cgroup/zos-gateway"
)

// situation is what the boot says about this node: all of its inputs.
type situation struct {
	boot.Handover
	grid    firststage.Grid
	slot    firststage.Slot
	signed  contract.Signed // the slot's statement
	release contract.Release
}

// readSituation reads what the first stage left, and verifies the release again
// before anything is built on it.
func readSituation() (situation, error) {
	var s situation
	var err error
	if s.Handover, err = boot.ReadHandover(boot.HandoverPath); err != nil {
		return s, err
	}
	b, err := os.ReadFile(boot.RunArchivePath)
	if err != nil {
		return s, fmt.Errorf("read the grid's archive: %w", err)
	}
	if s.grid, err = firststage.OpenArchive(b); err != nil {
		return s, err
	}
	found := false
	for i, slot := range s.grid.Slots {
		if slot.ID == s.Slot {
			s.slot, s.signed, found = slot, s.grid.Archive.Slots[i], true
		}
	}
	if !found || s.grid.ID != s.Grid {
		return s, fmt.Errorf("the first stage booted slot %s of grid %s, the archive has no such slot", s.Slot.Short(), s.Grid.Short())
	}
	signed, err := contract.DecodeSigned(s.Release)
	if err != nil {
		return s, err
	}
	if s.release, err = boot.VerifyRelease(signed, s.grid.Genesis, uint64(time.Now().Unix()), s.Floor); err != nil {
		return s, fmt.Errorf("verify the release that was booted: %w", err)
	}
	return s, nil
}
