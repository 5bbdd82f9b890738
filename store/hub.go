package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// hubs is the ordered list of hubs. One that could not be reached goes to the
// end of the line for a while, so that a dead first hub delays one request, not all.
type hubs struct {
	mu   sync.Mutex
	list []*hub
}

type hub struct {
	base     string // without a closing slash
	badUntil time.Time
}

// badFor is how long an unreachable hub is tried last.
const badFor = 15 * time.Second

// MaxHubs is how many hubs a Fetcher takes.
const MaxHubs = 16

func parseHubs(bases []string) ([]*hub, error) {
	if len(bases) > MaxHubs {
		return nil, fmt.Errorf("%d hubs, at most %d are used", len(bases), MaxHubs)
	}
	list := make([]*hub, 0, len(bases))
	for _, b := range bases {
		u, err := url.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("bad hub address: %w", err)
		}
		if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("bad hub address %q: want http://HOST[:PORT][/PATH]", b)
		}
		list = append(list, &hub{base: strings.TrimRight(b, "/")})
	}
	return list, nil
}

// order returns the hubs to try, best first.
func (h *hubs) order() []*hub {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	list := slices.Clone(h.list)
	slices.SortStableFunc(list, func(a, b *hub) int {
		switch bad, worse := now.Before(a.badUntil), now.Before(b.badUntil); {
		case bad == worse:
			return 0
		case bad:
			return 1
		}
		return -1
	})
	return list
}

func (h *hubs) mark(x *hub, reached bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x.badUntil = time.Time{}
	if !reached {
		x.badUntil = time.Now().Add(badFor)
	}
}

// What a hub did wrong.
var (
	errNotThere    = errors.New("not there")              // the hub says that it doesn't have it
	errUnreachable = errors.New("hub could not be asked") // or broke off, or was too slow
	errLie         = errors.New("wrong content")
)

// client asks hubs for static files.
type client struct {
	http    *http.Client
	wait    time.Duration // for a connection, for the answer to begin, and between two pieces of it
	minimum int64         // bytes per second below which a hub counts as unreachable
}

func newClient(parallel int, wait time.Duration, minimum int64) *client {
	dialer := &net.Dialer{Timeout: wait, KeepAlive: 30 * time.Second}
	return &client{
		wait: wait, minimum: minimum,
		http: &http.Client{
			Transport: &http.Transport{
				DialContext:            dialer.DialContext,
				TLSHandshakeTimeout:    wait,
				ResponseHeaderTimeout:  wait,
				MaxIdleConnsPerHost:    parallel,
				IdleConnTimeout:        30 * time.Second,
				DisableCompression:     true, // the files are compressed; a second layer would hide their size
				MaxResponseHeaderBytes: 64 << 10,
				WriteBufferSize:        4 << 10,
				ReadBufferSize:         16 << 10,
			},
			// A hub must not send a node to addresses of its choice.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// get appends the file at base/path to buf, at most limit bytes. The error wraps
// errNotThere, errUnreachable or errLie (longer than limit), or is ctx's.
func (c *client) get(ctx context.Context, base, path string, limit int64, buf []byte) ([]byte, error) {
	outer := ctx
	total := 2*c.wait + time.Duration(float64(limit)/float64(c.minimum)*float64(time.Second))
	ctx, cancel := context.WithTimeout(ctx, total)
	defer cancel()
	fail := func(err error) ([]byte, error) {
		if outer.Err() != nil {
			return nil, outer.Err()
		}
		return nil, fmt.Errorf("%s%s: %w: %w", base, path, errUnreachable, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return fail(err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusGone:
		// Read the page that says so, so that the connection can be used again.
		_, _ = io.CopyN(io.Discard, res.Body, 16<<10)
		return nil, fmt.Errorf("%s%s: %w (%s)", base, path, errNotThere, res.Status)
	case res.StatusCode != http.StatusOK:
		return fail(errors.New(res.Status))
	}
	// Between two pieces less may pass than for the whole.
	stalled := time.AfterFunc(c.wait, cancel)
	defer stalled.Stop()
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		// One byte beyond the limit is enough to know.
		room := min(int64(cap(buf)-len(buf)), limit+1-int64(len(buf)))
		n, err := res.Body.Read(buf[len(buf) : int64(len(buf))+room])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > limit {
			return nil, fmt.Errorf("%s%s: %w: more than the %d bytes that it can have", base, path, errLie, limit)
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return fail(fmt.Errorf("broke off after %d bytes: %w", len(buf), err))
		}
		if n > 0 {
			stalled.Reset(c.wait)
		}
	}
}
