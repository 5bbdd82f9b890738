package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// fakeQEMU answers each command by a script: the n-th line it reads is given to
// answer, whose lines it writes back.
func fakeQEMU(t *testing.T, answer func(command string, id uint64) string) (net.Conn, func()) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		fmt.Fprintln(theirs, `{"QMP": {"version": {}, "capabilities": []}}`)
		s := bufio.NewScanner(theirs)
		for s.Scan() {
			var req struct {
				Execute string `json:"execute"`
				ID      uint64 `json:"id"`
			}
			if err := json.Unmarshal(s.Bytes(), &req); err != nil {
				t.Errorf("request %q: %v", s.Text(), err)
				return
			}
			if _, err := io.WriteString(theirs, answer(req.Execute, req.ID)); err != nil {
				return
			}
		}
	}()
	return ours, func() { ours.Close(); <-done }
}

func ok(id uint64) string { return fmt.Sprintf(`{"return": {}, "id": %d}`+"\n", id) }

func TestAnswersFindTheirCommands(t *testing.T) {
	events := make(chan Event, 8)
	conn, stop := fakeQEMU(t, func(command string, id uint64) string {
		switch command {
		case "bad":
			return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no"}, "id": %d}`+"\n", id)
		case "late": // an event and an answer to something long forgotten come first
			return `{"event": "STOP", "data": {}, "timestamp": {}}` + "\n" + ok(999) + "\n" + ok(id)
		}
		return ok(id)
	})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m, err := OpenMonitor(ctx, conn, func(e Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Run(ctx, "late", nil); err != nil {
		t.Error(err)
	}
	if e := <-events; e.Name != "STOP" {
		t.Errorf("event %+v", e)
	}
	var refused *QMPError
	if _, err := m.Run(ctx, "bad", nil); !errors.As(err, &refused) || refused.Desc != "no" {
		t.Errorf("refused command gave %v", err)
	}
}

func TestSilentMonitorDoesNotHoldUp(t *testing.T) {
	conn, stop := fakeQEMU(t, func(command string, id uint64) string {
		if command == "qmp_capabilities" {
			return ok(id)
		}
		return ""
	})
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m, err := OpenMonitor(ctx, conn, func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := m.Run(short, "query-status", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) != 0 {
		t.Errorf("%d commands are still waited for", len(m.waiting))
	}
}

func TestNonsenseEndsTheMonitor(t *testing.T) {
	for name, line := range map[string]string{
		"no JSON":     "hello\n",
		"two forms":   `{"return": {}, "event": "STOP"}` + "\n",
		"no form":     `{"x": 1}` + "\n",
		"a long line": strings.Repeat("x", maxQMPLine+1),
		"the end":     "",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				_, _ = bufio.NewReader(theirs).ReadString('\n')
				_, _ = io.WriteString(theirs, line)
			}()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if _, err := OpenMonitor(ctx, ours, func(Event) {}); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"QMP": {}}` + "\n" + `{"return": {}, "id": 1}`))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"reason": "guest-panic"}}`))
	f.Add([]byte(`{"error": {"class": "a", "desc": "b"}, "id": 18446744073709551615}`))
	f.Add([]byte("[[[[[[[["))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := scanMessages(strings.NewReader(string(b)), func(m message) {
			if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
				t.Errorf("an empty message was passed on from %q", b)
			}
		})
		if err == nil {
			t.Error("the end of the connection is no error")
		}
	})
}
