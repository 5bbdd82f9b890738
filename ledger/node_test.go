package ledger_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
)

func run(t testing.TB, cfg ledger.Config) (*ledgertest.Forger, error) {
	t.Helper()
	cfg.RPC, cfg.P2P, cfg.Logger = "127.0.0.1:0", "127.0.0.1:0", logger()
	n, err := ledgertest.StartForger(minute(t), cfg)
	if err == nil {
		t.Cleanup(func() { n.Stop() })
	}
	return n, err
}

func TestRestartKeepsTheState(t *testing.T) {
	g := newGrid(t)
	dir := filepath.Join(t.TempDir(), "d")
	cfg := ledger.Config{Dir: dir, Genesis: g.Genesis, ValidatorKey: g.ValidatorKey}
	ctx := minute(t)
	var height uint64
	for i := range 3 {
		n, err := run(t, cfg)
		if err != nil {
			t.Fatal(err)
		}
		// At once, from what was stored: before any new block is needed.
		if i > 0 && n.Provable() == 0 {
			t.Error("after a restart nothing can be proven until there is a new block")
		}
		if err := n.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		if n.Height() < height {
			t.Errorf("height %d after %d", n.Height(), height)
		}
		if err := n.Write(ctx, put("k", strings.Repeat("v", i+1))); err != nil {
			t.Fatal(err)
		}
		root := n.Root()
		height = n.Height()
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := n.Wait(); err != nil {
			t.Fatal(err)
		}
		n, err = run(t, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if n.Root() != root {
			t.Errorf("root %s after a restart, %s before", n.Root(), root)
		}
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMisuseIsNamed(t *testing.T) {
	g, other := newGrid(t), newGrid(t)
	dir := filepath.Join(t.TempDir(), "d")
	good := ledger.Config{Dir: dir, Genesis: g.Genesis, ValidatorKey: g.ValidatorKey}
	n, err := run(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(minute(t)); err != nil {
		t.Fatal(err)
	}
	refused := func(name, want string, cfg ledger.Config) {
		t.Helper()
		if _, err := run(t, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", name, err, want)
		}
	}
	refused("directory in use", "another process", good)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	refused("directory of another grid", "not of", ledger.Config{Dir: dir, Genesis: other.Genesis, ValidatorKey: other.ValidatorKey})
	refused("key of another grid", "does not name it", ledger.Config{Dir: t.TempDir(), Genesis: g.Genesis, ValidatorKey: other.ValidatorKey})
	refused("short key", "want 32", ledger.Config{Dir: t.TempDir(), Genesis: g.Genesis, ValidatorKey: g.ValidatorKey[1:]})
	refused("damaged genesis", "genesis", ledger.Config{Dir: t.TempDir(), Genesis: g.Genesis[1:], ValidatorKey: g.ValidatorKey})

	// A flipped bit in the state is found before the node takes part.
	path := filepath.Join(dir, "data", "zos.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), `"test"`)
	if at < 0 {
		at = strings.LastIndex(string(b), "zos-genesis-v1")
	}
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("damaged state", "damaged", good)
}

// TestStopLeavesNothingBehind looks for goroutines, ports and files.
func TestStopLeavesNothingBehind(t *testing.T) {
	before := goleak.IgnoreCurrent()
	g := newGrid(t)
	outside := t.TempDir()
	t.Chdir(outside)
	dir := filepath.Join(t.TempDir(), "d")
	n, err := run(t, ledger.Config{Dir: dir, Genesis: g.Genesis, ValidatorKey: g.ValidatorKey})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(minute(t)); err != nil {
		t.Fatal(err)
	}
	rpc := strings.TrimPrefix(n.URL(), "http://")
	_, p2p, _ := strings.Cut(n.P2PAddr(), "@")
	for _, addr := range []string{rpc, p2p} {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			t.Fatalf("control: %s does not listen while the node runs: %v", addr, err)
		}
		c.Close()
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{rpc, p2p} {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			c.Close()
			t.Errorf("%s still listens", addr)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("files outside the directory: %v, %v", left, err)
	}
	stopped := time.Now()
	seed := string(g.ValidatorKey)
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), seed) {
			t.Errorf("%s holds the validator's key", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	// CometBFT's database takes a second to end. It never closes the watcher of its
	// write-ahead log: those two stay, and are the only ones.
	watcher := goleak.IgnoreTopFunction("github.com/cometbft/cometbft/libs/autofile.OpenAutoFile.func1")
	closer := goleak.IgnoreAnyFunction("github.com/cometbft/cometbft/libs/autofile.(*AutoFile).closeFileRoutine")
	for ctx := minute(t); ; {
		err := goleak.Find(before, watcher, closer)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
			if time.Since(stopped) < 5*time.Second {
				continue
			}
		}
		t.Fatal(err)
	}
}

func TestOnlyWhatLightClientsNeedIsServed(t *testing.T) {
	g := newGrid(t)
	n, err := run(t, ledger.Config{Dir: t.TempDir(), Genesis: g.Genesis, ValidatorKey: g.ValidatorKey})
	if err != nil {
		t.Fatal(err)
	}
	call := func(method string) string {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		body := strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{}}`)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL(), body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var out struct{ Error struct{ Message string } }
		if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return out.Error.Message
	}
	if e := call("health"); e != "" {
		t.Errorf("control: health is not served: %s", e)
	}
	for _, method := range []string{"net_info", "unconfirmed_txs", "dump_consensus_state", "tx_search", "broadcast_tx_commit", "subscribe", "unsafe_flush_mempool", "dial_peers"} {
		if e := call(method); !strings.Contains(e, "not found") {
			t.Errorf("%s is served (%q)", method, e)
		}
	}
	for _, path := range []string{"/websocket", "/metrics", "/debug/pprof/"} {
		res, err := http.Get(n.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			t.Errorf("%s is served", path)
		}
	}
}

// TestEmptyBlocksAreReplayed stops a node whose last blocks were empty and hence
// not written to its own state.
func TestEmptyBlocksAreReplayed(t *testing.T) {
	g := newGrid(t)
	cfg := ledger.Config{Dir: filepath.Join(t.TempDir(), "d"), Genesis: g.Genesis, ValidatorKey: g.ValidatorKey}
	n, err := run(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := minute(t)
	if err := n.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.Write(ctx, put("k", "v")); err != nil {
		t.Fatal(err)
	}
	root, quiet := n.Root(), n.Height()+2
	for n.Height() < quiet {
		select {
		case <-ctx.Done():
			t.Fatal("an idle ledger makes no blocks")
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if n, err = run(t, cfg); err != nil {
		t.Fatal(err)
	}
	if n.Height() < quiet || n.Root() != root {
		t.Errorf("after a restart: block %d with root %s, want %d or later with %s", n.Height(), n.Root(), quiet, root)
	}
	if err := n.Write(ctx, put("k", "w")); err != nil {
		t.Errorf("after the replay: %v", err)
	}
}
