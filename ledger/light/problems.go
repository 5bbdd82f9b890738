package light

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cometlight "github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/light/provider"

	"github.com/zero-os/zos/problem"
)

// Codes of the problems that a Client reports. A transaction that the ledger
// refuses is reported with the code of the rule that refuses it.
const (
	// CodeUnreachable: no endpoint, or no witness, answered in time.
	CodeUnreachable = "ledger-unreachable"
	// CodeLying: an endpoint showed a header that does not follow from the
	// checkpoint, or endpoints contradict each other.
	CodeLying = "ledger-lying"
	// CodeStale: the newest header is older than Config.MaxHeadAge.
	CodeStale = "ledger-stale"
	// CodeProof: a value, list or receipt came with a proof that does not hold.
	CodeProof = "proof-invalid"
	// CodeExpired: the checkpoint is older than Config.TrustingPeriod.
	CodeExpired = "checkpoint-expired"
	// CodeBusy: the ledger's queue of transactions is full.
	CodeBusy = "ledger-busy"
)

func unreachable(err error, format string, args ...any) error {
	return &problem.Error{Code: CodeUnreachable, What: fmt.Sprintf(format, args...) + ": " + text(err), Err: err,
		Fix: "check that this machine reaches the ledger's addresses, and that at least two of them answer"}
}

func lying(err error, format string, args ...any) error {
	return &problem.Error{Code: CodeLying, What: fmt.Sprintf(format, args...) + ": " + text(err), Err: err,
		Fix: "do not trust these endpoints; check this machine's clock, then configure others"}
}

func stale(head Head, limit time.Duration, now time.Time) error {
	return problem.New(CodeStale, "newest block %d of the ledger is %s old, at most %s is accepted",
		head.Height, now.Sub(head.Time).Round(time.Second), limit).
		WithFix("check this machine's clock, and that the ledger's validators run")
}

func expired(err error) error {
	return &problem.Error{Code: CodeExpired, What: "the ledger checkpoint is too old to be trusted: " + text(err), Err: err,
		Fix: "get a newer release, or a fresh checkpoint from the grid's operator"}
}

// text keeps what an endpoint says on one line of bounded length.
func text(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > 400 {
		s = s[:400] + "…"
	}
	return s
}

// blame is who an error speaks against.
type blame int

const (
	blameNone    blame = iota // no answer: the network, a restart
	blameLiar                 // an answer that cannot be true
	blameExpired              // our own checkpoint
	blameCaller               // our own caller gave up
)

// judge finds out who an error of CometBFT's light client speaks against.
func judge(ctx context.Context, err error) blame {
	var (
		expired     cometlight.ErrOldHeaderExpired
		invalid     cometlight.ErrInvalidHeader
		untrusted   cometlight.ErrNewValSetCantBeTrusted
		conflicting cometlight.ErrConflictingHeaders
		priorities  cometlight.ErrProposerPrioritiesDiverge
		bad         provider.ErrBadLightBlock
		liar        liarError
	)
	switch {
	case errors.As(err, &expired):
		return blameExpired
	case errors.As(err, &invalid), errors.As(err, &untrusted), errors.As(err, &conflicting), errors.As(err, &priorities),
		errors.As(err, &bad), errors.As(err, &liar), errors.Is(err, cometlight.ErrLightClientAttack):
		return blameLiar
	case ctx.Err() != nil:
		return blameCaller
	case errors.Is(err, provider.ErrNoResponse), errors.Is(err, provider.ErrHeightTooHigh),
		errors.Is(err, provider.ErrLightBlockNotFound), errors.Is(err, cometlight.ErrNoWitnesses),
		errors.Is(err, cometlight.ErrFailedHeaderCrossReferencing),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return blameNone
	}
	// What is left is a header that failed a check without an error type of its
	// own: another hash than the checkpoint's, a commit that does not add up.
	return blameLiar
}

// liarError marks an answer that cannot be true.
type liarError struct{ err error }

func (e liarError) Error() string { return e.err.Error() }
func (e liarError) Unwrap() error { return e.err }
