package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/store"
)

// Status is how a flist stands with the fault server.
type Status struct {
	Flist canon.Hash `json:"flist"`
	// Known tells whether the manifest is in the store; without it Progress is zero.
	Known       bool           `json:"known"`
	Progress    store.Progress `json:"progress"`
	Prefetching bool           `json:"prefetching"`
	// Failures of the flist itself and its objects that stand now, the latest first.
	Failures []store.Failure `json:"failures"`
}

// Stats is how the server itself stands.
type Stats struct {
	PID   int         `json:"pid"`
	Hubs  []string    `json:"hubs"`
	Usage store.Usage `json:"usage"`
}

// Control answers the requests of Client on a unix socket.
type Control struct {
	fetcher *store.Fetcher
	log     *slog.Logger
	http    *http.Server

	ctx  context.Context // of the prefetches
	stop context.CancelFunc
	work sync.WaitGroup
	mu   sync.Mutex
	jobs map[canon.Hash]context.CancelFunc
}

// Limits of the control socket. It has one user, zosd.
const (
	maxControlBody = 64 << 10
	controlWait    = 5 * time.Minute // a manifest may have to come over a slow link
)

// ServeControl listens on the unix socket at path, which only the owner of this
// process may use. A socket that is there already is replaced.
func ServeControl(ctx context.Context, path string, f *store.Fetcher, log *slog.Logger) (*Control, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for control: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for control: %w", err), l.Close())
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Control{fetcher: f, log: log, jobs: map[canon.Hash]context.CancelFunc{}}
	c.ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", handle(c.stats))
	mux.HandleFunc("PUT /hubs", handle(c.setHubs))
	mux.HandleFunc("POST /flists/{flist}/manifest", handle(c.manifest))
	mux.HandleFunc("POST /flists/{flist}/prefetch", handle(c.prefetch))
	mux.HandleFunc("DELETE /flists/{flist}/prefetch", handle(c.cancelPrefetch))
	mux.HandleFunc("GET /flists/{flist}", handle(c.status))
	c.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	c.work.Go(func() { _ = c.http.Serve(l) })
	return c, nil
}

// Close ends the prefetches and the listening, and waits for both.
func (c *Control) Close() error {
	c.stop()
	err := c.http.Close()
	c.work.Wait()
	return err
}

func (c *Control) stats(*http.Request) (any, error) {
	u, err := c.fetcher.Store().Usage()
	return Stats{PID: os.Getpid(), Hubs: c.fetcher.Hubs(), Usage: u}, err
}

func (c *Control) setHubs(r *http.Request) (any, error) {
	var bases []string
	if err := json.NewDecoder(r.Body).Decode(&bases); err != nil {
		return nil, fmt.Errorf("read list of hubs: %w", err)
	}
	return nil, c.fetcher.SetHubs(bases)
}

func (c *Control) manifest(r *http.Request) (any, error) {
	d, err := canon.ParseHash(r.PathValue("flist"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), controlWait)
	defer cancel()
	_, err = c.fetcher.Manifest(ctx, d)
	return nil, err
}

func (c *Control) status(r *http.Request) (any, error) {
	d, err := canon.ParseHash(r.PathValue("flist"))
	if err != nil {
		return nil, err
	}
	s := Status{Flist: d, Failures: c.fetcher.Failures(d)}
	if s.Progress, err = c.fetcher.Progress(d); err == nil {
		s.Known = true
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	c.mu.Lock()
	s.Prefetching = c.jobs[d] != nil
	c.mu.Unlock()
	return s, nil
}

// prefetch starts fetching the whole flist. It is tried again until it succeeds
// or is cancelled.
func (c *Control) prefetch(r *http.Request) (any, error) {
	d, err := canon.ParseHash(r.PathValue("flist"))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.jobs[d] != nil || c.ctx.Err() != nil {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.jobs[d] = cancel
	c.work.Go(func() {
		defer func() {
			cancel()
			c.mu.Lock()
			delete(c.jobs, d)
			c.mu.Unlock()
		}()
		for wait := time.Second; c.fetcher.Prefetch(ctx, d) != nil; wait = min(2*wait, 30*time.Second) {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	})
	return nil, nil
}

func (c *Control) cancelPrefetch(r *http.Request) (any, error) {
	d, err := canon.ParseHash(r.PathValue("flist"))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel := c.jobs[d]; cancel != nil {
		cancel()
	}
	return nil, nil
}

// wireError is a problem on its way to the client.
type wireError struct {
	Code string `json:"code"`
	What string `json:"what"`
	Fix  string `json:"fix"`
}

func handle(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxControlBody)
		answer, err := f(r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			answer = wireError{Code: problem.Code(err), What: err.Error(), Fix: problem.Fix(err)}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// Client speaks to a fault server's control socket.
type Client struct{ http *http.Client }

// NewClient returns a client of the socket at path. It connects when it is used.
func NewClient(path string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true, // rare requests; nothing is left behind between them
	}}}
}

// Stats asks how the server is.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	return s, c.do(ctx, http.MethodGet, "/stats", nil, &s)
}

// SetHubs replaces the hubs, in order of preference.
func (c *Client) SetHubs(ctx context.Context, bases []string) error {
	return c.do(ctx, http.MethodPut, "/hubs", bases, nil)
}

// Manifest makes the server fetch the flist's manifest into the store and waits for it.
func (c *Client) Manifest(ctx context.Context, d canon.Hash) error {
	return c.do(ctx, http.MethodPost, "/flists/"+d.String()+"/manifest", nil, nil)
}

// Prefetch makes the server fetch all of the flist, with less urgency than what
// somebody waits for. It returns at once; Status tells how far it is.
func (c *Client) Prefetch(ctx context.Context, d canon.Hash) error {
	return c.do(ctx, http.MethodPost, "/flists/"+d.String()+"/prefetch", nil, nil)
}

// CancelPrefetch ends that.
func (c *Client) CancelPrefetch(ctx context.Context, d canon.Hash) error {
	return c.do(ctx, http.MethodDelete, "/flists/"+d.String()+"/prefetch", nil, nil)
}

// Status tells how much of a flist is there, and what failed.
func (c *Client) Status(ctx context.Context, d canon.Hash) (Status, error) {
	var s Status
	return s, c.do(ctx, http.MethodGet, "/flists/"+d.String(), nil, &s)
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://fault"+path, body)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return problem.New(store.CodeFaultServerDown, "ask the fault server: %w", err)
	}
	defer res.Body.Close()
	answer := json.NewDecoder(io.LimitReader(res.Body, 8<<20))
	if res.StatusCode != http.StatusOK {
		var e wireError
		if err := answer.Decode(&e); err != nil {
			return fmt.Errorf("ask the fault server: %s", res.Status)
		}
		if e.Code == "" {
			return fmt.Errorf("fault server: %s", e.What)
		}
		return &problem.Error{Code: e.Code, What: e.What, Fix: e.Fix}
	}
	if out == nil {
		return nil
	}
	if err := answer.Decode(out); err != nil {
		return fmt.Errorf("read the fault server's answer: %w", err)
	}
	return nil
}
