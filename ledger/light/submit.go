package light

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto/merkle"
	"github.com/cometbft/cometbft/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

// submitTimeout bounds Submit if its context does not.
const submitTimeout = 30 * time.Second

// Result is what came of a transaction that the ledger applied.
type Result struct {
	// Height is that of the block which holds the transaction.
	Height uint64
	// Tx is the hash of the transaction.
	Tx canon.Hash
	// Data is the canonical contract.Result; see Decode.
	Data []byte
	// At is the header that proves the state after the transaction. Later reads by
	// this client see at least this state.
	At Head
}

// Decode returns what the contract's rules made of the transaction.
func (r Result) Decode() (contract.Result, error) {
	var res contract.Result
	if err := canon.Unmarshal(r.Data, &res); err != nil {
		return contract.Result{}, fmt.Errorf("read result of transaction %s: %w", r.Tx, err)
	}
	return res, nil
}

// Submit sends a transaction, the canonical bytes of a contract.Signed, and
// waits, at most 30 s, until it is in a block.
//
// If the rules refuse it, the error has the rule's problem code. That an
// endpoint refuses to queue it is only the endpoint's word; that it is in a
// block, and what came of it there, is proven. Sending the same bytes again is
// harmless and returns the first result as long as the ledger remembers it.
func (c *Client) Submit(ctx context.Context, tx []byte) (Result, error) {
	if len(tx) > wire.MaxTx {
		return Result{}, problem.New(wire.ProblemTooLarge, "submit transaction: %d bytes, at most %d are allowed", len(tx), wire.MaxTx)
	}
	ctx, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	from, err := c.broadcast(ctx, tx)
	if err != nil {
		return Result{}, fmt.Errorf("submit transaction: %w", err)
	}
	res, err := c.await(ctx, from, tx)
	if err != nil {
		return Result{}, fmt.Errorf("submit transaction: %w", err)
	}
	return res, nil
}

// broadcast hands the transaction to the first endpoint that takes it.
func (c *Client) broadcast(ctx context.Context, tx []byte) (*endpoint, error) {
	var fail error
	for _, e := range c.order() {
		res, err := e.broadcast(ctx, tx)
		switch {
		case err == nil && res.code == 0:
			return e, nil
		case err == nil:
			return nil, problem.New(code(res.space), "%s", text(errors.New(res.log)))
		case strings.Contains(err.Error(), "already exists in cache"):
			return e, nil // sent before: wait for what came of it
		case strings.Contains(err.Error(), "mempool is full"), strings.Contains(err.Error(), "still rechecking"):
			fail = problem.New(CodeBusy, "%s: the ledger's queue is full", e.url).WithFix("try again in a moment")
		default:
			fail = unreachable(e.note(err), "reach the ledger at %s", e.url)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fail
}

// await asks for the proof of inclusion until there is one that holds.
func (c *Client) await(ctx context.Context, from *endpoint, tx []byte) (Result, error) {
	hash := canon.Sum(tx)
	endpoints := append([]*endpoint{from}, c.order()...)
	fail := error(unreachable(context.DeadlineExceeded, "wait for the transaction's block"))
	for try, wait := 0, 2*time.Millisecond; ; try, wait = try+1, min(2*wait, 200*time.Millisecond) {
		// Mostly the one that took it; now and then another one.
		e := from
		if try%8 == 7 {
			e = endpoints[(try/8)%len(endpoints)]
		}
		a, err := e.query(ctx, wire.PathTx, hash[:], 0)
		switch {
		case err != nil:
			fail = unreachable(err, "wait for the transaction's block")
		case a.code == wire.CodeRefused:
			// Queued, and thrown out before it came into a block.
			return Result{}, problem.New(code(a.space), "%s", text(errors.New(a.log)))
		case a.code == 0:
			res, err := c.included(ctx, e, tx, hash, a.value)
			if err == nil || problem.Code(err) != CodeProof && problem.Code(err) != CodeUnreachable {
				return res, err
			}
			fail = err
			if problem.Code(err) == CodeProof {
				_ = e.note(liarError{err})
			}
		}
		select {
		case <-ctx.Done():
			return Result{}, fail
		case <-time.After(wait):
		}
	}
}

// included checks a proof of inclusion against the headers of its block and of
// the next one.
func (c *Client) included(ctx context.Context, from *endpoint, tx []byte, hash canon.Hash, proof []byte) (Result, error) {
	var in wire.Inclusion
	if err := canon.UnmarshalLimit(proof, maxHeaderAnswer, &in); err != nil {
		return Result{}, problem.New(CodeProof, "read proof of inclusion: %w", err)
	}
	if in.Height == 0 || in.Height > 1<<62 || in.Index >= in.Total || in.Total > 1<<32 {
		return Result{}, problem.New(CodeProof, "proof of inclusion names transaction %d of %d in block %d", in.Index, in.Total, in.Height)
	}
	// The later header names the hash of the earlier one: only one of them has to
	// wait for the witness.
	next, err := c.verified(ctx, int64(in.Height)+1)
	if err != nil {
		return Result{}, err
	}
	block, err := from.LightBlock(ctx, int64(in.Height))
	if err != nil {
		return Result{}, unreachable(err, "read the header of the transaction's block from %s", from.url)
	}
	if !bytes.Equal(block.Hash(), next.LastBlockID.Hash) {
		return Result{}, problem.New(CodeProof, "%s shows another block %d than the header after it names", from.url, in.Height)
	}
	if err := verifyInclusion(in, tx, block.DataHash, next.LastResultsHash); err != nil {
		return Result{}, err
	}
	var out wire.Outcome
	if err := canon.Unmarshal(in.Outcome, &out); err != nil {
		// It is in the block like that: a ledger with other rules than ours.
		return Result{}, problem.New(wire.ProblemInternal, "read the transaction's outcome: %w", err)
	}
	if in.Code != 0 {
		return Result{}, problem.New(code(out.Problem), "%s", text(errors.New(in.What))).WithFix("%s", text(errors.New(in.Fix)))
	}
	return Result{Height: in.Height, Tx: hash, Data: out.Result, At: headOf(next)}, nil
}

// verifyInclusion checks that tx is in the block with the data hash, and that
// its outcome is in the results hash.
func verifyInclusion(in wire.Inclusion, tx, dataHash, resultsHash []byte) error {
	leaf := types.Tx(tx).Hash()
	p := merkle.Proof{Total: int64(in.Total), Index: int64(in.Index), LeafHash: leafHash(leaf), Aunts: in.TxPath}
	if err := p.Verify(dataHash, leaf); err != nil {
		return problem.New(CodeProof, "the transaction is not in block %d: %w", in.Height, err)
	}
	result, err := (&abci.ExecTxResult{Code: in.Code, Data: in.Outcome}).Marshal()
	if err != nil {
		return problem.New(CodeProof, "encode the transaction's result: %w", err)
	}
	p = merkle.Proof{Total: int64(in.Total), Index: int64(in.Index), LeafHash: leafHash(result), Aunts: in.ResPath}
	if err := p.Verify(resultsHash, result); err != nil {
		return problem.New(CodeProof, "the transaction's result is another one: %w", err)
	}
	return nil
}

// leafHash is the hash of a leaf in CometBFT's trees (RFC 6962 §2.1).
func leafHash(leaf []byte) []byte {
	h := canon.Sum(append([]byte{0}, leaf...))
	return h[:]
}
