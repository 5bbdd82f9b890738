//go:build invm

package container

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

func lives(change func(*plan.Life)) option {
	return func(_ *workload.Desired, c *plan.Container) { change(&c.Life) }
}

func dial(t *testing.T, k *Kind, id workload.ID, r control.Request) *control.Conn {
	t.Helper()
	raw, err := k.Control(timeout(t), id)
	must(t, err)
	c, err := control.Dial(timeout(t), raw, r)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// said is what came of an answer: its streams and its exit code.
type said struct {
	out, err bytes.Buffer
	code     int
	failure  error
}

// hear reads an answer to its end.
func hear(t *testing.T, c *control.Conn) *said {
	t.Helper()
	must(t, c.Raw().SetReadDeadline(time.Now().Add(3*time.Minute)))
	s := &said{code: -99}
	for {
		typ, b, err := c.Read()
		if err != nil {
			t.Fatalf("%v after %q, %q", err, s.out.String(), s.err.String())
		}
		switch typ {
		case control.FrameStdout:
			s.out.Write(b)
		case control.FrameStderr:
			s.err.Write(b)
		case control.FrameExit:
			s.code = control.ExitCode(b)
			return s
		case control.FrameError:
			s.failure = control.Failure(b)
			return s
		default:
			t.Fatalf("type %d", typ)
		}
	}
}

func inside(t *testing.T, k *Kind, id workload.ID, args ...string) *said {
	t.Helper()
	return hear(t, dial(t, k, id, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: append([]string{"/bin/payload"}, args...)}}))
}

func TestExecRunsConfinedInside(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "app", []string{"sleep"}, func(_ *workload.Desired, c *planContainer) { c.UID, c.GID = 1000, 1001 })
	must(t, k.Ensure(timeout(t), d))
	running(t, k, d.ID)

	c := dial(t, k, d.ID, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/bin/payload", "echo"}}})
	sent := strings.Repeat("0123456789", 20_000)
	go func() {
		_, _ = io.WriteString(c.Stream(control.FrameStdin), sent)
		_ = c.Write(control.FrameCloseStdin, nil)
	}()
	if s := hear(t, c); s.failure != nil || s.code != 3 || s.out.String() != sent || s.err.String() != fmt.Sprintf("%d bytes\n", len(sent)) {
		t.Errorf("echo: %d, %v, %d bytes out, %q", s.code, s.failure, s.out.Len(), s.err.String())
	}
	if s := inside(t, k, d.ID, "cat", "/proc/self/status", "/proc/self/cgroup"); s.code != 0 ||
		!strings.Contains(s.out.String(), "CapEff:\t0000000000000000") || !strings.Contains(s.out.String(), "CapBnd:\t0000000000000000") ||
		!strings.Contains(s.out.String(), "Seccomp:\t2") || !strings.Contains(s.out.String(), "NoNewPrivs:\t1") || !strings.Contains(s.out.String(), "Uid:\t1000") {
		t.Errorf("%d, %v: %s", s.code, s.failure, s.out.String())
	} else if !strings.Contains(s.out.String(), "0::/exec-") {
		t.Errorf("its cgroup: %s", s.out.String())
	}
	c = dial(t, k, d.ID, control.Request{Verb: control.VerbExec, Exec: &control.Exec{
		Args: []string{"/bin/payload", "env", "A", "B"}, Env: []string{"B=two, with a comma"}, User: &control.User{UID: 5, GID: 6}, WorkDir: "/tmp",
	}})
	if s := hear(t, c); s.code != 0 || s.out.String() != "1\ntwo, with a comma\n" {
		t.Errorf("%d, %v: %s", s.code, s.failure, s.out.String())
	}
	if s := inside(t, k, d.ID, "leave"); s.code != 0 || !strings.HasPrefix(s.out.String(), "left ") {
		t.Errorf("with something left behind: %d, %v, %q", s.code, s.failure, s.out.String())
	}
	c = dial(t, k, d.ID, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/no/such/program"}}})
	if s := hear(t, c); code(s.failure) != shim.CodeExec || !strings.Contains(s.failure.Error(), "/no/such/program") {
		t.Errorf("a missing program: %d, %v", s.code, s.failure)
	}
	// Who leaves takes his program with him, and all that it started.
	c = dial(t, k, d.ID, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/bin/payload", "leave", "and stay"}}})
	_, _, err := c.Read()
	must(t, err)
	group := k.place(d.ID).cgroup
	if kids, _ := group.Children(); len(kids) == 0 {
		t.Error("a program has no cgroup of its own")
	}
	c.Close()
	until(t, "no program left", func() bool { kids, err := group.Children(); return err == nil && len(kids) == 0 })
	until(t, "one process left", func() bool { n, err := group.Read("pids.current"); return err == nil && len(n) == 1 && n < "9" })
	if st := status(t, k, d.ID); st.Restarts != 0 || !st.Process.Alive() {
		t.Errorf("%+v", st)
	}
	total, _ := rss(t, status(t, k, d.ID).Shim.PID)
	t.Logf("measured: shim RSS after six programs and 200 kB each way: %d KiB", total)
	if total > maxShim {
		t.Errorf("shim RSS %d KiB, want at most %d", total, maxShim)
	}
	if left, _ := filepath.Glob(k.place(d.ID).run + "/exec-*"); len(left) != 0 {
		t.Errorf("left in the run directory: %v", left)
	}
}

func TestExecWithATerminal(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "app", []string{"sleep"})
	must(t, k.Ensure(timeout(t), d))
	running(t, k, d.ID)
	c := dial(t, k, d.ID, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/bin/payload", "tty"}, TTY: true, Rows: 24, Cols: 80}})
	must(t, c.Raw().SetReadDeadline(time.Now().Add(2*time.Minute)))
	seen := ""
	read := func(want string) {
		t.Helper()
		for !strings.Contains(seen, want) {
			typ, b, err := c.Read()
			if err != nil || typ != control.FrameStdout {
				t.Fatalf("type %d, %q, %v after %q", typ, b, err, seen)
			}
			seen += string(b)
		}
	}
	read("terminal 24x80")
	must(t, c.Resize(50, 132))
	read("terminal 50x132")
	must(t, c.Write(control.FrameStdin, []byte{3})) // ^C
	if s := hear(t, c); s.code != 130 && s.code != 2 {
		t.Errorf("interrupted: %d, %v", s.code, s.failure)
	}
}

func TestFilesAreCopiedInAndOut(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "app", []string{"flip"})
	must(t, k.Ensure(timeout(t), d))
	output(t, k, d.ID, "flipping")
	p := k.place(d.ID)

	put := func(path string, entries ...tar.Header) *said {
		t.Helper()
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			h.Size = int64(len(h.PAXRecords["body"]))
			body := h.PAXRecords["body"]
			h.PAXRecords = nil
			must(t, w.WriteHeader(&h))
			_, err := io.WriteString(w, body)
			must(t, err)
		}
		must(t, w.Close())
		c := dial(t, k, d.ID, control.Request{Verb: control.VerbPut, Path: path})
		go func() {
			_, _ = c.Stream(control.FrameStdin).Write(b.Bytes())
			_ = c.Write(control.FrameCloseStdin, nil)
		}()
		return hear(t, c)
	}
	body := func(s string) map[string]string { return map[string]string{"body": s} }
	file := func(name, content string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o4750, Uid: 7, Gid: 8, PAXRecords: body(content)}
	}
	if s := put("/", tar.Header{Typeflag: tar.TypeDir, Name: "data/", Mode: 0o755}, file("data/sub/f", "one"),
		tar.Header{Typeflag: tar.TypeSymlink, Name: "data/link", Linkname: "/etc/shadow"}, file("data/link2", "two")); s.code != 0 {
		t.Fatalf("put: %d, %v", s.code, s.failure)
	}
	if s := inside(t, k, d.ID, "stat", "/data", "/data/sub/f", "/data/sub"); s.out.String() != "/data 755 0:0\n/data/sub/f 750 7:8\n/data/sub 755 7:8\n" {
		t.Errorf("%s", s.out.String())
	}
	if s := put("/data", file("link", "in the place of the link")); s.code != 0 {
		t.Errorf("over a link: %v", s.failure)
	}
	s := hear(t, dial(t, k, d.ID, control.Request{Verb: control.VerbGet, Path: "/data"}))
	if s.code != 0 {
		t.Fatalf("get: %v", s.failure)
	}
	got := map[string]string{}
	for r := tar.NewReader(&s.out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		got[h.Name] = fmt.Sprintf("%o %d:%d %s%s", h.Mode, h.Uid, h.Gid, b, h.Linkname)
	}
	if fmt.Sprint(got) != "map[data/:755 0:0  data/link:750 7:8 in the place of the link data/link2:750 7:8 two data/sub/:755 7:8  data/sub/f:750 7:8 one]" {
		t.Errorf("%v", got)
	}
	// Nothing of the node's, nothing that leaves.
	must(t, os.WriteFile("/outside", []byte("the node's"), 0o644))
	defer os.Remove("/outside")
	for _, name := range []string{"/outside", "/proc/1/root/outside", "/proc/kmsg", "/proc/1/environ", "/sys/kernel", "/dev/null", "/proc/self/fd"} {
		if s := hear(t, dial(t, k, d.ID, control.Request{Verb: control.VerbGet, Path: name})); s.failure == nil || bytes.Contains(s.out.Bytes(), []byte("the node's")) {
			t.Errorf("%s was copied: %q", name, s.out.String())
		}
	}
	for _, h := range []tar.Header{
		file("../x", ""), file("/x", ""), file("a/../../x", ""), {Typeflag: tar.TypeLink, Name: "hard", Linkname: "/bin/payload"},
		{Typeflag: tar.TypeFifo, Name: "fifo"}, {Typeflag: tar.TypeChar, Name: "dev"}, {Typeflag: tar.TypeReg, Name: "x", Uid: 65536},
	} {
		if s := put("/data", h); code(s.failure) != shim.CodeBadFile {
			t.Errorf("%s of type %c: %d, %v", h.Name, h.Typeflag, s.code, s.failure)
		}
	}
	for path, want := range map[string]string{"/nowhere": shim.CodeNoFile, "/proc": shim.CodeBadFile, "/sys/fs/cgroup": shim.CodeBadFile, "/bin/payload": shim.CodeBadFile} {
		if s := put(path, file("x", "")); code(s.failure) != want {
			t.Errorf("into %s: %d, %v", path, s.code, s.failure)
		}
	}
	// A directory that its owner turns into a link to the root again and again: what is
	// written lands inside the workload, or nowhere.
	for range 50 {
		_ = put("/tmp/a", file("raced", "x"))
		_ = put("/tmp", file("a/raced", "x"))
		_ = hear(t, dial(t, k, d.ID, control.Request{Verb: control.VerbGet, Path: "/tmp/a/outside"}))
	}
	for _, node := range []string{"/raced", filepath.Join(p.run, "raced")} {
		if _, err := os.Lstat(node); err == nil {
			t.Errorf("%s was written on the node", node)
		}
	}
	if st := status(t, k, d.ID); st.Restarts != 0 {
		t.Errorf("%+v", st)
	}
}

func TestHealthDecidesReadyAndRestarts(t *testing.T) {
	k := kind(t, &plainRootfs{})
	for _, check := range []plan.Health{
		{Kind: plan.CheckHTTP, Port: 8080, Path: "/healthz", Interval: 200, Timeout: 20_000, Retries: 3, Start: 120_000},
		{Kind: plan.CheckTCP, Port: 8080, Interval: 200, Timeout: 20_000, Retries: 3, Start: 120_000},
		{Kind: plan.CheckExec, Args: []string{"/bin/payload", "cat", "/tmp/well"}, Interval: 1000, Timeout: 60_000, Retries: 2, Start: 120_000},
	} {
		d := desire(t, "web-"+check.Kind, []string{"web"}, lives(func(l *plan.Life) { l.Health = &check }))
		must(t, k.Ensure(timeout(t), d))
		output(t, k, d.ID, "web")
		sick := "/tmp/sick"
		if check.Kind == plan.CheckExec {
			if s := inside(t, k, d.ID, "write", "/tmp/well", "x"); s.code != 0 {
				t.Fatal(s.failure, s.err.String())
			}
			sick = ""
		}
		until(t, check.Kind+" ready", func() bool { return observe(t, k, d.ID).Ready })
		first := status(t, k, d.ID)
		if check.Kind == plan.CheckHTTP {
			if s := inside(t, k, d.ID, "write", sick, "x"); s.code != 0 {
				t.Fatal(s.failure, s.err.String())
			}
			until(t, "unhealthy and started again", func() bool {
				st := status(t, k, d.ID)
				return st.Reason == shim.ReasonUnhealthy && st.Restarts > 0
			})
			// /tmp is fresh, so it is well again.
			until(t, "ready again", func() bool { return observe(t, k, d.ID).Ready })
		} else if first.Restarts != 0 {
			t.Errorf("%s: %+v", check.Kind, first)
		}
		must(t, k.Remove(timeout(t), d.ID))
	}
	// Nobody listens: never ready, restarted.
	d := desire(t, "deaf", []string{"sleep"}, lives(func(l *plan.Life) {
		l.Health = &plan.Health{Kind: plan.CheckTCP, Port: 81, Interval: 100, Timeout: 1000, Retries: 2}
		l.Attempts = 2
	}))
	must(t, k.Ensure(timeout(t), d))
	until(t, "given up", func() bool { return observe(t, k, d.ID).Reason == shim.ReasonAttempts })
	if s := observe(t, k, d.ID); s.State != contract.StateFailed || s.Ready || !strings.Contains(s.Detail, shim.ReasonUnhealthy) {
		t.Errorf("%+v", s)
	}
	must(t, k.Ensure(timeout(t), d))
	if s := observe(t, k, d.ID); s.Reason != shim.ReasonAttempts {
		t.Errorf("another Ensure: %+v", s)
	}
	if c := hear(t, dial(t, k, d.ID, control.Request{Verb: control.VerbRestart})); c.code != 0 {
		t.Error(c.failure)
	}
	until(t, "started by hand", func() bool { return status(t, k, d.ID).Restarts >= 2 })
}

func TestStopSignalDeadlineAndRestartByHand(t *testing.T) {
	k := kind(t, &plainRootfs{})
	k.cfg.Grace = 0 // the plan's
	d := desire(t, "trap", []string{"trap"}, lives(func(l *plan.Life) { l.Signal, l.Grace = uint64(unix.SIGUSR1), 60 }))
	must(t, k.Ensure(timeout(t), d))
	output(t, k, d.ID, "trapped")
	if c := hear(t, dial(t, k, d.ID, control.Request{Verb: control.VerbRestart})); c.code != 0 {
		t.Fatal(c.failure)
	}
	until(t, "restarted", func() bool { st := status(t, k, d.ID); return st.Restarts == 1 && st.State == shim.Running })
	if st := status(t, k, d.ID); st.Exit.Code != 7 || st.Reason != shim.ReasonRestart || st.Failures != 0 {
		t.Errorf("by its own signal: %+v", st)
	}
	// Before it has set its trap, the kernel drops a signal to process 1.
	until(t, "trapped again", func() bool {
		recs, _, err := logs.NewReader(k.LogDir(d.ID)).Read(1, 100000)
		must(t, err)
		n := 0
		for _, r := range recs {
			if r.Stream != logs.Node && string(r.Data) == "trapped" {
				n++
			}
		}
		return n == 2
	})
	must(t, k.Remove(timeout(t), d.ID))

	// Deaf to its signal: killed after the grace.
	d = desire(t, "deaf", []string{"trap"}, restart("on-failure"), lives(func(l *plan.Life) { l.Grace, l.Deadline, l.Attempts = 1, 2, 1 }))
	must(t, k.Ensure(timeout(t), d))
	until(t, "out of time", func() bool { return status(t, k, d.ID).State == shim.Exhausted })
	if st := status(t, k, d.ID); st.Reason != shim.ReasonDeadline || st.Exit.Signal != 9 {
		t.Errorf("%+v", st)
	}
	if s := observe(t, k, d.ID); s.Reason != shim.ReasonAttempts || !strings.Contains(s.Detail, shim.ReasonDeadline) {
		t.Errorf("%+v", s)
	}
}

func TestFilesAndSecretsLieInMemoryOnly(t *testing.T) {
	k := kind(t, &plainRootfs{})
	k.cfg.Secrets = func(_ context.Context, _ workload.Desired, s plan.Secret) ([]byte, error) {
		return append([]byte("opened "), s.Sealed...), nil
	}
	give := func(_ *workload.Desired, c *planContainer) {
		c.UID, c.GID = 1000, 1001
		c.Files = []plan.File{{Path: "/etc/deep/app.conf", Mode: 0o640, Content: []byte("conf-9134")}}
		c.Secrets = []plan.Secret{
			{Name: "env", Env: "TOKEN", Epoch: 1, Sealed: []byte("token-5521")},
			{Name: "file", Path: "/run/secrets/key", Mode: 0o400, Epoch: 1, Sealed: []byte("key-7782")},
		}
	}
	d := desire(t, "app", []string{"sleep"}, give)
	must(t, k.Ensure(timeout(t), d))
	running(t, k, d.ID)
	if s := inside(t, k, d.ID, "cat", "/etc/deep/app.conf", "/run/secrets/key"); s.out.String() != "conf-9134opened key-7782" {
		t.Errorf("%q, %s", s.out.String(), s.err.String())
	}
	if s := inside(t, k, d.ID, "stat", "/etc/deep/app.conf", "/run/secrets/key"); s.out.String() != "/etc/deep/app.conf 640 1000:1001\n/run/secrets/key 400 1000:1001\n" {
		t.Errorf("%q", s.out.String())
	}
	if s := inside(t, k, d.ID, "env", "TOKEN"); s.out.String() != "opened token-5521\n" {
		t.Errorf("%q", s.out.String())
	}
	if s := inside(t, k, d.ID, "write", "/etc/deep/app.conf", "x"); s.code == 0 {
		t.Error("a given file was written to")
	}
	// Not on the data disk: neither in a file nor in any block of it.
	unix.Sync()
	p := k.place(d.ID)
	err := filepath.WalkDir(p.data, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		must(t, err)
		for _, secret := range []string{"conf-9134", "token-5521", "key-7782"} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds %s", path, secret)
			}
		}
		return nil
	})
	must(t, err)
	k.cfg.Secrets = nil
	if err := k.Ensure(timeout(t), desire(t, "other", []string{"sleep"}, give)); code(err) != CodeSecret {
		t.Errorf("a node that opens none: %v", err)
	}
}

func TestLimitsAndLifeChangeWithoutANewStart(t *testing.T) {
	k := kind(t, &plainRootfs{})
	d := desire(t, "app", []string{"append", "/file"})
	must(t, k.Ensure(timeout(t), d))
	output(t, k, d.ID, "lines 1")
	first := status(t, k, d.ID)
	p := k.place(d.ID)
	same := func(what string) {
		t.Helper()
		if now := status(t, k, d.ID); now.Process != first.Process || !now.Process.Alive() || now.Restarts != 0 {
			t.Errorf("%s restarted it: %+v", what, now)
		}
		if s := observe(t, k, d.ID); s.State != contract.StateRunning || s.Version != d.Version {
			t.Errorf("%s: %+v", what, s)
		}
	}
	d = desire(t, "app", []string{"append", "/file"}, func(d *workload.Desired, _ *planContainer) {
		d.Version, d.Plan.Resources.CPU, d.Plan.Resources.Memory, d.Plan.Resources.PIDs = 2, 700, 96<<20, 70
	})
	must(t, k.Ensure(timeout(t), d))
	same("more of everything")
	for file, want := range map[string]string{"memory.max": fmt.Sprint(96 << 20), "memory.swap.max": "0", "pids.max": "70", "cpu.max": "70000 100000"} {
		if got, err := p.cgroup.Read(file); err != nil || got != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	var st control.Stats
	conn, err := k.Control(timeout(t), d.ID)
	must(t, err)
	_, err = control.Ask(timeout(t), conn, control.Request{Verb: control.VerbStatus}, &st)
	must(t, err)
	if st.MemoryLimit != 96<<20 || st.PIDs == 0 || st.CPUMicros == 0 || st.Memory == 0 || st.DiskSize == 0 || st.DiskUsed == 0 || st.StartMillis == 0 {
		t.Errorf("%+v", st)
	}
	// The daemon dies after it has written the spec and before the shim is told.
	d = desire(t, "app", []string{"append", "/file"}, func(d *workload.Desired, _ *planContainer) { d.Version, d.Plan.Resources.CPU = 3, 800 },
		lives(func(l *plan.Life) { l.Attempts = 9 }))
	c, err := containers{}.Decode(d)
	must(t, err)
	want, _, err := digests(d.Plan, c)
	must(t, err)
	spec, err := shim.ReadSpec(p.run)
	must(t, err)
	spec.Plan, spec.Life, spec.Limits.CPU = want, k.life(c), 800
	must(t, shim.WriteSpec(p.run, spec))
	must(t, k.Ensure(timeout(t), d))
	same("a version taken up half-way")
	if got, _ := p.cgroup.Read("cpu.max"); got != "80000 100000" {
		t.Errorf("cpu.max %q", got)
	}
	// With the shim dead, the next one goes by the new plan.
	must(t, unix.Kill(status(t, k, d.ID).Shim.PID, unix.SIGKILL))
	until(t, "shim dead", func() bool { return !shim.Alive(p.run) })
	d = desire(t, "app", []string{"append", "/file"}, func(d *workload.Desired, _ *planContainer) { d.Version, d.Plan.Resources.CPU = 4, 900 })
	must(t, k.Ensure(timeout(t), d))
	until(t, "limited", func() bool { got, _ := p.cgroup.Read("cpu.max"); return got == "90000 100000" })
	same("a version for a dead shim")
	// Less memory than it uses: a new start, with its data.
	if s := inside(t, k, d.ID, "take", "/tmp/x", "24"); s.code != 0 {
		t.Fatal(s.failure, s.err.String())
	}
	d = desire(t, "app", []string{"append", "/file"}, func(d *workload.Desired, _ *planContainer) {
		d.Version, d.Plan.Resources.CPU, d.Plan.Resources.Memory = 5, 900, 16<<20
	})
	must(t, k.Ensure(timeout(t), d))
	if now := status(t, k, d.ID); now.Process == first.Process || first.Process.Alive() {
		t.Error("memory in use was taken away")
	}
	output(t, k, d.ID, "lines 2")
	if !fileInUpper(k, d.ID, "file") {
		t.Error("its data is gone")
	}
}
