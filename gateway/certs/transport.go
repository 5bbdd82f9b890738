package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"github.com/zero-os/zos/problem"
)

// maxAnswer bounds what an authority answers, in bytes.
const maxAnswer = 1 << 20

// watched reaches the authority. It bounds answers, and remembers how long the
// authority wants to be left alone.
type watched struct {
	http.RoundTripper
	now func() time.Time

	mu    sync.Mutex
	until time.Time
}

func newTransport(o Options, roots *x509.CertPool) *watched {
	if o.Transport == nil {
		dial := (&net.Dialer{Timeout: 10 * time.Second}).DialContext
		if o.Resolve != nil {
			dial = resolving{o.Resolve, dial}.dial
		}
		p := new(http.Protocols)
		p.SetHTTP1(true)
		p.SetHTTP2(true)
		o.Transport = &http.Transport{
			Protocols:             p,
			DialContext:           dial,
			TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       30 * time.Second,
		}
	}
	return &watched{RoundTripper: o.Transport, now: o.Now}
}

// resolving dials names that somebody else looks up.
type resolving struct {
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	connect func(ctx context.Context, network, to string) (net.Conn, error)
}

// resolveTime bounds a look-up and the connection that follows it.
const resolveTime = 15 * time.Second

func (d resolving) dial(ctx context.Context, network, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return d.connect(ctx, network, to)
	}
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	err = errors.New("it has no address")
	for _, a := range addrs {
		var c net.Conn
		if c, err = d.connect(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("connect to %s: %w", host, err)
}

// RoundTrip is http.RoundTripper's.
func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		if until := retryAfter(resp.Header.Get("Retry-After"), w.now()); !until.IsZero() {
			w.mu.Lock()
			w.until = until
			w.mu.Unlock()
		}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	return resp, nil
}

// pause returns until when the authority wants no requests.
func (w *watched) pause() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.until
}

// maxPause bounds what an authority can ask for.
const maxPause = 7 * 24 * time.Hour

// retryAfter reads a Retry-After field: seconds, or a date. Zero: there is none.
func retryAfter(v string, now time.Time) time.Time {
	if s, err := strconv.ParseUint(strings.TrimSpace(v), 10, 31); err == nil {
		return now.Add(min(maxPause, time.Duration(s)*time.Second))
	}
	if at, err := http.ParseTime(v); err == nil {
		if at.After(now.Add(maxPause)) {
			return now.Add(maxPause)
		}
		return at
	}
	return time.Time{}
}

// explain gives an error of an order a code, and words for people.
func explain(host string, err error) *problem.Error {
	var known *problem.Error
	var p acme.Problem
	switch {
	case errors.As(err, &p) && (p.Status == http.StatusTooManyRequests || p.Type == acme.ProblemTypeRateLimited):
		return problem.New("acme-rate-limited", "certify %s: the authority says too often: %s", host, oneLine(p.Detail)).
			WithFix("nothing; it is tried again when the authority allows it")
	case errors.As(err, &p) && p.Status < 500:
		return problem.New("acme-refused", "certify %s: the authority refuses: %s", host, oneLine(detail(p))).
			WithFix("let the name's records point to its gateways: zos gateway check %s", host)
	case errors.As(err, &known):
		return problem.New(known.Code, "certify %s: %s", host, oneLine(known.Error())).WithFix("%s", known.Fix)
	case errors.As(err, new(net.Error)), errors.As(err, &p), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return problem.New("acme-unreachable", "certify %s: the authority does not answer: %s", host, oneLine(err.Error())).
			WithFix("nothing; it is tried again")
	}
	return problem.New("certificate-failed", "certify %s: %s", host, oneLine(err.Error())).WithFix("nothing; it is tried again")
}

// detail is the most telling part of a problem: that of the challenge.
func detail(p acme.Problem) string {
	parts := []string{}
	for _, s := range []string{p.Title, p.Detail} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	for i, s := range p.Subproblems {
		if i == 3 {
			break
		}
		parts = append(parts, s.Detail)
	}
	if len(parts) == 0 {
		return fmt.Sprintf("%s (%d)", p.Type, p.Status)
	}
	return strings.Join(parts, ": ")
}

// oneLine bounds and cleans what an authority says: people see it in a terminal.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u202e' || r == '\ufffd' {
			return ' '
		}
		return r
	}, s)
	if len(s) > 400 {
		s = strings.ToValidUTF8(s[:400], "") + "…"
	}
	return s
}
