package contract

import (
	"bytes"
	"context"
	"fmt"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Head returns h. It makes every struct that embeds a Header a Statement.
func (h Header) Head() Header { return h }

// Statement is a struct that embeds a Header.
type Statement interface{ Head() Header }

// ID returns the hash of the statement: the name of what it founds.
func (s Signed) ID() canon.Hash { return canon.Sum(s.Statement) }

// Encode returns the canonical bytes of s: a ledger transaction.
func (s Signed) Encode() ([]byte, error) {
	b, err := canon.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode signed statement: %w", err)
	}
	if len(b) > MaxSigned {
		return nil, problem.New("too-large", "encode signed statement: %d bytes, at most %d are allowed", len(b), MaxSigned)
	}
	return b, nil
}

// DecodeSigned reads what Encode gave. It verifies nothing but the form; its
// errors have the code "statement-invalid".
func DecodeSigned(b []byte) (Signed, error) {
	var s Signed
	if err := canon.UnmarshalLimit(b, MaxSigned, &s); err != nil {
		return Signed{}, problem.New("statement-invalid", "read signed statement: %w", err)
	}
	return s, nil
}

// Sign encodes statement, whose header must already say kind, and signs it with
// every signer.
func Sign(ctx context.Context, statement Statement, kind string, signers ...sign.Signer) (Signed, error) {
	if h := statement.Head(); h.Kind != kind || h.V != Version {
		return Signed{}, fmt.Errorf("sign %s: its header says %q, version %d", kind, h.Kind, h.V)
	}
	b, err := canon.Marshal(statement)
	if err != nil {
		return Signed{}, fmt.Errorf("sign %s: %w", kind, err)
	}
	return Countersign(ctx, Signed{Statement: b}, kind, signers...)
}

// Countersign returns s with a further signature of every signer.
func Countersign(ctx context.Context, s Signed, kind string, signers ...sign.Signer) (Signed, error) {
	out := Signed{Statement: s.Statement, Signatures: append([]Signature{}, s.Signatures...)}
	for _, signer := range signers {
		sig, err := signer.Sign(ctx, kind, s.Statement)
		if err != nil {
			return Signed{}, fmt.Errorf("sign %s as %s: %w", kind, signer.Public().Fingerprint(), err)
		}
		out.Signatures = append(out.Signatures, Signature{Key: signer.Public(), Sig: sig})
	}
	return out, nil
}

// Peek returns the header of statement bytes without knowing their kind. It
// checks that they are canonical, nothing else.
func Peek(statement []byte) (Header, error) {
	var fields map[string]any
	if err := canon.UnmarshalLimit(statement, MaxStatement, &fields); err != nil {
		return Header{}, problem.New("statement-invalid", "read statement: %w", err)
	}
	var h Header
	h.V, _ = fields["v"].(uint64)
	h.Kind, _ = fields["kind"].(string)
	if grid, ok := fields["grid"].([]byte); ok && len(grid) == canon.HashSize {
		h.Grid = canon.Hash(grid)
	}
	if h.V == 0 || h.Kind == "" {
		return Header{}, problem.New("statement-invalid", "read statement: it has no header")
	}
	return h, nil
}

// Open reads s as a statement of kind in grid, verifies every signature, and
// returns the statement, its id and the keys that signed it, in the order of
// the signatures and all different. There may be none: who must have signed is
// for the caller to say. Codes: "statement-invalid", "wrong-kind",
// "wrong-version", "wrong-grid", "signature-invalid", "signature-duplicate",
// "key-invalid".
func Open[T Statement](s Signed, kind string, grid canon.Hash) (T, canon.Hash, []sign.PublicKey, error) {
	var statement, none T
	fail := func(err error) (T, canon.Hash, []sign.PublicKey, error) {
		return none, canon.Hash{}, nil, fmt.Errorf("open %s: %w", kind, err)
	}
	limit := MaxPlain
	if kind == KindApproval {
		limit = MaxStatement
	}
	// The header first, so that another kind or grid is named as such.
	head, err := Peek(s.Statement)
	if err != nil {
		return fail(err)
	}
	switch {
	case head.Kind != kind:
		return fail(problem.New("wrong-kind", "the statement is of kind %.64q", head.Kind))
	case head.V != Version:
		return fail(problem.New("wrong-version", "the statement has format %d, this software knows %d", head.V, Version))
	case head.Grid != grid:
		return fail(problem.New("wrong-grid", "the statement is of grid %s, this is %s", head.Grid.Short(), grid.Short()))
	}
	if err := canon.UnmarshalLimit(s.Statement, limit, &statement); err != nil {
		return fail(problem.New("statement-invalid", "%w", err))
	}
	keys, err := verify(s, kind)
	if err != nil {
		return fail(err)
	}
	return statement, s.ID(), keys, nil
}

// verify checks all signatures of s and that no key signed twice.
func verify(s Signed, kind string) ([]sign.PublicKey, error) {
	if len(s.Signatures) > MaxSignatures {
		return nil, problem.New("too-large", "%d signatures, at most %d are allowed", len(s.Signatures), MaxSignatures)
	}
	keys := make([]sign.PublicKey, 0, len(s.Signatures))
	for _, sig := range s.Signatures {
		key, err := sign.ParsePublicKey(sig.Key)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if k.Equal(key) {
				return nil, problem.New("signature-duplicate", "%s signed twice", key.Fingerprint())
			}
		}
		if err := sign.Verify(key, kind, s.Statement, sig.Sig); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// signedBy tells whether keys are exactly the wanted ones, in any order.
func signedBy(keys []sign.PublicKey, want ...[]byte) error {
	for _, w := range want {
		found := false
		for _, k := range keys {
			found = found || bytes.Equal(k, w)
		}
		if !found {
			return problem.New("signature-missing", "the signature of %s is missing", sign.PublicKey(w).Fingerprint())
		}
	}
	if len(keys) != len(want) {
		return problem.New("signature-unexpected", "%d signatures where %d belong", len(keys), len(want))
	}
	return nil
}
