package web

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// request is what goes along with one through the proxy.
type request struct {
	route  *Route
	body   *requestBody // nil: it has none
	writer *writer
	access *Access
}

type requestKey struct{}

// Reasons in Access.Error.
const (
	reasonHost     = "misdirected" // Host is not the server name
	reasonRequest  = "request"     // malformed
	reasonRoute    = "unpublished"
	reasonBackend  = "no-backend" // none could be reached
	reasonResponse = "response"   // the backend's answer is malformed or too large
	reasonSlow     = "timeout"    // the backend did not answer in time
	reasonClient   = "client"     // it went away, or was too slow
	reasonCut      = "cut"        // the backend ended in the middle of its answer
)

// serve answers a request in TLS.
func (s *Server) serve(rw http.ResponseWriter, r *http.Request) {
	start := s.o.Now()
	conn := r.Context().Value(connectionKey{}).(*connection)
	control := http.NewResponseController(rw)
	expired := time.Unix(1, 0)
	w := &writer{ResponseWriter: rw, server: s, control: control, conn: conn}
	w.pace = newPace(s.limits.Rate, s.limits.Window, func() { _ = control.SetWriteDeadline(expired) })
	defer w.pace.timer.Stop()
	access := Access{
		Time: start, Host: conn.host, Client: conn.client,
		Method: clip(r.Method, 16), Path: clip(pathOf(r.RequestURI), 256), Protocol: r.Proto,
	}
	var body *requestBody
	var record func(Access)
	defer func() {
		if w.taken != nil {
			s.leave(s.upgraded, w.taken)
		}
		access.Status, access.Out, access.Duration = w.status, w.n, s.o.Now().Sub(start)
		if body != nil {
			access.In = body.count()
		}
		s.o.Log(access)
		if record != nil {
			record(access)
		}
	}()
	refuse := func(status int, reason string) {
		access.Error = reason
		refusal(w, status)
	}
	if reason := malformed(r); reason != "" {
		refuse(http.StatusBadRequest, reasonRequest)
		return
	}
	if hostOf(r.Host) != conn.host || conn.host == "" {
		refuse(http.StatusMisdirectedRequest, reasonHost)
		return
	}
	if conn.carrier != nil && conn.carrier.isDraining() {
		w.Header().Set("Connection", "close") // HTTP/2 says so by a frame
	}
	route, ok := conn.routes(s).Terminated(conn.host)
	if !ok {
		// The connection stands for a name that is published here no more.
		refuse(http.StatusMisdirectedRequest, reasonRoute)
		return
	}
	access.Publication = route.Publication
	record = route.Log
	in := r.WithContext(context.WithValue(r.Context(), requestKey{}, &request{route: route, writer: w, access: &access}))
	if r.Body != nil && r.Body != http.NoBody {
		body = &requestBody{ReadCloser: r.Body, in: in}
		body.pace = newPace(s.limits.Rate, s.limits.Window, func() { _ = control.SetReadDeadline(expired) })
		defer body.pace.timer.Stop()
		in.Body = body
		in.Context().Value(requestKey{}).(*request).body = body
	}
	defer func() {
		// The proxy panics so when an answer can't be ended well: the client has to
		// notice, which net/http sees to.
		if e := recover(); e != nil {
			if access.Error == "" {
				access.Error = reasonCut
				if r.Context().Err() != nil {
					access.Error = reasonClient
				}
			}
			if w.taken == nil && w.status >= 200 && r.Context().Err() == nil {
				_ = w.FlushError() // what came of it is the client's
			}
			panic(e)
		}
	}()
	s.proxy.ServeHTTP(w, in)
}

// malformed tells what of a request net/http lets through and we don't.
func malformed(r *http.Request) string {
	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace || len(r.Method) > 32 || !isTokens(r.Method):
		return "method"
	case r.RequestURI == "*" && r.Method == http.MethodOptions:
	case !plainTarget(r.RequestURI):
		return "target"
	case r.URL.Host != "" || r.URL.Scheme != "" || r.URL.Opaque != "":
		return "target"
	}
	// HTTP/2 lets a client send both, and nothing says which one a backend heeds.
	if host, ok := r.Header["Host"]; ok && (len(host) != 1 || host[0] != r.Host) {
		return "host"
	}
	// HTTP/2 has its own ends of bodies, and net/http does not compare.
	if v, ok := r.Header["Content-Length"]; ok && (len(v) != 1 || v[0] != strconv.FormatInt(r.ContentLength, 10)) {
		return "length"
	}
	return ""
}

func isTokens(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isToken(s[i]) {
			return false
		}
	}
	return s != ""
}

// plainTarget tells whether s, "/…", can stand in a request line of any reader.
func plainTarget(s string) bool {
	if s == "" || s[0] != '/' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '#' {
			return false
		}
	}
	return true
}

// redirect answers on port 80.
func (s *Server) redirect(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	if malformed(r) != "" {
		refusal(w, http.StatusBadRequest)
		return
	}
	if s.o.Certificates.ServeChallenge(w, r) {
		return
	}
	host := hostOf(r.Host)
	conn := r.Context().Value(connectionKey{}).(*connection)
	if host == "" || !conn.routes(s).Published(host) {
		refusal(w, http.StatusNotFound)
		return
	}
	to := url.URL{Scheme: "https", Host: host}
	w.Header().Set("Location", to.String()+strings.TrimPrefix(r.RequestURI, "*"))
	w.WriteHeader(http.StatusPermanentRedirect)
}

// refusal answers in a few words of our own, which say nothing of what is behind.
func refusal(w http.ResponseWriter, status int) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(http.StatusText(status) + "\n"))
}

// hostOf returns the name that a Host field means: lower case, without the port
// of TLS. Any other port is another origin, and matches no name.
func hostOf(host string) string {
	for _, port := range []string{":443", ":80"} {
		host = strings.TrimSuffix(host, port)
	}
	return strings.ToLower(host)
}

func addrPort(s string) netip.AddrPort {
	a, _ := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// pathOf returns a target without its query, as it was sent.
func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// failed answers when no backend did, or with something that is no answer.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	q := r.Context().Value(requestKey{}).(*request)
	var timeout net.Error
	var dial dialError
	status, reason := http.StatusBadGateway, reasonResponse
	switch {
	case q.body != nil && q.body.failed():
		status, reason = http.StatusBadRequest, reasonClient
	case errors.Is(err, context.Canceled):
		reason = reasonClient
	case errors.Is(err, errNoBackend) || errors.As(err, &dial):
		status, reason = http.StatusServiceUnavailable, reasonBackend
	case errors.As(err, &timeout) && timeout.Timeout():
		status, reason = http.StatusGatewayTimeout, reasonSlow
	}
	q.access.Error = reason
	s.o.Logger.Debug("request failed", "host", q.route.Host, "backend", q.access.Backend, "reason", reason, "err", err)
	refusal(w, status)
}
