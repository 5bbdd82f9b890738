package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

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
	t.Run("exec ends with its connection", func(t *testing.T) {
		before := m.status(s).PIDs
		e := ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/program", "wait", "stubborn"}}})
		listen(t, e, "waiting\n")
		_ = e.Close()
		for end := time.Now().Add(patience); m.status(s).PIDs > before; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it runs on")
			}
		}
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
	t.Run("a second boot is refused", func(t *testing.T) {
		if h := listen(t, m.run(s, m.program("exit", "0")), ""); h.fault == nil {
			t.Errorf("%+v", h)
		}
	})
	t.Run("signal reaches the program", func(t *testing.T) {
		if h := listen(t, ask(t, s, control.Request{Verb: control.VerbSignal, Signal: 15}), ""); h.code != 0 {
			t.Errorf("%+v", h)
		}
	})
	if h := listen(t, c, ""); h.code != 2 && h.code != 128+15 {
		t.Errorf("the program ended with %+v", h)
	}
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
