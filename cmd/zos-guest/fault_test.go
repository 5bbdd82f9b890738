package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/zero-os/zos/workload/control"
)

func TestWorkloadRunsOnWithoutItsShim(t *testing.T) {
	m := start(t, options{erofs: true})
	const lines = 100_000 // more than all buffers on the way hold
	s := m.connect()
	c := m.run(s, m.program("flood", fmt.Sprint(lines)))
	h := listen(t, c, "line 00000100\n")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Shims that come and die in the middle of what they say.
	for _, left := range []string{"", "\xf5", "\xf5\x01abc", "garbage\x00\x00\x00"} {
		conn := m.dial()
		_, _ = conn.Write([]byte(left))
		_ = conn.Close()
	}
	s = m.connect()
	c = ask(t, s, control.Request{Verb: control.VerbAttach})
	rest := listen(t, c, "")
	if rest.code != 0 {
		t.Fatalf("%+v", rest)
	}
	// What was on its way when the shim died is lost, nothing else, and nothing is mixed up.
	if !strings.HasSuffix(rest.out, fmt.Sprintf("line %08d\n", lines-1)) {
		t.Errorf("the end is missing: %q", tail(rest.out))
	}
	got := len(h.out) + len(rest.out)
	if lost := lines*14 - got; lost > 1<<20 {
		t.Errorf("%d of %d bytes are lost", lost, lines*14)
	}
	m.ends(c)
}

// That a stop is graceful first is one of TestRunningWorkloadAnswers's promises.
func TestStopIsForcedInTheEnd(t *testing.T) {
	m := start(t, options{erofs: true})
	s := m.connect()
	b := m.run(s, m.program("wait", "stubborn"))
	listen(t, b, "waiting\n")
	stop := ask(t, s, control.Request{Verb: control.VerbStop, Signal: 15, Grace: 200})
	if h := listen(t, b, ""); h.code != 128+9 || !strings.Contains(h.out, "asked to stop") {
		t.Errorf("%+v", h)
	}
	if h := listen(t, stop, ""); h.code != 0 {
		t.Errorf("%+v", h)
	}
	m.ends(b)
}

func TestOutOfMemoryEndsTheWorkloadNotTheAgent(t *testing.T) {
	m := start(t, options{erofs: true})
	s := m.connect()
	c := m.run(s, m.program("memory"))
	if h := listen(t, c, ""); h.code != 128+9 {
		t.Fatalf("%+v", h)
	}
	if st := m.status(s); st.OOMKills == 0 {
		t.Errorf("%+v", st)
	}
	m.ends(c)
}

func TestBootThatCannotBeSaysWhyAndEndsTheMachine(t *testing.T) {
	m := start(t, options{erofs: true})
	s := m.connect()
	b := m.program("exit", "0")
	b.Interfaces = []control.Iface{{Name: "eth0", MAC: "52:54:00:00:00:01"}}
	c := m.run(s, b)
	h := listen(t, c, "")
	if h.fault == nil || !strings.Contains(h.fault.Error(), "the machine has none with address 52:54:00:00:00:01") {
		t.Fatalf("%+v", h)
	}
	m.ends(c)
}

// A guest that the node has not told anything yet can be ended, too.
func TestStopBeforeBootEndsTheMachine(t *testing.T) {
	m := start(t, options{erofs: true})
	s := m.connect()
	c := ask(t, s, control.Request{Verb: control.VerbStop, Signal: 15})
	if h := listen(t, c, ""); h.code != 0 {
		t.Errorf("%+v", h)
	}
	m.ends(c)
}

// A program's end is the machine's, whatever its root is. What it wrote is there after
// the next boot; what the node put into memory isn't.
func TestProgramsEndEndsTheMachineAndItsWritableLayerStays(t *testing.T) {
	disk := upper(t)
	for _, boot := range []struct {
		erofs bool
		args  []string
		want  heard
	}{
		{true, []string{"write", "/data/kept", "still here", "7"}, heard{code: 7, out: "out\n", err: "err\n"}},
		{false, []string{"read", "/data/kept"}, heard{out: "still here"}},
	} {
		m := start(t, options{erofs: boot.erofs, disk: disk})
		s := m.connect()
		c := m.run(s, m.program(boot.args...))
		if h := listen(t, c, ""); h.code != boot.want.code || h.out != boot.want.out || h.err != boot.want.err || h.fault != nil {
			t.Fatalf("%+v, want %+v", h, boot.want)
		}
		m.ends(c)
		if text := m.ConsoleText(t); strings.Contains(text, "panic") {
			t.Error(text)
		}
	}
}

// The agent's death is the kernel's panic, and that is the machine's end.
func TestAgentsDeathEndsTheMachine(t *testing.T) {
	m := start(t, options{erofs: true})
	s := m.connect()
	b := m.program("wait")
	b.Privileged, b.NoNewPrivs = true, false
	listen(t, m.run(s, b), "waiting\n")
	// A privileged program owns its guest: this is how it can kill process 1.
	e := ask(t, s, control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"/program", "write", "/proc/sysrq-trigger", "c"}}})
	defer e.Close()
	m.WaitEnd(t, patience)
	select {
	case <-s.Done():
	case <-limit(t).Done():
		t.Error("the session outlives its guest")
	}
}
