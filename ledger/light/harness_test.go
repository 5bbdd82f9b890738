package light_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// logger shows what happens if ZOS_TEST_LOG is set.
func logger() *slog.Logger {
	if os.Getenv("ZOS_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func start(t testing.TB, cfg ledger.Config) *ledgertest.Forger {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "ledger")
	}
	cfg.RPC, cfg.P2P, cfg.Logger = "127.0.0.1:0", "127.0.0.1:0", logger()
	n, err := ledgertest.StartForger(within(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// chain is a validator, followers of it, and something to read.
type chain struct {
	ledgertest.Grid
	validator *ledgertest.Forger
	followers []*ledgertest.Forger
}

func newChain(t testing.TB, followers int) *chain {
	t.Helper()
	g, err := ledgertest.NewGrid("test")
	if err != nil {
		t.Fatal(err)
	}
	c := &chain{Grid: g}
	c.validator = start(t, ledger.Config{Genesis: g.Genesis, ValidatorKey: g.ValidatorKey})
	for range followers {
		c.followers = append(c.followers, start(t, ledger.Config{Genesis: g.Genesis, PersistentPeers: []string{c.validator.P2PAddr()}}))
	}
	ctx := within(t, time.Minute)
	if err := c.validator.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.validator.Write(ctx, put("node/1", "one"), put("node/2", "two"), put("other", "x")); err != nil {
		t.Fatal(err)
	}
	for _, f := range c.followers {
		follow(t, f, c.validator)
	}
	return c
}

func put(key, value string) ledgertest.Write { return ledgertest.Write{Key: key, Value: []byte(value)} }

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// follow waits until f can prove what leader can.
func follow(t testing.TB, f, leader *ledgertest.Forger) {
	t.Helper()
	want := leader.Provable()
	waitFor(t, "the witness to follow", func() bool { return f.Provable() >= want })
}

// urls are those of the validator and then of its followers.
func (c *chain) urls() []string {
	all := []string{c.validator.URL()}
	for _, f := range c.followers {
		all = append(all, f.URL())
	}
	return all
}

// open makes a client of the endpoints; change may alter its configuration.
func (c *chain) open(t testing.TB, urls []string, change ...func(*light.Config)) *light.Client {
	t.Helper()
	cfg := light.Config{Genesis: c.Genesis, Primary: urls[0], Witnesses: urls[1:], Logger: logger()}
	for _, f := range change {
		f(&cfg)
	}
	l, err := light.Open(within(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	light.Hurry(l)
	return l
}

// truth reads everything there is and fails the test on anything that is not
// true. It returns the first error.
func truth(t testing.TB, ctx context.Context, l *light.Client) error {
	t.Helper()
	var errs []error
	v, found, _, err := l.Get(ctx, "node/1")
	if err == nil && (!found || string(v) != "one") {
		t.Errorf("ACCEPTED A LIE: node/1 = %q, %v", v, found)
	}
	errs = append(errs, err)
	if v, found, _, err = l.Get(ctx, "node/3"); err == nil && found {
		t.Errorf("ACCEPTED A LIE: node/3 = %q", v)
	}
	errs = append(errs, err)
	all, _, err := l.List(ctx, "node/")
	if err == nil && (len(all) != 2 || all[0].Key != "node/1" || string(all[0].Value) != "one" || all[1].Key != "node/2" || string(all[1].Value) != "two") {
		t.Errorf("ACCEPTED A LIE: node/ = %q", all)
	}
	errs = append(errs, err)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func wantCode(t testing.TB, err error, codes ...string) {
	t.Helper()
	for _, c := range codes {
		if problem.Code(err) == c {
			if problem.Fix(err) == "" && strings.HasPrefix(c, "ledger-") {
				t.Errorf("%s does not say what to do: %v", c, err)
			}
			return
		}
	}
	t.Errorf("error %v (code %q), want code %q", err, problem.Code(err), codes)
}

// between starts a proxy in front of an endpoint. answer gets the method of a
// request, the path of a query, and the endpoint's true response, and returns
// what to say instead.
func between(t testing.TB, url string, answer func(method, path string, response []byte) []byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
		if err != nil {
			return
		}
		var req struct {
			Method string
			Params struct{ Path string }
		}
		_ = json.Unmarshal(body, &req)
		res, err := http.Post(url, "application/json", bytes.NewReader(body))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer(req.Method, req.Params.Path, b))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// leaves returns the places of all values below v that are not containers, and
// of the containers themselves.
func leaves(v any, at string, all map[string]any) {
	if at != "" {
		all[at] = v
	}
	switch v := v.(type) {
	case map[string]any:
		for k, w := range v {
			leaves(w, at+"/"+k, all)
		}
	case []any:
		for i, w := range v {
			leaves(w, fmt.Sprintf("%s/%d", at, i), all)
		}
	}
}

func parse(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// alter returns the JSON b with the value at place replaced by what f makes of
// it, b itself if there is no such place.
func alter(b []byte, place string, f func(any) any) []byte {
	v, err := parse(b)
	if err != nil {
		return b
	}
	v, ok := alterIn(v, strings.Split(strings.TrimPrefix(place, "/"), "/"), f)
	if !ok {
		return b
	}
	out, err := json.Marshal(v)
	if err != nil {
		return b
	}
	return out
}

var errRemove = errors.New("remove")

func alterIn(v any, place []string, f func(any) any) (any, bool) {
	if len(place) == 0 {
		return f(v), true
	}
	switch v := v.(type) {
	case map[string]any:
		w, ok := v[place[0]]
		if !ok {
			return v, false
		}
		w, ok = alterIn(w, place[1:], f)
		if w == errRemove {
			delete(v, place[0])
		} else {
			v[place[0]] = w
		}
		return v, ok
	case []any:
		var i int
		if _, err := fmt.Sscan(place[0], &i); err != nil || i >= len(v) {
			return v, false
		}
		w, ok := alterIn(v[i], place[1:], f)
		if w == errRemove {
			return append(v[:i], v[i+1:]...), ok
		}
		v[i] = w
		return v, ok
	}
	return v, false
}

func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was parsed from JSON
	}
	return string(b)
}

func newSigner(t testing.TB) sign.Signer {
	t.Helper()
	_, s, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustGenesis(t testing.TB, b []byte) contract.Genesis {
	t.Helper()
	g, err := contract.DecodeGenesis(b)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
