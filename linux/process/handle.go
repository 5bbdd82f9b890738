package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Handle is a pidfd: it goes on meaning the same process after that has ended.
type Handle struct {
	ref Ref
	f   *os.File
}

// Open returns a handle on the process r, or ErrGone. The caller closes it.
func (r Ref) Open() (*Handle, error) {
	fd, err := unix.PidfdOpen(r.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("process %s: %w", r, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("open pidfd of process %s: %w", r, err)
	}
	h := &Handle{ref: r, f: os.NewFile(uintptr(fd), "pidfd")}
	// Only now: as long as the pidfd is open the start time read through the
	// pid is that of this very process, or the process is gone.
	if now, err := Of(r.PID); err != nil || now != r {
		h.Close()
		return nil, fmt.Errorf("process %s: %w", r, ErrGone)
	}
	return h, nil
}

// Close releases the handle; the process is not touched.
func (h *Handle) Close() { h.f.Close() }

// Ref returns what the handle was opened for.
func (h *Handle) Ref() Ref { return h.ref }

// Signal sends sig; ErrGone if the process has ended.
func (h *Handle) Signal(sig unix.Signal) error {
	err := h.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %s: %w", h.ref, ErrGone)
	}
	if err != nil {
		return fmt.Errorf("signal %v to process %s: %w", sig, h.ref, err)
	}
	return nil
}

func (h *Handle) control(f func(fd int) error) error {
	rc, err := h.f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Wait returns nil when the process has ended (reaped or not), or the context's
// error. It costs no thread while it waits. One Wait at a time per handle.
func (h *Handle) Wait(ctx context.Context) error {
	if err := h.f.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for process %s: %w", h.ref, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = h.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	rc, err := h.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for process %s: %w", h.ref, err)
	}
	err = rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("wait for process %s: %w", h.ref, context.Cause(ctx))
	}
	return fmt.Errorf("wait for process %s: %w", h.ref, err)
}

// End stops the process: SIGTERM, then SIGKILL after grace, then waits for its
// end as long as ctx lasts. A process already gone is no error.
func (r Ref) End(ctx context.Context, grace time.Duration) error {
	if r.IsZero() {
		return nil
	}
	h, err := r.Open()
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	if grace > 0 {
		if err := h.Signal(unix.SIGTERM); errors.Is(err, ErrGone) {
			return nil
		}
		soft, cancel := context.WithTimeout(ctx, grace)
		err := h.Wait(soft)
		cancel()
		if err == nil {
			return nil
		}
	}
	if err := h.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	return h.Wait(ctx)
}
