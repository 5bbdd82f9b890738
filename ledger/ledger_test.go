package ledger_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
	"github.com/zero-os/zos/ledger/light"
)

func minute(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func logger() *slog.Logger {
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
		if err := n.Ready(minute(t)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func start(t testing.TB, cfg ledger.Config) *ledgertest.Forger {
	t.Helper()
	cfg.RPC, cfg.P2P, cfg.Logger = "127.0.0.1:0", "127.0.0.1:0", logger()
	n, err := ledgertest.StartForger(minute(t), cfg)
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

func (p pair) light(t testing.TB) *light.Client {
	t.Helper()
	c, err := light.Open(minute(t), light.Config{
		Genesis: p.grid.Genesis, Primary: p.validator.URL(), Witnesses: []string{p.witness.URL()}, Logger: logger(),
	})
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
