package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/workload/control"
)

// grandchildren is how long output is awaited that is held open by what a program left behind.
const grandchildren = time.Second

// patient is how long a program may leave its input unread. Whoever asked may have gone
// meanwhile: nothing more is read of him until then.
const patient = 10 * time.Minute

// task is a process beside the workload's own, and the agent's ends of its streams.
type task struct {
	process
	visit    visit
	patience time.Duration
	in       *os.File // of a terminal: the same as out
	out, err *os.File // err is nil for a terminal
}

// begin starts one. Its streams are pipes, or a terminal of the workload's.
func (a *agent) begin(o order, rows, cols int) (*task, error) {
	var p pipes
	defer p.close()
	t := &task{patience: patient}
	sys := &syscall.SysProcAttr{Setsid: true, Setctty: o.TTY}
	var err error
	t.process, t.visit, err = a.join(o, sys, &p, func() ([]uintptr, error) {
		if o.TTY {
			return t.terminal(&p, rows, cols)
		}
		return t.pipes(&p)
	})
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *task) pipes(p *pipes) ([]uintptr, error) {
	var streams []uintptr
	for i, end := range []**os.File{&t.in, &t.out, &t.err} {
		r, w, err := p.pipe()
		if err != nil {
			return nil, err
		}
		ours, theirs := r, w
		if i == 0 {
			ours, theirs = w, r
		}
		p.keep(ours)
		if *end, err = pollable(ours); err != nil {
			return nil, err
		}
		streams = append(streams, uintptr(theirs))
	}
	return streams, nil
}

// terminal opens one of the workload's own terminals (pts(4)).
func (t *task) terminal(p *pipes, rows, cols int) ([]uintptr, error) {
	fail := func(err error) ([]uintptr, error) { return nil, fmt.Errorf("open terminal: %w", err) }
	master, err := unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	if t.out, err = pollable(master); err != nil {
		return nil, err
	}
	t.in = t.out
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	// By the master, not by a name that the workload could have put elsewhere.
	n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return fail(e)
	}
	p.writers = append(p.writers, int(n))
	t.resize(rows, cols)
	return []uintptr{n, n, n}, nil
}

func (t *task) resize(rows, cols int) {
	if t.err == nil && rows > 0 && cols > 0 {
		size := unix.Winsize{Row: uint16(rows), Col: uint16(cols)}
		if raw, err := t.out.SyscallConn(); err == nil {
			// Not by Fd, after which Close would wake nobody.
			_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &size) })
		}
	}
}

// pollable makes a file that Close wakes readers of.
func pollable(fd int) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("prepare stream: %w", err)
	}
	return os.NewFile(uintptr(fd), "stream"), nil
}

func (t *task) close() {
	for _, f := range []*os.File{t.in, t.out, t.err} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// kill ends the program by force, and all that it has started.
func (t *task) kill() { t.visit.kill() }

// exec runs a program beside the workload's, for as long as the connection lasts.
func (a *agent) exec(_ context.Context, c *control.Conn, e control.Exec) error {
	o := a.order(e.Args, e.Env, e.WorkDir, e.User)
	o.TTY = e.TTY
	t, err := a.begin(o, e.Rows, e.Cols)
	if err != nil {
		return err
	}
	return t.serve(c, func(code int) error { return c.Exit(code) })
}

// serve passes frames both ways until the program has ended, has end say so, and closes
// everything.
func (t *task) serve(c *control.Conn, end func(code int) error) error {
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		t.listen(c)
	}()
	var reading sync.WaitGroup
	reading.Go(func() { t.pass(c, t.out, control.FrameStdout) })
	if t.err != nil {
		reading.Go(func() { t.pass(c, t.err, control.FrameStderr) })
	}
	ws := <-t.ended
	t.kill() // what it left running holds its output open
	late := time.AfterFunc(grandchildren, func() {
		_ = t.out.SetReadDeadline(time.Unix(1, 0))
		if t.err != nil {
			_ = t.err.SetReadDeadline(time.Unix(1, 0))
		}
	})
	reading.Wait()
	late.Stop()
	err := end(exitCode(ws))
	_ = c.Close()
	t.close()
	<-listened // it speaks to the process by a descriptor that ends here
	_ = unix.Close(t.pidfd)
	t.visit.end()
	return err
}

// pass sends what the program prints.
func (t *task) pass(c *control.Conn, f *os.File, stream control.Type) {
	b := make([]byte, 32<<10)
	for {
		n, err := f.Read(b)
		if n > 0 && c.Write(stream, b[:n]) != nil {
			t.kill() // nobody hears it any more
			return
		}
		if err != nil {
			return
		}
	}
}

// listen does what the node's frames say.
func (t *task) listen(c *control.Conn) {
	input := true
	for {
		kind, b, err := c.Read()
		if err != nil {
			t.kill()
			return
		}
		switch kind {
		case control.FrameStdin:
			if input {
				_ = t.in.SetWriteDeadline(time.Now().Add(t.patience))
				_, err := t.in.Write(b)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.kill()
					return
				}
				input = err == nil // the program has closed it: the rest is for nobody
			}
		case control.FrameCloseStdin:
			if input = false; t.err != nil {
				_ = t.in.Close()
			}
		case control.FrameResize:
			rows, cols := control.WindowSize(b)
			t.resize(int(rows), int(cols))
		case control.FrameSignal:
			_ = t.signal(unix.Signal(b[0]))
		}
	}
}
