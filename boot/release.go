package boot

import (
	"context"
	"fmt"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// SignRelease signs a release with every signer, or adds their signatures to
// one: its header is filled in from genesis, the canonical bytes that found the
// grid. Release keys rarely live on one machine: the first signs, the others
// use CosignRelease.
func SignRelease(ctx context.Context, r contract.Release, genesis []byte, signers ...sign.Signer) (contract.Signed, error) {
	r.Header = contract.Header{V: contract.Version, Kind: contract.KindRelease, Grid: canon.Sum(genesis)}
	s, err := contract.Sign(ctx, r, contract.KindRelease, signers...)
	if err != nil {
		return contract.Signed{}, fmt.Errorf("sign release %s: %w", r.Name, err)
	}
	return s, nil
}

// CosignRelease adds the signatures of further release keys.
func CosignRelease(ctx context.Context, s contract.Signed, signers ...sign.Signer) (contract.Signed, error) {
	s, err := contract.Countersign(ctx, s, contract.KindRelease, signers...)
	if err != nil {
		return contract.Signed{}, fmt.Errorf("cosign release: %w", err)
	}
	return s, nil
}

// VerifyRelease is the whole decision whether a node may boot a release: enough
// of the grid's release keys signed it, none of them counted twice and nobody
// else's counted, it has not expired at now (Unix seconds), and its sequence is
// not below floor. It is a pure function; release_test.go has its truth table.
//
// Codes: those of contract.Open and contract.OpenRelease ("approvals-insufficient",
// "signature-invalid", "signature-duplicate", "signature-unexpected", "wrong-grid",
// "wrong-kind", …), "genesis-invalid", "release-expired", "release-below-floor".
func VerifyRelease(s contract.Signed, genesis []byte, now, floor uint64) (contract.Release, error) {
	fail := func(err error) (contract.Release, error) {
		return contract.Release{}, fmt.Errorf("verify release: %w", err)
	}
	g, err := contract.DecodeGenesis(genesis)
	if err != nil {
		return fail(err)
	}
	r, _, err := contract.OpenRelease(s, canon.Sum(genesis), g)
	if err != nil {
		return fail(err)
	}
	if now > r.Expiry {
		return fail(problem.New("release-expired", "release %s expired at %s; this clock says %s", r.Name, unix(r.Expiry), unix(now)).
			WithFix("sign the release again with a later expiry: zos release sign"))
	}
	if r.Sequence < floor {
		return fail(problem.New("release-below-floor", "release %s has sequence %d, this node accepts none below %d", r.Name, r.Sequence, floor))
	}
	return r, nil
}

func unix(s uint64) string {
	return time.Unix(int64(min(s, 1<<40)), 0).UTC().Format(time.RFC3339)
}
