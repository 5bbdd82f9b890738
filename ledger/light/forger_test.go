package light_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
	"github.com/zero-os/zos/ledger/light"
)

// TestWitnessExposesAForger sets a forger with every validator key against the
// true ledger: whichever of them is asked first, the contradiction is noticed.
func TestWitnessExposesAForger(t *testing.T) {
	t.Parallel()
	c := newChain(t, 1)
	ctx := within(t, time.Minute)
	forger := start(t, ledger.Config{Genesis: c.Genesis, ValidatorKey: c.ValidatorKey})
	if err := forger.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if err := forger.Write(ctx, put("node/1", "forged")); err != nil {
		t.Fatal(err)
	}
	for _, urls := range [][]string{{c.validator.URL(), forger.URL()}, {forger.URL(), c.validator.URL()}} {
		l := c.open(t, urls)
		if err := truth(t, ctx, l); err == nil {
			t.Error("a forger and a true node: nobody noticed")
		} else {
			wantCode(t, err, light.CodeLying)
		}
	}
	// Alone with the forger, a checkpoint of the true ledger still helps.
	cp, err := c.validator.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	accomplice := start(t, ledger.Config{Genesis: c.Genesis, PersistentPeers: []string{forger.P2PAddr()}})
	if err := accomplice.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the forger's chain to be as long", func() bool { return accomplice.Height() > cp.Height })
	l := c.open(t, []string{forger.URL(), accomplice.URL()}, func(cfg *light.Config) { cfg.Trust = cp })
	_, err = l.Head(ctx)
	wantCode(t, err, light.CodeLying)
}

// TestForgerWithEveryKeyConvincesALightClient shows the limit of a light client:
// the holder of every validator key goes on from the true chain with a state of
// his own, and it is believed. A node must therefore judge approvals itself.
func TestForgerWithEveryKeyConvincesALightClient(t *testing.T) {
	g, err := ledgertest.NewGrid("test")
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, time.Minute)
	dir := filepath.Join(t.TempDir(), "true")
	honest, err := ledger.Start(ctx, ledger.Config{Dir: dir, Genesis: g.Genesis, ValidatorKey: g.ValidatorKey, RPC: "127.0.0.1:0", P2P: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := honest.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	cp, err := honest.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	if err := honest.Stop(); err != nil {
		t.Fatal(err)
	}
	stolen := filepath.Join(t.TempDir(), "stolen")
	if err := os.CopyFS(stolen, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	forger := start(t, ledger.Config{Dir: stolen, Genesis: g.Genesis, ValidatorKey: g.ValidatorKey})
	accomplice := start(t, ledger.Config{Genesis: g.Genesis, PersistentPeers: []string{forger.P2PAddr()}})
	if err := forger.Write(ctx, put("contract/forged", "run this"), ledgertest.Write{Key: contract.KeyGrid, Delete: true}); err != nil {
		t.Fatal(err)
	}
	follow(t, accomplice, forger)
	c := &chain{Grid: g}
	l := c.open(t, []string{forger.URL(), accomplice.URL()}, func(cfg *light.Config) { cfg.Trust = cp })
	if v, found, _, err := l.Get(ctx, "contract/forged"); err != nil || !found || string(v) != "run this" {
		t.Errorf("forged key: %q, %v, %v; this test's forger does not work", v, found, err)
	}
	if _, found, _, err := l.Get(ctx, contract.KeyGrid); err != nil || found {
		t.Errorf("deleted key: %v, %v; this test's forger does not work", found, err)
	}
}
