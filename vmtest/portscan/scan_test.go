package portscan_test

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/qemu"
	"github.com/zero-os/zos/vmtest"
	"github.com/zero-os/zos/vmtest/portscan"
)

// guest boots the probe with parameters and returns its segment.
func guest(t *testing.T, parameters string) string {
	t.Helper()
	dir := t.TempDir()
	img, err := boot.BuildImage(context.Background(), boot.ImageOptions{
		KernelDir: vmtest.Kernel(t), InitBinary: vmtest.BuildStatic(t, "github.com/zero-os/zos/vmtest/probeinit"), OutDir: dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	seg := filepath.Join(dir, "segment")
	m := vmtest.NewMachine(t, qemu.Config{
		MemoryMB: 256, Network: &qemu.Network{MAC: "52:54:00:00:00:07", Segment: seg},
		Kernel: img.Kernel, Initrd: img.Initrd, Cmdline: "console=ttyS0 loglevel=4 panic=-1 probe.ip=10.0.2.15 " + parameters,
	})
	m.WaitConsole(t, "^probe: ready$", time.Minute)
	return seg
}

func scan(t *testing.T, seg string, control bool) portscan.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	rep, err := portscan.Scan(ctx, portscan.Options{
		Segment: seg, Subnet: netip.MustParsePrefix("10.0.2.0/24"), Control: control, Log: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// TestOpenPortsOfARealMachineAreFound is the scanner's own control: a real
// kernel with one real socket of each kind, on IPv4 and IPv6.
func TestOpenPortsOfARealMachineAreFound(t *testing.T) {
	rep := scan(t, guest(t, "probe.tcp=8080 probe.udp=5353"), true)
	if rep.OK || rep.Control == nil || !rep.Control.Found {
		t.Errorf("report: ok %t, control %+v", rep.OK, rep.Control)
	}
	if len(rep.Node) != 2 || !rep.Node[0].Address.Is4() || !rep.Node[1].Address.Is6() {
		t.Fatalf("addresses found: %+v", rep.Node)
	}
	if r := rep.Node[0]; !slices.Equal(r.TCPOpen, []int{8080}) || !slices.Equal(r.UDPReplies, []int{5353}) || r.TCPSilent > 0 {
		t.Errorf("IPv4: %+v", r)
	}
	if r := rep.Node[1]; !slices.Equal(r.TCPOpen, []int{8080}) || !slices.Equal(r.UDPReplies, []int{5353}) || r.TCPSilent > 0 {
		t.Errorf("IPv6: %+v", r)
	}
}
