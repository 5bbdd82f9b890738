package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
)

// ErrAway says that there is no daemon now.
var ErrAway = errors.New("the node's daemon is away")

// Service is what the process does for the daemon.
type Service interface {
	Configure(Config) error
	SetZone(Zone) error
	Status(contract canon.Hash) Status
}

// Process is the process' end: it takes one daemon after the other.
type Process struct {
	listener *net.UnixListener
	service  Service
	log      *slog.Logger
	began    time.Time
	applied  atomic.Uint64 // generation of the Config that is served
	lines    chan LogLine

	mu  sync.Mutex
	up  *uplink
	new chan struct{} // closed and made anew when a daemon came
}

// uplink is a daemon that is there.
type uplink struct {
	w       writer
	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan frame
	ended   chan struct{}
}

// NewProcess prepares it; Run runs it.
func NewProcess(l *net.UnixListener, s Service, log *slog.Logger) *Process {
	return &Process{listener: l, service: s, log: log, began: time.Now(), lines: make(chan LogLine, MaxLines), new: make(chan struct{})}
}

// Run takes daemons until ctx ends. The newest takes the place of an older one.
func (p *Process) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { p.listener.Close() })
	defer stop()
	wg.Go(func() { p.sendLines(ctx) })
	var before context.CancelFunc
	for {
		c, err := p.listener.AcceptUnix()
		if ctx.Err() != nil {
			if before != nil {
				before()
			}
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("accept the daemon: %w", err)
		}
		if before != nil {
			before()
		}
		own, end := context.WithCancel(ctx)
		before = end
		wg.Go(func() {
			defer end()
			if err := p.attend(own, c); err != nil && own.Err() == nil {
				p.log.Debug("the daemon went", "error", err)
			}
		})
	}
}

// attend serves one daemon.
func (p *Process) attend(ctx context.Context, c *net.UnixConn) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	u := &uplink{w: writer{conn: c, timeout: frameTimeout}, waiting: map[uint64]chan frame{}, ended: make(chan struct{})}
	if err := u.w.send(upHello, 0, Hello{Version, p.applied.Load(), Unix(p.began)}); err != nil {
		return err
	}
	p.mu.Lock()
	p.up = u
	close(p.new)
	p.new = make(chan struct{})
	p.mu.Unlock()
	defer func() {
		close(u.ended)
		p.mu.Lock()
		if p.up == u {
			p.up = nil
		}
		p.mu.Unlock()
	}()
	r := &downReader{conn: c}
	defer r.close()
	for {
		f, err := r.next()
		if err != nil {
			return err
		}
		if err := p.take(u, f); err != nil {
			f.close()
			return err
		}
	}
}

// take does what a frame says.
func (p *Process) take(u *uplink, f frame) error {
	switch f.kind {
	case downConfig:
		c, err := decode[Config](f, MaxDown)
		if err != nil {
			return err
		}
		if err = p.service.Configure(c); err == nil {
			p.applied.Store(c.Generation)
		}
		return u.w.send(upApplied, f.id, Applied{messageOf(err)})
	case downZone:
		z, err := decode[Zone](f, MaxDown)
		if err != nil {
			return err
		}
		return u.w.send(upApplied, f.id, Applied{messageOf(p.service.SetZone(z))})
	case downStatus:
		r, err := decode[StatusRequest](f, MaxDown)
		if err != nil {
			return err
		}
		return u.w.send(upStatus, f.id, p.service.Status(r.Contract))
	}
	u.mu.Lock()
	c, ok := u.waiting[f.id]
	delete(u.waiting, f.id)
	u.mu.Unlock()
	if !ok {
		f.close() // nobody waits any more
		return nil
	}
	c <- f
	return nil
}

func messageOf(err error) string {
	if err == nil {
		return ""
	}
	return Short(err.Error())
}

// daemon is the daemon that is there now, and a channel that is closed when
// another one comes.
func (p *Process) daemon() (*uplink, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up, p.new
}

// request asks the daemon, and waits for one while there is none.
func (p *Process) request(ctx context.Context, kind byte, v any) (frame, error) {
	for {
		u, changed := p.daemon()
		if u != nil {
			f, err := u.ask(ctx, kind, v)
			if !errors.Is(err, ErrAway) {
				return f, err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if u == nil {
				return frame{}, ErrAway
			}
			return frame{}, context.Cause(ctx)
		}
	}
}

func (u *uplink) ask(ctx context.Context, kind byte, v any) (frame, error) {
	c := make(chan frame, 1)
	u.mu.Lock()
	u.next++
	id := u.next
	u.waiting[id] = c
	u.mu.Unlock()
	forget := func() {
		u.mu.Lock()
		delete(u.waiting, id)
		u.mu.Unlock()
		select {
		case f := <-c:
			f.close()
		default:
		}
	}
	if err := u.w.send(kind, id, v); err != nil {
		forget()
		u.w.conn.Close() // half a frame may have gone
		return frame{}, fmt.Errorf("%w: %w", ErrAway, err)
	}
	select {
	case f := <-c:
		return f, nil
	case <-u.ended:
		forget()
		return frame{}, ErrAway
	case <-ctx.Done():
		forget()
		return frame{}, context.Cause(ctx)
	}
}

// reply decodes an answer of the wanted kind.
func reply[T any](f frame, err error, want byte) (T, error) {
	var v T
	if err != nil {
		return v, err
	}
	if f.kind != want {
		return v, fmt.Errorf("%w: an answer of kind %d", errFrame, f.kind)
	}
	return decode[T](f, MaxDown)
}

// Sockets asks for sockets of a network: descriptors that are not blocking and
// closed on exec, which the caller owns.
func (p *Process) Sockets(ctx context.Context, r SocketsRequest) ([]int, error) {
	f, err := p.request(ctx, upSockets, r)
	if err != nil {
		return nil, err
	}
	v, err := reply[SocketsReply](f, nil, downSockets)
	if err == nil {
		err = v.Failure.err()
	}
	if err == nil && len(f.fds) == 0 {
		err = errors.New("no sockets came")
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("get sockets of network %s: %w", r.Network, err)
	}
	for _, fd := range f.fds {
		unix.CloseOnExec(fd)
	}
	return f.fds, nil
}

// StoreOp asks the daemon about what the gateways of a contract share.
func (p *Process) StoreOp(ctx context.Context, r StoreRequest) (StoreReply, error) {
	f, err := p.request(ctx, upStore, r)
	v, err := reply[StoreReply](f, err, downStore)
	if err == nil {
		err = v.Failure.err()
	}
	return v, err
}

// Resolve asks for the public addresses of a host.
func (p *Process) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	f, err := p.request(ctx, upResolve, ResolveRequest{host})
	v, err := reply[ResolveReply](f, err, downResolve)
	if err == nil {
		err = v.Failure.err()
	}
	if err != nil {
		return nil, err
	}
	return Addrs(v.Addrs)
}

// Record puts a text record under the grid's domain, or takes it away.
func (p *Process) Record(ctx context.Context, r RecordRequest) error {
	f, err := p.request(ctx, upRecord, r)
	v, err := reply[Failure](f, err, downRecord)
	if err == nil {
		err = v.err()
	}
	return err
}

// Failed is what the daemon answers when it can't do what it was asked.
type Failed struct{ Failure }

func (f Failed) Error() string { return f.Message }

func (f Failure) err() error {
	if f.Code == "" {
		return nil
	}
	return Failed{f}
}

// Note tells the daemon a line for the node's log. Without a daemon it is lost.
func (p *Process) Note(n Note) {
	if u, _ := p.daemon(); u != nil {
		n.Text = Short(n.Text)
		_ = u.w.send(upNote, 0, n)
	}
}

// Log queues a line of an access log, and waits for room while the daemon is away
// or slow.
func (p *Process) Log(ctx context.Context, l LogLine) error {
	select {
	case p.lines <- l:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sendLines carries lines to the daemon, in batches.
func (p *Process) sendLines(ctx context.Context) {
	var batch []LogLine
	for {
		if len(batch) == 0 {
			select {
			case l := <-p.lines:
				batch = append(batch, l)
			case <-ctx.Done():
				return
			}
		}
	more:
		for len(batch) < MaxLines {
			select {
			case l := <-p.lines:
				batch = append(batch, l)
			default:
				break more
			}
		}
		u, changed := p.daemon()
		if u != nil && u.w.send(upLog, 0, LogBatch{batch}) == nil {
			batch = batch[:0]
			continue
		}
		if u != nil {
			u.w.conn.Close()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Addrs parses addresses of messages.
func Addrs(texts []string) ([]netip.Addr, error) {
	out := make([]netip.Addr, 0, len(texts))
	for _, t := range texts {
		a, err := netip.ParseAddr(t)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}
