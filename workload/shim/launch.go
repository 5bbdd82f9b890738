package shim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Launch starts a shim for dir that nobody waits for: the program at path starts
// itself once more in a session of its own and leaves that to process 1. It
// returns as soon as the second one exists.
func Launch(ctx context.Context, path, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "launch", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("launch shim %s: %w: %s", path, err, oneLine(string(out)))
	}
	return nil
}

// LockFD is the file descriptor on which Daemonise hands over the lock.
const LockFD = 3

// Daemonise is the first of the two processes of Launch: it takes the directory's
// lock, starts this program as "run dir" with it and returns at once. ErrLocked if
// a shim runs there already.
func Daemonise(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("launch shim: %w", err)
	}
	held, err := takeLock(dir)
	if err != nil {
		return fmt.Errorf("launch shim: %w", err)
	}
	defer held.Close()
	errs, err := os.OpenFile(filepath.Join(dir, errFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("launch shim: %w", err)
	}
	defer errs.Close()
	cmd := exec.Command(self, "run", dir)
	cmd.Stderr = errs
	cmd.ExtraFiles = []*os.File{held}
	cmd.Dir = "/"
	// One thread of Go code at a time, a small heap and no huge pages for it are plenty;
	// this is most of what a node spends on a workload besides the workload.
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=50", "GODEBUG=disablethp=1", "PATH=/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("launch shim: %w", err)
	}
	return nil
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
