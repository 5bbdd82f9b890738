package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/events"
	"github.com/zero-os/zos/workload/logs"
)

func kinds(list []events.Event) string {
	var out []string
	for _, e := range list {
		out = append(out, e.Kind)
	}
	return strings.Join(out, " ")
}

func TestWhatAChangeTells(t *testing.T) {
	const running, exited, failed, pending, gone = contract.StateRunning, contract.StateExited, contract.StateFailed, contract.StatePending, contract.StateGone
	type s = workload.Status
	for _, test := range []struct {
		name        string
		before, now s
		want        string
	}{
		{"it starts", s{State: pending, Version: 1}, s{State: running, Version: 1}, "started"},
		{"it gets ready", s{State: running, Version: 1}, s{State: running, Version: 1, Ready: true}, "ready"},
		{"nothing", s{State: running, Version: 1, Ready: true}, s{State: running, Version: 1, Ready: true}, ""},
		{"it falls ill", s{State: running, Version: 1, Ready: true}, s{State: running, Version: 1}, "unhealthy"},
		{"its policy starts it", s{State: running, Version: 1}, s{State: running, Version: 1, Restarts: 1}, "restarted"},
		{"it fails", s{State: running, Version: 1, Ready: true}, s{State: failed, Version: 1, Reason: "exited"}, "failed"},
		{"it needs too much", s{State: running, Version: 1}, s{State: failed, Version: 1, Reason: "oom-killed"}, "oom"},
		{"it is ended for its health", s{State: running, Version: 1}, s{State: failed, Version: 1, Reason: "unhealthy"}, "unhealthy"},
		{"and fails again", s{State: failed, Version: 1, Reason: "exited"}, s{State: failed, Version: 1, Reason: "exited", Restarts: 3}, "failed"},
		{"it comes back", s{State: failed, Version: 1, Reason: "exited"}, s{State: running, Version: 1, Restarts: 3}, "started"},
		{"a job ends well", s{State: running, Version: 1}, s{State: exited, Version: 1, Ready: true}, "exited ready"},
		{"a job fails", s{State: running, Version: 1}, s{State: exited, Version: 1, ExitCode: 2}, "exited"},
		{"it waits", s{State: running, Version: 1, Ready: true}, s{State: running, Version: 1, Ready: true, Reason: "waiting-for", Detail: "a"}, "waiting"},
		{"for another", s{State: running, Version: 1, Reason: "waiting-for", Detail: "a"}, s{State: running, Version: 1, Reason: "waiting-for", Detail: "b"}, "waiting"},
		{"its turn comes", s{State: running, Version: 1, Reason: "waiting-for"}, s{State: running, Version: 2}, "updated"},
		{"the update returns", s{State: running, Version: 2}, s{State: pending, Version: 2, Reason: "update-returned"}, "returned"},
		{"and the old one runs", s{State: pending, Version: 2, Reason: "update-returned"}, s{State: running, Version: 2, Reason: "update-returned"}, "started"},
		{"and the next version after it", s{State: running, Version: 2, Reason: "update-returned", Ready: true}, s{State: running, Version: 3, Ready: true}, "ready"},
		{"it goes", s{State: running, Version: 1}, s{State: gone, Version: 1}, "gone"},
	} {
		if got := kinds(happened(test.before, test.now)); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestARestartOfTheDaemonIsNoEvent(t *testing.T) {
	dir, id := t.TempDir(), workload.ID{Contract: canon.Hash{1}, Name: "web"}
	fail := func(err error) { t.Error(err) }
	up := workload.Status{State: contract.StateRunning, Version: 3, Ready: true}
	first := newDiary(dir, fail)
	first.keep([]canon.Hash{id.Contract})
	first.changed(id, workload.Status{}, workload.Status{State: contract.StateRunning, Version: 3})
	first.changed(id, workload.Status{State: contract.StateRunning, Version: 3}, up)
	if err := first.book.Close(); err != nil {
		t.Fatal(err)
	}
	second := newDiary(dir, fail)
	second.keep([]canon.Hash{id.Contract})
	second.changed(id, workload.Status{}, up)
	read := func() string {
		t.Helper()
		list, _, err := second.book.Read(id, 1, 100)
		if err != nil {
			t.Fatal(err)
		}
		return kinds(list)
	}
	if got := read(); got != "started ready" {
		t.Errorf("recorded %s", got)
	}
	second.changed(id, up, workload.Status{State: contract.StateExited, Version: 3, ExitCode: 1})
	if got := read(); got != "started ready exited" {
		t.Errorf("recorded %s", got)
	}
	// What is not believed any more leaves nothing behind.
	second.keep(nil)
	second.add(id, events.Event{Kind: events.Exec})
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v are left", left, err)
	}
}

func TestMembersReadWhatHappened(t *testing.T) {
	n := &Node{diary: newDiary(t.TempDir(), func(err error) { t.Error(err) })}
	n.reconc = newReconciler(nil, func(workload.ID, string, workload.Status) {}, nil)
	a, b := wish("a", 1), wish("b", 1)
	n.reconc.setDesired([]workload.Desired{a, b})
	n.diary.keep([]canon.Hash{a.ID.Contract})
	for range 100 {
		n.diary.add(a.ID, events.Event{Kind: events.Restarted})
	}
	n.diary.add(b.ID, events.Event{Kind: events.Exec, Who: "SHA256:x", Request: canon.Hash{7}.String(), Argv: []string{"ls"}})
	ask := func(p protocol.EventsParams) ([]protocol.Event, error) {
		t.Helper()
		params, err := canon.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var all []protocol.Event
		err = n.events(t.Context(), bus.Query{Contract: a.ID.Contract, Params: params}, func(b []byte) error {
			if len(b) > bus.MaxChunk {
				t.Errorf("a chunk of %d bytes", len(b))
			}
			c, err := protocol.DecodeEventChunk(b)
			all = append(all, c.Events...)
			return err
		})
		return all, err
	}
	for _, test := range []struct {
		p    protocol.EventsParams
		want int
	}{
		{protocol.EventsParams{}, 101}, {protocol.EventsParams{Workload: "b"}, 1}, {protocol.EventsParams{Workload: "a", After: 90}, 10},
		{protocol.EventsParams{Since: time.Now().Add(time.Hour).UnixNano()}, 0},
	} {
		got, err := ask(test.p)
		if err != nil || len(got) != test.want {
			t.Errorf("%+v: %d events, %v, want %d", test.p, len(got), err, test.want)
		}
		if test.p.Workload == "b" && (got[0].Who != "SHA256:x" || got[0].Request != canon.Hash{7} || got[0].Argv[0] != "ls" || got[0].Workload != "b") {
			t.Errorf("got %+v", got[0])
		}
	}
	if _, err := ask(protocol.EventsParams{Workload: "c"}); problem.Code(err) != "workload-unknown" {
		t.Errorf("%v", err)
	}
	// Who follows sees what comes, of every workload.
	params, err := canon.Marshal(protocol.EventsParams{Follow: true, Since: time.Now().UnixNano()})
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	n.diary.add(b.ID, events.Event{Kind: events.Put})
	if err := n.events(t.Context(), bus.Query{Contract: a.ID.Contract, Params: params}, func(chunk []byte) error {
		c, err := protocol.DecodeEventChunk(chunk)
		if err != nil {
			return err
		}
		switch c.Events[0].Kind {
		case events.Put:
			n.diary.add(a.ID, events.Event{Kind: events.Exec})
			return nil
		case events.Exec:
			return enough
		}
		return errors.New("an event of another time")
	}); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	if err := n.diary.book.Close(); err != nil {
		t.Error(err)
	}
}

func TestLogsBeginAtATime(t *testing.T) {
	dir := t.TempDir()
	w, err := logs.Open(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(logs.Stdout, []byte("one\ntwo\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	reader := logs.NewReader(dir)
	records, _, err := reader.Read(1, 10)
	if err != nil || len(records) != 2 {
		t.Fatal(records, err)
	}
	for at, want := range map[int64]uint64{1: 1, records[0].Time.UnixNano(): 1, records[1].Time.Add(time.Hour).UnixNano(): 3} {
		if got, err := since(t.Context(), logs.NewReader(dir), 1, at); err != nil || got != want {
			t.Errorf("since %d: record %d, %v, want %d", at, got, err, want)
		}
	}
}

func TestTheKernelsFiguresAreRead(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"stat":    "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu0 1 2 3 4\n",
		"meminfo": "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n",
		"net/dev": "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n" +
			"    lo: 99 1 0 0 0 0 0 0 99 1 0 0 0 0 0 0\n  eth0: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\nveth-a: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n",
		"pressure/cpu": "some avg10=1.25 avg60=0.00 avg300=0.00 total=5\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=0\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var m protocol.NodeMetrics
	if err := kernelFigures(dir, &m); err != nil {
		t.Fatal(err)
	}
	// user, nice, system, irq, softirq, steal; idle and waiting for disks.
	if m.CPUBusyMicros != (100+20+30+6+7+8)*10_000 || m.CPUIdleMicros != 4500*10_000 {
		t.Errorf("busy %d, idle %d", m.CPUBusyMicros, m.CPUIdleMicros)
	}
	if m.MemoryTotal != 2<<20 || m.MemoryFree != 1<<20 || m.NetReceived != 10 || m.NetSent != 20 || m.PressureCPU != 125 || m.PressureIO != 0 {
		t.Errorf("%+v", m)
	}
}

// The ring and the bus bound an event each for itself.
func TestTheLongestEventIsTakenByWhoAsked(t *testing.T) {
	book := events.Open(t.TempDir())
	defer book.Close()
	id := workload.ID{Contract: canon.Sum([]byte("contract")), Name: strings.Repeat("w", protocol.MaxName)}
	long := strings.Repeat("x", 10*protocol.MaxText)
	e := events.Event{Kind: events.Exec, Detail: long, Who: long, Request: id.Contract.String()}
	for range 10 * protocol.MaxArgv {
		e.Argv = append(e.Argv, long)
	}
	if err := book.Add(id, e); err != nil {
		t.Fatal(err)
	}
	read, _, err := book.Read(id, 0, 1)
	if err != nil || len(read) != 1 {
		t.Fatalf("%d events, %v", len(read), err)
	}
	b, err := canon.Marshal(protocol.EventChunk{Events: []protocol.Event{shown(id.Name, read[0])}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.DecodeEventChunk(b); err != nil {
		t.Error(err)
	}
}
