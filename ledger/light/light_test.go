package light_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/problem"
)

func forge(key string) []byte { return ledgertest.Forge(put(key, "v")) }

func TestWhatIsReadIsWhatWasWritten(t *testing.T) {
	c := newChain(t, 1)
	l := c.open(t, c.urls())
	ctx := within(t, time.Minute)
	if err := truth(t, ctx, l); err != nil {
		t.Fatal(err)
	}
	if all, _, err := l.List(ctx, "nothing/"); err != nil || len(all) != 0 {
		t.Errorf("List(nothing/) = %v, %v; want proven emptiness", all, err)
	}
	res, err := l.Submit(ctx, ledgertest.Forge(put("node/1", "ONE"), ledgertest.Write{Key: "other", Delete: true}))
	if err != nil {
		t.Fatal(err)
	}
	v, found, at, err := l.Get(ctx, "node/1")
	if err != nil || !found || string(v) != "ONE" {
		t.Errorf("own write is not read: %q, %v, %v", v, found, err)
	}
	if at.Height < res.At.Height || res.At.Height != res.Height+1 {
		t.Errorf("read at %d, written in block %d, proven by %d", at.Height, res.Height, res.At.Height)
	}
	if _, found, _, err := l.Get(ctx, "other"); err != nil || found {
		t.Errorf("deleted key is there: %v, %v", found, err)
	}
	// The same bytes again give the first result.
	tx := forge("again")
	first, err := l.Submit(ctx, tx)
	if err != nil {
		t.Fatal(err)
	}
	again, err := l.Submit(ctx, tx)
	if err != nil || again.Height != first.Height || again.Tx != canon.Sum(tx) {
		t.Errorf("sent again: %+v, %v; want %+v", again, err, first)
	}
}

func TestHeadsNeverGoBack(t *testing.T) {
	c := newChain(t, 1)
	l := c.open(t, c.urls())
	ctx := within(t, time.Minute)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			var last uint64
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, _, at, err := l.Get(ctx, "node/1")
				if err != nil {
					t.Error(err)
					return
				}
				if at.Height < last {
					t.Errorf("read at %d after %d", at.Height, last)
				}
				last = at.Height
			}
		})
	}
	for range 5 {
		if err := c.validator.Write(ctx, put("counter", "x")); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestRefusalHasTheRulesCode(t *testing.T) {
	t.Parallel()
	c := newChain(t, 1)
	l := c.open(t, c.urls())
	ctx := within(t, time.Minute)
	_, err := l.Submit(ctx, ledgertest.ForgeRefused("no-consent", 0))
	if problem.Code(err) != "no-consent" {
		t.Errorf("refused when queued: %v (code %q), want no-consent", err, problem.Code(err))
	}
	_, err = l.Submit(ctx, []byte("not a transaction"))
	if problem.Code(err) == "" || problem.Code(err) == light.CodeUnreachable {
		t.Errorf("garbage: %v (code %q), want the code of a rule", err, problem.Code(err))
	}
	_, err = l.Submit(ctx, make([]byte, 2<<20))
	wantCode(t, err, "state-too-large")
	_, err = l.Submit(ctx, ledgertest.Forge(ledgertest.Write{Key: "", Value: []byte("x")}))
	wantCode(t, err, "state-too-large")

	// Queued, and refused only in the block, whose time is a later one.
	last := func() contract.Checkpoint {
		cp, err := c.validator.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		return cp
	}
	// The header of a block that ended a quiet time is older than the next one's.
	quiet := last().Height + 1
	waitFor(t, "a quiet block", func() bool { return last().Height > quiet })
	_, err = l.Submit(ctx, ledgertest.ForgeRefused("approvals-insufficient", last().Time))
	wantCode(t, err, "approvals-insufficient")
	if problem.Fix(err) != "ask for something else" {
		t.Errorf("refused in the block: the rule's advice is lost: %q", problem.Fix(err))
	}
}

func TestRealContractRulesAnswer(t *testing.T) {
	g, err := ledgertest.NewGrid("real")
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, time.Minute)
	run := func(cfg ledger.Config) *ledger.Node {
		cfg.Dir, cfg.Genesis, cfg.RPC, cfg.P2P, cfg.Logger = t.TempDir(), g.Genesis, "127.0.0.1:0", "127.0.0.1:0", logger()
		n, err := ledger.Start(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Stop() })
		if err := n.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		return n
	}
	validator := run(ledger.Config{ValidatorKey: g.ValidatorKey})
	witness := run(ledger.Config{PersistentPeers: []string{validator.P2PAddr()}})
	l, err := light.Open(ctx, light.Config{Genesis: g.Genesis, Primary: validator.URL(), Witnesses: []string{witness.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, found, _, err := l.Get(ctx, contract.KeyGrid); err != nil || !found {
		t.Fatalf("the genesis is not on the ledger: %v, %v", found, err)
	}
	signer := newSigner(t)
	s, err := contract.Sign(ctx, contract.NewAccount(g.ID, "red", signer.Public()), contract.KindAccount, signer)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	res, err := l.Submit(ctx, tx)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := res.Decode(); err != nil || r.ID != s.ID() || r.Kind != contract.KindAccount {
		t.Errorf("result %+v, %v; want account %s", r, err, s.ID())
	}
	all, _, err := l.List(ctx, "account/")
	if err != nil || len(all) != 1 || all[0].Key != "account/"+s.ID().String() {
		t.Errorf("accounts %v, %v", all, err)
	}
	// What only a forger would take.
	_, err = l.Submit(ctx, forge("account/x"))
	if err == nil || problem.Code(err) == light.CodeUnreachable {
		t.Errorf("a forged transaction on a true ledger: %v", err)
	}
}

// frozen passes requests on until stop is closed. From then on it answers every
// request as it did last, and new ones not at all.
func frozen(t testing.TB, url string, stop <-chan struct{}) string {
	var mu sync.Mutex
	last := map[string][]byte{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		// Requests differ in their id.
		v, err := parse(body)
		if err != nil {
			return
		}
		id := v.(map[string]any)["id"]
		delete(v.(map[string]any), "id")
		key := toJSON(v)
		mu.Lock()
		defer mu.Unlock()
		select {
		case <-stop:
		default:
			res, err := http.Post(url, "application/json", bytes.NewReader(body))
			if err != nil {
				return
			}
			defer res.Body.Close()
			if last[key], err = io.ReadAll(res.Body); err != nil {
				return
			}
		}
		if last[key] == nil {
			http.Error(w, "frozen", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(alter(last[key], "/id", func(any) any { return id }))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestFrozenHeadIsStale(t *testing.T) {
	t.Parallel()
	c := newChain(t, 1)
	ctx := within(t, time.Minute)
	// An idle head is up to two intervals old; the limit must be above that.
	const limit = 12 * time.Second
	clock := time.Now
	cfg := func(cfg *light.Config) {
		cfg.MaxHeadAge = limit
		cfg.Now = func() time.Time { return clock() }
	}
	stop := make(chan struct{})
	ice := []string{frozen(t, c.validator.URL(), stop), frozen(t, c.followers[0].URL(), stop)}
	l := c.open(t, ice, cfg)
	half := c.open(t, []string{ice[0], c.followers[0].URL()}, cfg)
	// The last one asks both endpoints for their newest header.
	for _, l := range []*light.Client{l, half, c.open(t, []string{ice[1], ice[0]}, cfg)} {
		if err := truth(t, ctx, l); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Head(ctx); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	head, err := l.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The true ledger goes on, and time passes.
	waitFor(t, "the frozen head to be too old", func() bool { return time.Since(head.Time) > limit })
	_, err = l.Head(ctx)
	wantCode(t, err, light.CodeStale)
	_, _, _, err = l.Get(ctx, "node/1")
	wantCode(t, err, light.CodeStale)
	_, _, err = l.List(ctx, "node/")
	wantCode(t, err, light.CodeStale)
	_, err = l.Checkpoint(ctx)
	wantCode(t, err, light.CodeStale)
	if got, ok := l.Trusted(); !ok || got.Height != head.Height {
		t.Errorf("the last verified header is lost: %+v, %v", got, ok)
	}
	// One endpoint that is not frozen is found.
	if _, err := half.Head(ctx); err == nil {
		t.Log("the live endpoint was found")
	} else {
		// Its header cannot be confirmed by the frozen one.
		wantCode(t, err, light.CodeUnreachable, light.CodeStale)
	}
	// Not frozen at all, but this machine's clock is ahead.
	clock = func() time.Time { return time.Now().Add(time.Hour) }
	_, err = c.open(t, c.urls(), cfg).Head(ctx)
	wantCode(t, err, light.CodeStale)
	// And behind: headers from the future are not believed.
	clock = func() time.Time { return time.Now().Add(-time.Hour) }
	_, err = c.open(t, c.urls(), cfg).Head(ctx)
	wantCode(t, err, light.CodeLying)
}

func TestCheckpointDecidesWhatIsTrusted(t *testing.T) {
	c := newChain(t, 1)
	ctx := within(t, time.Minute)
	cp, err := c.open(t, c.urls()).Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a later block", func() bool { return c.validator.Height() > cp.Height })
	trust := func(cp contract.Checkpoint) func(*light.Config) {
		return func(cfg *light.Config) { cfg.Trust, cfg.Genesis, cfg.Grid = cp, nil, c.ID }
	}
	if err := truth(t, ctx, c.open(t, c.urls(), trust(cp))); err != nil {
		t.Errorf("right checkpoint, no genesis: %v", err)
	}
	wrong := cp
	wrong.Hash[5] ^= 1
	_, err = c.open(t, c.urls(), trust(wrong)).Head(ctx)
	wantCode(t, err, light.CodeLying)
	wrong = cp
	wrong.Height--
	_, err = c.open(t, c.urls(), trust(wrong)).Head(ctx)
	wantCode(t, err, light.CodeLying)
	old := cp
	old.Time -= 15 * 24 * 3600
	_, err = c.open(t, c.urls(), trust(old)).Head(ctx)
	wantCode(t, err, light.CodeExpired)
	// The header itself is too old, whatever the checkpoint says of it.
	_, err = c.open(t, c.urls(), trust(cp), func(cfg *light.Config) { cfg.TrustingPeriod = time.Millisecond }).Head(ctx)
	wantCode(t, err, light.CodeExpired)
	// A checkpoint of another grid.
	other, err := ledgertest.NewGrid("other")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.open(t, c.urls(), trust(cp), func(cfg *light.Config) { cfg.Grid = other.ID }).Head(ctx)
	wantCode(t, err, light.CodeLying)
	_, err = c.open(t, c.urls(), func(cfg *light.Config) { cfg.Genesis = other.Genesis }).Head(ctx)
	wantCode(t, err, light.CodeLying)
	// What the operator's own node says is the same header.
	own, err := c.validator.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.open(t, c.urls(), trust(own)).Head(ctx); err != nil {
		t.Errorf("checkpoint of the node itself: %v", err)
	}
}

func TestConfigurationErrorsAreNamed(t *testing.T) {
	g, err := ledgertest.NewGrid("test")
	if err != nil {
		t.Fatal(err)
	}
	good := light.Config{Genesis: g.Genesis, Primary: "http://127.0.0.1:1", Witnesses: []string{"http://127.0.0.1:2"}}
	for name, change := range map[string]func(*light.Config){
		"no witness":           func(c *light.Config) { c.Witnesses = nil },
		"primary is a witness": func(c *light.Config) { c.Witnesses = []string{c.Primary} },
		"no scheme":            func(c *light.Config) { c.Primary = "127.0.0.1:1" },
		"no root of trust":     func(c *light.Config) { c.Genesis, c.Grid = nil, g.ID },
		"no grid":              func(c *light.Config) { c.Genesis, c.Trust = nil, contract.Checkpoint{Height: 1} },
		"another grid":         func(c *light.Config) { c.Grid = canon.Sum(nil) },
		"damaged genesis":      func(c *light.Config) { c.Genesis = c.Genesis[1:] },
	} {
		cfg := good
		change(&cfg)
		if _, err := light.Open(context.Background(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	l, err := light.Open(context.Background(), good)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = l.Head(within(t, 10*time.Second))
	wantCode(t, err, light.CodeUnreachable)
	_, _, _, err = l.Get(within(t, 10*time.Second), "k")
	wantCode(t, err, light.CodeUnreachable)
	_, err = l.Submit(within(t, 10*time.Second), []byte("tx"))
	wantCode(t, err, light.CodeUnreachable)
}

func TestPrimaryThatDiesIsReplaced(t *testing.T) {
	c := newChain(t, 2)
	ctx := within(t, time.Minute)
	dying := httptest.NewServer(http.NotFoundHandler())
	dying.Close()
	// Dead from the beginning.
	l := c.open(t, []string{dying.URL, c.validator.URL(), c.followers[0].URL()})
	if err := truth(t, ctx, l); err != nil {
		t.Errorf("dead primary: %v", err)
	}
	// Dies later.
	l = c.open(t, []string{c.followers[0].URL(), c.validator.URL(), c.followers[1].URL()})
	if err := truth(t, ctx, l); err != nil {
		t.Fatal(err)
	}
	if err := c.followers[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.validator.Write(ctx, put("other", "later")); err != nil {
		t.Fatal(err)
	}
	follow(t, c.followers[1], c.validator)
	if v, _, _, err := l.Get(ctx, "other"); err != nil || string(v) != "later" {
		t.Errorf("after the primary died: %q, %v", v, err)
	}
	if _, err := l.Submit(ctx, forge("k")); err != nil {
		t.Errorf("submit after the primary died: %v", err)
	}
	// With no witness left nothing new is believed.
	if err := c.followers[1].Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.validator.Write(ctx, put("other", "even later")); err != nil {
		t.Fatal(err)
	}
	_, _, _, err := l.Get(ctx, "other")
	wantCode(t, err, light.CodeUnreachable)
}

func TestEndlessAndSilentAnswersEnd(t *testing.T) {
	t.Parallel()
	c := newChain(t, 1)
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-release }))
	defer silent.Close()
	defer close(release)
	for name, url := range map[string]string{"endless": endless.URL, "silent": silent.URL} {
		begin := time.Now()
		l := c.open(t, []string{url, c.validator.URL()})
		_, err := l.Head(within(t, 4*time.Second))
		wantCode(t, err, light.CodeUnreachable)
		if d := time.Since(begin); d > 10*time.Second {
			t.Errorf("%s endpoint held up the caller for %s", name, d)
		}
	}
}

func TestStoredHeaderIsWhereARestartGoesOn(t *testing.T) {
	c := newChain(t, 1)
	ctx := within(t, time.Minute)
	path := filepath.Join(t.TempDir(), "header")
	store := func(cfg *light.Config) { cfg.Store = path }
	l := c.open(t, c.urls(), store)
	head, err := l.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again := c.open(t, c.urls(), store)
	if got, ok := again.Trusted(); !ok || got != head {
		t.Errorf("stored header %+v, %v; want %+v", got, ok, head)
	}
	// The genesis is too old to begin with now, what is stored is not.
	created := time.Unix(int64(mustGenesis(t, c.Genesis).Created), 0)
	period := head.Time.Sub(created)
	short := func(cfg *light.Config) {
		cfg.TrustingPeriod = period
		cfg.Now = func() time.Time { return head.Time.Add(period / 2) }
	}
	if _, err := c.open(t, c.urls(), store, short, func(cfg *light.Config) { cfg.MaxHeadAge, cfg.MaxClockDrift = time.Hour, time.Hour }).Head(ctx); err != nil {
		t.Errorf("start from the stored header: %v", err)
	}
	_, err = c.open(t, c.urls(), short).Head(ctx)
	wantCode(t, err, light.CodeExpired)
	// A full disk, here a directory that is gone, does not stop reading.
	gone := filepath.Join(t.TempDir(), "gone", "header")
	full := c.open(t, c.urls(), func(cfg *light.Config) { cfg.Store = gone })
	if err := truth(t, ctx, full); err != nil {
		t.Errorf("the store cannot be written: %v", err)
	}
	if err := full.Close(); err == nil {
		t.Error("the store could not be written, and Close does not say so")
	}
	// A damaged file costs the head start only.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{nil, b[:len(b)/2], append([]byte{0}, b...), bytes.Repeat([]byte{0xff}, 100)} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		l := c.open(t, c.urls(), store)
		if _, ok := l.Trusted(); ok {
			t.Error("a damaged file is trusted")
		}
		if _, err := l.Head(ctx); err != nil {
			t.Errorf("with a damaged file: %v", err)
		}
	}
	for i := range b {
		q := bytes.Clone(b)
		q[i] ^= 1
		if _, err := light.DecodeStore(q, ledger.ChainID(c.ID)); err == nil {
			t.Errorf("byte %d of the file altered: accepted", i)
		}
	}
	if _, err := light.DecodeStore(b, ledger.ChainID(canon.Sum(nil))); err == nil {
		t.Error("a header of another grid is accepted")
	}
}
