package main

import (
	"testing"
	"time"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/qemu"
)

const (
	bootTime = 90 * time.Second // to the second stage, on a busy machine under emulation
	stepTime = 30 * time.Second
)

func TestNodeWithADiskBootsTheRelease(t *testing.T) {
	g := newTestGrid(t)
	g.serve()
	g.publish(contract.Release{Sequence: 3}, g.release)
	m := g.boot(qemu.Config{Disks: []qemu.Disk{{Path: disk(t, 1<<30), Serial: "named-1"}}, TPM: t.TempDir()})
	m.WaitConsole(t, `zos: disk … ok .*/dev/vda, named-1, 1024.0 MiB, formatted`, bootTime)
	m.WaitConsole(t, `zos: zosd: handover slot=node1 sequence=3 floor=3 disk=disk serial=named-1 fresh=true clock=rtc tpm=/dev/tpmrm0`, bootTime)
	m.WaitConsole(t, `zos: zosd: all done`, stepTime)
	m.WaitEnd(t, stepTime)
	t.Logf("%s", m.ConsoleText(t))
}
