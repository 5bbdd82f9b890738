package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/merkle"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

// words are rules for tests: "set K V", "del K", "fail CODE", "panic", "once K".
type words struct{}

func (words) Init(st contract.State, _ []byte) error {
	st.Set("grid", []byte("founded"))
	return nil
}

func (words) Apply(st contract.State, now uint64, tx []byte) ([]byte, error) {
	f := strings.SplitN(string(tx), " ", 3)
	switch f[0] {
	case "set":
		st.Set(f[1], []byte(f[2]))
	case "del":
		st.Delete(f[1])
	case "fail":
		st.Set("trace", []byte("must not stay"))
		return nil, problem.New(f[1], "failed as asked").WithFix("ask otherwise")
	case "plain":
		return nil, errors.New("an error without a code")
	case "panic":
		st.Set("trace", []byte("must not stay"))
		panic("as asked")
	case "once":
		if st.Get(f[1]) != nil {
			return nil, problem.New("already-exists", "%s is there", f[1])
		}
		st.Set(f[1], fmt.Appendf(nil, "%d", now))
	case "alias":
		// Rules that write into what they got must not harm the state.
		if v := st.Get(f[1]); len(v) > 0 {
			v[0] = '!'
		}
	}
	return []byte("done"), nil
}

type bench struct {
	*app
	t    testing.TB
	path string
	time time.Time
}

func newBench(t testing.TB, path string) *bench {
	t.Helper()
	db, err := openDatabase(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.close() })
	a, err := newApp(words{}, []byte("genesis"), db, slog.New(slog.DiscardHandler), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	return &bench{app: a, t: t, path: path, time: time.Unix(1000, 0)}
}

func openBench(t testing.TB) *bench { return newBench(t, filepath.Join(t.TempDir(), "db")) }

// execute runs a block without committing it.
func (b *bench) execute(txs ...string) *abci.ResponseFinalizeBlock {
	b.t.Helper()
	var raw [][]byte
	for _, tx := range txs {
		raw = append(raw, []byte(tx))
	}
	b.time = b.time.Add(time.Second)
	res, err := b.FinalizeBlock(context.Background(), &abci.RequestFinalizeBlock{Height: int64(b.at.Height) + 1, Time: b.time, Txs: raw})
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func (b *bench) block(txs ...string) *abci.ResponseFinalizeBlock {
	b.t.Helper()
	res := b.execute(txs...)
	if _, err := b.Commit(context.Background(), nil); err != nil {
		b.t.Fatal(err)
	}
	return res
}

func (b *bench) checkTx(tx string, kind abci.CheckTxType) *abci.ResponseCheckTx {
	b.t.Helper()
	res, err := b.CheckTx(context.Background(), &abci.RequestCheckTx{Tx: []byte(tx), Type: kind})
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func (b *bench) query(path string, data []byte) *abci.ResponseQuery {
	b.t.Helper()
	res, err := b.Query(context.Background(), &abci.RequestQuery{Path: path, Data: data})
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func TestRefusedTransactionLeavesNoTrace(t *testing.T) {
	b := openBench(t)
	b.block("set a 1")
	res := b.block("fail no-consent", "panic", "plain", "set "+strings.Repeat("k", merkle.MaxKey+1)+" v",
		"set big "+strings.Repeat("v", wire.MaxTx), "alias a", "set b 2")
	for i, want := range []string{"no-consent", wire.ProblemInternal, wire.ProblemInternal, wire.ProblemTooLarge, wire.ProblemTooLarge, "", ""} {
		r := res.TxResults[i]
		var out wire.Outcome
		if err := canon.Unmarshal(r.Data, &out); err != nil {
			t.Fatal(err)
		}
		if r.Codespace != want || out.Problem != want || (r.Code == 0) != (want == "") {
			t.Errorf("transaction %d: code %d, %q, %q; want %q", i, r.Code, r.Codespace, out.Problem, want)
		}
	}
	var keys []string
	b.tree.Walk(nil, func(k, v []byte) bool { keys = append(keys, string(k)+"="+string(v)); return true })
	if got := strings.Join(keys, " "); got != "a=1 b=2 grid=founded" {
		t.Errorf("state %q", got)
	}
}

func TestEqualBlocksGiveEqualStates(t *testing.T) {
	a, b := openBench(t), openBench(t)
	for i := range 20 {
		txs := []string{fmt.Sprintf("set k%d v", i%7), "fail x", fmt.Sprintf("del k%d", i%3), fmt.Sprintf("once o%d", i)}
		ra, rb := a.block(txs...), b.block(txs...)
		if string(ra.AppHash) != string(rb.AppHash) {
			t.Fatalf("block %d: two replicas disagree", i)
		}
		for j := range txs {
			if string(ra.TxResults[j].Data) != string(rb.TxResults[j].Data) {
				t.Errorf("block %d: two replicas give transaction %d different outcomes", i, j)
			}
		}
	}
}

func TestQueueMayBuildOnItself(t *testing.T) {
	b := openBench(t)
	if r := b.checkTx("once a", abci.CheckTxType_New); r.Code == 0 {
		t.Error("taken before there is a block")
	}
	b.block()
	if r := b.checkTx("once a", abci.CheckTxType_New); r.Code != 0 {
		t.Fatalf("refused: %s", r.Log)
	}
	if r := b.checkTx("once a", abci.CheckTxType_New); r.Codespace != "already-exists" {
		t.Errorf("the same again: %q, want already-exists", r.Codespace)
	}
	if _, found := b.tree.Get([]byte("a")); found {
		t.Error("a dry run changed the state")
	}
	// Another's transaction came first: what is queued is refused when checked
	// again, and its sender can learn why.
	b.block("set a 1")
	if r := b.checkTx("once a", abci.CheckTxType_Recheck); r.Codespace != "already-exists" {
		t.Errorf("checked again: %q, want already-exists", r.Codespace)
	}
	hash := canon.Sum([]byte("once a"))
	if r := b.query(wire.PathTx, hash[:]); r.Code != wire.CodeRefused || r.Codespace != "already-exists" {
		t.Errorf("asked for: code %d, %q; want already-exists", r.Code, r.Codespace)
	}
	for i := range 2 * keepDropped {
		b.drop(canon.Sum(fmt.Append(nil, i)), refusal{})
	}
	if len(b.dropped) > keepDropped || len(b.oldest) > keepDropped {
		t.Errorf("%d dropped transactions are remembered", len(b.dropped))
	}
}

func TestOnlyWhatAHeaderProvesIsServed(t *testing.T) {
	b := openBench(t)
	if r := b.query(wire.PathGet, []byte("grid")); r.Codespace != wire.ProblemNotYet {
		t.Errorf("without a block: %q", r.Codespace)
	}
	first := b.block("set a 1")
	if r := b.query(wire.PathGet, []byte("a")); r.Codespace != wire.ProblemNotYet {
		t.Errorf("after the first block: %q, no header proves it", r.Codespace)
	}
	// The second block exists as soon as it is executed; its header carries the
	// root of the first one's state.
	b.execute("set a 2")
	r := b.query(wire.PathGet, []byte("a"))
	v, found, err := merkle.VerifyGet(canon.Hash(first.AppHash), []byte("a"), r.Value)
	if err != nil || !found || string(v) != "1" || r.Height != 2 {
		t.Errorf("a = %q, %v at %d (%v); want 1 at 2", v, found, r.Height, err)
	}
	if r, err := b.Query(context.Background(), &abci.RequestQuery{Path: wire.PathGet, Data: []byte("a"), Height: 1}); err != nil || r.Code == 0 {
		t.Errorf("an old height is served: %v, %v", r, err)
	}
	for path, data := range map[string]string{wire.PathGet: "", "/nothing": "a", wire.PathTx: "short", wire.PathList: strings.Repeat("p", 1000)} {
		if r := b.query(path, []byte(data)); r.Code == 0 {
			t.Errorf("%s of %.20q is answered", path, data)
		}
	}
}

func TestCrashBetweenExecutionAndCommitIsTheBlockBefore(t *testing.T) {
	b := openBench(t)
	b.block("set a 1")
	b.block("set a 2", "set b 1")
	root, before := b.at.Root, b.proven.tree.Root()
	b.execute("set a 3", "del b")
	if err := b.db.close(); err != nil {
		t.Fatal(err)
	}
	again := newBench(t, b.path)
	if again.at.Height != 2 || again.at.Root != root {
		t.Errorf("block %d with root %s, want 2 with %s", again.at.Height, again.at.Root, root)
	}
	if again.proven.header != 2 || again.proven.tree.Root() != before {
		t.Errorf("proven by header %d with root %s, want 2 with %s", again.proven.header, again.proven.tree.Root(), before)
	}
	again.time = b.time.Add(-time.Second)
	if res := again.block("set a 3", "del b"); string(res.AppHash) == string(root[:]) {
		t.Error("the block executed again did nothing")
	}
}

func TestIdleBlocksAreWrittenNowAndThen(t *testing.T) {
	b := openBench(t)
	b.block("set a 1")
	for range saveEvery - 1 {
		b.block()
	}
	if b.saved != 1 {
		t.Errorf("an empty block was written at %d", b.saved)
	}
	b.block()
	if b.saved != saveEvery+1 {
		t.Errorf("height on disk %d after %d empty blocks", b.saved, saveEvery)
	}
}

func TestOutcomesAreForgottenInOrder(t *testing.T) {
	b := openBench(t)
	b.block()
	var last string
	total := 0
	for total <= keepTxs {
		var txs []string
		for range 4000 {
			last = fmt.Sprintf("alias %d", total)
			txs = append(txs, last)
			total++
		}
		b.block(txs...)
	}
	first, newest := canon.Sum([]byte("alias 0")), canon.Sum([]byte(last))
	if in, err := b.db.tx(first[:]); err != nil || len(in) > 0 {
		t.Errorf("the oldest of %d outcomes is kept (%v)", total, err)
	}
	if in, err := b.db.tx(newest[:]); err != nil || len(in) == 0 {
		t.Errorf("the newest outcome is forgotten (%v)", err)
	}
}

func TestAnotherGridsStateIsRefused(t *testing.T) {
	b := openBench(t)
	b.block("set a 1")
	if err := b.db.close(); err != nil {
		t.Fatal(err)
	}
	db, err := openDatabase(b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.close()
	if _, err := newApp(words{}, []byte("another genesis"), db, slog.New(slog.DiscardHandler), nil); err == nil {
		t.Error("accepted")
	}
}
