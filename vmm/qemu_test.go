//go:build !invm

package vmm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/qemu"
)

// fakeMonitor answers commands by a table, each with an empty object if it is not
// listed; it tells the commands and their arguments that it got.
func fakeMonitor(t *testing.T, answers map[string]string) (net.Conn, chan string) {
	t.Helper()
	ours, theirs := net.Pipe()
	asked, done := make(chan string, 64), make(chan struct{})
	go func() {
		defer close(done)
		fmt.Fprintln(theirs, `{"QMP": {"version": {}, "capabilities": []}}`)
		s := bufio.NewScanner(theirs)
		for s.Scan() {
			var req struct {
				Execute   string          `json:"execute"`
				Arguments json.RawMessage `json:"arguments"`
				ID        uint64          `json:"id"`
			}
			if err := json.Unmarshal(s.Bytes(), &req); err != nil {
				t.Errorf("request %q: %v", s.Text(), err)
				return
			}
			asked <- req.Execute + string(req.Arguments)
			answer := `"return": {}`
			if a, ok := answers[req.Execute]; ok {
				answer = a
			}
			if _, err := io.WriteString(theirs, fmt.Sprintf(`{%s, "id": %d}`+"\n", strings.ReplaceAll(answer, "\n", ""), req.ID)); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { theirs.Close(); <-done })
	return ours, asked
}

func attached(t *testing.T, answers map[string]string) (context.Context, Machine, chan string) {
	t.Helper()
	conn, asked := fakeMonitor(t, answers)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	m, err := QEMU{}.Attach(ctx, conn, func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if got := <-asked; got != "qmp_capabilities" {
		t.Fatalf("first came %s", got)
	}
	return ctx, m, asked
}

func TestEachMethodIsItsCommand(t *testing.T) {
	ctx, m, asked := attached(t, nil)
	for _, c := range []struct {
		do   func(context.Context) error
		want string
	}{
		{m.Pause, "stop"}, {m.Resume, "cont"}, {m.Stop, "system_powerdown"}, {m.Kill, "quit"},
		{func(ctx context.Context) error { return m.Resize(ctx, 64<<20) }, `balloon{"value":67108864}`},
	} {
		if err := c.do(ctx); err != nil {
			t.Error(err)
		}
		if got := <-asked; got != c.want {
			t.Errorf("asked for %s, want %s", got, c.want)
		}
	}
	if err := m.Resize(ctx, 1); problem.Code(err) != "machine-invalid" {
		t.Errorf("one byte of memory: %v", err)
	}
}

func TestStatsAreTheMonitors(t *testing.T) {
	ctx, m, _ := attached(t, map[string]string{
		"query-status":  `"return": {"status": "running", "running": true}`,
		"query-balloon": `"return": {"actual": 134217728}`,
		"query-blockstats": `"return": [
			{"qdev": "/machine/peripheral/disk1-dev/virtio-backend", "stats": {"rd_operations": 5, "wr_bytes": 7}},
			{"node-name": "x", "stats": {}},
			{"qdev": "/machine/peripheral/disk0-dev/virtio-backend", "stats": {"rd_operations": 1, "wr_operations": 2, "flush_operations": 3, "rd_bytes": 4, "wr_bytes": 6}}]`,
	})
	st, err := m.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if st.State != Running || st.Memory != 128<<20 || len(st.Disks) != 2 ||
		st.Disks[0] != (DiskStats{1, 2, 3, 4, 6}) || st.Disks[1] != (DiskStats{Reads: 5, WrittenBytes: 7}) {
		t.Errorf("%+v", st)
	}
}

func TestNonsenseFromTheMonitorIsAnError(t *testing.T) {
	for name, answers := range map[string]map[string]string{
		"refused":         {"query-status": `"error": {"class": "GenericError", "desc": "no"}`},
		"unknown state":   {"query-status": `"return": {"status": "dancing"}`},
		"no state":        {"query-status": `"return": []`},
		"no balloon":      {"query-status": `"return": {"status": "running"}`, "query-balloon": `"error": {"class": "DeviceNotActive", "desc": "no"}`},
		"negative memory": {"query-status": `"return": {"status": "running"}`, "query-balloon": `"return": {"actual": -1}`},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, m, _ := attached(t, answers)
			if _, err := m.Stats(ctx); problem.Code(err) != "machine-control" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEventsAreTranslated(t *testing.T) {
	for _, c := range []struct {
		name, data string
		want       Event
		ok         bool
	}{
		{"STOP", "", Event{Kind: EventPaused}, true},
		{"RESUME", "", Event{Kind: EventResumed}, true},
		{"RESET", "", Event{Kind: EventReset}, true},
		{"GUEST_PANICKED", `{"action":"run"}`, Event{Kind: EventPanic, Reason: ReasonPanic}, true},
		{"SHUTDOWN", `{"reason":"guest-shutdown"}`, Event{Kind: EventShutdown, Reason: ReasonOff}, true},
		{"SHUTDOWN", `{"reason":"guest-reset"}`, Event{Kind: EventShutdown, Reason: ReasonReset}, true},
		{"SHUTDOWN", `{"reason":"guest-panic"}`, Event{Kind: EventShutdown, Reason: ReasonPanic}, true},
		{"SHUTDOWN", `{"reason":"host-qmp-quit"}`, Event{Kind: EventShutdown, Reason: ReasonKilled}, true},
		{"SHUTDOWN", `{"reason":"host-signal"}`, Event{Kind: EventShutdown, Reason: ReasonHost}, true},
		{"SHUTDOWN", `{"reason":"\n<b>"}`, Event{Kind: EventShutdown, Reason: ReasonOther}, true},
		{"SHUTDOWN", `[]`, Event{Kind: EventShutdown, Reason: ReasonOther}, true},
		{"BLOCK_IO_ERROR", `{"node-name":"disk3-file"}`, Event{Kind: EventDisk, Reason: "3"}, true},
		{"BLOCK_IO_ERROR", `{"node-name":"something else"}`, Event{Kind: EventDisk}, true},
		{"NIC_RX_FILTER_CHANGED", `{}`, Event{}, false},
	} {
		got, ok := event(qemu.Event{Name: c.name, Data: json.RawMessage(c.data)})
		if got != c.want || ok != c.ok {
			t.Errorf("%s %s: %+v %t, want %+v", c.name, c.data, got, ok, c.want)
		}
	}
}

// FuzzMonitor lets a monitor that a guest has taken over say what it likes.
func FuzzMonitor(f *testing.F) {
	f.Add([]byte(`{"QMP": {}}` + "\n" + `{"return": {}, "id": 1}` + "\n" + `{"return": {"status": "running"}, "id": 2}`))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n" + `{"event": "SHUTDOWN", "data": {"reason": 5}}`))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n" + `{"event": "BLOCK_IO_ERROR", "data": {"node-name": "disk"}}`))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer theirs.Close()
			r := bufio.NewReader(theirs)
			_, _ = r.ReadString('\n') // the first command; the rest may come whenever it likes
			go io.Copy(io.Discard, r)
			_, _ = io.Copy(theirs, bytes.NewReader(said))
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		m, err := QEMU{}.Attach(ctx, ours, func(e Event) {
			if len(e.Reason) > 10 {
				t.Errorf("a reason of %d bytes", len(e.Reason))
			}
		})
		if err == nil {
			if st, err := m.Stats(ctx); err == nil && len(st.Disks) > MaxDisks {
				t.Errorf("%d disks", len(st.Disks))
			}
			m.Close()
		}
		<-done
	})
}
