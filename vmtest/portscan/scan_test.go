package portscan_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
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

// scan runs the command as people do, and returns its report and exit code.
func scan(t *testing.T, args ...string) (portscan.Report, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, vmtest.BuildStatic(t, "github.com/zero-os/zos/vmtest/cmd/scan"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	t.Logf("%s", stderr.Bytes())
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var rep portscan.Report
	if len(out) > 0 {
		if err := json.Unmarshal(out, &rep); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return rep, cmd.ProcessState.ExitCode()
}

func TestNothingCanBeSaidWithoutASegment(t *testing.T) {
	for _, args := range [][]string{{}, {"-segment", filepath.Join(t.TempDir(), "missing")}, {"-segment", "x", "-subnet", "10.0.0.0/8"}, {"-segment", "x", "-o", "xml"}} {
		if _, code := scan(t, args...); code != 2 {
			t.Errorf("%v: exit code %d, want 2", args, code)
		}
	}
}

// TestOpenPortsOfARealMachineAreFound is the scanner's own control: a real
// kernel with one real socket of each kind, on IPv4 and IPv6.
func TestOpenPortsOfARealMachineAreFound(t *testing.T) {
	rep, code := scan(t, "-segment", guest(t, "probe.tcp=8080 probe.udp=5353"), "-control", "-o", "json")
	if code != 1 || rep.OK || rep.Control == nil || !rep.Control.Found {
		t.Errorf("exit code %d, ok %t, control %+v", code, rep.OK, rep.Control)
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
