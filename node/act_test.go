package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/events"
)

// asker is the person's side of a stream.
type asker struct {
	up   chan []byte
	mu   sync.Mutex
	down []protocol.DownFrame
}

func (p *asker) Send(_ context.Context, b []byte) error {
	f, err := protocol.DecodeDownFrame(b)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.Data = bytes.Clone(f.Data)
	p.down = append(p.down, f)
	return nil
}

func (p *asker) Receive(ctx context.Context) ([]byte, error) {
	select {
	case b, ok := <-p.up:
		if !ok {
			return nil, io.EOF
		}
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *asker) says(t *testing.T, frames ...protocol.UpFrame) *asker {
	t.Helper()
	for _, f := range frames {
		b, err := canon.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		p.up <- b
	}
	return p
}

func (p *asker) heard() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, f := range p.down {
		out = append(out, fmt.Sprintf("%s:%.20s:%d", f.Kind, f.Data, f.Code))
	}
	return strings.Join(out, " ")
}

// desk answers for one workload, whose shim is a function.
type desk struct {
	acts
	query bus.Query
	mu    sync.Mutex
	log   []events.Event
}

func newDesk(t *testing.T, method string, params any, shim control.Handler) *desk {
	t.Helper()
	b, err := canon.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	config, err := plan.Container{V: plan.Version, Flist: canon.Sum([]byte("image")), Size: 1, Args: []string{"/a"}, Env: []string{}, WorkDir: "/",
		Isolation: plan.IsolationNamespace, Life: plan.DefaultLife(), NoNewPrivs: true}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	g := &grid{T: t}
	d := &desk{query: bus.Query{Caller: g.signer().Public(), Contract: canon.Hash{1}, Workload: "web", Method: method, Params: b, Request: canon.Hash{5}}}
	d.of = func(id workload.ID) (workload.Desired, bool) {
		return workload.Desired{ID: id, Version: 4, Plan: plan.Workload{Name: "web", Kind: plan.KindContainer, Config: config}}, id.Name == "web"
	}
	d.dial = func(context.Context, string, workload.ID) (net.Conn, error) {
		if shim == nil {
			return nil, problem.New("not-running", "it does not run")
		}
		a, b := net.Pipe()
		go control.ServeConn(context.Background(), b, shim)
		return a, nil
	}
	d.record = func(_ workload.ID, e events.Event) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.log = append(d.log, e)
	}
	return d
}

// events shows what was recorded: kind, arguments, exit code and reason.
func (d *desk) events(t *testing.T) string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, e := range d.log {
		if e.Who != d.query.Caller.Fingerprint() || e.Request != d.query.Request.String() || e.Version != 4 {
			t.Errorf("event %+v does not say who asked, by what, of which version", e)
		}
		out = append(out, fmt.Sprintf("%s%v:%d:%s", e.Kind, e.Argv, e.Code, e.Reason))
	}
	return strings.Join(out, " ")
}

func TestAProgramTalksToWhoAskedForIt(t *testing.T) {
	d := newDesk(t, bus.MethodExec, protocol.ExecParams{Args: []string{"/bin/cat", "-n"}, Env: []string{"A=b"}, WorkDir: "/srv", User: &protocol.User{UID: 5, GID: 6}, TTY: true, Rows: 3, Cols: 4}, func(_ context.Context, c *control.Conn, r control.Request) error {
		if r.Verb != control.VerbExec || r.Exec.Args[1] != "-n" || r.Exec.User.GID != 6 || r.Exec.Cols != 4 || r.Exec.WorkDir != "/srv" || !r.Exec.TTY {
			return fmt.Errorf("asked for %+v", r.Exec)
		}
		for {
			f, b, err := c.Read()
			if err != nil {
				return err
			}
			switch f {
			case control.FrameStdin:
				err = c.Write(control.FrameStdout, b)
			case control.FrameResize:
				rows, cols := control.WindowSize(b)
				err = c.Write(control.FrameStderr, fmt.Appendf(nil, "%dx%d", rows, cols))
			case control.FrameSignal:
				err = c.Write(control.FrameStderr, fmt.Appendf(nil, "signal %d", b[0]))
			case control.FrameCloseStdin:
				return c.Exit(130)
			}
			if err != nil {
				return err
			}
		}
	})
	p := (&asker{up: make(chan []byte, 16)}).says(t,
		protocol.UpFrame{Kind: protocol.FrameStdin, Data: []byte("hello")}, protocol.UpFrame{Kind: protocol.FrameResize, Rows: 7, Cols: 9},
		protocol.UpFrame{Kind: protocol.FrameSignal, Signal: 2}, protocol.UpFrame{Kind: protocol.FrameClose})
	if err := d.exec(t.Context(), d.query, p); err != nil {
		t.Fatal(err)
	}
	if got := p.heard(); got != "stdout:hello:0 stderr:7x9:0 stderr:signal 2:0 exit::130" {
		t.Errorf("heard %s", got)
	}
	if got := d.events(t); got != "exec[/bin/cat -n]:0: exec-end[/bin/cat -n]:130:" {
		t.Errorf("recorded %s", got)
	}
}

func TestAProgramIsLeftWhenItsAskerLeaves(t *testing.T) {
	ended := make(chan error, 1)
	d := newDesk(t, bus.MethodExec, protocol.ExecParams{Args: []string{"sleep"}}, func(_ context.Context, c *control.Conn, _ control.Request) error {
		_, _, err := c.Read()
		ended <- err
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.exec(ctx, d.query, &asker{up: make(chan []byte)}) }()
	cancel()
	if err := <-done; err == nil {
		t.Error("it ended without an error")
	}
	// Either the request was not sent any more, or its connection has ended.
	d.mu.Lock()
	began := len(d.log) > 0
	d.mu.Unlock()
	if !began {
		t.Error("nothing was recorded")
	}
}

func TestWhatIsNoFrameEndsTheStream(t *testing.T) {
	d := newDesk(t, bus.MethodExec, protocol.ExecParams{Args: []string{"cat"}}, func(_ context.Context, c *control.Conn, _ control.Request) error {
		_, _, err := c.Read()
		return err
	})
	p := &asker{up: make(chan []byte, 1)}
	p.up <- []byte("nonsense")
	if err := d.exec(t.Context(), d.query, p); problem.Code(err) != "request-invalid" {
		t.Errorf("%v", err)
	}
	if got := d.events(t); got != "exec[cat]:0: refused[exec cat]:0:request-invalid" {
		t.Errorf("recorded %s", got)
	}
}

func TestWhatIsAskedIsRecordedAlsoWhenItFails(t *testing.T) {
	d := newDesk(t, bus.MethodGet, protocol.FilesParams{Path: "/etc"}, nil)
	if err := d.get(t.Context(), d.query, &asker{up: make(chan []byte)}); problem.Code(err) != "not-running" {
		t.Errorf("%v", err)
	}
	if got := d.events(t); got != "get[/etc]:0: refused[get /etc]:0:not-running" {
		t.Errorf("recorded %s", got)
	}
	d = newDesk(t, bus.MethodPut, protocol.FilesParams{Path: "/etc"}, func(context.Context, *control.Conn, control.Request) error {
		return problem.New("disk-full", "no room")
	})
	if err := d.put(t.Context(), d.query, &asker{up: make(chan []byte)}); problem.Code(err) != "disk-full" {
		t.Errorf("%v", err)
	}
	if got := d.events(t); got != "put[/etc]:0: refused[put /etc]:0:disk-full" {
		t.Errorf("recorded %s", got)
	}
}

func TestARestartHasThePlansGrace(t *testing.T) {
	var asked control.Request
	shim := func(_ context.Context, c *control.Conn, r control.Request) error {
		asked = r
		return c.Exit(0)
	}
	d := newDesk(t, bus.MethodRestart, protocol.RestartParams{}, shim)
	if _, err := d.restart(t.Context(), d.query); err != nil || asked.Verb != control.VerbRestart || asked.Grace != 10_000 {
		t.Errorf("%v: asked for %+v", err, asked)
	}
	if got := d.events(t); got != "restart[]:0:" {
		t.Errorf("recorded %s", got)
	}
	d = newDesk(t, bus.MethodSignal, protocol.SignalParams{Signal: 1}, shim)
	if _, err := d.signal(t.Context(), d.query); err != nil || asked.Verb != control.VerbSignal || asked.Signal != 1 {
		t.Errorf("%v: asked for %+v", err, asked)
	}
}

func TestNobodyActsOnWhatIsNotInThePlan(t *testing.T) {
	for method, params := range map[string]any{
		bus.MethodExec: protocol.ExecParams{Args: []string{"sh"}}, bus.MethodConsole: protocol.ConsoleParams{}, bus.MethodGet: protocol.FilesParams{Path: "/"},
		bus.MethodPut: protocol.FilesParams{Path: "/"}, bus.MethodRestart: protocol.RestartParams{}, bus.MethodSignal: protocol.SignalParams{Signal: 9},
	} {
		d := newDesk(t, method, params, func(context.Context, *control.Conn, control.Request) error { t.Error("it was asked"); return nil })
		p := &asker{up: make(chan []byte)}
		act := func() error {
			switch method {
			case bus.MethodExec:
				return d.exec(t.Context(), d.query, p)
			case bus.MethodConsole:
				return d.console(t.Context(), d.query, p)
			case bus.MethodGet:
				return d.get(t.Context(), d.query, p)
			case bus.MethodPut:
				return d.put(t.Context(), d.query, p)
			case bus.MethodRestart:
				_, err := d.restart(t.Context(), d.query)
				return err
			}
			_, err := d.signal(t.Context(), d.query)
			return err
		}
		d.query.Workload = "db"
		if err := act(); problem.Code(err) != "workload-unknown" {
			t.Errorf("%s: %v", method, err)
		}
		d.query.Workload, d.query.Params = "web", []byte{0xff}
		if err := act(); problem.Code(err) != "request-invalid" {
			t.Errorf("%s: %v", method, err)
		}
		if len(d.log) != 0 {
			t.Errorf("%s: recorded %+v", method, d.log)
		}
	}
}
