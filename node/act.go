package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec/plan"
	"github.com/zero-os/zos/workload"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/events"
	"github.com/zero-os/zos/workload/shim"
)

// acts answers what members do to their running workloads. Whether the caller may, the
// bus has judged from the proven plan, and judges again while a stream is open. What
// is done, by whom and on which signed request, is an event of the workload before it
// is begun: what can't be written down is done none the less, since a full disk must
// not lock people out.
type acts struct {
	// of finds a workload of a proven contract on this node.
	of func(id workload.ID) (workload.Desired, bool)
	// dial opens a connection to what keeps a workload running.
	dial   func(ctx context.Context, kind string, id workload.ID) (net.Conn, error)
	record func(id workload.ID, e events.Event)
}

// twoWay is the person's side of a stream: *bus.Duplex.
type twoWay interface {
	Send(ctx context.Context, message []byte) error
	Receive(ctx context.Context) ([]byte, error)
}

// find names the workload that a request is for.
func (a *acts) find(q bus.Query) (workload.Desired, error) {
	id := workload.ID{Contract: q.Contract, Name: q.Workload}
	d, ok := a.of(id)
	if !ok {
		return d, problem.New("workload-unknown", "contract %s has no workload %q on this node", q.Contract.Short(), q.Workload)
	}
	return d, nil
}

// exec runs a program inside a workload.
func (a *acts) exec(ctx context.Context, q bus.Query, d twoWay) error {
	p, err := protocol.DecodeExecParams(q.Params)
	if err != nil {
		return err
	}
	e := &control.Exec{Args: p.Args, Env: p.Env, WorkDir: p.WorkDir, TTY: p.TTY, Rows: int(p.Rows), Cols: int(p.Cols)}
	if p.User != nil {
		e.User = &control.User{UID: p.User.UID, GID: p.User.GID}
	}
	return a.stream(ctx, q, d, events.Exec, p.Args, control.Request{Verb: control.VerbExec, Exec: e})
}

// console attaches to a machine's serial console.
func (a *acts) console(ctx context.Context, q bus.Query, d twoWay) error {
	if _, err := protocol.DecodeConsoleParams(q.Params); err != nil {
		return err
	}
	return a.stream(ctx, q, d, events.Console, nil, control.Request{Verb: control.VerbConsole})
}

// get copies files out of a workload.
func (a *acts) get(ctx context.Context, q bus.Query, d twoWay) error {
	p, err := protocol.DecodeFilesParams(q.Params)
	if err != nil {
		return err
	}
	return a.stream(ctx, q, d, events.Get, []string{p.Path}, control.Request{Verb: control.VerbGet, Path: p.Path})
}

// put copies files into a workload.
func (a *acts) put(ctx context.Context, q bus.Query, d twoWay) error {
	p, err := protocol.DecodeFilesParams(q.Params)
	if err != nil {
		return err
	}
	return a.stream(ctx, q, d, events.Put, []string{p.Path}, control.Request{Verb: control.VerbPut, Path: p.Path})
}

// restart ends a workload and starts it again.
func (a *acts) restart(ctx context.Context, q bus.Query) (protocol.Done, error) {
	p, err := protocol.DecodeRestartParams(q.Params)
	if err != nil {
		return protocol.Done{}, err
	}
	return protocol.Done{}, a.ask(ctx, q, events.Restart, nil, control.Request{Verb: control.VerbRestart, Grace: int64(p.Grace)})
}

// signal sends a signal to a workload's first process.
func (a *acts) signal(ctx context.Context, q bus.Query) (protocol.Done, error) {
	p, err := protocol.DecodeSignalParams(q.Params)
	if err != nil {
		return protocol.Done{}, err
	}
	return protocol.Done{}, a.ask(ctx, q, events.Signal, []string{strconv.FormatUint(p.Signal, 10)}, control.Request{Verb: control.VerbSignal, Signal: int(p.Signal)})
}

// begin notes what is asked, and opens the connection for it.
func (a *acts) begin(ctx context.Context, q bus.Query, what string, argv []string) (workload.Desired, net.Conn, error) {
	d, err := a.find(q)
	if err != nil {
		return d, nil, err
	}
	e := asked(q, d.Version, what, argv)
	a.record(d.ID, e)
	raw, err := a.dial(ctx, d.Plan.Kind, d.ID)
	if err != nil {
		a.refused(d.ID, e, err)
		return d, nil, err
	}
	return d, raw, nil
}

// asked is the event of a request.
func asked(q bus.Query, version uint64, what string, argv []string) events.Event {
	return events.Event{Kind: what, Version: version, Who: q.Caller.Fingerprint(), Request: q.Request.String(), Argv: argv}
}

func (a *acts) refused(id workload.ID, e events.Event, err error) {
	e.Argv = append([]string{e.Kind}, e.Argv...)
	e.Kind, e.Reason, e.Detail = events.Refused, problem.Code(err), err.Error()
	a.record(id, e)
}

// ask makes a request that has one answer.
func (a *acts) ask(ctx context.Context, q bus.Query, what string, argv []string, r control.Request) error {
	d, raw, err := a.begin(ctx, q, what, argv)
	if err != nil {
		return err
	}
	if r.Verb == control.VerbRestart && r.Grace == 0 {
		life, _ := plan.LifeOf(d.Plan)
		r.Grace = int64(life.Grace) * 1000
	}
	_, err = control.Ask(ctx, raw, r, nil)
	if err != nil {
		a.refused(d.ID, asked(q, d.Version, what, argv), err)
	}
	return err
}

// stream carries frames both ways until the workload's side ends, or the person left.
func (a *acts) stream(ctx context.Context, q bus.Query, p twoWay, what string, argv []string, r control.Request) error {
	d, raw, err := a.begin(ctx, q, what, argv)
	if err != nil {
		return err
	}
	c, err := control.Dial(ctx, raw, r)
	if err != nil {
		a.refused(d.ID, asked(q, d.Version, what, argv), err)
		return err
	}
	code, err := relay(ctx, p, c)
	left := err != nil && (ctx.Err() != nil || errors.Is(err, io.EOF))
	if err != nil && !left {
		a.refused(d.ID, asked(q, d.Version, what, argv), err)
	} else if what == events.Exec {
		end := asked(q, d.Version, events.ExecEnd, argv)
		if end.Code = int64(code); left {
			end.Code, end.Detail = -1, "whoever asked for it left"
		}
		a.record(d.ID, end)
	}
	return err
}

// relay copies frames between a person and a workload, and returns the exit code that
// it passed on. It owns c. Whatever ends first ends all: a program whose asker left is
// killed by who runs it, when the connection closes.
func relay(ctx context.Context, p twoWay, c *control.Conn) (code int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	up := make(chan struct{})
	go func() {
		defer close(up)
		if err := relayUp(ctx, p, c); err != nil {
			cancel(err)
		}
	}()
	code, err = relayDown(ctx, p, c)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	cancel(nil)
	stop()
	c.Close()
	<-up
	return code, err
}

func relayUp(ctx context.Context, p twoWay, c *control.Conn) error {
	for {
		b, err := p.Receive(ctx)
		if err != nil {
			return err
		}
		f, err := protocol.DecodeUpFrame(b)
		if err != nil {
			return err
		}
		switch f.Kind {
		case protocol.FrameStdin:
			if len(f.Data) > 0 {
				err = c.Write(control.FrameStdin, f.Data)
			}
		case protocol.FrameClose:
			err = c.Write(control.FrameCloseStdin, nil)
		case protocol.FrameResize:
			err = c.Resize(uint16(f.Rows), uint16(f.Cols))
		case protocol.FrameSignal:
			err = c.Write(control.FrameSignal, []byte{byte(f.Signal)})
		}
		if err != nil {
			// It has ended, or stalls: the other direction brings the reason.
			<-ctx.Done()
			return nil
		}
	}
}

func relayDown(ctx context.Context, p twoWay, c *control.Conn) (code int, err error) {
	for {
		t, b, err := c.Read()
		if err != nil {
			return 0, problem.New("not-running", "what runs the workload closed the connection: %w", err)
		}
		switch t {
		case control.FrameStdout, control.FrameStderr:
			kind := protocol.FrameStdout
			if t == control.FrameStderr {
				kind = protocol.FrameStderr
			}
			for len(b) > 0 {
				n := min(len(b), protocol.MaxData)
				if err := tell(ctx, p, protocol.DownFrame{Kind: kind, Data: b[:n]}); err != nil {
					return 0, err
				}
				b = b[n:]
			}
		case control.FrameExit:
			code = control.ExitCode(b)
			return code, tell(ctx, p, protocol.DownFrame{Kind: protocol.FrameExit, Code: int64(max(-1, min(code, 255)))})
		case control.FrameError:
			return 0, control.Failure(b)
		default:
			return 0, fmt.Errorf("what runs the workload sent a frame of type %d", t)
		}
	}
}

func tell(ctx context.Context, p twoWay, f protocol.DownFrame) error {
	b, err := canon.Marshal(f)
	if err != nil {
		return err
	}
	return p.Send(ctx, b)
}

// grants is what the plan lets members do to the workloads of a contract here.
func grants(all []workload.Desired) map[string]plan.Access {
	out := map[string]plan.Access{}
	for _, d := range all {
		if life, ok := plan.LifeOf(d.Plan); ok {
			out[d.Plan.Name] = life.Access
		}
	}
	return out
}

// dialControl opens a connection to what keeps a workload running.
func (n *Node) dialControl(ctx context.Context, kind string, id workload.ID) (net.Conn, error) {
	k, ok := n.reconc.kinds[kind].(workload.Controlled)
	if !ok {
		return nil, problem.New(shim.CodeUnsupported, "workloads of kind %s can't be asked for anything", kind)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := k.Control(ctx, id)
	if errors.Is(err, context.DeadlineExceeded) {
		err = problem.New("not-running", "what runs the workload does not answer: %w", err)
	}
	return c, err
}
