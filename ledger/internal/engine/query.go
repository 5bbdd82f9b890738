package engine

import (
	"context"
	"errors"

	abci "github.com/cometbft/cometbft/abci/types"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/ledger/merkle"
	"github.com/zero-os/zos/ledger/wire"
)

// Query implements abci.Application. It answers from the newest state whose root
// is in a header that exists; Height is that header's, as ABCI has it.
func (a *app) Query(_ context.Context, req *abci.RequestQuery) (*abci.ResponseQuery, error) {
	a.mu.RLock()
	proven := a.proven
	a.mu.RUnlock()
	if proven.header == 0 {
		return no(wire.ProblemNotYet, "nothing can be proven yet"), nil
	}
	if req.Height != 0 && req.Height != proven.header {
		return no(wire.ProblemNotYet, "only the newest state is served"), nil
	}
	var (
		proof any
		err   error
	)
	switch req.Path {
	case wire.PathGet:
		proof, err = proven.tree.ProveGet(req.Data)
	case wire.PathList:
		proof, err = proven.tree.ProveList(req.Data)
	case wire.PathTx:
		return a.queryTx(req.Data, proven.header), nil
	default:
		return no(wire.ProblemQuery, "no such path"), nil
	}
	switch {
	case errors.Is(err, merkle.ErrTooLarge):
		return no(wire.ProblemTooLarge, err.Error()), nil
	case err != nil:
		return no(wire.ProblemQuery, err.Error()), nil
	}
	b, err := canon.Marshal(proof)
	if err != nil {
		return no(wire.ProblemInternal, err.Error()), nil
	}
	return &abci.ResponseQuery{Code: abci.CodeTypeOK, Value: b, Height: proven.header}, nil
}

// queryTx answers once the header exists that proves the outcome.
func (a *app) queryTx(hash []byte, header int64) *abci.ResponseQuery {
	if len(hash) != canon.HashSize {
		return no(wire.ProblemQuery, "not a transaction's hash")
	}
	b, err := a.db.tx(hash)
	if err != nil {
		return no(wire.ProblemInternal, err.Error())
	}
	if len(b) > 0 {
		var in wire.Inclusion
		if err := canon.Unmarshal(b, &in); err != nil {
			return no(wire.ProblemInternal, err.Error())
		}
		if in.Height+1 > uint64(header) {
			return no(wire.ProblemNotYet, "the transaction's outcome cannot be proven yet")
		}
		return &abci.ResponseQuery{Code: abci.CodeTypeOK, Value: b, Height: header}
	}
	a.mu.RLock()
	r, ok := a.dropped[canon.Hash(hash)]
	a.mu.RUnlock()
	if ok {
		return &abci.ResponseQuery{Code: wire.CodeRefused, Codespace: r.code, Log: r.what, Info: r.fix}
	}
	return no(wire.ProblemNotYet, "no such transaction so far")
}

func no(code, what string) *abci.ResponseQuery {
	return &abci.ResponseQuery{Code: wire.CodeQuery, Codespace: code, Log: what}
}
