package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/control"
)

// CodeExec is the problem of a program that could not be run inside a workload.
const CodeExec = "exec-failed"

const (
	// maxStdin is how much of its input a program may leave unread while more comes.
	maxStdin = 16 // frames
	// stalled is how long it may do so before it counts as abandoned.
	stalled = 10 * time.Minute
	// drainLimit is how long output is taken from what a program left behind; all of it
	// has been killed by then.
	drainLimit = 5 * time.Second
)

// program is one program that runs inside a container beside its own, in a cgroup
// below the container's, so that all of it can be ended and none of it evades the
// container's limits. runc confines it as it does the container's own.
type program struct {
	handle *process.Handle
	group  cgroup.Group
}

// run starts a program. console is the path of a socket for its terminal, or "".
func (c *container) run(ctx context.Context, e control.Exec, stdin, stdout, stderr *os.File, console string) (*program, error) {
	name := "exec-" + strconv.FormatUint(c.execs.Add(1), 10) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	group := cgroup.Group(filepath.Join(string(c.group), name))
	if err := os.Mkdir(string(group), 0o755); err != nil {
		return nil, problem.New(CodeExec, "run a program in the workload: %w", err)
	}
	files := filepath.Join(c.engine.dir, name)
	defer os.Remove(files + pidFile)
	defer os.Remove(files + runcLog)
	args := []string{"--root", c.engine.runtime.Root, "--log", files + runcLog, "--log-format", "json",
		"exec", "--detach", "--pid-file", files + pidFile, "--cgroup", name}
	for _, v := range e.Env {
		args = append(args, "--env", v)
	}
	if e.WorkDir != "" {
		args = append(args, "--cwd", e.WorkDir)
	}
	if e.User != nil {
		args = append(args, "--user", fmt.Sprintf("%d:%d", e.User.UID, e.User.GID))
	}
	if console != "" {
		args = append(args, "--tty", "--console-socket", console)
	}
	err := c.engine.runtime.exec(ctx, append(append(args, c.engine.runtime.ID), e.Args...), stdin, stdout, stderr)
	p := &program{group: group}
	if err == nil {
		var pid int
		if pid, err = readPID(files + pidFile); err == nil {
			var ref process.Ref
			if ref, err = process.Of(pid); err == nil {
				p.handle, err = ref.Open()
			}
		}
	} else if why := lastError(files + runcLog); why != "" {
		err = errors.New(why)
	}
	if err != nil {
		p.end()
		return nil, problem.New(CodeExec, "run %.80q in the workload: %w", e.Args[0], err).WithFix("name a program of the image, by its full path")
	}
	return p, nil
}

// wait returns how the program ended. When ctx ends first, it is killed.
func (p *program) wait(ctx context.Context) process.Exit {
	if p.handle.Wait(ctx) != nil {
		p.kill()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
		defer cancel()
		if p.handle.Wait(limited) != nil {
			return process.Exit{Code: -1}
		}
	}
	return Reap(p.handle.Ref().PID)
}

func (p *program) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), killLimit)
	defer cancel()
	_ = p.group.Kill(ctx)
	if p.handle != nil {
		_ = p.handle.Signal(unix.SIGKILL)
	}
}

// end kills what the program left behind and forgets it. What the kernel keeps of
// its cgroup goes with the container's.
func (p *program) end() {
	p.kill()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.group.Remove(ctx)
	if p.handle != nil {
		p.handle.Close()
	}
}

// check runs a health check's program; nil if it exits with 0.
func (c *container) check(ctx context.Context, args []string) error {
	p, err := c.run(ctx, control.Exec{Args: args}, nil, nil, nil, "")
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	defer p.end()
	x := p.wait(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case x.Code != 0:
		return errors.New(x.String())
	}
	return nil
}

// exec runs a program for a connection and answers with how it ended. When the
// connection closes first, the program and all that it started are killed.
func (c *container) exec(ctx context.Context, conn *control.Conn, e control.Exec) error {
	std, err := c.streams(e)
	if err != nil {
		return err
	}
	defer std.close()
	p, err := c.run(ctx, e, std.stdin, std.stdout, std.stderr, std.console)
	std.handOver()
	if err != nil {
		return err
	}
	defer p.end()
	if e.TTY {
		if err := std.terminal(ctx); err != nil {
			return err
		}
		if e.Rows > 0 && e.Cols > 0 {
			_ = std.resize(uint16(e.Rows), uint16(e.Cols))
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var outputs, all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for f, t := range map[*os.File]control.Type{std.out: control.FrameStdout, std.errout: control.FrameStderr} {
		if f == nil {
			continue
		}
		outputs.Add(1)
		go func() {
			defer outputs.Done()
			if !forward(f, conn, t) {
				cancel() // nobody reads it
			}
		}()
	}
	input := make(chan []byte, maxStdin)
	all.Add(2)
	go func() { defer all.Done(); std.feed(ctx, input) }()
	go func() {
		defer all.Done()
		defer cancel()
		defer close(input)
		p.obey(ctx, conn, std, input)
	}()
	x := p.wait(ctx)
	gone := ctx.Err() != nil
	p.kill() // what it left running holds its output open
	timer := time.AfterFunc(drainLimit, std.cut)
	outputs.Wait()
	timer.Stop()
	if !gone {
		err = conn.Exit(x.Code)
	}
	cancel()
	std.cut()
	_ = conn.Raw().SetReadDeadline(time.Unix(1, 0)) // ends obey
	return err
}

// obey does what frames say until the connection has no more.
func (p *program) obey(ctx context.Context, conn *control.Conn, std *streams, input chan<- []byte) {
	closed := false
	for {
		t, b, err := conn.Read()
		if err != nil {
			return
		}
		switch t {
		case control.FrameStdin, control.FrameCloseStdin:
			if closed {
				continue
			}
			if t == control.FrameCloseStdin {
				closed, b = true, nil
			} else if len(b) == 0 {
				continue
			}
			timer := time.NewTimer(stalled)
			select {
			case input <- append([]byte(nil), b...):
				timer.Stop()
			case <-timer.C:
				return
			case <-ctx.Done():
				timer.Stop()
				return
			}
		case control.FrameResize:
			_ = std.resize(control.WindowSize(b)) // without a terminal it has no size
		case control.FrameSignal:
			_ = p.handle.Signal(unix.Signal(b[0]))
		default:
			return
		}
	}
}

// forward copies output; false says that the other side takes no more.
func forward(f *os.File, conn *control.Conn, t control.Type) bool {
	buf := make([]byte, 16<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 && conn.Write(t, buf[:n]) != nil {
			return false
		}
		if err != nil {
			return true
		}
	}
}

// streams are a program's standard streams: three pipes, or a terminal.
type streams struct {
	// The program's ends.
	stdin, stdout, stderr *os.File
	// This side's; with a terminal in and out are the same, and errout is nil.
	in, out, errout *os.File

	console string // path of the socket on which runc hands over the terminal
	socket  *net.UnixListener
	file    string // its name
	dir     *os.File
}

func (c *container) streams(e control.Exec) (*streams, error) {
	s := &streams{}
	fail := func(err error) (*streams, error) {
		s.close()
		return nil, problem.New(CodeExec, "run a program in the workload: %w", err)
	}
	var err error
	if e.TTY {
		name := "console-" + strconv.FormatUint(c.execs.Add(1), 10)
		if s.dir, err = os.OpenFile(c.engine.dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return fail(err)
		}
		s.file = filepath.Join(c.engine.dir, name)
		_ = os.Remove(s.file)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", s.dir.Fd(), name), Net: "unix"})
		if err != nil {
			return fail(err)
		}
		l.SetUnlinkOnClose(false)
		s.socket, s.console = l, fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), s.dir.Fd(), name)
		return s, nil
	}
	for _, pipe := range []struct{ r, w **os.File }{{&s.stdin, &s.in}, {&s.out, &s.stdout}, {&s.errout, &s.stderr}} {
		if *pipe.r, *pipe.w, err = os.Pipe(); err != nil {
			return fail(err)
		}
	}
	// Whoever it runs as may open /dev/stdout again.
	uid := int(c.spec.UID)
	gid := int(c.spec.GID)
	if e.User != nil {
		base := int(c.spec.UID &^ 0xffff)
		uid, gid = base+int(e.User.UID), base+int(e.User.GID)
	}
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if err := f.Chown(uid, gid); err != nil {
			return fail(err)
		}
	}
	return s, nil
}

// handOver closes the ends that the program has now.
func (s *streams) handOver() {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
	s.stdin, s.stdout, s.stderr = nil, nil, nil
}

// terminal takes the terminal that runc made and has sent already.
func (s *streams) terminal(ctx context.Context) error {
	fail := func(err error) error { return problem.New(CodeExec, "take the program's terminal: %w", err) }
	limit := time.Now().Add(commandLimit)
	if err := s.socket.SetDeadline(limit); err != nil {
		return fail(err)
	}
	c, err := s.socket.AcceptUnix()
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	_ = c.SetDeadline(limit)
	oob := make([]byte, unix.CmsgSpace(4*4))
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 4096), oob)
	if err != nil {
		return fail(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return fail(err)
	}
	var fds []int
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return fail(fmt.Errorf("%d descriptors came", len(fds)))
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return fail(err)
	}
	s.in = os.NewFile(uintptr(fds[0]), "terminal")
	s.out = s.in
	return nil
}

// resize sets the size of the terminal.
func (s *streams) resize(rows, cols uint16) error {
	if s.console == "" || s.in == nil {
		return errors.New("it has no terminal")
	}
	rc, err := s.in.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) {
		inner = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return errors.Join(err, inner)
}

// feed writes input to the program until there is no more; nil is its end.
func (s *streams) feed(ctx context.Context, input <-chan []byte) {
	stop := context.AfterFunc(ctx, func() { _ = s.in.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	broken := false
	for b := range input {
		switch {
		case broken:
		case b == nil && s.console != "":
			_, _ = s.in.Write([]byte{4}) // a terminal's end of input
		case b == nil:
			s.in.Close()
			broken = true
		default:
			_, err := s.in.Write(b)
			broken = err != nil // it takes no more, which is its affair
		}
	}
}

// cut ends all reading and writing of this side.
func (s *streams) cut() {
	for _, f := range []*os.File{s.in, s.out, s.errout} {
		if f != nil {
			_ = f.SetDeadline(time.Unix(1, 0))
		}
	}
}

func (s *streams) close() {
	s.handOver()
	for _, f := range []*os.File{s.in, s.out, s.errout, s.dir} {
		if f != nil {
			f.Close()
		}
	}
	if s.socket != nil {
		s.socket.Close()
		_ = os.Remove(s.file)
	}
}

// framesOf reads the FrameStdin of a connection, to its FrameCloseStdin.
func framesOf(c *control.Conn) io.Reader { return &frames{c: c} }

type frames struct {
	c    *control.Conn
	rest []byte
	end  bool
}

func (f *frames) Read(b []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.end {
			return 0, io.EOF
		}
		t, payload, err := f.c.Read()
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case t == control.FrameCloseStdin:
			f.end = true
		case t == control.FrameStdin:
			f.rest = payload
		default:
			return 0, fmt.Errorf("type %d in the place of input: %w", byte(t), control.ErrFrame)
		}
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}
