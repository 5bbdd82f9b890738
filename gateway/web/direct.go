package web

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// direct sends requests without a body on connections that belong, meanwhile, to
// the goroutine that serves the client. net/http's Transport has two more of them
// for each connection, which costs as much as all else that a small request needs.
// It is as strict with backends as the Transport is: it is the same parser.
type direct struct {
	limits Limits
	dial   func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	open   int      // connections
	idle   []*plain // the one used last at the end
	leave  bool     // nothing new becomes idle, until the next request
	closed bool
	timer  *time.Timer // ends what has been idle for long; nil: it doesn't run
}

// Bounds of connections to one backend, as of the Transport.
const (
	maxIdleConns = 64
	maxConns     = 4096
)

// plain is a connection on which one request is under way, or none.
type plain struct {
	net.Conn
	raw    syscall.RawConn // nil: it can't be looked at, and is not used again
	r      *bufio.Reader
	w      *bufio.Writer
	header int64 // bytes that may still be read before the end of the header
	since  time.Time
}

// Read is for r.
func (c *plain) Read(b []byte) (int, error) {
	if c.header <= 0 {
		return 0, errors.New("response header too large")
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), c.header)])
	c.header -= int64(n)
	return n, err
}

// clean tells whether nothing came that nobody asked for, not even an end.
func (c *plain) clean() bool {
	if c.raw == nil || c.r.Buffered() > 0 {
		return false
	}
	var got error
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, got = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && errors.Is(got, unix.EAGAIN)
}

// takesDirect tells whether r is for direct: it has no body, may be sent twice, and
// what comes back is HTTP.
func takesDirect(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return (r.Body == nil || r.Body == http.NoBody) && r.ContentLength == 0 && len(r.Trailer) == 0 && r.Header["Upgrade"] == nil
	}
	return false
}

// RoundTrip sends r, on a new connection if those that waited have ended.
func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	for {
		c, used, err := d.take(r.Context())
		if err != nil {
			return nil, err
		}
		resp, again, err := d.send(c, r)
		if err == nil || !again || !used || r.Context().Err() != nil {
			return resp, err
		}
	}
}

// send sends r and reads the header of the answer. That it may be done again means
// that the connection ended before anything came.
func (d *direct) send(c *plain, r *http.Request) (resp *http.Response, again bool, err error) {
	ctx := r.Context()
	stop := context.AfterFunc(ctx, func() { c.Conn.Close() })
	defer func() {
		if err == nil {
			return
		}
		if stop(); ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		d.drop(c)
	}()
	if err := c.SetDeadline(time.Now().Add(d.limits.ResponseTime)); err != nil {
		return nil, true, err
	}
	if err := errors.Join(r.Write(c.w), c.w.Flush()); err != nil {
		return nil, true, err
	}
	c.header = d.limits.ResponseHeader
	if _, err := c.r.Peek(1); err != nil {
		return nil, errors.Is(err, io.EOF) || isReset(err), err
	}
	if resp, err = d.answer(c, r); err != nil {
		return nil, false, err
	}
	c.header = math.MaxInt64
	if err := c.SetDeadline(time.Time{}); err != nil {
		return nil, false, err
	}
	b := &answerBody{ReadCloser: resp.Body, end: func(whole bool) {
		if stop() && whole && !resp.Close {
			d.put(c)
		} else {
			d.drop(c)
		}
	}}
	if resp.Body == http.NoBody {
		b.finish(true)
	}
	resp.Body = b
	return resp, false, nil
}

// answer reads headers until that of the answer.
func (d *direct) answer(c *plain, r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	for n := 0; ; n++ {
		resp, err := http.ReadResponse(c.r, r)
		switch {
		case err != nil:
			return nil, err
		case resp.StatusCode == http.StatusSwitchingProtocols:
			return nil, errors.New("answer 101 to a request that did not ask")
		case resp.StatusCode >= 200:
			return resp, nil
		case n == maxInformational:
			return nil, errTooManyInformational
		}
		c.header = d.limits.ResponseHeader
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// answerBody gives its connection back at its end.
type answerBody struct {
	io.ReadCloser
	end  func(whole bool)
	once sync.Once
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.finish(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close does not read what is left, which may be without end.
func (b *answerBody) Close() error {
	b.finish(false)
	return nil
}

func (b *answerBody) finish(whole bool) { b.once.Do(func() { b.end(whole) }) }

// take returns a connection that waits and is clean, or a new one.
func (d *direct) take(ctx context.Context) (c *plain, used bool, err error) {
	for {
		d.mu.Lock()
		d.leave = false
		n := len(d.idle)
		if n == 0 {
			full := d.open == maxConns
			if !full {
				d.open++
			}
			d.mu.Unlock()
			if full {
				return nil, false, dialError{errors.New("too many connections")}
			}
			break
		}
		c = d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.mu.Unlock()
		if c.clean() {
			return c, true, nil
		}
		d.drop(c)
	}
	conn, err := d.dial(ctx)
	if err != nil {
		d.mu.Lock()
		d.open--
		d.mu.Unlock()
		return nil, false, err
	}
	c = &plain{Conn: conn}
	if s, ok := conn.(syscall.Conn); ok {
		if c.raw, err = s.SyscallConn(); err != nil {
			c.raw = nil
		}
	}
	c.r, c.w = bufio.NewReaderSize(c, 16<<10), bufio.NewWriterSize(conn, 4<<10)
	return c, false, nil
}

// put keeps a connection for the next request.
func (d *direct) put(c *plain) {
	d.mu.Lock()
	if d.closed || d.leave || c.raw == nil || c.r.Buffered() > 0 || len(d.idle) >= maxIdleConns {
		d.mu.Unlock()
		d.drop(c)
		return
	}
	defer d.mu.Unlock()
	c.since = time.Now()
	d.idle = append(d.idle, c)
	if d.timer == nil {
		d.timer = time.AfterFunc(d.limits.Idle/2, d.sweep)
	}
}

// sweep ends what has been idle for long.
func (d *direct) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for n < len(d.idle) && time.Since(d.idle[n].since) >= d.limits.Idle/2 {
		d.idle[n].Close()
		n++
	}
	d.idle = slices.Delete(d.idle, 0, n)
	d.open -= n
	if len(d.idle) == 0 {
		d.timer = nil
		return
	}
	d.timer.Reset(max(time.Millisecond, d.limits.Idle/2-time.Since(d.idle[0].since)))
}

// drop ends a connection that is in use.
func (d *direct) drop(c *plain) {
	c.Close()
	d.mu.Lock()
	d.open--
	d.mu.Unlock()
}

// closeIdle ends what waits, and what is in use after its request, until there is a
// next one.
func (d *direct) closeIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leave = true
	for _, c := range d.idle {
		c.Close()
	}
	d.open -= len(d.idle)
	d.idle = nil
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// close is closeIdle for good.
func (d *direct) close() {
	d.closeIdle()
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
}
