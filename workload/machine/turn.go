package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// turnsDir is beside the shims' directories; it holds one file for each processor of
// the node.
const turnsDir = "starts"

// takeTurn waits until fewer machines of the node are starting than it has processors,
// and returns what ends the turn. A kernel's start is all work and no waiting: many at
// once would not be ready sooner than one after another, and all of them late. The
// kernel gives the turn back when this process dies.
func takeTurn(ctx context.Context, dir string) (*os.File, error) {
	turns := filepath.Join(filepath.Dir(dir), turnsDir)
	if err := os.Mkdir(turns, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("wait for a turn to start: %w", err)
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		for n := range runtime.NumCPU() {
			f, err := os.OpenFile(filepath.Join(turns, fmt.Sprint(n)), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				return nil, fmt.Errorf("wait for a turn to start: %w", err)
			}
			err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
			if err == nil {
				return f, nil
			}
			f.Close()
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
				return nil, fmt.Errorf("wait for a turn to start: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a turn to start: %w", context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}
