package light_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/ledger/ledgertest"
	"github.com/zero-os/zos/ledger/light"
	"github.com/zero-os/zos/ledger/wire"
)

// block makes a block's transactions with CometBFT's own functions: the hashes
// that its headers carry, and the proofs.
func block(t testing.TB, n int) (txs types.Txs, proofs []wire.Inclusion, data, results []byte) {
	t.Helper()
	var res types.ABCIResults
	for i := range n {
		outcome, err := canon.Marshal(wire.Outcome{Result: fmt.Appendf(nil, "result %d", i)})
		if err != nil {
			t.Fatal(err)
		}
		txs = append(txs, types.Tx(fmt.Sprintf("tx %d", i)))
		res = append(res, &abci.ExecTxResult{Code: uint32(i % 2), Data: outcome})
	}
	for i := range n {
		proofs = append(proofs, wire.Inclusion{
			Height: 7, Index: uint64(i), Total: uint64(n), Code: res[i].Code, Outcome: res[i].Data,
			TxPath: txs.Proof(i).Proof.Aunts, ResPath: func() [][]byte { p := res.ProveResult(i); return p.Aunts }(),
		})
	}
	return txs, proofs, txs.Hash(), res.Hash()
}

func TestProofOfInclusionHoldsForItsTransactionOnly(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7} {
		txs, proofs, data, results := block(t, n)
		for i, p := range proofs {
			if err := light.VerifyInclusion(p, txs[i], data, results); err != nil {
				t.Fatalf("transaction %d of %d: %v", i, n, err)
			}
			for j := range txs {
				if j != i && light.VerifyInclusion(p, txs[j], data, results) == nil {
					t.Errorf("the proof of transaction %d of %d holds for %d", i, n, j)
				}
			}
			if light.VerifyInclusion(p, txs[i], results, data) == nil || light.VerifyInclusion(p, txs[i], nil, nil) == nil {
				t.Errorf("the proof of transaction %d of %d holds for other headers", i, n)
			}
			b, err := canon.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			for at := range b {
				q := bytes.Clone(b)
				q[at] ^= 1
				var in wire.Inclusion
				if canon.Unmarshal(q, &in) != nil {
					continue
				}
				// The height only says which headers to verify against, and the total is
				// not committed to by CometBFT's trees: nothing is made of it.
				if in.Height != p.Height || in.Total != p.Total {
					continue
				}
				if light.VerifyInclusion(in, txs[i], data, results) == nil {
					t.Errorf("transaction %d of %d: byte %d of the proof altered: accepted", i, n, at)
				}
			}
		}
	}
}

func FuzzVerifyInclusion(f *testing.F) {
	txs, proofs, data, results := block(f, 5)
	for _, p := range proofs {
		b, err := canon.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in wire.Inclusion
		if canon.Unmarshal(b, &in) != nil {
			return
		}
		for i, tx := range txs {
			if light.VerifyInclusion(in, tx, data, results) == nil && !bytes.Equal(in.Outcome, proofs[i].Outcome) {
				t.Fatalf("accepted outcome %x for transaction %d", in.Outcome, i)
			}
		}
	})
}

// FuzzStoredHeader feeds arbitrary bytes as a store's file, and as the header in
// it under a right checksum.
func FuzzStoredHeader(f *testing.F) {
	g, err := ledgertest.NewGrid("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	chain := wire.ChainID(g.ID)
	type file struct {
		V     uint64     `cbor:"v"`
		Chain string     `cbor:"chain"`
		Block []byte     `cbor:"block"`
		Sum   canon.Hash `cbor:"sum"`
	}
	header := types.Header{ChainID: chain, Height: 3, Time: time.Unix(1, 0)}
	p, err := (&types.LightBlock{SignedHeader: &types.SignedHeader{Header: &header, Commit: &types.Commit{Height: 3}}, ValidatorSet: &types.ValidatorSet{}}).ToProto()
	if err != nil {
		f.Fatal(err)
	}
	seed, err := p.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := light.DecodeStore(b, chain); err == nil {
			t.Fatal("a header without a valid signature is accepted")
		}
		wrapped, err := canon.Marshal(file{V: 1, Chain: chain, Block: b, Sum: canon.Sum(b)})
		if err != nil {
			t.Fatal(err)
		}
		// Who writes the file may name validators of his own, but nothing may panic.
		_, _ = light.DecodeStore(wrapped, chain)
	})
}
