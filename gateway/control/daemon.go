package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
)

// Handler is what the daemon does for the process. Its methods are called by
// several goroutines, with requests that were checked for their form alone.
type Handler interface {
	// Sockets makes sockets in the namespace of a gateway. They are closed when
	// they were sent.
	Sockets(ctx context.Context, r SocketsRequest) ([]int, error)
	// Log takes lines of access logs. It must not block for long.
	Log(lines []LogLine)
	Store(ctx context.Context, r StoreRequest) (StoreReply, error)
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
	Record(ctx context.Context, r RecordRequest) error
	Note(Note)
}

// Bounds of a Daemon.
const (
	serving      = 16 // requests of the process at once; more wait in its socket
	frameTimeout = 5 * time.Second
	askTimeout   = 20 * time.Second
)

// Daemon is the daemon's end of a connection.
type Daemon struct {
	handler Handler
	conn    *net.UnixConn
	hello   Hello
	pid     int
	w       writer

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan frame
	ended   chan struct{}
}

// Connect reaches the process at the socket's path and waits for its hello. Run
// must then run.
func Connect(ctx context.Context, path string, h Handler) (*Daemon, error) {
	ctx, cancel := context.WithTimeout(ctx, frameTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to the gateway process: %w", err)
	}
	d := &Daemon{handler: h, conn: c.(*net.UnixConn), waiting: map[uint64]chan frame{}, ended: make(chan struct{})}
	d.w = writer{conn: d.conn, timeout: frameTimeout}
	if err := d.greet(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the gateway process: %w", err), c.Close())
	}
	return d, nil
}

func (d *Daemon) greet(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	if err := d.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	f, err := readUp(d.conn)
	if err != nil {
		return err
	}
	if f.kind != upHello {
		return fmt.Errorf("%w: it does not say hello", errFrame)
	}
	if d.hello, err = take[Hello](f); err != nil {
		return err
	}
	if d.hello.V != Version {
		return fmt.Errorf("it speaks version %d of the control protocol, this is %d", d.hello.V, Version)
	}
	d.pid, err = peer(d.conn)
	if err != nil {
		return err
	}
	return d.conn.SetReadDeadline(time.Time{})
}

// peer is the process at the other end of a connection: who listens there.
func peer(c *net.UnixConn) (pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, errors.Join(cerr, err)
}

// Hello is what the process said first.
func (d *Daemon) Hello() Hello { return d.hello }

// PID is the process that listens at the socket, by the kernel's word.
func (d *Daemon) PID() int { return d.pid }

// Close ends the connection.
func (d *Daemon) Close() error { return d.conn.Close() }

// checked is a message of the process.
type checked interface{ check() error }

// take decodes a message of the process and checks its bounds.
func take[T checked](f frame) (T, error) {
	v, err := decode[T](f, MaxUp)
	if err == nil {
		if err = v.check(); err != nil {
			err = fmt.Errorf("message of kind %d: %w", f.kind, err)
		}
	}
	return v, err
}

// Run answers the process until the connection or ctx ends. A message that is not
// of the protocol ends it too.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { d.conn.Close() })
	defer stop()
	defer close(d.ended)
	defer d.conn.Close()
	room := make(chan struct{}, serving)
	for {
		f, err := readUp(d.conn)
		if err == nil {
			err = d.dispatch(ctx, &wg, room, f)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the gateway process hung up: %w", err)
		}
		if err != nil {
			return fmt.Errorf("read what the gateway process says: %w", err)
		}
	}
}

// dispatch takes one frame: an answer goes to who waits for it, a question to the
// handler.
func (d *Daemon) dispatch(ctx context.Context, wg *sync.WaitGroup, room chan struct{}, f frame) error {
	switch f.kind {
	case upApplied, upStatus:
		d.mu.Lock()
		c, ok := d.waiting[f.id]
		delete(d.waiting, f.id)
		d.mu.Unlock()
		if ok {
			c <- f
		}
		return nil
	case upLog:
		b, err := take[LogBatch](f)
		if err == nil {
			d.handler.Log(b.Lines)
		}
		return err
	case upNote:
		n, err := take[Note](f)
		if err == nil {
			d.handler.Note(n)
		}
		return err
	}
	answer, err := d.question(f)
	if err != nil {
		return err
	}
	select {
	case room <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	wg.Go(func() {
		defer func() { <-room }()
		limited, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		if err := answer(limited); err != nil {
			d.conn.Close() // Run says so
		}
	})
	return nil
}

// question decodes a question and returns what answers it.
func (d *Daemon) question(f frame) (func(context.Context) error, error) {
	switch f.kind {
	case upSockets:
		r, err := take[SocketsRequest](f)
		return func(ctx context.Context) error {
			fds, err := d.handler.Sockets(ctx, r)
			defer func() {
				for _, fd := range fds {
					unix.Close(fd)
				}
			}()
			return d.w.send(downSockets, f.id, SocketsReply{failure(err)}, fds...)
		}, err
	case upStore:
		r, err := take[StoreRequest](f)
		return func(ctx context.Context) error {
			reply, err := d.handler.Store(ctx, r)
			if err != nil {
				reply = StoreReply{Failure: failure(err)}
			}
			return d.w.send(downStore, f.id, reply)
		}, err
	case upResolve:
		r, err := take[ResolveRequest](f)
		return func(ctx context.Context) error {
			addrs, err := d.handler.Resolve(ctx, r.Host)
			reply := ResolveReply{Failure: failure(err), Addrs: []string{}}
			for _, a := range addrs {
				reply.Addrs = append(reply.Addrs, a.String())
			}
			return d.w.send(downResolve, f.id, reply)
		}, err
	case upRecord:
		r, err := take[RecordRequest](f)
		return func(ctx context.Context) error {
			return d.w.send(downRecord, f.id, failure(d.handler.Record(ctx, r)))
		}, err
	}
	return nil, fmt.Errorf("%w: kind %d", errFrame, f.kind)
}

// failure is what the process is told of an error.
func failure(err error) Failure {
	if err == nil {
		return Failure{}
	}
	return Failure{cmp.Or(problem.Code(err), "failed"), Short(err.Error())}
}

// ask sends a question to the process and waits for its answer.
func ask[T checked](ctx context.Context, d *Daemon, kind, want byte, v any) (T, error) {
	var none T
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := make(chan frame, 1)
	d.mu.Lock()
	d.next++
	id := d.next
	d.waiting[id] = c
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.waiting, id)
		d.mu.Unlock()
	}()
	if err := d.w.send(kind, id, v); err != nil {
		d.conn.Close() // half a frame may have gone
		return none, fmt.Errorf("tell the gateway process: %w", err)
	}
	select {
	case f := <-c:
		if f.kind != want {
			return none, fmt.Errorf("%w: an answer of kind %d", errFrame, f.kind)
		}
		return take[T](f)
	case <-d.ended:
		return none, errors.New("the gateway process hung up")
	case <-ctx.Done():
		return none, fmt.Errorf("wait for the gateway process: %w", context.Cause(ctx))
	}
}

// Configure makes the process serve c, and returns when it does.
func (d *Daemon) Configure(ctx context.Context, c Config) error { return d.tell(ctx, downConfig, c) }

// SetZone makes the process answer for a zone.
func (d *Daemon) SetZone(ctx context.Context, z Zone) error { return d.tell(ctx, downZone, z) }

func (d *Daemon) tell(ctx context.Context, kind byte, v any) error {
	a, err := ask[Applied](ctx, d, kind, upApplied, v)
	if err == nil && a.Message != "" {
		err = fmt.Errorf("the gateway process refuses what it is to serve: %s", a.Message)
	}
	return err
}

// Status asks how the routes of a contract are.
func (d *Daemon) Status(ctx context.Context, contract canon.Hash) (Status, error) {
	return ask[Status](ctx, d, downStatus, upStatus, StatusRequest{contract})
}
