//go:build !invm

package machine

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/vmm"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHowAMachineEndedIsToldApart(t *testing.T) {
	code := func(n int) *int { return &n }
	monitor := func(code, signal int) process.Exit { return process.Exit{Code: code, Signal: signal} }
	for name, c := range map[string]struct {
		f      facts
		reason string
		code   int
		signal int
	}{
		"the program ended well":                     {facts{agent: true, program: code(0), begun: true}, "", 0, 0},
		"the program failed":                         {facts{agent: true, program: code(3), begun: true}, "", 3, 0},
		"a signal ended the program":                 {facts{agent: true, program: code(143), begun: true}, "", 143, 15},
		"the guest's kernel killed it":               {facts{agent: true, program: code(137), guestOOM: true, begun: true}, shim.ReasonOOM, 137, 9},
		"killed, and others were for memory before":  {facts{agent: true, program: code(1), guestOOM: true, begun: true}, "", 1, 0},
		"killed after its program had ended":         {facts{agent: true, program: code(0), monitor: monitor(137, 9), begun: true}, "", 0, 0},
		"its file server died after its program":     {facts{agent: true, program: code(0), fileServer: true, monitor: monitor(137, 9), begun: true}, "", 0, 0},
		"a panic after its program":                  {facts{agent: true, program: code(0), panicked: true, monitor: monitor(1, 0), begun: true}, "", 0, 0},
		"the program could not start":                {facts{agent: true, startError: "no such file", begun: true}, shim.ReasonStart, 127, 0},
		"the file server died":                       {facts{agent: true, fileServer: true, monitor: monitor(137, 9), begun: true}, shim.ReasonVMM, 255, 0},
		"the file server used too much memory":       {facts{agent: true, fileServer: true, hostOOM: true, monitor: monitor(137, 9), begun: true}, shim.ReasonOOM, 255, 0},
		"the node's kernel killed the monitor":       {facts{agent: true, hostOOM: true, monitor: monitor(137, 9), begun: true}, shim.ReasonOOM, 255, 0},
		"somebody killed the monitor":                {facts{agent: true, monitor: monitor(137, 9), begun: true}, shim.ReasonVMM, 255, 0},
		"the monitor crashed":                        {facts{agent: true, monitor: monitor(139, 11), begun: true}, shim.ReasonVMM, 255, 0},
		"the guest was silent":                       {facts{agent: true, hung: true, monitor: monitor(137, 9), begun: true}, ReasonHung, 255, 0},
		"a panic, told by QMP":                       {facts{agent: true, panicked: true, monitor: monitor(1, 0), begun: true}, shim.ReasonPanic, 255, 0},
		"a panic, told by the exit code":             {facts{agent: true, monitor: monitor(1, 0), begun: true}, shim.ReasonPanic, 255, 0},
		"the monitor refused its configuration":      {facts{agent: true, monitor: monitor(1, 0)}, shim.ReasonStart, 255, 0},
		"the guest powered off, its program unknown": {facts{agent: true, monitor: monitor(0, 0), begun: true}, shim.ReasonExited, 255, 0},
		"a machine without an agent powered off":     {facts{monitor: monitor(0, 0), begun: true}, "", 0, 0},
		"a machine without an agent panicked":        {facts{monitor: monitor(1, 0), begun: true}, shim.ReasonPanic, 255, 0},
		"nobody watched":                             {facts{agent: true, monitor: monitor(-1, 0), begun: true}, "", -1, 0},
	} {
		e := verdict(c.f)
		if e.Reason != c.reason || e.Exit.Code != c.code || e.Exit.Signal != c.signal {
			t.Errorf("%s: %+v, want reason %q, code %d, signal %d", name, e, c.reason, c.code, c.signal)
		}
	}
}

func TestEveryFileHasTheNumberThatTheConfigurationNames(t *testing.T) {
	s := NewSetup(vmm.Config{
		Name: "web", Accel: vmm.KVM, Board: vmm.MicroVM, Memory: 256 << 20, CPUs: 1, Kernel: &vmm.Kernel{Image: "/boot/vmlinuz"},
	})
	s.AddAgent()
	s.AddConsole()
	s.AddDisk("upper", "/data/disk.img", false)
	s.AddDisk("seed", "/run/seed", true)
	s.AddNIC("02:7a:0a:00:00:02", 1400, "/run/ns", "tap0", true)
	s.AddNIC("02:7a:0a:00:01:02", 1400, "/run/ns", "tap1", false)
	s.AddShare("root")
	must(t, s.Machine.Check())
	at := func(fd vmm.FD) File { return s.Engine.Files[fd-3] }
	m := s.Machine
	for what, ok := range map[string]bool{
		"qmp": at(m.QMP).Name == qmpSocket, "agent": at(m.Agent).Name == agentSocket, "console": at(m.Console).Name == consSocket,
		"upper": at(m.Disks[0].File).Path == "/data/disk.img" && !at(m.Disks[0].File).ReadOnly, "seed": at(m.Disks[1].File).ReadOnly,
		"tap0": at(m.NICs[0].Tap).Name == "tap0", "vhost": at(m.NICs[0].Vhost).Kind == FileVhost, "tap1": at(m.NICs[1].Tap).Name == "tap1",
		"share": at(m.Shares[0].Socket).Kind == FileShare, "no vhost": m.NICs[1].Vhost == 0,
	} {
		if !ok {
			t.Errorf("%s is not the file of its number", what)
		}
	}
	var spec shim.Spec
	must(t, s.Fill(&spec))
	c, err := readConfig(spec)
	must(t, err)
	if len(c.Files) != len(s.Engine.Files) || !c.Agent || !c.Share || spec.Engine != shim.EngineMachine {
		t.Errorf("%+v", c)
	}
}

func TestOnlyRegularFilesAreGivenToAMonitor(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	must(t, os.WriteFile(plain, []byte("x"), 0o600))
	must(t, os.Symlink(plain, filepath.Join(dir, "link")))
	for path, ok := range map[string]bool{plain: true, filepath.Join(dir, "link"): false, "/dev/null": false, dir: false, filepath.Join(dir, "none"): false} {
		f, err := File{Kind: FilePath, Path: path, ReadOnly: true}.open(t.Context(), dir)
		if (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			f.Close()
		}
	}
}

func TestSocketsOutliveWhoMadeThem(t *testing.T) {
	// Longer than a socket's address can be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	must(t, os.Mkdir(dir, 0o700))
	l, err := File{Kind: FileSock, Name: qmpSocket}.open(t.Context(), dir)
	must(t, err)
	defer l.Close()
	c, err := dial(t.Context(), filepath.Join(dir, qmpSocket))
	must(t, err)
	c.Close()
	st, err := os.Stat(filepath.Join(dir, qmpSocket))
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("others may connect: %v", st.Mode())
	}
}

func TestWhatTheGuestIsToldIsReadBack(t *testing.T) {
	dir := t.TempDir()
	b := control.Boot{Hostname: "web", Args: []string{"/bin/x"}, Files: []control.File{{Path: "/s", Mode: 0o400, Content: bytes.Repeat([]byte{1}, 64<<10)}}}
	must(t, WriteBoot(dir, b))
	got, err := readBoot(dir)
	must(t, err)
	x, _ := json.Marshal(b)
	y, _ := json.Marshal(got)
	if !bytes.Equal(x, y) {
		t.Errorf("%s\n%s", x, y)
	}
	st, err := os.Stat(filepath.Join(dir, bootFile))
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("others may read secrets: %v", st.Mode())
	}
	b.Files[0].Content = make([]byte, control.MaxRequest)
	if WriteBoot(dir, b) == nil {
		t.Error("more than a request can hold is taken")
	}
}

func TestAJumpOfTheClockIsNoticed(t *testing.T) {
	a := time.Now()
	b := a.Add(10 * time.Second)
	if jumped(a, b) {
		t.Error("ten seconds that passed are a jump")
	}
	// Readings without a monotonic part have none to compare: no jump.
	if jumped(a.Round(0), b.Round(0).Add(time.Hour)) {
		t.Error("without a time since boot nothing can be told")
	}
}

func TestWhoCannotRunAProgramInAMachineIsToldWhatThereIs(t *testing.T) {
	if err := (&instance{}).unsupported(control.VerbExec); problem.Code(err) != shim.CodeUnsupported || !strings.Contains(err.Error(), "SSH") {
		t.Errorf("%v", err)
	}
}

func TestAMachineWaitsForAsLongAsItsMonitorSays(t *testing.T) {
	dir := t.TempDir()
	ring, err := logs.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	i := newInstance(&engine{dir: dir, ring: ring}, shim.Spec{}, Config{}, true)
	for _, waits := range []bool{false, true, true, false} {
		i.stall(waits)
		if Stalled(dir) != waits {
			t.Errorf("it waits: %v, and is noted to: %v", waits, Stalled(dir))
		}
		if err := i.Probe(t.Context(), control.Probe{Kind: "tcp"}); (err == nil) != waits {
			t.Errorf("it waits: %v, its health: %v", waits, err)
		}
	}
}
