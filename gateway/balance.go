package gateway

import (
	"context"
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

// connect dials the backends of the route in the order of choose until one
// accepts, and returns that, counted. Nothing has been sent to those before it.
func (t *Target) connect(ctx context.Context, proto string) (*upstream, net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.s.o.DialTotal)
	defer cancel()
	ups := *t.ups.Load()
	var tried uint64 // a bit each; MaxBackends is 64
	var last error
	for ctx.Err() == nil {
		i, more := choose(ups, tried, int(t.turn.Add(1)))
		if i < 0 {
			break
		}
		tried |= 1 << i
		u := ups[i]
		u.n.Add(1)
		c, err := t.dial(ctx, u, proto, more)
		if err == nil {
			return u, c, nil
		}
		u.n.Add(-1)
		last = err
	}
	t.failures.Add(1)
	return nil, nil, errNoBackend(t, last)
}

// dial connects to one backend, for a shorter time if there are others to try.
func (t *Target) dial(ctx context.Context, u *upstream, proto string, others bool) (net.Conn, error) {
	attempt := ctx
	if others {
		var cancel context.CancelFunc
		attempt, cancel = context.WithTimeout(ctx, t.s.o.DialTimeout)
		defer cancel()
	}
	c, err := t.s.o.Dialer.Dial(attempt, t.route.Load().Network, proto, u.backend.Addr)
	t.mu.Lock()
	h := u.health
	t.mu.Unlock()
	switch {
	case h == nil: // the backend was removed meanwhile
	case err == nil:
		h.Worked()
	case backendFault(err):
		h.Failed(err)
	}
	return c, err
}

// backendFault tells whether a failed dial counts against the backend: whatever
// else is wrong, with the dialer or this process, others would meet too.
func backendFault(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.ECONNRESET, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ETIMEDOUT, os.ErrDeadlineExceeded, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// choose returns the backend to try next: of the healthy ones, and of all when
// none is, the one with the fewest connections, the first from turn on of equals.
// It is -1 when all were tried; more says that others are left after it.
func choose(ups []*upstream, tried uint64, turn int) (best int, more bool) {
	best = -1
	var least int32
	healthy, left := false, 0
	for k := range ups {
		i := (k + turn) % len(ups)
		if tried&(1<<i) != 0 {
			continue
		}
		left++
		n, h := ups[i].n.Load(), ups[i].healthy()
		if best < 0 || h && !healthy || h == healthy && n < least {
			best, least, healthy = i, n, h
		}
	}
	return best, left > 1
}

// healthy is false only of what is known to have failed.
func (u *upstream) healthy() bool {
	// A backend that is retired at this moment has no state any more.
	u.t.mu.Lock()
	h := u.health
	u.t.mu.Unlock()
	return h == nil || h.Healthy()
}

func errNoBackend(t *Target, cause error) error {
	if cause == nil {
		cause = errors.New("it has none")
	}
	return problem.New("gateway-no-backend", "reach a backend of %s: %w", t.route.Load().ID, cause)
}
