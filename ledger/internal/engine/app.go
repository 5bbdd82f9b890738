package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	abci "github.com/cometbft/cometbft/abci/types"
	cometmerkle "github.com/cometbft/cometbft/crypto/merkle"
	"github.com/cometbft/cometbft/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/ledger/merkle"
	"github.com/zero-os/zos/ledger/wire"
	"github.com/zero-os/zos/problem"
)

const (
	// appVersion is raised when the rules or the state's format change.
	appVersion = 1
	// saveEvery is how many blocks without a change may pass before the height goes
	// to disk; after a crash CometBFT replays that many empty blocks.
	saveEvery = 100
	// keepDropped is how many transactions are remembered that were queued and
	// then refused without ever being in a block.
	keepDropped = 1024
)

// app is the ABCI application. CometBFT calls it from several connections at
// once; mu guards everything below it.
//
// The genesis is applied in the first block, not before it: so the state's hash
// changes there, which makes CometBFT produce the second block at once, and with
// it the first header that is fresh and proves something.
type app struct {
	abci.BaseApplication
	rules   Rules
	genesis []byte
	grid    canon.Hash
	db      *database
	log     *slog.Logger
	failed  func(error) // called when the node cannot go on

	mu      sync.RWMutex
	at      stored      // the committed version; Back is empty
	tree    merkle.Tree // its state
	saved   uint64      // height on disk
	proven  version     // what queries are answered from
	block   *pending    // between FinalizeBlock and Commit
	check   *overlay    // state plus what is queued, for CheckTx
	dropped map[canon.Hash]refusal
	oldest  []canon.Hash // keys of dropped in order
}

// version is a state and the height of the header that carries its root.
type version struct {
	header int64
	tree   merkle.Tree
}

// pending is an executed block that is not committed yet.
type pending struct {
	at    stored
	tree  merkle.Tree
	forth []merkle.Change
	txs   []record
}

// refusal is what a refused transaction's sender is told.
type refusal struct{ code, what, fix string }

func newApp(rules Rules, genesis []byte, db *database, log *slog.Logger, failed func(error)) (*app, error) {
	a := &app{rules: rules, genesis: genesis, grid: canon.Sum(genesis), db: db, log: log, failed: failed,
		dropped: map[canon.Hash]refusal{}}
	tree, before, at, err := db.load(a.grid)
	if err != nil {
		return nil, err
	}
	at.Back = nil
	a.at, a.tree, a.saved = at, tree, at.Height
	if at.Height > 1 {
		a.proven = version{header: int64(at.Height), tree: before}
	}
	a.check = newOverlay(base{tree})
	return a, nil
}

// Info implements abci.Application.
func (a *app) Info(context.Context, *abci.RequestInfo) (*abci.ResponseInfo, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	res := &abci.ResponseInfo{Data: "zos", AppVersion: appVersion, LastBlockHeight: int64(a.at.Height)}
	if a.at.Height > 0 {
		res.LastBlockAppHash = a.at.Root[:]
	}
	return res, nil
}

// InitChain implements abci.Application.
func (a *app) InitChain(_ context.Context, req *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
	if want := wire.ChainID(a.grid); req.ChainId != want {
		return nil, fmt.Errorf("found chain %s: this node is of %s", req.ChainId, want)
	}
	if want, err := appState(a.genesis); err != nil || !bytes.Equal(req.AppStateBytes, want) {
		return nil, errors.Join(errors.New("found chain: another genesis than this node's"), err)
	}
	return &abci.ResponseInitChain{}, nil
}

// CheckTx implements abci.Application: a dry run over the committed state and
// what is queued already, so that a transaction may build on one in the queue.
func (a *app) CheckTx(_ context.Context, req *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at.Height == 0 {
		return refused(refusal{code: wire.ProblemNotYet, what: "the ledger has no block yet"}), nil
	}
	o := newOverlay(a.check)
	if _, err := a.apply(o, a.at.Time, req.Tx); err != nil {
		r := refuse(err)
		if req.Type == abci.CheckTxType_Recheck {
			a.drop(canon.Sum(req.Tx), r)
		}
		return refused(r), nil
	}
	o.merge(a.check)
	return &abci.ResponseCheckTx{Code: abci.CodeTypeOK}, nil
}

func refused(r refusal) *abci.ResponseCheckTx {
	return &abci.ResponseCheckTx{Code: wire.CodeRefused, Codespace: r.code, Log: r.what, Info: r.fix}
}

// drop remembers why a queued transaction will never be in a block.
func (a *app) drop(hash canon.Hash, r refusal) {
	if _, ok := a.dropped[hash]; !ok {
		if len(a.oldest) == keepDropped {
			delete(a.dropped, a.oldest[0])
			a.oldest = a.oldest[1:]
		}
		a.oldest = append(a.oldest, hash)
	}
	a.dropped[hash] = r
}

// apply runs the rules on o. A panic in them is an internal refusal, the same
// on every machine, and not the end of the ledger.
func (a *app) apply(o *overlay, now uint64, tx []byte) (result []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("the rules panicked", "panic", fmt.Sprint(p), "tx", canon.Sum(tx).String())
			result, err = nil, problem.New(wire.ProblemInternal, "the rules failed on this transaction")
		}
	}()
	if len(tx) > wire.MaxTx {
		return nil, problem.New(wire.ProblemTooLarge, "transaction has %d bytes, at most %d are allowed", len(tx), wire.MaxTx)
	}
	if result, err = a.rules.Apply(o, now, tx); err != nil {
		return nil, err
	}
	return result, o.err
}

// refuse makes of an error what the sender is told.
func refuse(err error) refusal {
	r := refusal{code: problem.Code(err), what: err.Error(), fix: problem.Fix(err)}
	if r.code == "" {
		r.code = wire.ProblemInternal
	}
	if len(r.what) > wire.MaxWhat {
		r.what = r.what[:wire.MaxWhat]
	}
	if len(r.fix) > wire.MaxFix {
		r.fix = r.fix[:wire.MaxFix]
	}
	return r
}

// FinalizeBlock implements abci.Application.
func (a *app) FinalizeBlock(_ context.Context, req *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if want := a.at.Height + 1; uint64(req.Height) != want {
		return nil, fmt.Errorf("execute block %d: this node is at block %d", req.Height, want-1)
	}
	// This block's header carries the root of the state before it, and it is on
	// disk with its commit by now.
	if req.Height > 1 {
		a.proven = version{header: req.Height, tree: a.tree}
	}
	now := uint64(max(req.Time.Unix(), 0))
	state := newOverlay(base{a.tree})
	if req.Height == 1 {
		if err := a.rules.Init(state, a.genesis); err != nil {
			return nil, fmt.Errorf("apply the genesis: %w", err)
		}
		if state.err != nil {
			return nil, fmt.Errorf("apply the genesis: %w", state.err)
		}
	}
	results := make([]*abci.ExecTxResult, len(req.Txs))
	told := make([]refusal, len(req.Txs))
	for i, tx := range req.Txs {
		o := newOverlay(state)
		var out wire.Outcome
		code := uint32(abci.CodeTypeOK)
		result, err := a.apply(o, now, tx)
		if err != nil {
			told[i] = refuse(err)
			code, out.Problem = wire.CodeRefused, told[i].code
		} else {
			o.merge(state)
			out.Result = result
		}
		data, err := canon.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("execute block %d: %w", req.Height, err)
		}
		results[i] = &abci.ExecTxResult{Code: code, Codespace: told[i].code, Data: data, Log: told[i].what}
	}
	p := &pending{at: stored{V: 1, Grid: a.grid, Height: uint64(req.Height), Time: now, Before: a.tree.Root()}}
	var back []merkle.Change
	p.forth, back = state.changes(a.tree)
	for _, c := range back {
		p.at.Back = append(p.at.Back, undo{Key: c.Key, Value: c.Value, Delete: c.Delete})
	}
	var err error
	if p.tree, err = a.tree.Apply(p.forth); err != nil {
		return nil, fmt.Errorf("execute block %d: %w", req.Height, err)
	}
	p.at.Root = p.tree.Root()
	if p.txs, err = inclusions(req.Height, req.Txs, results, told); err != nil {
		return nil, fmt.Errorf("execute block %d: %w", req.Height, err)
	}
	a.block = p
	return &abci.ResponseFinalizeBlock{TxResults: results, AppHash: p.at.Root[:]}, nil
}

// inclusions makes the proofs for the senders of a block's transactions.
func inclusions(height int64, txs [][]byte, results []*abci.ExecTxResult, told []refusal) ([]record, error) {
	hashes, outcomes := make([][]byte, len(txs)), make([][]byte, len(txs))
	for i, r := range types.NewResults(results) {
		var err error
		if outcomes[i], err = r.Marshal(); err != nil {
			return nil, err
		}
		hashes[i] = types.Tx(txs[i]).Hash()
	}
	_, txPaths := cometmerkle.ProofsFromByteSlices(hashes)
	_, outcomePaths := cometmerkle.ProofsFromByteSlices(outcomes)
	var out []record
	for i, tx := range txs {
		b, err := canon.Marshal(wire.Inclusion{
			Height: uint64(height), Index: uint64(i), Total: uint64(len(txs)),
			Code: results[i].Code, Outcome: results[i].Data,
			TxPath: txPaths[i].Aunts, ResPath: outcomePaths[i].Aunts,
			What: told[i].what, Fix: told[i].fix,
		})
		if err != nil {
			return nil, err
		}
		out = append(out, record{hash: canon.Sum(tx), height: uint64(height), index: uint64(i), inclusion: b})
	}
	return out, nil
}

// Commit implements abci.Application.
func (a *app) Commit(context.Context, *abci.RequestCommit) (*abci.ResponseCommit, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.block
	if p == nil {
		return nil, errors.New("commit: no block was executed")
	}
	// An idle ledger does not wear out the disk.
	if len(p.forth) > 0 || len(p.txs) > 0 || p.at.Height-a.saved >= saveEvery {
		if err := a.db.save(p.at, p.forth, p.txs); err != nil {
			a.failed(err)
			return nil, err
		}
		a.saved = p.at.Height
	}
	p.at.Back = nil
	a.at, a.tree, a.block = p.at, p.tree, nil
	a.check = newOverlay(base{a.tree})
	return &abci.ResponseCommit{}, nil
}
