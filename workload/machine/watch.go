package machine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

// watch waits for the end of the machine, brings it about where one part of it has
// gone, and says how it was.
func (i *instance) watch() {
	vm := ends(i.ctx, i.vm)
	files := ends(i.ctx, i.files)
	var off <-chan time.Time
	told, silent := i.told, i.silent
	for done := false; !done; {
		select {
		case <-i.ctx.Done():
			return
		case <-vm:
			done = true
		case <-files:
			// It ends with the monitor too. One that was killed is not noticed by
			// QEMU, whose guest would hang.
			files = nil
			select {
			case <-vm:
			case <-time.After(500 * time.Millisecond):
				how := i.exit(i.files.Ref())
				i.note(func(f *facts) { f.fileServer, f.served = f.program == nil, how })
			}
			done = true
		case <-silent:
			silent = nil
			i.note(func(f *facts) { f.hung = f.program == nil })
			done = true
		case <-told:
			told = nil
			off = time.After(offLimit)
		case <-off:
			done = true
		}
	}
	for told := false; ; {
		err := i.bounded(i.force)
		if i.bounded(i.vm.Wait) == nil {
			break
		}
		if i.ctx.Err() != nil {
			return // the shim lets go
		}
		if !told { // there is no end until the kernel has made one
			_ = i.engine.ring.Write(logs.Node, fmt.Appendf(nil, "the machine's monitor was killed, and the kernel has not ended it yet: %v\n", err))
			told = true
		}
	}
	i.note(func(f *facts) {
		f.monitor = i.exit(i.vm.Ref())
		f.hostOOM = oomKilled(i.spec)
		i.ended = verdict(*f)
	})
	if i.files != nil && i.bounded(i.files.Wait) == nil && i.child {
		shim.Reap(i.files.Ref().PID)
	}
	close(i.over)
}

// bounded calls f with a time limit of its own: what one step used up is not missing
// to the next.
func (i *instance) bounded(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(i.ctx, killLimit)
	defer cancel()
	return f(ctx)
}

func (i *instance) exit(ref process.Ref) process.Exit {
	if i.child {
		return shim.Reap(ref.PID)
	}
	return shim.OrphanExit(i.spec.Exits, ref)
}

// ends closes its result when a process has ended; nil: never.
func ends(ctx context.Context, h *process.Handle) <-chan struct{} {
	if h == nil {
		return nil
	}
	again, err := h.Ref().Open() // one waits per handle
	c := make(chan struct{})
	if err != nil {
		close(c)
		return c
	}
	go func() {
		defer again.Close()
		if again.Wait(ctx) == nil {
			close(c)
		}
	}()
	return c
}

// begin connects with the agent, and tells it what to run. It returns what the
// program's output comes from.
func (i *instance) begin(ctx context.Context) (*control.Conn, error) {
	b, err := readBoot(i.engine.dir)
	if err != nil {
		return nil, err
	}
	b.Time = time.Now().UnixNano()
	out, err := i.reach(ctx, control.Request{Verb: control.VerbBoot, Boot: &b})
	if err != nil {
		return nil, err
	}
	t, payload, err := first(ctx, out)
	switch {
	case err != nil:
		out.Close()
		return nil, fmt.Errorf("start the program: %w", err)
	case t == control.FrameError:
		out.Close()
		return nil, control.Failure(payload)
	}
	i.hear(t, payload)
	return out, nil
}

// first reads the frame that says that the program runs, or how it ended, or why it
// doesn't run. An agent that takes a connection and says nothing is as silent as one
// that takes none.
func first(ctx context.Context, out *control.Conn) (control.Type, []byte, error) {
	stop := context.AfterFunc(ctx, func() { out.Close() })
	t, payload, err := out.Read()
	if !stop() && err != nil {
		err = context.Cause(ctx)
	}
	return t, payload, err
}

// reach connects with the agent and makes one request.
func (i *instance) reach(ctx context.Context, r control.Request) (*control.Conn, error) {
	conn, err := dial(ctx, filepath.Join(i.engine.dir, agentSocket))
	if err != nil {
		return nil, fmt.Errorf("connect to the guest: %w", err)
	}
	s, err := guest.Connect(ctx, conn)
	if err != nil {
		return nil, err
	}
	out, err := open(ctx, s, r)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	i.setSession(s)
	return out, nil
}

// hear takes one frame of the program's output; true if it was the last one, which
// comes once in a machine's life.
func (i *instance) hear(t control.Type, payload []byte) (last bool) {
	if last = i.frame(t, payload); last {
		close(i.told)
	}
	return last
}

func (i *instance) frame(t control.Type, payload []byte) (last bool) {
	switch t {
	case control.FrameStdout, control.FrameStderr:
		stream := logs.Stdout
		if t == control.FrameStderr {
			stream = logs.Stderr
		}
		if len(payload) > 0 {
			_ = i.engine.ring.Write(stream, payload)
		}
		return false
	case control.FrameExit:
		code := control.ExitCode(payload)
		oom := code == 137 && i.guestOOM()
		i.note(func(f *facts) { f.program, f.guestOOM = &code, oom })
	case control.FrameError:
		err := control.Failure(payload)
		i.note(func(f *facts) { f.startError = err.Error() })
	default:
		i.note(func(f *facts) { f.startError = fmt.Sprintf("the guest's agent sent a frame of type %d", t) })
	}
	_ = i.engine.ring.Flush(logs.Stdout)
	_ = i.engine.ring.Flush(logs.Stderr)
	return true
}

// guestOOM asks whether the guest's kernel has killed for want of memory.
func (i *instance) guestOOM() bool {
	ctx, cancel := context.WithTimeout(i.ctx, 2*time.Second)
	defer cancel()
	var st control.Stats
	_, err := i.ask(ctx, control.Request{Verb: control.VerbStatus}, &st)
	return err == nil && st.OOMKills > 0
}

// sessionPause is the least time between the beginnings of two sessions.
const sessionPause = time.Second

// follow copies the program's output into the ring until its end. A session that
// breaks is begun anew; a guest that does not answer any more has a bounded time.
func (i *instance) follow(out *control.Conn) {
	for began := time.Now(); ; {
		i.copy(out)
		if i.ctx.Err() != nil {
			return
		}
		if i.wasTold() {
			// The agent powers the machine off when it hears that this stream is
			// closed. The session stays for that: QEMU throws away what it has not
			// read yet of a connection that ends.
			return
		}
		// A guest that breaks every session at once must not keep the node busy.
		select {
		case <-i.ctx.Done():
			return
		case <-time.After(time.Until(began.Add(sessionPause))):
		}
		began = time.Now()
		ctx, cancel := context.WithTimeout(i.ctx, i.config.Silence)
		next, err := i.again(ctx)
		cancel()
		if err != nil {
			if i.ctx.Err() == nil {
				close(i.silent)
			}
			return
		}
		out = next
	}
}

func (i *instance) wasTold() bool {
	select {
	case <-i.told:
		return true
	default:
		return false
	}
}

// copy reads frames until the connection or the program has ended.
func (i *instance) copy(out *control.Conn) {
	stop := context.AfterFunc(i.ctx, func() { out.Close() })
	defer stop()
	defer out.Close()
	for !i.wasTold() {
		t, payload, err := out.Read()
		if err != nil {
			return
		}
		if i.hear(t, payload) {
			return
		}
	}
}

// again connects until it succeeds, ctx ends, or the monitor has.
func (i *instance) again(ctx context.Context) (*control.Conn, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		if !i.vm.Ref().Alive() {
			return nil, errors.New("the monitor has ended")
		}
		limited, cancel := context.WithTimeout(ctx, i.config.Silence/2)
		out, err := i.attach(limited)
		cancel()
		if err == nil {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// attach takes the program's output up again.
func (i *instance) attach(ctx context.Context) (*control.Conn, error) {
	out, err := i.reach(ctx, control.Request{Verb: control.VerbAttach})
	if err != nil {
		return nil, err
	}
	t, payload, err := first(ctx, out)
	if err != nil {
		out.Close()
		return nil, err
	}
	i.hear(t, payload)
	return out, nil
}

// listen asks the agent now and then whether it is there, and tells it the time when
// the node's has jumped. A session whose agent does not answer is ended, which
// follow notices.
func (i *instance) listen() {
	every := min(i.config.Silence/4, 10*time.Second)
	t := time.NewTicker(every)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-i.ctx.Done():
			return
		case <-i.told:
			return
		case <-t.C:
		}
		now := time.Now()
		if jumped(last, now) {
			ctx, cancel := context.WithTimeout(i.ctx, controlLimit)
			_, _ = i.ask(ctx, control.Request{Verb: control.VerbClock, Time: time.Now().UnixNano()}, nil)
			cancel()
		}
		last = now
		ctx, cancel := context.WithTimeout(i.ctx, i.config.Silence)
		_, err := i.ask(ctx, control.Request{Verb: control.VerbStatus}, &control.Stats{})
		quiet := ctx.Err() != nil && err != nil
		cancel()
		if quiet && i.ctx.Err() == nil {
			i.setSession(nil)
		}
	}
}

// jumpLimit is by how much the node's clock and its time since boot may differ
// between two looks before guests are told.
const jumpLimit = 200 * time.Millisecond

// jumped tells whether the wall clock was set between two readings.
func jumped(a, b time.Time) bool {
	d := b.Round(0).Sub(a.Round(0)) - b.Sub(a)
	return d > jumpLimit || d < -jumpLimit
}
