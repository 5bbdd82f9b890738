package shim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/process"
)

// Runtime drives runc for one container.
type Runtime struct {
	Runc   string // path of the program
	Root   string // its state directory
	ID     string
	Cgroup string // absolute path of the container's cgroup
}

// Times that runc may take. A start may wait for the flist's objects to be fetched,
// so it is generous; nobody waits for it.
const (
	startLimit   = 5 * time.Minute
	commandLimit = 30 * time.Second
)

// Bundle is how one container is to be started.
type Bundle struct {
	Dir  string // with config.json and rootfs
	Work string // directory for runc's log and the pid file
	// Name distinguishes those files, "" for the only container in Work.
	Name           string
	Stdin          *os.File // nil: /dev/null
	Stdout, Stderr *os.File
	// Extra are inherited by the container's first process, from descriptor 3 on.
	Extra []*os.File
}

// Start runs the bundle detached and returns its first process, which this process
// inherits if it is a subreaper. On an error something may be left: Clean.
func (r Runtime) Start(ctx context.Context, b Bundle) (process.Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	pid, log := filepath.Join(b.Work, b.Name+pidFile), filepath.Join(b.Work, b.Name+runcLog)
	for _, f := range []string{pid, log} {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return process.Ref{}, fmt.Errorf("start container: %w", err)
		}
	}
	args := []string{"--root", r.Root, "--log", log, "--log-format", "json",
		"run", "--detach", "--bundle", b.Dir, "--pid-file", pid}
	if len(b.Extra) > 0 {
		args = append(args, "--preserve-fds", strconv.Itoa(len(b.Extra)))
	}
	cmd := exec.CommandContext(ctx, r.Runc, append(args, r.ID)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = fileOrNil(b.Stdin), b.Stdout, b.Stderr, b.Extra
	if err := cmd.Run(); err != nil {
		if why := lastError(log); why != "" {
			return process.Ref{}, fmt.Errorf("start container: %s", why)
		}
		return process.Ref{}, fmt.Errorf("start container: runc: %w", err)
	}
	n, err := readPID(pid)
	if err != nil {
		return process.Ref{}, fmt.Errorf("start container: %w", err)
	}
	ref, err := process.Of(n)
	if err != nil {
		return process.Ref{}, fmt.Errorf("start container: %w", err)
	}
	return ref, nil
}

// fileOrNil keeps a nil file from becoming an interface that isn't nil.
func fileOrNil(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return f
}

// readPID reads a pid file of runc's.
func readPID(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n <= 1 {
		return 0, fmt.Errorf("runc wrote %.20q as the pid", b)
	}
	return n, nil
}

// lastError returns the message of the last error in a log of runc's, or "".
func lastError(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	last := ""
	sc := bufio.NewScanner(f)
	for n := 0; sc.Scan() && n < 1000; n++ {
		var line struct{ Level, Msg string }
		if json.Unmarshal(sc.Bytes(), &line) == nil && (line.Level == "error" || line.Level == "fatal") {
			last = line.Msg
		}
	}
	return oneLine(last)
}

// oneLine makes text fit for a status.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// stateFile is runc's, in the container's directory; execFIFO is there until the
// container is told to execute its program.
const (
	stateFile = "state.json"
	execFIFO  = "exec.fifo"
	maxState  = 4 << 20 // bytes
)

// State tells what runc knows of the container: status "created", "running",
// "stopped" or "paused" and its pid; "" if it knows nothing. It reads what runc wrote
// and asks the kernel about that, as runc's own "state" does, without a process.
func (r Runtime) State(context.Context) (status string, pid int, err error) {
	dir := filepath.Join(r.Root, r.ID)
	b, err := readBounded(filepath.Join(dir, stateFile), maxState)
	if errors.Is(err, os.ErrNotExist) {
		return "", 0, nil // not even begun, or killed in mid-create
	}
	if err != nil {
		return "", 0, fmt.Errorf("read container state: %w", err)
	}
	var st struct {
		PID   int    `json:"init_process_pid"`
		Start uint64 `json:"init_process_start"`
	}
	if json.Unmarshal(b, &st) != nil || st.PID <= 1 {
		return "", 0, nil // unknown to runc is an answer
	}
	if !(process.Ref{PID: st.PID, Start: st.Start}).Alive() {
		return "stopped", st.PID, nil
	}
	if _, err := os.Lstat(filepath.Join(dir, execFIFO)); err == nil {
		return "created", st.PID, nil
	}
	if frozen, err := cgroup.Group(r.Cgroup).Read("cgroup.freeze"); err == nil && frozen == "1" {
		return "paused", st.PID, nil
	}
	return "running", st.PID, nil
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, err
}

// Clean ends whatever there is of the container and makes runc, the cgroup and the
// kernel forget it, whatever state a crash left it in. It is idempotent.
func (r Runtime) Clean(ctx context.Context) error {
	group := cgroup.Group(r.Cgroup)
	if err := group.Kill(ctx); err != nil {
		return err
	}
	dir := filepath.Join(r.Root, r.ID)
	if _, err := os.Stat(dir); err == nil {
		if _, err := r.command(ctx, "delete", "--force", r.ID); err != nil && ctx.Err() != nil {
			return fmt.Errorf("delete container: %w", err)
		}
		// What runc was killed over it may not recognise any more.
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("delete container state: %w", err)
		}
	}
	return group.Remove(ctx)
}

// exec runs runc with these streams, nil for none, and all of its arguments.
func (r Runtime) exec(ctx context.Context, args []string, stdin, stdout, stderr *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Runc, args...)
	cmd.Stdin = fileOrNil(stdin)
	if stdout != nil && stderr != nil {
		cmd.Stdout, cmd.Stderr = stdout, stderr
	}
	return cmd.Run()
}

func (r Runtime) command(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	var out, errout bytes.Buffer
	cmd := exec.CommandContext(ctx, r.Runc, append([]string{"--root", r.Root}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errout
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("runc %s: %w: %s", args[0], err, oneLine(errout.String()))
	}
	return out.Bytes(), nil
}

// CheckSecurity asserts that the kernel enforces on the process what its
// configuration asked for. runc turns seccomp on just before it executes the
// container's program, so this waits a little for it; a process that has already
// ended, and is a zombie of ours, still shows what was enforced on it: no
// capabilities, a seccomp filter and, if asked for, no_new_privs.
func CheckSecurity(ctx context.Context, ref process.Ref, noNewPrivs bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		s, err := process.ReadSecurity(ref.PID)
		if err != nil {
			return err
		}
		why := insecure(s, noNewPrivs)
		if why == "" {
			return nil
		}
		if s.Zombie {
			return fmt.Errorf("the container's process ended with %s", why)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the container's process runs with %s", why)
		case <-time.After(wait):
		}
	}
}

func insecure(s process.Security, noNewPrivs bool) string {
	switch {
	case s.Capabilities != 0:
		return fmt.Sprintf("capabilities %#x", s.Capabilities)
	case s.Seccomp != 2:
		return fmt.Sprintf("seccomp mode %d instead of 2", s.Seccomp)
	case noNewPrivs && !s.NoNewPrivs:
		return "no_new_privs off"
	}
	return ""
}

// Entering tells whether the container's first process still is runc's own, which
// executes the container's program as its last step and may have to wait for it.
func Entering(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && bytes.HasPrefix(b, []byte("runc:["))
}
