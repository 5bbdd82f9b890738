package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload/control"
)

// One boot, many promises: each boot costs seconds under emulation.
func TestRunningWorkloadAnswers(t *testing.T) {
	m := start(t, options{})
	s := m.connect()
	c := m.run(s, m.program("serve"))
	listen(t, c, "serving\n")

	t.Run("exec passes streams and exit codes", func(t *testing.T) {
		if h := m.exec(s, "exit", "9"); h.code != 9 || h.out != "out\n" || h.err != "err\n" {
			t.Errorf("%+v", h)
		}
		if h := m.exec(s, "kill"); h.code != 128+9 {
			t.Errorf("%+v", h)
		}
		e := ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"program", "cat"}}})
		sent := strings.Repeat("0123456789abcdef", 20000)
		go func() {
			_, _ = fmt.Fprint(e.Stream(control.FrameStdin), sent)
			_ = e.Write(control.FrameCloseStdin, nil)
		}()
		if h := listen(t, e, ""); h.code != 0 || h.out != sent {
			t.Errorf("%d bytes came back, code %d", len(h.out), h.code)
		}
	})
	t.Run("exec sees the same world with the same rights", func(t *testing.T) {
		e := ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{
			Args: []string{"/program", "look"}, Env: []string{"B=2"}, WorkDir: "/data", User: &control.User{UID: 1000, GID: 1000},
		}})
		h := listen(t, e, "")
		wantLines(t, h.out, "uid 1000 gid 1000", "groups []", "cwd /data", "env A=1", "env B=2", "env HOME=/home/ada", "NoNewPrivs: 1",
			"CapEff: 0000000000000000", "CapBnd: 0000000000000000", "cgroup 0::/", "host web", "mount operation not permitted")
		if strings.Contains(h.out, "pid 1 ") {
			t.Error("it is not beside the workload's program")
		}
	})
	t.Run("root inside is as confined", func(t *testing.T) {
		h := m.exec(s, "look")
		wantLines(t, h.out, "uid 0 gid 0", "env HOME=/root", "CapEff: 0000000000000000", "CapBnd: 0000000000000000",
			"write /proc/sys/kernel/hostname read-only file system", "write /proc/sysrq-trigger read-only file system",
			"write /sys/kernel/mm/transparent_hugepage/enabled read-only file system", "write /sys/fs/cgroup/cgroup.procs read-only file system",
			"write /etc/new <nil>", "kcore 0", "mknod operation not permitted", "mount operation not permitted", "reboot operation not permitted")
	})
	t.Run("system calls are filtered as in namespaces", func(t *testing.T) {
		calls := func(text string) (all []string) {
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "syscall ") || strings.HasPrefix(line, "status Seccomp") {
					all = append(all, strings.TrimSpace(line))
				}
			}
			return all
		}
		golden, err := os.ReadFile("../../workload/escape/testdata/namespace.golden")
		if err != nil {
			t.Fatal(err)
		}
		h := listen(t, ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/probe", "probe"}}}), "")
		want, got := calls(string(golden)), calls(h.out)
		if diff := cmp.Diff(want, got); h.code != 0 || diff != "" || len(want) < 380 {
			t.Errorf("code %d, %d calls, differences (-namespace +guest):\n%s", h.code, len(want), diff)
		}
	})
	t.Run("files go in and out", func(t *testing.T) {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		big := bytes.Repeat([]byte("0123456789"), 50000)
		for _, e := range []struct {
			h tar.Header
			b []byte
		}{
			{tar.Header{Name: "conf/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 1000, Gid: 1000}, nil},
			{tar.Header{Name: "conf/big", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 1000, Gid: 1001}, big},
			{tar.Header{Name: "../../../../conf/up", Typeflag: tar.TypeReg, Mode: 0o600}, []byte("stays below")},
			{tar.Header{Name: "conf/link", Typeflag: tar.TypeSymlink, Linkname: "/disk/../lower"}, nil},
		} {
			e.h.Size = int64(len(e.b))
			if err := tw.WriteHeader(&e.h); err != nil {
				t.Fatal(err)
			}
			_, _ = tw.Write(e.b)
		}
		_ = tw.Close()
		put := ask(t, s, control.Request{Verb: control.VerbPut, Path: "/data/in"})
		_, _ = put.Stream(control.FrameStdin).Write(b.Bytes())
		_ = put.Write(control.FrameCloseStdin, nil)
		if h := listen(t, put, ""); h.code != 0 {
			t.Fatalf("%+v", h)
		}
		h := listen(t, ask(t, s, control.Request{Verb: control.VerbGet, Path: "/data/in/conf"}), "")
		got := map[string]string{}
		tr := tar.NewReader(strings.NewReader(h.out))
		for {
			e, err := tr.Next()
			if err != nil {
				break
			}
			content, _ := io.ReadAll(tr)
			got[e.Name] = fmt.Sprintf("%o %d %d %s%d", e.Mode, e.Uid, e.Gid, e.Linkname, len(content))
		}
		want := map[string]string{"conf/": "750 1000 1000 0", "conf/big": "640 1000 1001 500000", "conf/up": "600 0 0 11", "conf/link": "777 0 0 /disk/../lower0"}
		if h.code != 0 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("code %d, fault %v, got %q, want %q", h.code, h.fault, got, want)
		}
		// The link leads nowhere but within the workload.
		for _, path := range []string{"/data/in/conf/link", "/none"} {
			if h := listen(t, ask(t, s, control.Request{Verb: control.VerbGet, Path: path}), ""); h.fault == nil {
				t.Errorf("%s: %+v", path, h)
			}
		}
		bad := ask(t, s, control.Request{Verb: control.VerbPut, Path: "/data"})
		_, _ = bad.Stream(control.FrameStdin).Write(bytes.Repeat([]byte("no archive "), 500))
		if h := listen(t, bad, ""); h.fault == nil {
			t.Errorf("%+v", h)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		e := ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/program", "sh"}, TTY: true, Rows: 33, Cols: 99}})
		listen(t, e, "terminal 33 by 99\r\n")
		if _, err := fmt.Fprint(e.Stream(control.FrameStdin), "hello\n"); err != nil {
			t.Fatal(err)
		}
		listen(t, e, "you said hello\r\n")
		if err := e.Resize(40, 80); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(e.Stream(control.FrameStdin), "bye\n"); err != nil {
			t.Fatal(err)
		}
		if h := listen(t, e, ""); h.code != 5 {
			t.Errorf("%+v", h)
		}
	})
	// By name: a count of tasks has the threads in it that a runtime makes when it likes.
	untilGone := func(t *testing.T, program string) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			h := m.exec(s, "running")
			if !strings.Contains(h.out, "/program running\n") {
				t.Fatalf("%+v", h)
			}
			if !strings.Contains(h.out, program+"\n") {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("it runs on: %s", h.out)
			}
		}
	}
	t.Run("exec ends with its connection", func(t *testing.T) {
		e := ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/program", "wait", "stubborn"}}})
		listen(t, e, "waiting\n")
		if h := m.exec(s, "running"); !strings.Contains(h.out, "/program wait stubborn\n") {
			t.Fatalf("%+v", h)
		}
		_ = e.Close()
		untilGone(t, "/program wait stubborn")
	})
	t.Run("what exec leaves running ends with it", func(t *testing.T) {
		if h := m.exec(s, "leave"); h.code != 0 || h.out != "left one\n" {
			t.Fatalf("%+v", h)
		}
		untilGone(t, "/program sleep")
	})
	t.Run("exec passes signals", func(t *testing.T) {
		e := ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/program", "wait"}}})
		listen(t, e, "waiting\n")
		if err := e.Write(control.FrameSignal, []byte{15}); err != nil {
			t.Fatal(err)
		}
		if h := listen(t, e, ""); h.code != 3 {
			t.Errorf("%+v", h)
		}
	})
	t.Run("what can't be started says why", func(t *testing.T) {
		for _, args := range [][]string{{"/none"}, {"none"}, {"/etc/image"}} {
			h := listen(t, ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: args}}), "")
			if h.fault == nil || !strings.Contains(h.fault.Error(), "start ") {
				t.Errorf("%s: %+v", args, h)
			}
		}
	})
	t.Run("health checks from inside", func(t *testing.T) {
		for _, p := range []struct {
			probe control.Probe
			want  int
		}{
			{control.Probe{Kind: plan.CheckTCP, Port: 8080}, 0},
			{control.Probe{Kind: plan.CheckTCP, Port: 8081}, 1},
			{control.Probe{Kind: plan.CheckHTTP, Port: 8080, Path: "/good"}, 0},
			{control.Probe{Kind: plan.CheckHTTP, Port: 8080, Path: "/bad"}, 1},
			{control.Probe{Kind: plan.CheckHTTP, Port: 8080, Path: "/none"}, 1},
			{control.Probe{Kind: plan.CheckExec, Args: []string{"/program", "exit", "0"}}, 0},
			{control.Probe{Kind: plan.CheckExec, Args: []string{"/program", "exit", "1"}}, 1},
			{control.Probe{Kind: plan.CheckExec, Args: []string{"/none"}}, 1},
		} {
			p.probe.Timeout = patience.Milliseconds()
			if h := listen(t, ask(t, s, control.Request{Verb: control.VerbProbe, Probe: &p.probe}), ""); h.code != p.want {
				t.Errorf("%+v: %+v", p.probe, h)
			}
		}
		slow := control.Probe{Kind: plan.CheckExec, Args: []string{"/program", "sleep"}, Timeout: 100}
		if h := listen(t, ask(t, s, control.Request{Verb: control.VerbProbe, Probe: &slow}), ""); h.code != 1 {
			t.Errorf("%+v", h)
		}
	})
	t.Run("clock jumps both ways", func(t *testing.T) {
		for _, to := range []time.Time{time.Unix(4_000_000_000, 0), time.Unix(1_800_000_000, 0)} {
			if h := listen(t, ask(t, s, control.Request{Verb: control.VerbClock, Time: to.UnixNano()}), ""); h.code != 0 {
				t.Fatalf("%+v", h)
			}
			_, after, _ := strings.Cut(m.exec(s, "look").out, "\ntime ")
			if n, _ := strconv.ParseInt(strings.TrimSpace(after), 10, 64); n < to.Unix() || n > to.Unix()+3600 {
				t.Errorf("set to %d, it is %d", to.Unix(), n)
			}
		}
	})
	t.Run("statistics", func(t *testing.T) {
		st := m.status(s)
		if st.Memory == 0 || st.MemoryLimit < 128<<20 || st.PIDs == 0 || st.CPUMicros == 0 || st.DiskSize < 200<<20 || st.DiskUsed == 0 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("resize within the machine", func(t *testing.T) {
		for _, l := range []struct {
			limits control.Limits
			want   int
		}{
			{control.Limits{CPU: 500, Memory: 200 << 20, PIDs: 50}, 0},
			{control.Limits{CPU: 500, Memory: 4 << 30, PIDs: 50}, 1},
			{control.Limits{CPU: 64000, Memory: 200 << 20, PIDs: 50}, 1},
		} {
			if h := listen(t, ask(t, s, control.Request{Verb: control.VerbResize, Limits: &l.limits}), ""); h.code != l.want {
				t.Errorf("%+v: %+v", l.limits, h)
			}
		}
		if st := m.status(s); st.MemoryLimit != 200<<20 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("processes are limited", func(t *testing.T) {
		if h := m.exec(s, "fork"); !strings.Contains(h.out, "true") {
			t.Errorf("%+v", h)
		}
	})
	t.Run("the channel is quick", func(t *testing.T) {
		const rounds, size = 50, 16 << 20
		began := time.Now()
		for range rounds {
			m.status(s)
		}
		t.Logf("measured: a request and its answer %d µs", time.Since(began).Microseconds()/rounds)
		began = time.Now()
		out := ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/program", "zeros", fmt.Sprint(size)}}})
		got := 0
		for {
			kind, b, err := out.Read()
			if err != nil {
				t.Fatal(err)
			}
			if kind == control.FrameError {
				t.Fatalf("%s", b)
			}
			if kind == control.FrameExit {
				break
			}
			got += len(b)
		}
		if got != size {
			t.Errorf("%d bytes came", got)
		}
		t.Logf("measured: out of the guest %.1f MB/s", size/time.Since(began).Seconds()/1e6)
	})
	t.Run("a second boot is refused", func(t *testing.T) {
		if h := listen(t, m.run(s, m.program("exit", "0")), ""); h.fault == nil {
			t.Errorf("%+v", h)
		}
	})
	t.Run("signal reaches the program", func(t *testing.T) {
		if h := listen(t, ask(t, s, control.Request{Verb: control.VerbSignal, Signal: 10}), ""); h.code != 0 {
			t.Errorf("%+v", h)
		}
		listen(t, c, "told user defined signal 1\n")
	})
	t.Run("stop is graceful", func(t *testing.T) {
		stop := ask(t, s, control.Request{Verb: control.VerbStop, Signal: 15, Grace: patience.Milliseconds()})
		if h := listen(t, c, ""); h.code != 3 || !strings.Contains(h.out, "told terminated\n") {
			t.Errorf("%+v", h)
		}
		if h := listen(t, stop, ""); h.code != 0 {
			t.Errorf("%+v", h)
		}
	})
	m.ends(c)
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, w := range lines {
		if !strings.Contains("\n"+text, w) {
			t.Errorf("no %q in\n%s", w, text)
		}
	}
}
