package ledger_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/ledger"
	"github.com/zero-os/zos/ledger/ledgertest"
)

const crashDir = "ZOS_TEST_LEDGER_CRASH_DIR"

// TestMain lets this binary run as a ledger that writes without end, to be
// killed by TestKillLosesNothingAcknowledged.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := writeForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func crashConfig(dir string) (ledger.Config, error) {
	genesis, err := os.ReadFile(filepath.Join(dir, "genesis"))
	if err != nil {
		return ledger.Config{}, err
	}
	key, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		return ledger.Config{}, err
	}
	return ledger.Config{Dir: filepath.Join(dir, "ledger"), Genesis: genesis, ValidatorKey: key, RPC: "127.0.0.1:0", P2P: "127.0.0.1:0"}, nil
}

// writeForEver writes numbered keys and tells each number once it is in a block.
func writeForEver(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg, err := crashConfig(dir)
	if err != nil {
		return err
	}
	n, err := ledgertest.StartForger(ctx, cfg)
	if err != nil {
		return err
	}
	if err := n.Ready(ctx); err != nil {
		return err
	}
	for i := 0; ; i++ {
		key := fmt.Sprintf("w/%d/%06d", os.Getpid(), i)
		if err := n.Write(ctx, put(key, strings.Repeat("v", rand.IntN(4096))), put("last", key)); err != nil {
			return err
		}
		fmt.Println(key)
	}
}

// TestKillLosesNothingAcknowledged kills a ledger at random moments while it
// commits; what it said is in a block is there afterwards, and the state fits its
// own root and the chain.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	g := newGrid(t)
	dir := t.TempDir()
	for name, b := range map[string][]byte{"genesis": g.Genesis, "key": g.ValidatorKey} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var acknowledged []string
	for round := range 6 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Some rounds are killed within the first block already.
		lines, after := bufio.NewScanner(out), 3*round
		for i := 0; i < after && lines.Scan(); i++ {
			acknowledged = append(acknowledged, lines.Text())
		}
		time.AfterFunc(time.Duration(rand.IntN(40_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		for lines.Scan() {
			if key := lines.Text(); strings.HasPrefix(key, "w/") && len(key) > 9 {
				acknowledged = append(acknowledged, key)
			}
		}
		err = cmd.Wait()
		cancel()
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("round %s: the ledger ended by itself: %v\n%s", strconv.Itoa(round), err, stderr.String())
		}
	}
	if len(acknowledged) < 10 {
		t.Fatalf("only %d writes were acknowledged: nothing was tested", len(acknowledged))
	}
	cfg, err := crashConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	n, err := ledgertest.StartForger(minute(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	// It goes on, and a witness that starts from nothing gets to the same state:
	// every block in the chain leads to the next one's state.
	if err := n.Write(minute(t), put("end", "end")); err != nil {
		t.Fatal(err)
	}
	p := pair{grid: g, validator: n}
	p.grid.Genesis = cfg.Genesis
	p.witness = start(t, ledger.Config{Dir: filepath.Join(t.TempDir(), "w"), Genesis: cfg.Genesis, PersistentPeers: []string{n.P2PAddr()}})
	ctx := minute(t)
	want := n.Provable()
	for p.witness.Provable() < want {
		select {
		case <-ctx.Done():
			t.Fatalf("the witness is at %d of %d", p.witness.Provable(), want)
		case <-time.After(10 * time.Millisecond):
		}
	}
	c := p.light(t)
	all, _, err := c.List(ctx, "w/")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, kv := range all {
		have[kv.Key] = true
	}
	for _, key := range acknowledged {
		if !have[key] {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
	t.Logf("%d writes acknowledged in %d kills, %d found, grid %s", len(acknowledged), 6, len(all), canon.Sum(cfg.Genesis).Short())
}
