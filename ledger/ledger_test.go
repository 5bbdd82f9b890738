package ledger_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
	"github.com/zero-os/zos/ledger/light"
)

func context1(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func logger(t testing.TB) *slog.Logger {
	if os.Getenv("ZOS_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newGrid(t testing.TB) ledgertest.Grid {
	t.Helper()
	g, err := ledgertest.NewGrid("test")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// pair is a validator and a full node that follows it, with rules under which
// tests may write what they like.
type pair struct {
	grid               ledgertest.Grid
	validator, witness *ledgertest.Forger
}

func startPair(t testing.TB) pair {
	t.Helper()
	p := pair{grid: newGrid(t)}
	p.validator = start(t, ledger.Config{Dir: filepath.Join(t.TempDir(), "v"), Genesis: p.grid.Genesis, ValidatorKey: p.grid.ValidatorKey})
	p.witness = start(t, ledger.Config{Dir: filepath.Join(t.TempDir(), "w"), Genesis: p.grid.Genesis, PersistentPeers: []string{p.validator.P2PAddr()}})
	for _, n := range []*ledgertest.Forger{p.validator, p.witness} {
		if err := n.Ready(context1(t)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func start(t testing.TB, cfg ledger.Config) *ledgertest.Forger {
	t.Helper()
	cfg.RPC, cfg.P2P, cfg.Logger = "127.0.0.1:0", "127.0.0.1:0", logger(t)
	n, err := ledgertest.StartForger(context1(t), cfg)
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

func (p pair) light(t testing.TB, change ...func(*light.Config)) *light.Client {
	t.Helper()
	cfg := light.Config{Genesis: p.grid.Genesis, Primary: p.validator.URL(), Witnesses: []string{p.witness.URL()}, Logger: logger(t)}
	for _, f := range change {
		f(&cfg)
	}
	c, err := light.Open(context1(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func put(key, value string) ledgertest.Write { return ledgertest.Write{Key: key, Value: []byte(value)} }

func TestReadsAreProven(t *testing.T) {
	begin := time.Now()
	p := startPair(t)
	t.Logf("validator and witness ready after %s", time.Since(begin))
	c := p.light(t)
	ctx := context1(t)
	begin = time.Now()
	if _, err := c.Head(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("first head after %s", time.Since(begin))
	for i := range 3 {
		begin = time.Now()
		res, err := c.Submit(ctx, ledgertest.Forge(put("node/1", fmt.Sprint(i)), put("node/2", "two"), put("x", "y")))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("submitted in %s: %+v", time.Since(begin), res)
		begin = time.Now()
		v, found, at, err := c.Get(ctx, "node/1")
		if err != nil || !found || string(v) != fmt.Sprint(i) {
			t.Fatalf("Get = %q, %v, %v; want %d", v, found, err, i)
		}
		t.Logf("read in %s at %d", time.Since(begin), at.Height)
	}
	if v, found, _, err := c.Get(ctx, "node/3"); err != nil || found {
		t.Errorf("absent key: %q, %v, %v", v, found, err)
	}
	all, _, err := c.List(ctx, "node/")
	if err != nil || len(all) != 2 || all[0].Key != "node/1" || string(all[1].Value) != "two" {
		t.Errorf("List(node/) = %v, %v", all, err)
	}
	if all, _, err := c.List(ctx, "nothing/"); err != nil || len(all) != 0 {
		t.Errorf("List(nothing/) = %v, %v; want proven emptiness", all, err)
	}
}
