//go:build !invm

package machine

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/logs"
	"github.com/zero-os/zos/workload/shim"
)

// agentStub is a guest's agent whose answers stop at will; its monitor is a process that
// only waits.
type agentStub struct {
	mu     sync.Mutex
	silent bool
	asked  chan struct{} // one for each request answered
}

func (a *agentStub) serve(t *testing.T, dir string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, agentSocket))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for { // as QEMU does: one connection at a time
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s := guest.Server{Handler: func(ctx context.Context, c net.Conn) { control.ServeConn(ctx, c, a.handle) }}
			_ = s.Serve(ctx, conn)
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
}

func (a *agentStub) handle(ctx context.Context, c *control.Conn, r control.Request) error {
	a.mu.Lock()
	silent := a.silent
	a.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	switch r.Verb {
	case control.VerbBoot, control.VerbAttach:
		if err := c.Write(control.FrameStdout, []byte("it runs\n")); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	case control.VerbStatus:
		select {
		case a.asked <- struct{}{}:
		default:
		}
		return c.Result(control.Stats{})
	}
	return c.Exit(0)
}

// machineWith is an instance whose guest is the stub.
func machineWith(t *testing.T, a *agentStub, silence time.Duration) *instance {
	t.Helper()
	dir := t.TempDir()
	ring, err := logs.Open(filepath.Join(dir, "log"), 1<<20)
	must(t, err)
	monitor := exec.Command("sleep", "600")
	must(t, monitor.Start())
	ref, err := process.Of(monitor.Process.Pid)
	must(t, err)
	must(t, WriteBoot(dir, control.Boot{Args: []string{"/program"}}))
	a.serve(t, dir)
	i := newInstance(&engine{dir: dir, ring: ring}, shim.Spec{Cgroup: filepath.Join(dir, "none")}, Config{Agent: true, Silence: silence}, true)
	i.vm, err = ref.Open()
	must(t, err)
	i.note(func(f *facts) { f.begun = true })
	t.Cleanup(func() {
		_ = monitor.Process.Kill()
		i.Release()
		must(t, ring.Close())
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := i.begin(ctx)
	must(t, err)
	i.task(func() { i.follow(out) })
	i.task(i.listen)
	i.task(i.watch)
	return i
}

// A guest whose agent says nothing any more is ended as hung, though its monitor runs
// and its channel is open.
func TestASilentGuestIsEndedAsHung(t *testing.T) {
	a := &agentStub{asked: make(chan struct{}, 1)}
	i := machineWith(t, a, time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	select { // while it answers, it lives
	case <-a.asked:
	case <-ctx.Done():
		t.Fatal("nobody asked the agent whether it is there")
	}
	a.mu.Lock()
	a.silent = true
	a.mu.Unlock()
	e, err := i.Wait(ctx)
	must(t, err)
	if e.Reason != ReasonHung || e.Exit.Code != failed {
		t.Errorf("it ended with %+v", e)
	}
	if i.vm.Ref().Alive() {
		t.Error("its monitor runs on")
	}
}
