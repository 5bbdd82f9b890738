package web

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// flushSoon is how long the beginning of an answer of known length may wait for
// more of it; most are then sent at once. Streams, and answers of unknown
// length, never wait.
const flushSoon = 10 * time.Millisecond

// maxInformational bounds the 1xx answers before an answer.
const maxInformational = 8

// ours are the fields that only a gateway says; a client's own are dropped, also
// those that some backends take for the same.
var ours = map[string]bool{
	"forwarded": true, "x-forwarded-for": true, "x-forwarded-host": true, "x-forwarded-proto": true,
	"x-forwarded-port": true, "x-forwarded-server": true, "x-forwarded-ssl": true, "x-forwarded-scheme": true,
	"x-real-ip": true, "x-client-ip": true, "true-client-ip": true, "x-original-url": true, "x-rewrite-url": true,
	"proxy": true, "host": true,
}

// isOurs tells whether a field is one of ours, however it is written.
func isOurs(name string) bool {
	var b [32]byte // longer than any of them
	if len(name) > len(b) {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		b[i] = c
	}
	return ours[string(b[:len(name)])]
}

func (s *Server) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     s,
		FlushInterval: flushSoon,
		ErrorLog:      log.New(io.Discard, "", 0), // each is in an access record
		BufferPool:    newBuffers(),
		ModifyResponse: func(r *http.Response) error {
			return s.modify(r)
		},
		ErrorHandler: s.failed,
	}
}

// rewrite makes the request that goes on. What belonged to the client's
// connection only has been taken away before.
func rewrite(p *httputil.ProxyRequest) {
	in, out := p.In, p.Out
	q := in.Context().Value(requestKey{}).(*request)
	for name := range out.Header {
		if isOurs(name) {
			delete(out.Header, name)
		}
	}
	out.URL.Scheme, out.URL.Host, out.Host = "http", q.route.Host, q.route.Host
	out.URL.RawQuery = in.URL.RawQuery // ReverseProxy drops what net/url can't read
	out.Header.Del("Expect")           // we have said "continue" ourselves
	out.Header.Set("X-Forwarded-For", q.access.Client.Addr().String())
	out.Header.Set("X-Forwarded-Host", q.route.Host)
	out.Header.Set("X-Forwarded-Proto", "https")
	if v := out.Header.Get("Upgrade"); v != "" && (!strings.EqualFold(v, "websocket") || in.Method != http.MethodGet) {
		// Another protocol (HTTP/2 in clear text above all) would carry requests that
		// nobody looks at.
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header.Set("User-Agent", "") // none of ours
	}
	out.Trailer = nil
	for name := range in.Trailer {
		if allowedTrailer(name) {
			if out.Trailer == nil {
				out.Trailer = http.Header{}
			}
			out.Trailer[name] = nil
		}
	}
	if q.body != nil {
		q.body.out = out
	}
	if takesDirect(out) {
		return // it counts informational answers itself; a trace costs much
	}
	informational := 0
	trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		if informational++; informational > maxInformational {
			return errTooManyInformational
		}
		return nil
	}}
	p.Out = out.WithContext(httptrace.WithClientTrace(out.Context(), trace))
	if q.body != nil {
		q.body.out = p.Out
	}
}

var errTooManyInformational = errors.New("too many informational responses")

// allowedTrailer refuses fields that mean something only in a header.
func allowedTrailer(name string) bool {
	n := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	switch n {
	case "content-length", "content-encoding", "content-type", "content-range", "transfer-encoding", "trailer", "te",
		"connection", "upgrade", "authorization", "cookie", "set-cookie", "cache-control", "expect", "range":
		return false
	}
	return !ours[n]
}

// modify looks at an answer before it goes on.
func (s *Server) modify(r *http.Response) error {
	if r.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	body, ok := r.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("answer 101 to a request that did not ask")
	}
	r.Body = newQuiet(body, s.limits.Idle)
	return nil
}

// quiet closes an upgraded connection that is silent in both directions.
type quiet struct {
	io.ReadWriteCloser
	idle  time.Duration
	timer *time.Timer
}

func newQuiet(c io.ReadWriteCloser, idle time.Duration) *quiet {
	return &quiet{ReadWriteCloser: c, idle: idle, timer: time.AfterFunc(idle, func() { c.Close() })}
}

func (q *quiet) Read(p []byte) (int, error) {
	n, err := q.ReadWriteCloser.Read(p)
	if n > 0 {
		q.timer.Reset(q.idle)
	}
	return n, err
}

func (q *quiet) Write(p []byte) (int, error) {
	n, err := q.ReadWriteCloser.Write(p)
	if n > 0 {
		q.timer.Reset(q.idle)
	}
	return n, err
}

func (q *quiet) Close() error {
	q.timer.Stop()
	return q.ReadWriteCloser.Close()
}

// buffers are for copying bodies.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{pool: sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
}

func (b *buffers) Get() []byte  { return *b.pool.Get().(*[]byte) }
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
