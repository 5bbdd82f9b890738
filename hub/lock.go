package hub

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// flock takes an exclusive lock on an open file, waiting no longer than ctx.
// The kernel's blocking form cannot be ended by a context, so it is polled.
func flock(ctx context.Context, fd int) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
