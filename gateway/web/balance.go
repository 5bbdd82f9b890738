package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var errNoBackend = errors.New("no backend could be reached")

// dialError is a failure before anything was sent.
type dialError struct{ err error }

func (e dialError) Error() string { return fmt.Sprintf("connect: %v", e.err) }
func (e dialError) Unwrap() error { return e.err }

// RoundTrip sends r to the least loaded backend of its route, and to another one
// if the connection fails before an answer and it does no harm to send it twice.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.Context().Value(requestKey{}).(*request)
	candidates := slices.Clone(q.route.Backends())
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context())
		r.Body = kept{r.Body}
	}
	last := errNoBackend
	for len(candidates) > 0 && q.access.Attempts < s.limits.Tries {
		i := s.pools.least(candidates)
		b := candidates[i]
		candidates = slices.Delete(candidates, i, i+1)
		q.access.Attempts++
		q.access.Backend = b.Name()
		p := s.pools.get(b)
		resp, err := p.send(r)
		if err == nil {
			return resp, nil
		}
		last = err
		var d dialError
		if dialled := !errors.As(err, &d); dialled && !repeatable(r, err) || q.body != nil && q.body.count() > 0 || r.Context().Err() != nil {
			return nil, err
		} else if !dialled {
			last = fmt.Errorf("%w: %s: %w", errNoBackend, b.Name(), err)
		}
	}
	return nil, last
}

// kept is a body that stays open when a transport closes it because it could not
// connect: another backend gets it then. The proxy closes it in the end.
type kept struct{ io.Reader }

func (kept) Close() error { return nil }

// repeatable tells whether r, whose connection failed with err, may go to another
// backend: not if a backend only takes long, or may have done what it was asked.
func repeatable(r *http.Request, err error) bool {
	if !errors.Is(err, io.EOF) && !isReset(err) {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return r.Body == nil || r.Body == http.NoBody
	}
	return false
}

// pools are the connections to backends, by backend, and forgotten with it.
type pools struct {
	limits Limits
	mu     sync.Mutex
	byName map[Backend]*pool
	sweep  time.Time
}

// pool is the connections to one backend of one route; they are never shared
// between routes, so that nothing that one backend sends can reach another's client.
type pool struct {
	transport *http.Transport
	direct    *direct // for what it takes
	busy      atomic.Int64

	// Under pools.mu.
	used    time.Time
	failing context.Context // see Failing; nil: not watched
	unwatch func() bool
}

// watch closes connections that wait for a next request when the backend fails: it
// may have vanished, and be another one when it is back.
func (p *pool) watch(b Backend) {
	f, ok := b.(Failing)
	if !ok || p.failing != nil && p.failing.Err() == nil {
		return
	}
	p.closeIdle()
	p.failing = f.Failing()
	p.unwatch = context.AfterFunc(p.failing, p.closeIdle)
}

func (p *pool) close() {
	if p.unwatch != nil {
		p.unwatch()
	}
	p.transport.CloseIdleConnections()
	p.direct.close()
}

func (p *pool) closeIdle() {
	p.transport.CloseIdleConnections()
	p.direct.closeIdle()
}

func (ps *pools) get(b Backend) *pool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	now := time.Now()
	if now.Sub(ps.sweep) > ps.limits.Idle {
		ps.sweep = now
		for b, p := range ps.byName {
			if p.busy.Load() == 0 && now.Sub(p.used) > ps.limits.Idle {
				p.close()
				delete(ps.byName, b)
			}
		}
	}
	p := ps.byName[b]
	if p == nil {
		dial := ps.dialer(b)
		p = &pool{transport: ps.transport(dial), direct: &direct{limits: ps.limits, dial: dial}}
		if ps.byName == nil {
			ps.byName = map[Backend]*pool{}
		}
		ps.byName[b] = p
	}
	p.used = now
	p.watch(b)
	return p
}

func (ps *pools) dialer(b Backend) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, ps.limits.DialTime)
		defer cancel()
		c, err := b.Dial(ctx)
		if err != nil {
			return nil, dialError{err}
		}
		return c, nil
	}
}

func (ps *pools) transport(dial func(context.Context) (net.Conn, error)) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Protocols:              protocols,
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		MaxIdleConnsPerHost:    maxIdleConns,
		MaxConnsPerHost:        maxConns,
		IdleConnTimeout:        ps.limits.Idle / 2,
		ResponseHeaderTimeout:  ps.limits.ResponseTime,
		MaxResponseHeaderBytes: ps.limits.ResponseHeader,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
}

func (ps *pools) close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for b, p := range ps.byName {
		p.close()
		delete(ps.byName, b)
	}
}

// least returns the index of the backend with the least to do, one of several by
// chance.
func (ps *pools) least(backends []Backend) int {
	order := rand.Perm(len(backends))
	return slices.MinFunc(order, func(i, j int) int {
		return cmp.Compare(ps.load(backends[i]), ps.load(backends[j]))
	})
}

func (ps *pools) load(b Backend) int64 {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	n := int64(b.Load())
	if p := ps.byName[b]; p != nil {
		n += p.busy.Load()
	}
	return n
}

// send counts the request as work of the backend until its answer is read.
func (p *pool) send(r *http.Request) (*http.Response, error) {
	p.busy.Add(1)
	var resp *http.Response
	var err error
	if takesDirect(r) {
		resp, err = p.direct.RoundTrip(r)
	} else {
		resp, err = p.transport.RoundTrip(r)
	}
	if err != nil {
		p.busy.Add(-1)
		return nil, err
	}
	once := sync.OnceFunc(func() { p.busy.Add(-1) })
	if rw, ok := resp.Body.(io.ReadWriteCloser); ok {
		resp.Body = countedUpgrade{rw, once}
	} else {
		resp.Body = countedBody{resp.Body, once}
	}
	return resp, nil
}

type countedBody struct {
	io.ReadCloser
	done func()
}

func (b countedBody) Close() error {
	b.done()
	return b.ReadCloser.Close()
}

type countedUpgrade struct {
	io.ReadWriteCloser
	done func()
}

func (b countedUpgrade) Close() error {
	b.done()
	return b.ReadWriteCloser.Close()
}

// isReset tells whether err is a connection that the other side ended, or that the
// kernel gave up because the other side has vanished.
func isReset(err error) bool {
	for _, e := range []error{syscall.ECONNRESET, syscall.EPIPE, io.ErrUnexpectedEOF, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
