package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/gateway/control"
	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/netns"
	"github.com/zero-os/zos/linux/process"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/workload/gateway/sandbox"
)

// CodeDown says that the gateway process does not serve.
const CodeDown = "gateway-down"

// Names in the run directory.
const (
	socketFile  = "control"
	processFile = "process.ref"
	errorFile   = "process.err"
	rootDir     = "root"
)

// Bounds of the process.
const (
	openFiles   = 65536
	startLimit  = 15 * time.Second // to the first hello
	endGrace    = 2 * time.Second  // from SIGTERM to SIGKILL
	endLimit    = 10 * time.Second
	processPIDs = "512" // threads
)

// patience is how often a process that runs may fail to answer before it is
// replaced.
const patience = 4

// errForeign says that who listens at the socket is not the gateway process as it
// was started.
var errForeign = errors.New("it is not what was started")

// link is a process that is connected.
type link struct {
	*control.Daemon
	ref  process.Ref
	done chan struct{} // closed when the connection has ended
}

func (l *link) alive() bool {
	if l == nil {
		return false
	}
	select {
	case <-l.done:
		return false
	default:
		return true
	}
}

// reach connects to the process that runs, or starts one.
func (k *Kind) reach(ctx context.Context) (*link, error) {
	l, err := k.adopt(ctx)
	if err == nil {
		k.silent = 0
		return l, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if ref := k.processRef(); !ref.IsZero() {
		// One that runs and says nothing just now serves all the same.
		if k.silent++; ref.Alive() && !errors.Is(err, errForeign) && k.silent < patience {
			return nil, problem.New(CodeDown, "the gateway process does not answer: %w", err)
		}
		k.cfg.Log.Warn("the gateway process can't be gone on with: starting another", "error", err)
	}
	k.silent = 0
	if err := k.endProcess(ctx); err != nil {
		return nil, err
	}
	if err := k.launch(); err != nil {
		return nil, problem.New(CodeDown, "start the gateway process: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		l, err := k.adopt(ctx)
		if err == nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, problem.New(CodeDown, "the gateway process does not come up: %w: %s", err, k.lastWords())
		case <-time.After(wait):
		}
		if !k.processRef().Alive() {
			return nil, problem.New(CodeDown, "the gateway process died: %s", k.lastWords())
		}
	}
}

// adopt connects to a process that listens, if it is what it should be by the
// kernel's word.
func (k *Kind) adopt(ctx context.Context) (*link, error) {
	d, err := control.Connect(ctx, filepath.Join(k.cfg.Run, socketFile), broker{k})
	if err != nil {
		return nil, err
	}
	l, err := k.recognise(d)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k.running.Go(func() {
		defer close(l.done)
		defer cancel()
		err := d.Run(run)
		if !k.isClosed() {
			k.cfg.Log.Warn("the connection to the gateway process ended", "pid", l.ref.PID, "error", err)
		}
		k.Kick()
	})
	return l, nil
}

// recognise checks who listens at the socket.
func (k *Kind) recognise(d *control.Daemon) (*link, error) {
	ref, err := process.Of(d.PID())
	if err != nil {
		return nil, err
	}
	if err := sandbox.Check(ref.PID); err != nil {
		return nil, fmt.Errorf("process %d listens: %w: %w", ref.PID, errForeign, err)
	}
	var want, have unix.Stat_t
	if err := unix.Stat(k.public.path, &want); err != nil {
		return nil, fmt.Errorf("look at the public namespace: %w", err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", ref.PID), &have); err != nil {
		return nil, fmt.Errorf("look at its namespace: %w", err)
	}
	if want.Ino != have.Ino || want.Dev != have.Dev {
		return nil, fmt.Errorf("%w: it is in another namespace than the public one", errForeign)
	}
	// One that was started and not written down before the daemon died.
	if k.processRef() != ref {
		if err := k.writeProcessRef(ref); err != nil {
			return nil, err
		}
	}
	return &link{Daemon: d, ref: ref, done: make(chan struct{})}, nil
}

// launch starts a process in the public namespace.
func (k *Kind) launch() error {
	j := sandbox.Jail{
		Root: filepath.Join(k.cfg.Run, rootDir), UID: k.cfg.UID, GID: k.cfg.UID, Open: openFiles, KeepFD: 3,
		// Go reads how many connections may wait to be accepted.
		Files: map[string]string{"/proc/sys/net/core/somaxconn": "16384\n"},
	}
	arg, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(j.Root, 0o755); err != nil {
		return err
	}
	socket, err := bound(filepath.Join(k.cfg.Run, socketFile))
	if err != nil {
		return fmt.Errorf("make its socket: %w", err)
	}
	defer socket.Close()
	errs, err := os.OpenFile(filepath.Join(k.cfg.Run, errorFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer errs.Close()
	group, err := k.group()
	if err != nil {
		return err
	}
	fd := -1
	if group != nil {
		defer group.Close()
		fd = int(group.Fd())
	}
	cmd := exec.Command(k.cfg.Program, "confine", string(arg))
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.Stdout, cmd.Stderr = errs, errs
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = sandbox.Attr(fd)
	ns, err := k.public.open()
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := netns.Do(int(ns.Fd()), cmd.Start); err != nil {
		return err
	}
	ref, err := process.Of(cmd.Process.Pid)
	if err == nil {
		err = k.writeProcessRef(ref)
	}
	k.reaping.Add(1)
	go func() {
		defer k.reaping.Done()
		if err := cmd.Wait(); !k.isClosed() {
			k.cfg.Log.Warn("the gateway process ended", "pid", cmd.Process.Pid, "error", err, "said", k.lastWords())
		}
		k.Kick()
	}()
	return err
}

// bound makes a unix socket that is bound and does not listen yet: the process
// does that, so that the kernel tells its name to who connects.
func bound(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, os.Chmod(path, 0o600)
}

// group makes the process' cgroup, nil if it has none.
func (k *Kind) group() (*os.File, error) {
	if k.cfg.Cgroup == "" {
		return nil, nil
	}
	if err := os.MkdirAll(k.cfg.Cgroup, 0o755); err != nil {
		return nil, fmt.Errorf("make its cgroup: %w", err)
	}
	for file, value := range map[string]string{"memory.max": fmt.Sprint(k.cfg.Memory), "pids.max": processPIDs} {
		if err := os.WriteFile(filepath.Join(k.cfg.Cgroup, file), []byte(value), 0); err != nil {
			return nil, fmt.Errorf("limit it: %w", err)
		}
	}
	return os.Open(k.cfg.Cgroup)
}

// endProcess ends the process that runs, if one does, and takes away what is left
// of it.
func (k *Kind) endProcess(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	if ref := k.processRef(); !ref.IsZero() {
		if err := ref.End(ctx, endGrace); err != nil {
			return fmt.Errorf("end the gateway process: %w", err)
		}
	}
	if k.cfg.Cgroup != "" {
		g := cgroup.Group(k.cfg.Cgroup)
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
			return fmt.Errorf("end the gateway process: %w", err)
		}
	}
	for _, name := range []string{socketFile, processFile, rootDir} {
		if err := os.Remove(filepath.Join(k.cfg.Run, name)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("end the gateway process: %w", err)
		}
	}
	return nil
}

// lastWords are what the process wrote when it died: the first line, and that of a
// panic.
func (k *Kind) lastWords() string {
	f, err := os.Open(filepath.Join(k.cfg.Run, errorFile))
	if err != nil {
		return "it left no message"
	}
	defer f.Close()
	b := make([]byte, 512)
	n, _ := f.Read(b)
	if n == 0 {
		return "it left no message"
	}
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	return strings.ToValidUTF8(line, "·")
}
