package shim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/zero-os/zos/linux/cgroup"
	"github.com/zero-os/zos/linux/process"
)

// LockFD is the file descriptor on which Launch hands over the directory's lock.
const LockFD = 3

// Launch starts the program at path as the shim of dir, in a session of its own and in
// group; "" leaves it in the caller's. It outlives the caller. ErrLocked if a shim runs
// there already.
func Launch(path, dir string, group cgroup.Group) error {
	failed := func(err error) error { return fmt.Errorf("launch shim %s: %w", path, err) }
	held, err := takeLock(dir)
	if err != nil {
		return failed(err)
	}
	defer held.Close()
	errs, err := os.OpenFile(filepath.Join(dir, errFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return failed(err)
	}
	defer errs.Close()
	cmd := exec.Command(path, dir)
	cmd.Stderr = errs
	cmd.ExtraFiles = []*os.File{held}
	cmd.Dir = "/"
	// One thread of Go code at a time, a small heap and no huge pages for it are plenty;
	// this is most of what a node spends on a workload besides the workload.
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=50", "GODEBUG=disablethp=1", "PATH=/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if group != "" {
		g, err := os.Open(string(group))
		if err != nil {
			return failed(err)
		}
		defer g.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.Fd())
	}
	if err := cmd.Start(); err != nil {
		return failed(err)
	}
	go collect(cmd)
	return nil
}

// collect waits for a shim that ends before this process does; after it process 1
// would. Wait of os/exec alone would hold a thread for as long as the shim lives.
func collect(cmd *exec.Cmd) {
	if ref, err := process.Of(cmd.Process.Pid); err == nil {
		if h, err := ref.Open(); err == nil {
			_ = h.Wait(context.Background())
			h.Close()
		}
	}
	_ = cmd.Wait()
}

// Await polls dir until done says that the status is what the caller waits for, the
// shim has died, or ctx ends. It returns the last status.
func Await(ctx context.Context, dir string, done func(Status) bool) (Status, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		alive := Alive(dir) // first: a status read after the death is the last one
		st, err := ReadStatus(dir)
		if err == nil && done(st) {
			return st, nil
		}
		if !alive {
			return st, fmt.Errorf("the shim died: %s", lastWords(dir))
		}
		select {
		case <-ctx.Done():
			return st, fmt.Errorf("wait for the shim: %w", context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

func lastWords(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, errFile))
	if err != nil || len(b) == 0 {
		return "it left no message"
	}
	return oneLine(string(b))
}
