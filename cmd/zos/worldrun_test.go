package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/creack/pty"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/client"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
)

// granted is what the world's node says of its workloads: members may do all to
// web, and nothing to closed.
func granted() map[string]plan.Access {
	all := plan.Access{Exec: plan.AccessMembers, Console: plan.AccessMembers, Files: plan.AccessMembers, Restart: plan.AccessMembers}
	none := plan.Access{Exec: plan.AccessNone, Console: plan.AccessNone, Files: plan.AccessNone, Restart: plan.AccessNone}
	return map[string]plan.Access{"web": all, "closed": none}
}

// inside answers as a node whose workloads are processes of the test, and whose
// files lie in a directory of it.
func (w *world) inside(n *bus.Node) {
	root := filepath.Join(w.dir, "inside")
	w.must(os.MkdirAll(filepath.Join(root, "srv"), 0o755))
	w.must(os.WriteFile(filepath.Join(root, "srv", "page"), []byte("a page\n"), 0o644))
	w.must(os.Symlink("/etc/passwd", filepath.Join(root, "srv", "out")))
	var mu sync.Mutex
	var happened []protocol.Event
	note := func(q bus.Query, kind string, argv ...string) {
		mu.Lock()
		defer mu.Unlock()
		happened = append(happened, protocol.Event{
			Workload: q.Workload, Sequence: uint64(len(happened) + 1), Time: time.Now().UnixNano(), Kind: kind, Version: 1,
			Who: q.Caller.Fingerprint(), Request: q.Request, Argv: append([]string{}, argv...),
		})
	}
	n.HandleDuplex(bus.MethodExec, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
		p, err := protocol.DecodeExecParams(q.Params)
		if err != nil {
			return err
		}
		note(q, "exec", p.Args...)
		return execLocally(ctx, p, d)
	})
	n.HandleDuplex(bus.MethodConsole, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
		note(q, "console")
		return execLocally(ctx, protocol.ExecParams{Args: []string{"cat"}, TTY: true, Rows: 24, Cols: 80}, d)
	})
	n.HandleDuplex(bus.MethodGet, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
		p, err := protocol.DecodeFilesParams(q.Params)
		if err != nil {
			return err
		}
		note(q, "get", p.Path)
		if err := client.Pack(frames{ctx, d, protocol.FrameStdout}, filepath.Join(root, p.Path), filepath.Base(p.Path)); err != nil {
			return problem.New("copy-failed", "%w", err)
		}
		return down(ctx, d, protocol.DownFrame{Kind: protocol.FrameExit})
	})
	n.HandleDuplex(bus.MethodPut, func(ctx context.Context, q bus.Query, d *bus.Duplex) error {
		p, err := protocol.DecodeFilesParams(q.Params)
		if err != nil {
			return err
		}
		note(q, "put", p.Path)
		tar := exec.CommandContext(ctx, "tar", "x", "-C", filepath.Join(root, p.Path))
		tar.Stdin = stdin{ctx, d}
		if out, err := tar.CombinedOutput(); err != nil {
			return down(ctx, d, protocol.DownFrame{Kind: protocol.FrameExit, Code: 1, Detail: string(bytes.ReplaceAll(out, []byte("\n"), []byte(" ")))})
		}
		return down(ctx, d, protocol.DownFrame{Kind: protocol.FrameExit})
	})
	n.HandleCall(bus.MethodRestart, func(_ context.Context, q bus.Query) ([]byte, error) {
		note(q, "restart")
		return canon.Marshal(protocol.Done{})
	})
	n.HandleStream(bus.MethodEvents, func(_ context.Context, q bus.Query, send func([]byte) error) error {
		p, err := protocol.DecodeEventsParams(q.Params)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		c := protocol.EventChunk{Events: []protocol.Event{}}
		for _, e := range happened {
			if e.Time >= p.Since && (p.Workload == "" || p.Workload == e.Workload) {
				c.Events = append(c.Events, e)
			}
		}
		b, err := canon.Marshal(c)
		if err != nil || len(c.Events) == 0 {
			return err
		}
		return send(b)
	})
	n.HandleStream(bus.MethodLogs, func(_ context.Context, q bus.Query, send func([]byte) error) error {
		var p protocol.LogsParams
		if err := canon.Unmarshal(q.Params, &p); err != nil {
			return err
		}
		var c protocol.LogChunk
		for i, age := range []time.Duration{time.Hour, time.Minute} {
			r := protocol.LogRecord{Sequence: uint64(i + 1), Time: time.Now().Add(-age).UnixNano(), Stream: "stdout", Data: []byte(p.Workload + " said " + age.String())}
			if r.Time >= p.Since {
				c.Records = append(c.Records, r)
			}
		}
		b, err := canon.Marshal(c)
		if err != nil {
			return err
		}
		return send(b)
	})
	start := time.Now()
	n.HandleCall(bus.MethodMetrics, func(context.Context, bus.Query) ([]byte, error) {
		// Half a core of work, whenever one looks.
		worked := uint64(time.Since(start).Microseconds() / 2)
		stats := func(name string) protocol.Stats {
			return protocol.Stats{Name: name, Kind: plan.KindContainer, State: "running", Ready: true, Isolation: plan.IsolationMicroVM,
				CPUMicros: worked, CPULimit: 1000, Memory: 32 << 20, MemoryLimit: 64 << 20, PIDs: 3, Restarts: 2, Uptime: 61, PressureCPU: 1250}
		}
		return canon.Marshal(protocol.Metrics{Time: time.Now().UnixNano(), Workloads: []protocol.Stats{stats("closed"), stats("web")}})
	})
	n.HandleCall(bus.MethodNodeMetrics, func(context.Context, bus.Query) ([]byte, error) {
		return canon.Marshal(protocol.NodeMetrics{Time: time.Now().UnixNano(), Uptime: 61, CPUs: 4, MemoryTotal: 4 << 30, States: []protocol.States{{State: "running", Count: 2}}})
	})
}

func down(ctx context.Context, d *bus.Duplex, f protocol.DownFrame) error {
	b, err := canon.Marshal(f)
	if err != nil {
		return err
	}
	return d.Send(ctx, b)
}

// frames writes bytes as frames of a kind.
type frames struct {
	ctx  context.Context
	d    *bus.Duplex
	kind string
}

func (f frames) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := min(len(rest), protocol.MaxData)
		if err := down(f.ctx, f.d, protocol.DownFrame{Kind: f.kind, Data: rest[:n]}); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(b), nil
}

// stdin reads what comes as input, until it is closed.
type stdin struct {
	ctx context.Context
	d   *bus.Duplex
}

func (s stdin) WriteTo(w io.Writer) (n int64, err error) {
	for {
		f, err := upFrame(s.ctx, s.d)
		if err != nil || f.Kind == protocol.FrameClose {
			return n, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return n, err
		}
	}
}

func (s stdin) Read([]byte) (int, error) { return 0, errors.New("it is written to") }

func upFrame(ctx context.Context, d *bus.Duplex) (protocol.UpFrame, error) {
	b, err := d.Receive(ctx)
	if err != nil {
		return protocol.UpFrame{}, err
	}
	return protocol.DecodeUpFrame(b)
}

// execLocally runs a program of this machine as a workload's.
func execLocally(ctx context.Context, p protocol.ExecParams, d *bus.Duplex) error {
	cmd := exec.CommandContext(ctx, p.Args[0], p.Args[1:]...)
	cmd.Env = append(append(os.Environ(), "TERM=xterm"), p.Env...)
	cmd.Dir = p.WorkDir
	cmd.WaitDelay = time.Second
	var in io.WriteCloser
	var term *os.File
	var err error
	read := make(chan struct{})
	if p.TTY {
		if term, err = pty.StartWithSize(cmd, &pty.Winsize{Rows: uint16(p.Rows), Cols: uint16(p.Cols)}); err == nil {
			defer term.Close()
			in = term
			go func() {
				defer close(read)
				_, _ = io.Copy(frames{ctx, d, protocol.FrameStdout}, term) // ends with an error when the program does
			}()
		}
	} else {
		close(read)
		cmd.Stdout, cmd.Stderr = frames{ctx, d, protocol.FrameStdout}, frames{ctx, d, protocol.FrameStderr}
		if in, err = cmd.StdinPipe(); err == nil {
			err = cmd.Start()
		}
	}
	if err != nil {
		return down(ctx, d, protocol.DownFrame{Kind: protocol.FrameExit, Code: 127, Detail: err.Error()})
	}
	steering, stop := context.WithCancel(ctx)
	steered := make(chan struct{})
	go func() {
		defer close(steered)
		for {
			f, err := upFrame(steering, d)
			if err != nil {
				return
			}
			switch f.Kind {
			case protocol.FrameStdin:
				_, _ = in.Write(f.Data) // the program may read no more
			case protocol.FrameClose:
				if term == nil {
					in.Close()
				}
			case protocol.FrameResize:
				if term != nil {
					_ = pty.Setsize(term, &pty.Winsize{Rows: uint16(f.Rows), Cols: uint16(f.Cols)})
				}
			}
		}
	}()
	_ = cmd.Wait() // its exit code tells
	stop()
	<-steered
	<-read
	code := cmd.ProcessState.ExitCode()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return down(ctx, d, protocol.DownFrame{Kind: protocol.FrameExit, Code: int64(code)})
}
