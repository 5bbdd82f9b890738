package main

import (
	"bytes"
	"crypto/rand"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/sign"
)

// Generous, because two cores emulate while other tests compile.
const (
	bootTime = 3 * time.Minute // to the second stage
	stepTime = time.Minute
)

// wants fails unless every text is on the console.
func wants(t *testing.T, console string, texts ...string) {
	t.Helper()
	for _, w := range texts {
		if !strings.Contains(console, w) {
			t.Errorf("the console does not say %q", w)
		}
	}
}

func TestNodeWithADiskBootsTheReleaseAndKeepsIt(t *testing.T) {
	g := newTestGrid(t)
	stop := g.serve()
	g.publish(contract.Release{Sequence: 3}, g.release)
	machine := qemu.Config{Disks: []qemu.Disk{{Path: disk(t, 1<<30), Serial: "named-1"}}, TPM: t.TempDir()}

	m := g.boot(machine)
	m.WaitConsole(t, `zos: disk … ok .*/dev/vda, named-1, 1024.0 MiB, formatted`, bootTime)
	m.WaitConsole(t, `zos: zosd: all done`, bootTime)
	m.WaitEnd(t, stepTime)
	console := m.ConsoleText(t)
	wants(t, console,
		"zosd: handover slot=node1 sequence=3 floor=3 disk=disk serial=named-1 fresh=true clock=rtc tpm=/dev/tpmrm0",
		"zosd: network eth0 [10.0.2.15/24] dns [10.0.2.3]",
		"zosd: degraded []",
		"zosd: mount /data ext4 rw,nosuid,nodev,noexec,noatime",
		"zosd: root read-only true",
		"zosd: initramfs gone true",
		"zosd: cgroup 0::/zos/zosd oom -900 weight 10000",
		"zos-fault: args -require-verity -hubs "+g.archive.Hubs[0],
		// What process 1 promises.
		"exited with 3; starting it again in 100ms",
		"zosd: orphan zosd",
		"exited with 7",
		"zosd: predecessor zosd",
		"process 1 … ok, executed anew",
		"after execution anew: same process true, child of 1 true",
		"lines not shown)", // of a flood
		"zos: down",
	)
	if !strings.Contains(console, "verity=require") {
		t.Error("the root is mounted without verity=require")
	}
	if strings.Contains(console, "was not recorded") {
		t.Error("an exit was not recorded")
	}
	if n := strings.Count(console, "zosd: flood"); n > 2*burst {
		t.Errorf("%d lines of a flood of 1000 came through", n)
	}

	// An older release from the hub is refused, though it is newer than what the
	// boot files ask for: the disk and the TPM remember.
	g.publish(contract.Release{Sequence: 2}, g.release)
	m = g.boot(machine)
	m.WaitConsole(t, `zos: disk … ok .*named-1, 1024.0 MiB$`, bootTime)
	m.WaitConsole(t, `zos: tpm … ok .* release floor 3`, stepTime)
	m.WaitConsole(t, `refused .*release-below-floor`, stepTime)
	m.WaitConsole(t, `zos: release … ok .* test.3 .* from disk`, stepTime)
	m.WaitConsole(t, `zosd: handover .*sequence=3 floor=3 .*fresh=false`, bootTime)
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}

	// Without a network it boots what the disk holds, and gets an address when
	// the cable is back.
	machine.Cmdline = "test.stay"
	m = g.boot(machine)
	cable := func(up bool) {
		t.Helper()
		if _, err := m.Command(t.Context(), "set_link", map[string]any{"name": "nic", "up": up}); err != nil {
			t.Fatal(err)
		}
	}
	cable(false)
	m.WaitConsole(t, `zos: network … failed .*no network cable is plugged in.*plug one in.*trying again in 1s`, bootTime)
	m.WaitConsole(t, `zos: release … ok .* test.3 .* from disk`, stepTime)
	m.WaitConsole(t, `degraded \[.*"network: there is none yet`, bootTime)
	cable(true)
	m.WaitConsole(t, `zos: network: renew … ok eth0 10.0.2.15/24`, stepTime)
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}

	// With a blank disk and no hub the TPM's floor alone stands.
	stop()
	machine.Disks[0].Path = disk(t, 1<<30)
	m = g.boot(machine)
	m.WaitConsole(t, `zos: disk … ok .*formatted`, bootTime)
	m.WaitConsole(t, `zos: tpm … ok .* release floor 3`, stepTime)
	m.WaitConsole(t, `zos: release … failed .*hub-unreachable.*trying again`, stepTime)
}

func TestForeignDiskIsLeftUntouchedAndMemoryServes(t *testing.T) {
	g := newTestGrid(t)
	g.serve()
	g.publish(contract.Release{Sequence: 1}, g.release)
	g.archive.NTP = []string{timeServer(t, time.Hour)}
	foreign := disk(t, 512<<20)
	f, err := os.OpenFile(foreign, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content)
	for _, off := range []int64{0, 64 << 20, 511 << 20} {
		if _, err := f.WriteAt(content, off); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(foreign)
	if err != nil {
		t.Fatal(err)
	}
	m := g.boot(qemu.Config{MemoryMB: 512, Disks: []qemu.Disk{{Path: foreign, Serial: "not-named"}}, Cmdline: "init=/bin/sh test.restart"})
	m.WaitConsole(t, `zos: kernel … ok .* parameters ignored: init=/bin/sh test.restart`, bootTime)
	m.WaitConsole(t, `zos: /dev/vda is left alone: it is not named by the farm \(foreign data\)`, bootTime)
	m.WaitConsole(t, `zos: disk … ok .* in memory`, stepTime)
	m.WaitConsole(t, `zos: time … ok .* by ntp`, stepTime)
	m.WaitConsole(t, `zosd: handover .*disk=zram serial= fresh=true clock=ntp`, bootTime)
	m.WaitConsole(t, `zos: zosd: all done`, stepTime)
	m.WaitEnd(t, stepTime)
	wants(t, m.ConsoleText(t), "zos: down", "reboot: Restarting system", `degraded ["disk: /dev/vda is not named by the farm (foreign data)"]`, "zosd: mount /data ext4 rw,nosuid,nodev,noexec,noatime")
	after, err := os.ReadFile(foreign)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the foreign disk was changed")
	}
}

// The disk reads well and refuses every write, as flash at its end does.
func TestFailingDiskDegradesToMemory(t *testing.T) {
	g := newTestGrid(t)
	g.serve()
	g.publish(contract.Release{Sequence: 1}, g.release)
	m := g.boot(qemu.Config{MemoryMB: 512, Extra: []string{
		"-blockdev", "driver=blkdebug,node-name=failing,image.driver=file,image.filename=" + disk(t, 512<<20) +
			",inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=5",
		"-device", "virtio-blk-pci,drive=failing,serial=named-1,werror=report,rerror=report",
	}})
	m.WaitConsole(t, `zos: /dev/vda can't be used: format /dev/vda: .*input/output error`, bootTime)
	m.WaitConsole(t, `zos: disk … ok .* in memory, .*format /dev/vda`, stepTime)
	m.WaitConsole(t, `zosd: handover .*disk=zram serial= fresh=true`, bootTime)
	m.WaitConsole(t, `zosd: degraded \["disk: format /dev/vda`, stepTime)
}

func TestBadReleasesAreRefusedUntilAGoodOneAppears(t *testing.T) {
	g := newTestGrid(t)
	g.archive.ReleaseFloor = 5
	// A port is taken and the hub is not there yet.
	g.serve()()
	// Its clock is dead, too: only the boot files tell what time it must be at least.
	m := g.boot(qemu.Config{MemoryMB: 512, Extra: []string{"-rtc", "base=2020-01-01T00:00:00"}})
	m.WaitConsole(t, `zos: clock … ok .* by floor`, bootTime)
	m.WaitConsole(t, `zos: release … failed .*hub-unreachable.*trying again in 1s`, bootTime)
	g.serve()
	m.WaitConsole(t, `zos: release … failed .*404`, stepTime)
	g.publish(contract.Release{Sequence: 4}, g.release)
	m.WaitConsole(t, `zos: release … failed .*release-below-floor`, stepTime)
	g.publish(contract.Release{Sequence: 6, Expiry: uint64(time.Now().Add(-2 * time.Hour).Unix())}, g.release)
	m.WaitConsole(t, `zos: release … failed .*release-expired`, stepTime)
	_, outsider, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	g.publish(contract.Release{Sequence: 7}, outsider)
	m.WaitConsole(t, `zos: release … failed .*signature-unexpected`, stepTime)
	checkpoint := contract.Checkpoint{Height: 1, Time: uint64(time.Now().Add(-10 * time.Minute).Unix())}
	g.publish(contract.Release{Sequence: 8, Checkpoint: checkpoint}, g.release)
	path := g.hubDir + "/releases/" + g.id.String() + "/latest"
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tampered := bytes.Replace(good, []byte("test.8"), []byte("test.9"), 1)
	g.publishBytes(tampered)
	m.WaitConsole(t, `zos: release … failed .*signature-invalid`, stepTime)
	g.publishBytes(good)
	m.WaitConsole(t, `zosd: handover .*sequence=8 floor=8 .*clock=release`, bootTime)
}

func TestMissingAndDamagedArchivesAreNamed(t *testing.T) {
	g := newTestGrid(t)
	g.serve()
	good, err := boot.ArchiveInitrd(g.archive)
	if err != nil {
		t.Fatal(err)
	}
	// One bit of the farm's name, inside what the farm signed.
	damaged := bytes.Replace(good, []byte("dnamedfarm"), []byte("dnamedfarn"), 1)
	if bytes.Equal(damaged, good) {
		t.Fatal("the test damaged nothing")
	}
	for name, c := range map[string]struct {
		archive []byte
		line    string
	}{
		"missing": {nil, `zos: archive … failed .*archive-missing.*trying again in 1s`},
		"damaged": {damaged, `zos: archive … failed .*archive-damaged.*trying again in 1s`},
	} {
		t.Run(name, func(t *testing.T) {
			m := g.boot(qemu.Config{MemoryMB: 256, Initrd: g.initrd(c.archive)})
			m.WaitConsole(t, c.line, bootTime)
			m.WaitConsole(t, `zos: archive … failed .*trying again in 2s`, stepTime)
		})
	}
}
