// Package wire is what a ledger node and its light clients agree on: the
// chain's name, the paths of queries, their answers, the limits and the times.
package wire

import (
	"time"

	"github.com/zero-os/zos/canon"
)

// Query paths of the application.
const (
	PathGet  = "/get"  // data: a key; answer: canonical merkle.GetProof
	PathList = "/list" // data: a prefix; answer: canonical merkle.ListProof
	PathTx   = "/tx"   // data: SHA-256 of a transaction; answer: canonical Inclusion
)

// Limits.
const (
	// MaxTx is the size of the largest transaction in bytes.
	MaxTx = 1 << 20
	// MaxBlock is the size of the largest block in bytes.
	MaxBlock = 4 << 20
	// MaxResponse is the size of the largest RPC response in bytes. A proof of
	// merkle.MaxProof bytes travels as base64 in JSON.
	MaxResponse = 20 << 20
)

// Times.
const (
	// EmptyBlockInterval is how often an idle ledger makes a block, so that a
	// frozen head can be told from a quiet one. A header carries the time at which
	// the block before it was voted on: an idle ledger's newest header is between
	// one and two intervals old.
	EmptyBlockInterval = 5 * time.Second
	// MaxHeadAge is how old the newest header may be before a light client calls
	// the ledger stale, if it is not told otherwise: twelve missed blocks.
	MaxHeadAge = time.Minute
	// TrustingPeriod is how long a checkpoint can be trusted, if not told
	// otherwise.
	TrustingPeriod = 14 * 24 * time.Hour
	// MaxClockDrift is how far ahead of the client's clock a header may be, if not
	// told otherwise.
	MaxClockDrift = 10 * time.Second
)

// Codes of an answer that is not OK.
const (
	CodeRefused = 1 // the rules refuse; codespace is the problem's code
	CodeQuery   = 2 // the query is malformed or cannot be answered
)

// Problem codes used in Codespace by nodes, besides those of the rules.
const (
	ProblemInternal = "internal"        // the rules failed without a code
	ProblemTooLarge = "state-too-large" // a transaction or a query exceeds a limit
	ProblemNotYet   = "not-yet"         // nothing is provable so far, or the transaction is not known
	ProblemQuery    = "query-invalid"
)

// ChainID returns the name of a grid's chain: "zos-" and the first 32 hex
// digits of the grid's id. CometBFT allows 50 characters, which the whole id
// would exceed.
func ChainID(grid canon.Hash) string { return "zos-" + grid.String()[:32] }

// Outcome is the answer to a transaction. It is hashed into the next block's
// header, so it must be the same on every machine: it holds no text.
type Outcome struct {
	Problem string `cbor:"problem"` // code; empty if the transaction was applied
	Result  []byte `cbor:"result"`  // canonical contract.Result; empty if it was not
}

// Limits on what a ledger says about a refused transaction, in bytes.
const (
	MaxWhat = 1024
	MaxFix  = 512
)

// Inclusion proves that a transaction is in the block at Height, by that
// block's data hash, and what came of it, by the next header's results hash.
type Inclusion struct {
	Height  uint64   `cbor:"height"`
	Index   uint64   `cbor:"index"`       // in the block
	Total   uint64   `cbor:"total"`       // transactions in the block
	Code    uint32   `cbor:"code"`        // 0 or CodeRefused
	Outcome []byte   `cbor:"outcome"`     // canonical Outcome
	TxPath  [][]byte `cbor:"tx_path"`     // hashes from the leaf up
	ResPath [][]byte `cbor:"result_path"` // hashes from the leaf up
	// What and Fix are the rule's words, for people. They are not proven.
	What string `cbor:"what"`
	Fix  string `cbor:"fix"`
}
