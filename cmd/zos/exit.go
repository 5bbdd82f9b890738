package main

import (
	"context"
	"errors"

	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/spec"
)

// Exit codes, documented in docs/reference/errors.md. Scripts decide by these;
// the problem code in the message says which of them exactly.
const (
	exitInternal    = 1 // a defect or a failure of this machine
	exitUsage       = 2 // the command line can't be understood
	exitInvalid     = 3 // a file or value given is wrong
	exitNotFound    = 4 // no such name, image, node, proposal, contract, context
	exitRefused     = 5 // the rules of the contract say no
	exitUnreachable = 6 // ledger, hub, bus or node can't be reached
	exitTimeout     = 7 // what was waited for did not happen in time
	exitUntrusted   = 8 // a digest, signature or proof is wrong
	exitConflict    = 9 // something is there already, or in use
	exitInterrupted = 130
)

// exits maps problem codes to exit codes; a code that is not listed is
// exitRefused, since most codes are rules of the contract.
var exits = map[string]int{
	"spec-invalid": exitInvalid, "name-invalid": exitInvalid, "key-invalid": exitInvalid, "key-encrypted": exitInvalid,
	"archive-invalid": exitInvalid, "plan-invalid": exitInvalid, "statement-invalid": exitInvalid, "option-invalid": exitInvalid,
	"no-context": exitNotFound, "not-found": exitNotFound, "image-unknown": exitNotFound, "node-unknown": exitNotFound,
	"group-unknown": exitNotFound, "account-unknown": exitNotFound, "contract-unknown": exitNotFound, "proposal-unknown": exitNotFound,
	"key-unknown": exitNotFound, "farm-unknown": exitNotFound, "object-missing": exitNotFound, "flist-unknown": exitNotFound, "release-unknown": exitNotFound,
	"ledger-unreachable": exitUnreachable, "hub-unreachable": exitUnreachable, "bus-unreachable": exitUnreachable,
	"node-unreachable": exitUnreachable, "agent-unreachable": exitUnreachable, "no-quorum": exitUnreachable,
	"timeout":         exitTimeout,
	"digest-mismatch": exitUntrusted, "signature-invalid": exitUntrusted, "proof-invalid": exitUntrusted, "ledger-lying": exitUntrusted,
	"manifest-invalid": exitUntrusted, "ledger-stale": exitUntrusted, "checkpoint-expired": exitUntrusted, "reply-invalid": exitUntrusted,
	"plan-hash-mismatch": exitUntrusted,
	"grid-running":       exitConflict, "exists": exitConflict, "dir-too-long": exitInvalid, "missing-package": exitInternal,
}

// codeOf is the problem code of an error, with those of other shapes.
func codeOf(err error) string {
	var invalid *spec.Error
	var usage usageError
	switch {
	case problem.Code(err) != "":
		return problem.Code(err)
	case errors.As(err, &invalid):
		return spec.CodeInvalid
	case errors.As(err, &usage):
		return "usage"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return ""
}

func exitCode(err error) int {
	switch code := codeOf(err); {
	case code == "usage":
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case code == "":
		return exitInternal
	default:
		if e, ok := exits[code]; ok {
			return e
		}
		return exitRefused
	}
}
