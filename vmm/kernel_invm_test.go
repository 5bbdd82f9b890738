//go:build invm

package vmm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/vmm/tree"
	"github.com/zero-os/zos/vmtest/asnode"
)

const (
	vmmRoot = asnode.VMMRoot
	idBase  = 1 << 20
)

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepare() error {
	// The tests' process takes in what runc leaves behind.
	if err := process.BecomeSubreaper(); err != nil {
		return err
	}
	if err := asnode.MountVMM("/dev/vda"); err != nil {
		return err
	}
	for _, c := range []string{"+cpu", "+memory", "+pids"} {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte(c), 0); err != nil {
			return fmt.Errorf("cgroup %s: %w", c, err)
		}
	}
	return AllowKVM()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// listen makes a listening socket below dir, and the file that a container inherits.
func listen(t *testing.T, path string) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	must(t, err)
	l.Close()
	return f
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	must(t, err)
	return c
}

// contain runs a container detached and returns its first process.
func contain(t *testing.T, id string, s *specs.Spec, files []*os.File) int {
	t.Helper()
	dir := t.TempDir()
	b, err := json.Marshal(s)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600))
	log := filepath.Join(dir, "log")
	out, err := os.OpenFile(filepath.Join(dir, "output"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
	must(t, err)
	must(t, out.Chown(idBase, idBase))
	cmd := exec.Command("/bin/runc", "--root", "/run/runc", "--log", log, "run", "--detach", "--bundle", dir, "--pid-file", filepath.Join(dir, "pid"),
		"--preserve-fds", strconv.Itoa(len(files)), id)
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = files, out, out
	err = cmd.Run()
	t.Cleanup(func() {
		_ = exec.Command("/bin/runc", "--root", "/run/runc", "delete", "--force", id).Run()
		if b, _ := os.ReadFile(out.Name()); t.Failed() {
			t.Logf("output of %s: %s", id, b)
		}
		out.Close()
	})
	if err != nil {
		b, _ := os.ReadFile(log)
		t.Fatalf("run %s: %v: %s", id, err, b)
	}
	for _, f := range files {
		f.Close()
	}
	b, err = os.ReadFile(filepath.Join(dir, "pid"))
	must(t, err)
	pid, err := strconv.Atoi(string(b))
	must(t, err)
	return pid
}

// running is a machine with its share.
type running struct {
	monitor, server int // pids
	dir             string
	agent           net.Conn
	lines           *bufio.Scanner
	began           time.Time
}

func start(t *testing.T, board Board, share string, change func(*Config)) *running {
	t.Helper()
	r := &running{dir: t.TempDir(), began: time.Now()}
	at := func(name string) string { return filepath.Join(r.dir, name) }
	box := Box{Root: vmmRoot, IDBase: idBase, IDs: 65536, Cgroup: "/t-fs", Memory: FileServerMemory, PIDs: MinThreads}
	spec, err := FileServerSpec("fs", share, false, 3, box)
	must(t, err)
	server := listen(t, at("fs"))
	r.server = contain(t, t.Name()+"-fs", spec, []*os.File{server})
	served := dial(t, at("fs"))
	fs, err := served.(*net.UnixConn).File()
	must(t, err)
	served.Close() // or the file server would outlive its machine, for us

	vsock, err := os.OpenFile("/dev/vhost-vsock", os.O_RDWR, 0)
	must(t, err)
	c := Config{
		Name: "t", Accel: KVM, Board: board, Memory: 128 << 20, CPUs: 1,
		Kernel: &Kernel{Image: tree.Kernel, Initrd: tree.Initrd, Cmdline: "console=ttyS0 quiet panic=-1 reboot=t"},
		QMP:    3, Console: 4, Agent: 5, Shares: []Share{{Tag: "root", Socket: 6}}, Vsock: &Vsock{CID: 42, File: 7},
	}
	files := []*os.File{listen(t, at("qmp")), listen(t, at("console")), listen(t, at("agent")), fs, vsock}
	if change != nil {
		change(&c)
	}
	box.Cgroup, box.Memory = "/t-vm", c.Memory+Overhead
	spec, err = MonitorSpec(c, box)
	must(t, err)
	console := at("console")
	r.agent = dial(t, at("agent"))
	con := dial(t, console)
	t.Cleanup(func() { r.agent.Close(); con.Close() })
	var text strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := bufio.NewScanner(con)
		for n := 0; s.Scan(); n++ {
			if n == 0 {
				t.Logf("measured: %s: the guest's first words after %d ms: %.60q", board, time.Since(r.began).Milliseconds(), s.Text())
			}
			fmt.Fprintf(&text, "%6d ms %s\n", time.Since(r.began).Milliseconds(), s.Text())
		}
	}()
	t.Cleanup(func() {
		con.Close()
		<-done
		if t.Failed() {
			t.Logf("console:\n%s", text.String())
		}
	})
	r.began = time.Now()
	r.monitor = contain(t, t.Name()+"-vm", spec, files)
	inside := time.Since(r.began)
	m, err := QEMU{}.Attach(bounded(t), dial(t, at("qmp")), func(Event) {})
	must(t, err)
	t.Logf("measured: %s: runc done after %d ms, monitor ready after %d ms", board, inside.Milliseconds(), time.Since(r.began).Milliseconds())
	m.Close()
	must(t, r.agent.SetDeadline(time.Now().Add(90*time.Second)))
	r.lines = bufio.NewScanner(r.agent)
	return r
}

// line is what the guest says next.
func (r *running) line(t *testing.T) string {
	t.Helper()
	if !r.lines.Scan() {
		t.Fatalf("the guest said nothing more: %v", r.lines.Err())
	}
	return r.lines.Text()
}

func (r *running) ask(t *testing.T, format string, args ...any) string {
	t.Helper()
	_, err := fmt.Fprintf(r.agent, format+"\n", args...)
	must(t, err)
	return r.line(t)
}

// private is the memory of a process that nobody shares, in KiB, and what it has of
// files, without the guest's memory.
func private(t *testing.T, pid int) (dirty, file int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	must(t, err)
	guest := false
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.Atoi(f[1])
		switch f[0] {
		case "Private_Dirty:":
			if !guest {
				dirty += n
			}
		case "Private_Clean:", "Shared_Clean:":
			if !guest {
				file += n
			}
		default:
			if !strings.HasSuffix(f[0], ":") {
				guest = strings.Contains(l, "memfd")
			}
		}
	}
	return dirty, file
}

// shared makes a directory that is served to a guest.
func shared(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/hello", []byte("from the node"), 0o644))
	must(t, os.WriteFile(dir+"/secret", []byte("of user 5"), 0o600))
	must(t, os.Chown(dir, idBase, idBase))
	must(t, os.Chown(dir+"/hello", idBase, idBase))
	must(t, os.Chown(dir+"/secret", idBase+5, idBase+5))
	must(t, os.WriteFile(dir+"/big", make([]byte, 8<<20), 0o644))
	return dir
}

// One boot, many promises: each boot costs half a minute under emulation.
func TestMicroVMRunsInItsContainer(t *testing.T) {
	r := start(t, MicroVM, shared(t), func(c *Config) { c.Paused = true })
	ctx := bounded(t)
	first, _ := attach(t, r)
	if s, err := first.State(ctx); err != nil || s != Paused {
		t.Errorf("before its first instruction: %s %v", s, err)
	}
	must(t, first.Resume(ctx))
	resumed := time.Now()
	said := r.line(t)
	t.Logf("measured: agent %d ms after the first instruction (guest's clock: %s)", time.Since(resumed).Milliseconds(), said)
	t.Run("it is confined and serves its share", func(t *testing.T) { checkGuest(t, r, first) })
	t.Run("controllers come and go", func(t *testing.T) { checkControllers(t, r, first) })
}

func TestPCIsConfinedAndEndsWhenTold(t *testing.T) {
	r := start(t, Q35, shared(t), func(c *Config) { c.Paused = true })
	checkConfined(t, r)
	m, _ := attach(t, r)
	checkKill(t, m)
}

func TestPCRunsInItsContainer(t *testing.T) {
	if os.Getenv("ZOS_SOAK") == "" {
		t.Skip("its boot takes long under emulation: make soak runs it")
	}
	r := start(t, Q35, shared(t), nil)
	said := r.line(t)
	t.Logf("measured: q35: agent after %d ms from runc's start (guest's clock: %s)", time.Since(r.began).Milliseconds(), said)
	m, _ := attach(t, r)
	checkGuest(t, r, m)
	checkKill(t, m)
}

func checkGuest(t *testing.T, r *running, m Machine) {
	t.Helper()
	for _, c := range [][2]string{
		{"share", "mounted"},
		{"read /newroot/hello", `"from the node" <nil>`},
		{"read /newroot/secret", `"of user 5" <nil>`},
	} {
		if got := r.ask(t, "%s", c[0]); got != c[1] {
			t.Errorf("%s: %s, want %s", c[0], got, c[1])
		}
	}
	if got := r.ask(t, "write /newroot/x"); !strings.Contains(got, "read-only") {
		t.Errorf("a write to the share: %s", got)
	}
	t.Logf("measured: read 8 MiB over virtiofs: bytes, ms: %s", r.ask(t, "size /newroot/big"))
	checkConfined(t, r)
	st, err := m.Stats(bounded(t))
	must(t, err)
	if st.State != Running {
		t.Errorf("stats %+v", st)
	}
}

func checkConfined(t *testing.T, r *running) {
	t.Helper()
	for name, pid := range map[string]int{"monitor": r.monitor, "file server": r.server} {
		s, err := process.ReadSecurity(pid)
		must(t, err)
		dirty, file := private(t, pid)
		t.Logf("measured: %s: private %d KiB, of files %d KiB; security %+v", name, dirty, file, s)
		if dirty > 35<<10 {
			t.Errorf("%s: %d KiB of private memory, want at most 35 MiB", name, dirty)
		}
		if s.Seccomp != 2 || !s.NoNewPrivs || name == "monitor" && s.Capabilities != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func checkKill(t *testing.T, m Machine) {
	t.Helper()
	ctx := bounded(t)
	must(t, m.Kill(ctx))
	select {
	case <-m.Done():
	case <-ctx.Done():
		t.Error("the monitor lived on")
	}
}

// attach takes control; events go to the channel.
func attach(t *testing.T, r *running) (Machine, chan Event) {
	t.Helper()
	events := make(chan Event, 64)
	m, err := QEMU{}.Attach(bounded(t), dial(t, filepath.Join(r.dir, "qmp")), func(e Event) { events <- e })
	must(t, err)
	t.Cleanup(m.Close)
	return m, events
}

// expect waits for an event.
func expect(t *testing.T, events chan Event, want Event) {
	t.Helper()
	for {
		select {
		case e := <-events:
			if e == want {
				return
			}
			t.Logf("event %+v", e)
		case <-time.After(time.Minute):
			t.Fatalf("no event %+v", want)
		}
	}
}

// ended waits for the end of a process of ours, which runc left to us.
func ended(t *testing.T, pid int) unix.WaitStatus {
	t.Helper()
	var st unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &st, 0, nil)
		if err != unix.EINTR {
			must(t, err)
			return st
		}
	}
}

func checkControllers(t *testing.T, r *running, first Machine) {
	ctx := bounded(t)
	first.Close()
	// The first one has gone, the machine has not; the next is let in.
	second, events := attach(t, r)
	must(t, second.Pause(ctx))
	expect(t, events, Event{Kind: EventPaused})
	if s, err := second.State(ctx); err != nil || s != Paused {
		t.Errorf("paused: %s %v", s, err)
	}
	must(t, second.Resume(ctx))
	if got := r.ask(t, "nonsense"); !strings.HasPrefix(got, "what is") {
		t.Errorf("after the pause: %s", got)
	}
	resized := time.Now()
	must(t, second.Resize(ctx, 120<<20))
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		st, err := second.Stats(ctx)
		must(t, err)
		if st.Memory == 120<<20 {
			t.Logf("measured: 8 MiB given back after %d ms", time.Since(resized).Milliseconds())
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the guest gave nothing back: %+v", st)
		}
	}
	must(t, second.Resize(ctx, 128<<20))
	_, err := fmt.Fprintln(r.agent, "off")
	must(t, err)
	expect(t, events, Event{Kind: EventShutdown, Reason: ReasonOff})
	if st := ended(t, r.monitor); EndOf(st.ExitStatus(), 0, true) != EndOff {
		t.Errorf("the monitor ended with %#x", st)
	}
	if st := ended(t, r.server); !st.Exited() && !st.Signaled() {
		t.Errorf("the file server ended with %#x", st)
	}
}

func TestPanicIsToldFromPowerOff(t *testing.T) {
	r := start(t, MicroVM, shared(t), nil)
	r.line(t)
	_, events := attach(t, r)
	_, err := fmt.Fprintln(r.agent, "panic")
	must(t, err)
	expect(t, events, Event{Kind: EventPanic, Reason: ReasonPanic})
	if st := ended(t, r.monitor); EndOf(st.ExitStatus(), 0, true) != EndPanic {
		t.Errorf("the monitor ended with %#x", st)
	}
}

func TestProbeFindsKVM(t *testing.T) {
	began := time.Now()
	a := Probe(bounded(t))
	t.Logf("measured: probe took %s", time.Since(began))
	if a.KVM != nil || a.Vsock != nil || a.VhostNet != nil {
		t.Errorf("%+v", a)
	}
	// Twice: nothing is left over that stands in the way.
	if b := Probe(bounded(t)); b.KVM != nil {
		t.Error(b.KVM)
	}
}
