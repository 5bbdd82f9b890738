package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/control"
)

const (
	socketFile = "control"
	// maxRequests bounds the requests that a shim works on at a time.
	maxRequests = 32
	// askLimit is how long a request waits until the shim can attend to it: it can't
	// while it starts or clears away an instance.
	askLimit = 20 * time.Second
	// lastWordLimit is how long a connection lasts after what it speaks to has ended.
	lastWordLimit = 3 * time.Second
)

// Dial opens a connection to the shim in dir, for one control.Request. The problem
// not-running says that none answers there.
func Dial(ctx context.Context, dir string) (net.Conn, error) {
	// Names of sockets are short, those of directories aren't.
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, notRunning("it has no shim")
	}
	defer d.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", throughFD(d))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			return nil, notRunning("its shim does not listen")
		}
		return nil, fmt.Errorf("dial shim: %w", err)
	}
	return conn, nil
}

func throughFD(dir *os.File) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), socketFile)
}

func notRunning(why string) error {
	return problem.New(CodeNotRunning, "the workload does not run now: %s", why)
}

// listen makes the socket of the shim in dir: for root alone, in the place of a
// dead predecessor's.
func listen(dir string) (net.Listener, error) {
	if err := os.Remove(filepath.Join(dir, socketFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	defer d.Close()
	// The mode of the socket before it has a name is the mode of its name.
	conf := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var inner error
		err := rc.Control(func(fd uintptr) { inner = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, inner)
	}}
	l, err := conf.Listen(context.Background(), "unix", throughFD(d))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // its name begins with a descriptor that is closed
	return rootOnly{l}, nil
}

// rootOnly hands out the connections of root's processes, of the node's own.
type rootOnly struct{ net.Listener }

func (l rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if peerIsRoot(c.(*net.UnixConn)) {
			return c, nil
		}
		c.Close()
	}
}

func peerIsRoot(c *net.UnixConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	if cerr := rc.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return false
	}
	return err == nil && cred.Uid == 0
}

// serve answers requests until ctx ends; the channel then tells how that went. A
// shim that can't listen keeps its workload running all the same.
func (s *shim) serve(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	l, err := listen(s.dir)
	if err != nil {
		s.remark("it can't be asked for anything: %s", oneLine(err.Error()))
		done <- nil
		return done
	}
	go func() {
		err := control.Serve(ctx, l, maxRequests, s.handle)
		_ = os.Remove(filepath.Join(s.dir, socketFile))
		done <- err
	}()
	return done
}

// handle answers one request.
func (s *shim) handle(ctx context.Context, c *control.Conn, r control.Request) error {
	switch r.Verb {
	case control.VerbStatus:
		st, err := s.stats(ctx)
		if err != nil {
			return err
		}
		return c.Result(st)
	case control.VerbRestart:
		return s.ask(ctx, c, ask{what: askRestart, grace: time.Duration(r.Grace) * time.Millisecond})
	case control.VerbReload:
		return s.ask(ctx, c, ask{what: askReload})
	}
	live, usable, release, err := s.borrow()
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(usable, cancel)()
	switch r.Verb {
	case control.VerbSignal:
		if err := live.Signal(ctx, unix.Signal(r.Signal)); err != nil {
			return err
		}
		return c.Exit(0)
	case control.VerbProbe:
		if err := probe(ctx, live, *r.Probe); err != nil {
			return problem.New(ReasonUnhealthy, "%w", err)
		}
		return c.Exit(0)
	case control.VerbResize:
		ok, err := live.Resize(ctx, *r.Limits)
		if err != nil {
			return err
		}
		return c.Exit(exitOf(ok))
	case control.VerbExec, control.VerbConsole, control.VerbGet, control.VerbPut:
		// What ends has a moment to say so to somebody who listens.
		raw := c.Raw()
		closing := time.AfterFunc(time.Hour, func() { raw.Close() })
		closing.Stop()
		stop := context.AfterFunc(usable, func() {
			_ = raw.SetReadDeadline(time.Unix(1, 0))
			closing.Reset(lastWordLimit)
		})
		err := live.Serve(ctx, c, r)
		stop()
		closing.Stop()
		letGo() // what passed through
		return err
	}
	return unsupported(r.Verb)
}

func exitOf(ok bool) int {
	if ok {
		return 0
	}
	return 1
}

// ask hands a to the goroutine of Run and answers with FrameExit.
func (s *shim) ask(ctx context.Context, c *control.Conn, a ask) error {
	done := make(chan answer, 1)
	a.done = done
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	select {
	case s.asks <- a:
	case <-ctx.Done():
		return notRunning("it is being started or cleared away; ask again")
	}
	select { // whoever took it answers at once
	case got := <-done:
		if got.err != nil {
			return got.err
		}
		return c.Exit(exitOf(a.what != askReload || got.live))
	case <-ctx.Done():
		return notRunning("it is being cleared away; ask again")
	}
}

// stats counts what runs, and adds what only the shim knows. Of a workload that
// doesn't run now the counts are 0.
func (s *shim) stats(ctx context.Context) (control.Stats, error) {
	var out control.Stats
	if live, usable, release, err := s.borrow(); err == nil {
		defer release()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(usable, cancel)()
		if out, err = live.Stats(ctx); err != nil {
			return out, err
		}
	}
	s.mu.Lock()
	st, upper := s.shown, s.upper
	s.mu.Unlock()
	out.Restarts = uint64(st.Restarts)
	if st.Ran.After(st.Started) {
		out.StartMillis = uint64(st.Ran.Sub(st.Started).Milliseconds())
	}
	if st.State == Running && !st.Ran.IsZero() {
		out.Uptime = uint64(max(0, time.Since(st.Ran)).Seconds())
	}
	var fs unix.Statfs_t
	if out.DiskSize == 0 && upper != "" && unix.Statfs(upper, &fs) == nil {
		out.DiskSize = fs.Blocks * uint64(fs.Bsize)
		out.DiskUsed = (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
	}
	return out, nil
}
