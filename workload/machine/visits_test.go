//go:build !invm

package machine

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/guest"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/control"
	"github.com/zero-os/zos/workload/shim"
)

// inside is an instance whose guest's agent is handle.
func inside(t *testing.T, handle control.Handler) *instance {
	t.Helper()
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		_ = (&guest.Server{Handler: func(ctx context.Context, c net.Conn) { control.ServeConn(ctx, c, handle) }}).Serve(ctx, far)
	})
	t.Cleanup(func() { cancel(); served.Wait() })
	s, err := guest.Connect(t.Context(), near)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	i := newInstance(&engine{}, shim.Spec{}, Config{Agent: true}, false)
	i.session = s
	return i
}

// People in a guest, as many as may be and none of whom goes, leave room for what keeps
// the workload alive.
func TestVisitorsLeaveRoomForHealthAndStop(t *testing.T) {
	i := inside(t, func(ctx context.Context, c *control.Conn, r control.Request) error {
		if r.Verb != control.VerbExec {
			return c.Exit(0)
		}
		if err := c.Write(control.FrameStdout, []byte("here")); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
	exec := control.Request{Verb: control.VerbExec, Exec: &control.Exec{Args: []string{"sleep"}}}
	ctx, cancel := context.WithCancel(t.Context())
	var visits sync.WaitGroup
	defer visits.Wait()
	defer cancel()
	for range maxVisits {
		near, far := net.Pipe()
		c, _ := accepted(t, near, far, exec)
		visits.Go(func() { _ = i.Serve(ctx, c, exec) })
		first := make([]byte, 1)
		if _, err := io.ReadFull(far, first); err != nil {
			t.Fatal(err)
		}
		visits.Go(func() { _, _ = io.Copy(io.Discard, far) })
	}
	near, far := net.Pipe()
	c, _ := accepted(t, near, far, exec)
	if err := i.Serve(ctx, c, exec); problem.Code(err) != "node-busy" {
		t.Errorf("one more: %v", err)
	}
	for range 3 {
		must(t, i.Probe(ctx, control.Probe{Kind: "tcp", Port: 80, Timeout: 1000}))
		must(t, i.Signal(ctx, unix.SIGTERM))
	}
}

// accepted is a request as a shim has it, at near.
func accepted(t *testing.T, near, far net.Conn, r control.Request) (*control.Conn, control.Request) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := control.Dial(t.Context(), far, r)
		sent <- err
	}()
	c, got, err := control.Accept(near)
	must(t, err)
	must(t, <-sent)
	return c, got
}

// Input that nobody reads must not hold its place for ever: while it waits, nobody sees
// that who sent it has gone.
func TestInputThatNobodyReadsIsGivenUp(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	if _, err := (patient{near, time.Millisecond}).Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// An image may have a FIFO where a kernel or a disk should be.
func TestNobodyWaitsAtAnImagesFIFO(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(dir, "disk.raw"), 0o600))
	f, err := OpenBelow(dir, "disk.raw", os.O_RDONLY)
	must(t, err)
	must(t, f.Close())
	if f, err := (File{Kind: FilePath, Root: dir, Path: "disk.raw", ReadOnly: true}).open(t.Context(), dir); err == nil {
		f.Close()
		t.Error("a FIFO was given to a monitor")
	}
}
