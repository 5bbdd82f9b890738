package contract

import (
	"context"
	"errors"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// Every rule begins with the same strict reading; here for each kind.
func TestEveryKindIsReadStrictly(t *testing.T) {
	w := newWorld(t)
	elsewhere := newWorldIn(t, "elsewhere")
	for i, tx := range seeds(w) {
		s, err := DecodeSigned(tx)
		if err != nil {
			t.Fatal(err)
		}
		head, err := Peek(s.Statement)
		if err != nil {
			t.Fatal(err)
		}
		if head.Kind == KindTag {
			continue
		}
		t.Run(head.Kind, func(t *testing.T) {
			w.t, elsewhere.t = t, t
			elsewhere.refused(s, "wrong-grid")
			bad := Signed{Statement: s.Statement, Signatures: append([]Signature{}, s.Signatures...)}
			sig := append([]byte{}, bad.Signatures[0].Sig...)
			sig[len(sig)-1] ^= 1
			bad.Signatures[0].Sig = sig
			w.refused(bad, "signature-invalid")
			bad.Signatures[0] = Signature{Key: []byte("x"), Sig: s.Signatures[0].Sig}
			w.refused(bad, "key-invalid")
			bad.Signatures[0] = s.Signatures[0]
			bad.Signatures = append(bad.Signatures, s.Signatures[0])
			w.refused(bad, "signature-duplicate")
			unknown := Signed{Statement: addField(t, s.Statement)}
			for _, name := range []string{"red", "green", "farm", "zoe", "node", "two", "three", "field", "release-1", "release-2"} {
				for _, have := range s.Signatures {
					if w.key(name).Public().Equal(have.Key) {
						if unknown, err = Countersign(t.Context(), unknown, head.Kind, w.key(name)); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			w.refused(unknown, "statement-invalid")
			w.ok(Signed{Statement: s.Statement, Signatures: s.Signatures})
		})
		// The next seed is tried where this one was not yet applied.
		fresh := newWorld(t)
		if again := seeds(fresh); string(again[i]) != string(tx) {
			t.Fatal("seeds are not reproducible")
		}
		w = fresh
	}
}

// addField returns the statement with one more field.
func addField(t *testing.T, statement []byte) []byte {
	t.Helper()
	var fields map[string]any
	if err := canon.Unmarshal(statement, &fields); err != nil {
		t.Fatal(err)
	}
	fields["extra"] = uint64(1)
	b, err := canon.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenTellsIDAndSigners(t *testing.T) {
	w := newWorld(t)
	s := w.approve(w.deploy("hello", w.job("web", w.slots[0])), "green", "red")
	a, id, keys, err := Open[Approval](s, KindApproval, w.grid)
	if err != nil {
		t.Fatal(err)
	}
	if a.Name != "hello" || id != canon.Sum(s.Statement) || len(keys) != 2 || !keys[0].Equal(w.key("green").Public()) || !keys[1].Equal(w.key("red").Public()) {
		t.Errorf("%s, %s, %v", a.Name, id, keys)
	}
	if _, _, _, err := Open[Approval](s, KindReceipt, w.grid); problem.Code(err) != "wrong-kind" {
		t.Errorf("as another kind: %v", err)
	}
	if _, _, _, err := Open[Approval](Signed{Statement: []byte("x")}, KindApproval, w.grid); problem.Code(err) != "statement-invalid" {
		t.Errorf("no statement: %v", err)
	}
}

func TestEnvelopesAreBoundedAndCanonical(t *testing.T) {
	s := Signed{Statement: make([]byte, MaxSigned)}
	if _, err := s.Encode(); problem.Code(err) != "too-large" {
		t.Errorf("Encode: %v", err)
	}
	b, err := Signed{Statement: []byte("x")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeSigned(b); err != nil || string(got.Statement) != "x" {
		t.Errorf("DecodeSigned: %+v, %v", got, err)
	}
	for _, bad := range [][]byte{nil, append(b, 0), make([]byte, MaxSigned+1)} {
		if _, err := DecodeSigned(bad); problem.Code(err) != "statement-invalid" {
			t.Errorf("DecodeSigned of %d bytes: %v", len(bad), err)
		}
	}
	for _, bad := range [][]byte{nil, {0xa0}, {0x01}, make([]byte, MaxStatement+1)} {
		if _, err := Peek(bad); problem.Code(err) != "statement-invalid" {
			t.Errorf("Peek of %d bytes: %v", len(bad), err)
		}
	}
}

type broken struct{ sign.Signer }

func (broken) Sign(context.Context, string, []byte) ([]byte, error) {
	return nil, errors.New("no token")
}

func TestSigningThatFailsSignsNothing(t *testing.T) {
	w := newWorld(t)
	a := w.deploy("hello", w.job("web", w.slots[0]))
	s, err := Sign(t.Context(), a, KindApproval, w.key("red"), broken{w.key("green")})
	if err == nil || len(s.Signatures) > 0 {
		t.Errorf("%d signatures, %v", len(s.Signatures), err)
	}
}

func TestApprovalsAreCheckedBeforeTheyAreSent(t *testing.T) {
	w := newWorld(t)
	a := w.update(canon.Sum(nil), 1, "hello", w.job("web", w.slots[0]))
	if _, err := a.Validate(); err != nil {
		t.Fatal(err)
	}
	a.Version = 1
	if _, err := a.Validate(); problem.Code(err) != "stale-version" {
		t.Errorf("an update to version 1: %v", err)
	}
}

func TestDamagedRecordsStopTheRules(t *testing.T) {
	w := newWorld(t)
	a := w.approve(w.deploy("hello", w.job("web", w.slots[0])), "red", "green")
	for _, key := range []string{
		KeyGrid, KeyGroup(w.group), KeySlot(w.slots[0]), KeyConsent(w.farm, w.group), KeyUsed(w.slots[0]), KeyUsedBy(w.farm, w.group),
		KeyRuns(w.slots[0]), KeyNode(w.slots[0]), KeyPending(w.group), KeyProposal(a.ID()), KeyKey(w.key("red").Public()),
	} {
		old, had := w.st[key]
		w.st[key] = "damaged"
		if _, err := w.st.do(w.now, w.tx(a)); err == nil {
			t.Errorf("went on with a damaged %s", key)
		}
		if delete(w.st, key); had {
			w.st[key] = old
		}
	}
	if !w.ok(a).Accepted {
		t.Error("not accepted")
	}
	// Less in use than a contract holds.
	id := record[NameRecord](w, KeyContractName(w.group, "hello")).ID
	delete(w.st, KeyUsed(w.slots[0]))
	w.refused(w.approve(w.cancel(id, 1, "hello"), "red"), "state-damaged")
}

func TestSlotListsABoundedNumberOfContracts(t *testing.T) {
	w := newWorld(t)
	var runs RunsRecord
	for i := range MaxRuns {
		runs.Entries = append(runs.Entries, RunEntry{Contract: canon.Hash{byte(i >> 8), byte(i)}, Version: 1})
	}
	if err := store(w.st, KeyRuns(w.slots[0]), runs); err != nil {
		t.Fatal(err)
	}
	w.refused(w.approve(w.deploy("hello", w.job("web", w.slots[0])), "red", "green"), "capacity-exceeded")
	runs.Entries = runs.Entries[1:]
	if err := store(w.st, KeyRuns(w.slots[0]), runs); err != nil {
		t.Fatal(err)
	}
	w.ok(w.approve(w.deploy("hello", w.job("web", w.slots[0])), "red", "green"))
}
