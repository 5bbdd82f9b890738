package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sleeper(t *testing.T, script string) (*exec.Cmd, Ref) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 10)); err != nil { // it says when it is ready
		t.Fatal(err)
	}
	r, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, r
}

func TestReusedPIDIsAnotherProcess(t *testing.T) {
	_, r := sleeper(t, "echo ready; exec sleep 60")
	if !r.Alive() {
		t.Error("not alive")
	}
	other := Ref{PID: r.PID, Start: r.Start + 1} // who had this pid at another time
	if other.Alive() {
		t.Error("another start time is alive")
	}
	if _, err := other.Open(); !errors.Is(err, ErrGone) {
		t.Errorf("open: %v", err)
	}
	if err := other.End(context.Background(), time.Second); err != nil {
		t.Errorf("end of what is gone: %v", err)
	}
	if !r.Alive() {
		t.Error("the wrong process was ended")
	}
}

func TestWaitEndsWithTheProcessOrTheContext(t *testing.T) {
	cmd, r := sleeper(t, "echo ready; exec sleep 60")
	h, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for range 2 { // a wait that was given up can be begun again
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		err = h.Wait(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("wait: %v", err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if r.Alive() {
		t.Error("a zombie counts as alive")
	}
	if now, err := Of(r.PID); err != nil || now != r {
		t.Errorf("a zombie keeps its name: %v, %v", now, err)
	}
	_ = cmd.Wait()
	if err := h.Signal(unix.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("signal to the dead: %v", err)
	}
}

func TestEndAsksThenForces(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	polite, r := sleeper(t, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")
	if err := r.End(ctx, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	_ = polite.Wait()
	if polite.ProcessState.ExitCode() != 7 {
		t.Errorf("it was not asked: %v", polite.ProcessState)
	}
	deaf, r := sleeper(t, "trap '' TERM; echo ready; while :; do sleep 0.01; done")
	if err := r.End(ctx, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	_ = deaf.Wait()
	if !strings.Contains(deaf.ProcessState.String(), "killed") {
		t.Errorf("it was not killed: %v", deaf.ProcessState)
	}
}

func TestExitCodes(t *testing.T) {
	if e := ExitOf(unix.WaitStatus(3 << 8)); e != (Exit{Code: 3}) || e.String() != "exit code 3" {
		t.Errorf("%+v %s", e, e)
	}
	if e := ExitOf(unix.WaitStatus(9)); e != (Exit{Code: 137, Signal: 9}) || e.String() != "killed by signal 9 (SIGKILL)" {
		t.Errorf("%+v %s", e, e)
	}
}

func TestChildrenAreListed(t *testing.T) {
	cmd, _ := sleeper(t, "echo ready; exec sleep 60")
	pids, err := Children()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		if p == cmd.Process.Pid {
			return
		}
	}
	t.Errorf("%d is not among %v", cmd.Process.Pid, pids)
}

func TestSecurityOfThisProcess(t *testing.T) {
	s, err := ReadSecurity(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if s.Capabilities == 0 || s.Zombie {
		t.Errorf("%+v (run the tests as root)", s)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"))
	f.Add([]byte("1 () Z"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseStat(b) })
}

func FuzzParseSecurity(f *testing.F) {
	f.Add([]byte("Name:\tx\nState:\tZ (zombie)\nCapEff:\t00000000a80425fb\nSeccomp:\t2\nNoNewPrivs:\t1\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseSecurity(b) })
}

func FuzzParseRef(f *testing.F) {
	f.Add("12-345")
	f.Add("-1-1")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRef(s); err == nil {
			if again, err := ParseRef(r.String()); err != nil || again != r {
				t.Errorf("%q is %v, then %v, %v", s, r, again, err)
			}
		}
	})
}

func TestNameMayHoldParentheses(t *testing.T) {
	st, err := parseStat([]byte("12 (a) S 99 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"))
	if err != nil || st.start != 4711 || st.state != 'S' {
		t.Errorf("%+v, %v", st, err)
	}
}
