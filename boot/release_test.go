package boot_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/zero-os/zos/boot"
	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

func testRelease(sequence, expiry uint64) contract.Release {
	return contract.Release{Sequence: sequence, Name: "2026.11.1", OS: canon.Sum([]byte("os")), Expiry: expiry}
}

// TestReleaseTruthTable is the whole decision: what is not in it is not decided
// anywhere else.
func TestReleaseTruthTable(t *testing.T) {
	const now, expiry, seq, floor = 1000, 2000, 5, 5
	ctx := context.Background()
	k1, k2, k3, outsider := testSigner(1), testSigner(2), testSigner(3), testSigner(4)
	genesis := testGenesis(t, 1, 2, k1, k2, k3)
	other := testGenesis(t, 2, 2, k1, k2, k3) // another grid with the same keys

	signed := func(r contract.Release, genesis []byte, keys ...sign.Signer) contract.Signed {
		s, err := boot.SignRelease(ctx, r, genesis, keys...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := func() contract.Signed { return signed(testRelease(seq, expiry), genesis, k1, k3) }
	change := func(f func(*contract.Signed)) contract.Signed {
		s := good()
		f(&s)
		return s
	}
	// The same person's second signature: ed25519 gives the same bytes, so it is
	// the armour of a countersignature that repeats.
	twice := func() contract.Signed {
		s := signed(testRelease(seq, expiry), genesis, k1)
		s.Signatures = append(s.Signatures, s.Signatures[0])
		return s
	}
	otherKind := func() contract.Signed {
		s, err := contract.Sign(ctx, contract.Tag{
			Header: contract.Header{V: contract.Version, Kind: contract.KindTag, Grid: canon.Sum(genesis)}, Name: "a", Tag: "b",
		}, contract.KindTag, k1, k2)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// A release's bytes, signed in the namespace of another kind.
	otherNamespace := func() contract.Signed {
		s := signed(testRelease(seq, expiry), genesis)
		s, err := contract.Countersign(ctx, s, contract.KindApproval, k1, k2)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}

	for _, c := range []struct {
		name       string
		s          contract.Signed
		genesis    []byte
		now, floor uint64
		code       string // "" means accepted
	}{
		{"two of three", good(), genesis, now, floor, ""},
		{"three of three", signed(testRelease(seq, expiry), genesis, k1, k2, k3), genesis, now, floor, ""},
		{"order of signatures does not matter", signed(testRelease(seq, expiry), genesis, k3, k1), genesis, now, floor, ""},
		{"last second of its life", good(), genesis, expiry, floor, ""},
		{"above the floor", good(), genesis, now, seq - 1, ""},
		{"no floor", good(), genesis, now, 0, ""},

		{"one of three", signed(testRelease(seq, expiry), genesis, k1), genesis, now, floor, "approvals-insufficient"},
		{"unsigned", signed(testRelease(seq, expiry), genesis), genesis, now, floor, "approvals-insufficient"},
		{"the same key twice", twice(), genesis, now, floor, "signature-duplicate"},
		{"one key and an outsider", signed(testRelease(seq, expiry), genesis, k1, outsider), genesis, now, floor, "signature-unexpected"},
		{"outsiders only", signed(testRelease(seq, expiry), genesis, outsider, testSigner(5)), genesis, now, floor, "signature-unexpected"},
		{"enough keys and an outsider", signed(testRelease(seq, expiry), genesis, k1, k2, outsider), genesis, now, floor, "signature-unexpected"},
		{"a second after its expiry", good(), genesis, expiry + 1, floor, "release-expired"},
		{"never valid", signed(testRelease(seq, 0), genesis, k1, k2), genesis, now, floor, "release-expired"},
		{"below the floor", good(), genesis, now, seq + 1, "release-below-floor"},
		{"expired and below the floor", good(), genesis, expiry + 1, seq + 1, "release-expired"},
		{"of another grid", signed(testRelease(seq, expiry), other, k1, k2), genesis, now, floor, "wrong-grid"},
		{"judged by another grid", good(), other, now, floor, "wrong-grid"},
		{"of another kind", otherKind(), genesis, now, floor, "wrong-kind"},
		{"signed as another kind", otherNamespace(), genesis, now, floor, "signature-invalid"},
		{"a flipped bit in the OS digest", change(func(s *contract.Signed) {
			os := canon.Sum([]byte("os"))
			i := bytes.Index(s.Statement, os[:])
			s.Statement = bytes.Clone(s.Statement)
			s.Statement[i] ^= 1
		}), genesis, now, floor, "signature-invalid"},
		{"a flipped bit in a signature", change(func(s *contract.Signed) {
			sig := bytes.Clone(s.Signatures[1].Sig)
			sig[len(sig)-1] ^= 1
			s.Signatures[1].Sig = sig
		}), genesis, now, floor, "signature-invalid"},
		{"a signature under another's key", change(func(s *contract.Signed) {
			s.Signatures[1].Key = k2.Public()
		}), genesis, now, floor, "signature-invalid"},
		{"bytes behind the statement", change(func(s *contract.Signed) {
			s.Statement = append(bytes.Clone(s.Statement), 0)
		}), genesis, now, floor, "statement-invalid"},
		{"nothing", contract.Signed{}, genesis, now, floor, "statement-invalid"},
		{"without an OS", signed(contract.Release{Sequence: seq, Name: "x", Expiry: expiry}, genesis, k1, k2), genesis, now, floor, "statement-invalid"},
		{"sequence 0", signed(testRelease(0, expiry), genesis, k1, k2), genesis, now, 0, "statement-invalid"},
		{"a damaged genesis", good(), genesis[1:], now, floor, "genesis-invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := boot.VerifyRelease(c.s, c.genesis, c.now, c.floor)
			if problem.Code(err) != c.code || (err == nil) != (c.code == "") {
				t.Fatalf("got code %q (%v), want %q", problem.Code(err), err, c.code)
			}
			if err != nil && !r.OS.IsZero() {
				t.Error("a refused release was returned")
			}
			if err == nil && (r.OS != canon.Sum([]byte("os")) || r.Sequence != seq) {
				t.Errorf("release is %+v", r)
			}
		})
	}
}

// TestEveryBitOfAReleaseCounts flips each bit of the statement in turn.
func TestEveryBitOfAReleaseCounts(t *testing.T) {
	k1, k2 := testSigner(1), testSigner(2)
	genesis := testGenesis(t, 1, 2, k1, k2)
	s, err := boot.SignRelease(context.Background(), testRelease(1, 100), genesis, k1)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = boot.CosignRelease(context.Background(), s, k2); err != nil {
		t.Fatal(err)
	}
	if _, err := boot.VerifyRelease(s, genesis, 1, 1); err != nil {
		t.Fatal(err)
	}
	statement := s.Statement
	for i := range statement {
		for bit := range 8 {
			s.Statement = bytes.Clone(statement)
			s.Statement[i] ^= 1 << bit
			if _, err := boot.VerifyRelease(s, genesis, 1, 1); err == nil {
				t.Fatalf("accepted with bit %d of byte %d flipped", bit, i)
			}
		}
	}
}

func FuzzVerifyRelease(f *testing.F) {
	k := testSigner(1)
	genesis := testGenesis(f, 1, 1, k)
	s, err := boot.SignRelease(context.Background(), testRelease(1, 100), genesis, k)
	if err != nil {
		f.Fatal(err)
	}
	b, err := s.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := contract.DecodeSigned(b)
		if err != nil {
			return
		}
		if r, err := boot.VerifyRelease(got, genesis, 1, 1); err == nil && !bytes.Equal(got.Statement, s.Statement) {
			t.Error(fmt.Errorf("a release nobody signed was accepted: %+v", r))
		}
	})
}
