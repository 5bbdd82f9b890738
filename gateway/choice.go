package gateway

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Choice is a backend of a Target, for a Terminator, which chooses one for each
// request. Two are equal if they are the same backend of the same Target.
type Choice struct{ u *upstream }

// Choices returns the backends that are healthy now, or if none is, all.
func (t *Target) Choices() []Choice {
	ups := *t.ups.Load()
	out := make([]Choice, 0, len(ups))
	for _, u := range ups {
		if u.healthy() {
			out = append(out, Choice{u})
		}
	}
	if len(out) == 0 {
		for _, u := range ups {
			out = append(out, Choice{u})
		}
	}
	return out
}

// Name is the backend's, unique in its route.
func (c Choice) Name() string { return c.u.backend.Name }

// Failing returns a context that ends when the backend is found to have failed or
// was removed, and has ended while that stands: then nothing is begun with it, and
// no connection kept for later.
func (c Choice) Failing() context.Context {
	u := c.u
	u.t.mu.Lock()
	defer u.t.mu.Unlock()
	if u.failing != nil && (u.failing.Err() == nil || u.health == nil) {
		return u.failing
	}
	u.failing, u.fail = context.WithCancel(context.Background())
	if u.health == nil { // it was removed
		u.fail()
		u.unlink = func() bool { return false }
		return u.failing
	}
	u.unlink = context.AfterFunc(u.health.Failing(), u.fail)
	return u.failing
}

// failed ends what Failing returned. Under Target.mu.
func (u *upstream) failed() {
	if u.fail != nil {
		u.fail()
		u.unlink()
	}
}

// requestSilence is for how long the other end of a terminated request's
// connection may confirm nothing of what it was sent: longer than a network of
// ours takes to find another path (about a second), much shorter than a client waits.
const requestSilence = 5 * time.Second

// suspectSilence takes its place when the backend fails its checks, which is
// evidence enough already, and another one is there. It leaves time to send once
// more what a path has lost.
const suspectSilence = time.Second

// Dial connects to it, in DialTimeout if there are others. The connection counts until it is closed,
// and is cut when a configuration has removed the backend, after the drain. It is
// given up with ETIMEDOUT when what it sends isn't confirmed in time: soon, if
// the backend fails its checks and another one does not. Then nothing is
// connected to either.
func (c Choice) Dial(ctx context.Context) (net.Conn, error) {
	u := c.u
	failing := c.Failing()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if failing.Err() != nil && u.replaceable() {
		return nil, errNoBackend(u.t, unix.ETIMEDOUT)
	}
	giveUp := context.AfterFunc(failing, func() {
		if u.replaceable() {
			cancel(unix.ETIMEDOUT)
		}
	})
	u.n.Add(1)
	conn, err := u.t.dial(ctx, u, "tcp", len(*u.t.ups.Load()) > 1)
	giveUp()
	if err != nil {
		u.n.Add(-1)
		return nil, errNoBackend(u.t, err)
	}
	_ = onSocket(conn, func(fd int) error { return setSilence(fd, requestSilence) })
	b := &backed{Conn: conn, u: u}
	b.link.s = b
	if !u.join(&b.link) {
		u.n.Add(-1)
		_ = conn.Close()
		return nil, errNoBackend(u.t, nil)
	}
	b.unwatch = context.AfterFunc(failing, b.suspect)
	return b, nil
}

// replaceable tells whether another backend of the route is healthy.
func (u *upstream) replaceable() bool {
	for _, o := range *u.t.ups.Load() {
		if o != u && o.healthy() {
			return true
		}
	}
	return false
}

// backed is a Terminator's connection to a backend.
type backed struct {
	net.Conn
	u       *upstream
	link    link
	once    sync.Once
	unwatch func() bool
	lost    atomic.Bool
}

func (b *backed) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if err != nil && b.lost.Load() {
		err = syscall.ETIMEDOUT
	}
	return n, err
}

// SyscallConn lets a Terminator see whether something came that it didn't ask for.
func (b *backed) SyscallConn() (syscall.RawConn, error) {
	if s, ok := b.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

func (b *backed) Close() error {
	err := b.Conn.Close()
	b.once.Do(func() {
		b.unwatch()
		b.u.leave(&b.link)
	})
	return err
}

// suspect is called when the backend fails its checks. A machine that is only busy
// confirms what it gets, and its requests go on; from one that has vanished
// nothing comes, not even an end.
func (b *backed) suspect() {
	if !b.u.replaceable() {
		return // nothing would be better
	}
	silent := false
	_ = onSocket(b.Conn, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		if silent = info.Unacked > 0 && info.Retransmits > 0; silent {
			return nil
		}
		// Where nothing was sent lately the kernel asks.
		return probe(fd)
	})
	if silent {
		b.lost.Store(true)
		b.cut("")
	}
}

// probe has the kernel ask the other end each second whether it is there.
func probe(fd int) error {
	for _, o := range [][3]int{
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return err
		}
	}
	return setSilence(fd, suspectSilence)
}

// setSilence bounds for how long what was sent may not be confirmed.
func setSilence(fd int, d time.Duration) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

// onSocket does something with the descriptor of a connection that has one.
func onSocket(c net.Conn, f func(fd int) error) error {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// cut closes the connection beneath; who dialled closes the rest.
func (b *backed) cut(string) { _ = b.Conn.Close() }

// Its bytes, and how long it may be idle, are the Terminator's.
func (b *backed) bytes() (in, out uint64) { return 0, 0 }
func (b *backed) blocked() bool           { return false }
