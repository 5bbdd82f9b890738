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
	exitNotFound    = 4 // no such thing
	exitRefused     = 5 // the rules of the contract say no
	exitUnreachable = 6 // ledger, hub, bus, node or agent can't be reached, or have no time
	exitTimeout     = 7 // what was waited for did not happen in time
	exitUntrusted   = 8 // a digest, signature, proof or age is wrong
	exitConflict    = 9 // something is there already, or in use
	exitProgram     = 126
	exitInterrupted = 130
)

// exits lists the problem codes of each exit code. A code that is not listed is
// exitRefused, since most codes are rules of the contract.
var exits = map[string]int{
	"internal": exitInternal, "state-damaged": exitInternal, "grid-failed": exitInternal, "machine-control": exitInternal, "machine-died": exitInternal, "machine-start": exitInternal,
	"tool-missing": exitInternal, "image-missing": exitInternal, "kernel-missing": exitInternal, "module-missing": exitInternal,
	"zone-data-invalid": exitInternal, "certificate-failed": exitInternal,
	"gateway-config-invalid": exitInternal, "gateway-no-backend": exitUnreachable, "firewall-failed": exitInternal, "firewall-altered": exitInternal, "fault-server-down": exitInternal, "mount-failed": exitInternal,
	"no-verity": exitInternal, "disk-full": exitInternal, "tpm-failed": exitInternal, "start-failed": exitInternal, "shim-lost": exitInternal,
	"answer-too-large": exitInternal,

	"spec-invalid": exitInvalid, "name-invalid": exitInvalid, "key-invalid": exitInvalid, "key-encrypted": exitInvalid, "plan-invalid": exitInvalid,
	"approval-invalid": exitInvalid, "statement-invalid": exitInvalid, "option-invalid": exitInvalid, "genesis-invalid": exitInvalid,
	"group-invalid": exitInvalid, "slot-invalid": exitInvalid, "delegation-invalid": exitInvalid, "node-invalid": exitInvalid,
	"receipt-invalid": exitInvalid, "features-invalid": exitInvalid, "secret-invalid": exitInvalid, "challenge-invalid": exitInvalid, "release-invalid": exitInvalid, "tag-invalid": exitInvalid, "url-invalid": exitInvalid, "certificate-invalid": exitInvalid,
	"threshold-unreachable": exitInvalid, "too-large": exitInvalid, "source-unsafe": exitInvalid, "source-too-large": exitInvalid,
	"source-unreadable": exitInvalid, "image-ambiguous": exitInvalid, "dir-too-long": exitInvalid, "machine-invalid": exitInvalid,
	"no-command": exitInvalid, "user-unknown": exitInvalid, "request-invalid": exitInvalid, "query-invalid": exitInvalid,

	"file-unknown": exitNotFound, "no-context": exitNotFound, "not-found": exitNotFound, "account-unknown": exitNotFound, "group-unknown": exitNotFound, "farm-unknown": exitNotFound,
	"slot-unknown": exitNotFound, "node-unknown": exitNotFound, "network-unknown": exitNotFound, "device-unknown": exitNotFound, "contract-unknown": exitNotFound, "proposal-unknown": exitNotFound,
	"workload-unknown": exitNotFound, "workload-ambiguous": exitUsage, "key-unknown": exitNotFound, "image-unknown": exitNotFound, "image-platform": exitNotFound,
	"flist-unknown": exitNotFound, "object-missing": exitNotFound, "unknown-method": exitNotFound, "kind-unknown": exitNotFound,
	"class-unknown": exitNotFound, "slot-missing": exitNotFound, "archive-missing": exitNotFound, "release-missing": exitNotFound,
	"network-missing": exitNotFound, "gateway-unknown": exitNotFound, "key-store-missing": exitNotFound,

	"ledger-unreachable": exitUnreachable, "ledger-busy": exitUnreachable, "hub-unreachable": exitUnreachable, "bus-unreachable": exitUnreachable,
	"rendezvous-unreachable": exitUnreachable, "login-undecided": exitUnreachable,
	"network-detached": exitUnreachable, "network-pending": exitUnreachable, "node-silent": exitUnreachable, "node-busy": exitUnreachable, "hello-refused": exitUnreachable, "node-not-ready": exitUnreachable,
	"node-stopping": exitUnreachable, "node-unbound": exitUnreachable, "agent-unreachable": exitUnreachable, "agent-silent": exitUnreachable,
	"key-not-in-agent": exitUnreachable, "stream-lost": exitUnreachable, "reply-gap": exitUnreachable, "lease-expired": exitUnreachable, "head-stale": exitUnreachable,
	"not-yet": exitUnreachable, "public-card-missing": exitUnreachable, "gateway-down": exitUnreachable, "not-served": exitUnreachable, "name-unchecked": exitUnreachable,

	"acme-rate-limited": exitUnreachable, "acme-unreachable": exitUnreachable, "certificates-unavailable": exitUnreachable, "domain-unreachable": exitUnreachable,
	"acme-answer-invalid": exitUntrusted, "domain-proof-invalid": exitInvalid, "frame-invalid": exitUntrusted, "archive-unsafe": exitUntrusted, "program-failed": exitProgram, "copy-failed": exitInvalid,

	"workloads-apart": exitUnreachable, "publication-broken": exitUnreachable,
	"peer-silent": exitUnreachable, "relay-unreachable": exitUnreachable, "key-epoch-unknown": exitUnreachable,
	"binding-expired": exitUntrusted, "binding-old": exitUntrusted, "binding-refused": exitUntrusted,
	"exchange-refused": exitUntrusted, "exchange-stale": exitUntrusted, "psk-expired": exitUntrusted,

	"timeout": exitTimeout,

	"rendezvous-untrusted": exitUntrusted, "login-invalid": exitUntrusted,
	"digest-mismatch": exitUntrusted, "manifest-invalid": exitUntrusted, "signature-invalid": exitUntrusted, "bound-refused": exitUntrusted, "signature-duplicate": exitUntrusted,
	"signature-unexpected": exitUntrusted, "proof-invalid": exitUntrusted, "record-mismatch": exitUntrusted, "ledger-lying": exitUntrusted,
	"ledger-stale": exitUntrusted, "checkpoint-expired": exitUntrusted, "reply-invalid": exitUntrusted, "answer-invalid": exitUntrusted,
	"heartbeat-invalid": exitUntrusted, "heartbeat-old": exitUntrusted, "plan-hash-mismatch": exitUntrusted, "evidence-altered": exitUntrusted,
	"group-untrusted": exitUntrusted, "slot-untrusted": exitUntrusted, "unsealable": exitUntrusted, "wrong-grid": exitUntrusted,
	"wrong-kind": exitUntrusted, "wrong-version": exitUntrusted, "release-expired": exitUntrusted, "release-below-floor": exitUntrusted,
	"tag-expired": exitUntrusted, "os-audit": exitUntrusted, "vmm-audit": exitUntrusted, "os-invalid": exitUntrusted, "archive-damaged": exitUntrusted,
	"key-damaged": exitUntrusted, "key-foreign": exitUntrusted, "upper-mismatch": exitUntrusted,

	"address-taken": exitConflict, "host-taken": exitConflict, "port-taken": exitConflict, "name-lookalike": exitConflict,
	"name-unreserved": exitNotFound, "version-unknown": exitNotFound, "pool-invalid": exitInvalid, "zone-invalid": exitInvalid, "pool-untrusted": exitUntrusted,

	"already-exists": exitConflict, "name-taken": exitConflict, "key-taken": exitConflict, "grid-running": exitConflict,
	"address-unavailable": exitConflict, "slot-ambiguous": exitConflict, "index-full": exitConflict,
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
