package client

import (
	"context"
	"errors"
	"io"

	"github.com/zero-os/zos/bus"
	"github.com/zero-os/zos/node/protocol"
	"github.com/zero-os/zos/problem"
)

// Person is the other side of a program: where its input comes from and
// its output goes.
type Person struct {
	// In is read until it ends; nil: the program gets none. A Read that waits when
	// the program ends is left behind. An error of In ends the program, and is
	// returned.
	In       io.Reader
	Out, Err io.Writer
	// Control brings what is not input: new sizes of the terminal, and signals. Nil
	// brings none.
	Control <-chan protocol.UpFrame
}

// Exec runs a program inside a workload and returns how it ended: its exit code, or
// 128 and the number of the signal that ended it. When ctx ends, so does the
// program. It takes the own key of a member, and a plan that grants exec.
func (c *Client) Exec(ctx context.Context, r Running, p protocol.ExecParams, with Person) (int, error) {
	if len(p.Env) == 0 {
		p.Env = []string{}
	}
	if _, err := check(p, protocol.DecodeExecParams); err != nil {
		return 0, err
	}
	d, err := c.dialog(ctx, r, bus.MethodExec, p)
	if err != nil {
		return 0, err
	}
	return attach(ctx, bus.MethodExec, d, with)
}

// Console attaches to the serial console of a machine until ctx or In ends, or the
// machine does. The machine runs on.
func (c *Client) Console(ctx context.Context, r Running, p protocol.ConsoleParams, with Person) error {
	d, err := c.dialog(ctx, r, bus.MethodConsole, p)
	if err != nil {
		return err
	}
	_, err = attach(ctx, bus.MethodConsole, d, with)
	return err
}

// attach joins a dialog and its person until the other side has ended.
func attach(ctx context.Context, method string, d *Dialog, with Person) (int, error) {
	defer d.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with ctx, or at the latest when In is read on
		var err error
		if with.In == nil {
			err = d.Send(ctx, protocol.UpFrame{Kind: protocol.FrameClose})
		} else {
			err = d.feed(ctx, with.In)
		}
		// A stream that is over is told by Receive, with its reason.
		var stop Detached
		if errors.As(err, &stop) {
			cancel(stop)
		} else if err != nil && with.In != nil && problem.Code(err) == "" && !errors.Is(err, io.EOF) && ctx.Err() == nil {
			cancel(err)
		}
	}()
	steering := make(chan struct{})
	defer func() { cancel(nil); <-steering }()
	go func() {
		defer close(steering)
		for {
			select {
			case f, ok := <-with.Control:
				if !ok || d.Send(ctx, f) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		f, err := d.Receive(ctx)
		if errors.Is(err, io.EOF) {
			err = cutShort(method)
		}
		if err != nil {
			return 0, err
		}
		switch f.Kind {
		case protocol.FrameStdout:
			_, err = with.Out.Write(f.Data)
		case protocol.FrameStderr:
			_, err = with.Err.Write(f.Data)
		case protocol.FrameExit:
			if f.Detail != "" {
				return int(f.Code), problem.New("program-failed", "%s", f.Detail)
			}
			return int(f.Code), nil
		}
		if err != nil {
			return 0, err // a broken pipe: nobody reads what the program writes
		}
	}
}

// Detached is the error of an input whose person went away on purpose.
type Detached struct{}

// Error implements error.
func (Detached) Error() string { return "detached" }
