package light

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cometbft/cometbft/light/provider"
	lighthttp "github.com/cometbft/cometbft/light/provider/http"
	rpcclient "github.com/cometbft/cometbft/rpc/client"
	rpchttp "github.com/cometbft/cometbft/rpc/client/http"
	"github.com/cometbft/cometbft/types"

	"github.com/zero-os/zos/ledger/wire"
)

const (
	// requestTimeout bounds one request to an endpoint.
	requestTimeout = 10 * time.Second
	// catchUp is how long an endpoint may lag behind another one before it counts
	// as not answering.
	catchUp = 3 * time.Second
	// maxHeaderAnswer bounds the answers about headers and validators, in bytes.
	maxHeaderAnswer = 2 << 20
)

// endpoint is one ledger RPC address. It is CometBFT's provider of headers, with
// errors mapped so that an endpoint that does not answer is never confused with
// one that lies, and it remembers what it did last.
type endpoint struct {
	url     string
	rpc     *rpchttp.HTTP // for queries and transactions
	headers provider.Provider
	close   func()
	catchUp time.Duration

	mu   sync.Mutex
	last error     // of the last attempt; nil if it answered well
	at   time.Time // of last
}

func newEndpoint(chain, url string) (*endpoint, error) {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return nil, fmt.Errorf("ledger endpoint %q: want a URL that begins with http:// or https://", url)
	}
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: requestTimeout,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   4,
		MaxConnsPerHost:       16,
	}
	e := &endpoint{url: url, close: transport.CloseIdleConnections, catchUp: catchUp}
	// CometBFT's client reads a response to its end: bound it below.
	large, err := rpchttp.NewWithClient(url, "/websocket", &http.Client{Transport: bounded{transport, wire.MaxResponse}})
	if err != nil {
		return nil, fmt.Errorf("ledger endpoint %q: %w", url, err)
	}
	small, err := rpchttp.NewWithClient(url, "/websocket", &http.Client{Transport: bounded{transport, maxHeaderAnswer}})
	if err != nil {
		return nil, fmt.Errorf("ledger endpoint %q: %w", url, err)
	}
	e.rpc, e.headers = large, lighthttp.NewWithClient(chain, small)
	return e, nil
}

// bounded is a transport whose responses fail after limit bytes.
type bounded struct {
	next  http.RoundTripper
	limit int64
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = &boundedBody{ReadCloser: res.Body, left: b.limit}
	return res, nil
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("response is larger than allowed")
	}
	return n, err
}

// note remembers how the endpoint did.
func (e *endpoint) note(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last, e.at = err, time.Now()
	return err
}

// failure returns what the endpoint last failed with, nil if it answered well.
func (e *endpoint) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// ChainID implements provider.Provider.
func (e *endpoint) ChainID() string { return e.headers.ChainID() }

func (e *endpoint) String() string { return e.url }

// LightBlock implements provider.Provider. A height that the endpoint does not
// have yet is asked for again for a moment: endpoints are never at the same
// height at the same time, and CometBFT's own way is to sleep for 30 s.
func (e *endpoint) LightBlock(ctx context.Context, height int64) (*types.LightBlock, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	late := time.NewTimer(e.catchUp)
	defer late.Stop()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		block, err := e.header(ctx, height)
		switch {
		case err == nil:
			_ = e.note(nil)
			return block, nil
		case errors.As(err, new(provider.ErrBadLightBlock)):
			return nil, e.note(err)
		case errors.Is(err, provider.ErrLightBlockNotFound):
			return nil, e.note(provider.ErrLightBlockNotFound)
		case !errors.Is(err, provider.ErrHeightTooHigh):
			_ = e.note(fmt.Errorf("ask %s for header %d: %w", e.url, height, err))
			return nil, provider.ErrNoResponse
		}
		select {
		case <-ctx.Done():
			_ = e.note(fmt.Errorf("ask %s for header %d: %w", e.url, height, ctx.Err()))
			return nil, provider.ErrNoResponse
		case <-late.C:
			_ = e.note(fmt.Errorf("%s does not have header %d", e.url, height))
			return nil, provider.ErrNoResponse
		case <-time.After(wait):
		}
	}
}

// header asks once. CometBFT's client panics on some answers that it does not
// expect, a commit without a header for one; that must not end the program.
func (e *endpoint) header(ctx context.Context, height int64) (block *types.LightBlock, err error) {
	defer func() {
		if p := recover(); p != nil {
			block, err = nil, provider.ErrBadLightBlock{Reason: fmt.Errorf("answer is malformed: %v", p)}
		}
	}()
	return e.headers.LightBlock(ctx, height)
}

// ReportEvidence implements provider.Provider.
func (e *endpoint) ReportEvidence(ctx context.Context, ev types.Evidence) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return e.headers.ReportEvidence(ctx, ev)
}

// query asks the application. Height 0 is the newest that can be proven.
func (e *endpoint) query(ctx context.Context, path string, data []byte, height int64) (_ *answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer e.survive(&err)
	res, err := e.rpc.ABCIQueryWithOptions(ctx, path, data, rpcclient.ABCIQueryOptions{Height: height})
	if err != nil {
		return nil, e.note(fmt.Errorf("query %s: %w", e.url, err))
	}
	_ = e.note(nil)
	r := res.Response
	return &answer{value: r.Value, height: r.Height, code: r.Code, space: r.Codespace, log: r.Log}, nil
}

// broadcast hands over a transaction.
func (e *endpoint) broadcast(ctx context.Context, tx []byte) (_ *answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	defer e.survive(&err)
	res, err := e.rpc.BroadcastTxSync(ctx, tx)
	if err != nil {
		return nil, fmt.Errorf("send to %s: %w", e.url, err)
	}
	_ = e.note(nil)
	return &answer{code: res.Code, space: res.Codespace, log: res.Log}, nil
}

// survive turns a panic over a malformed answer into an error; see header.
func (e *endpoint) survive(err *error) {
	if p := recover(); p != nil {
		*err = e.note(liarError{fmt.Errorf("%s: answer is malformed: %v", e.url, p)})
	}
}

// answer is what an endpoint says, not believed yet.
type answer struct {
	value  []byte
	height int64 // of the header that proves value
	code   uint32
	space  string
	log    string
}

// failedLately tells whether the last attempt failed, and not long ago.
func (e *endpoint) failedLately() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last != nil && time.Since(e.at) < requestTimeout
}
