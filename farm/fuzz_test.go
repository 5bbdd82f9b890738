package farm

import (
	"bytes"
	"context"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/seal"
	"github.com/zero-os/zos/sign"
)

var (
	fuzzGrid = canon.Sum([]byte("grid"))
	fuzzSlot = canon.Sum([]byte("slot"))
)

func signed(f *testing.F, st contract.Statement, s sign.Signer) contract.Signed {
	out, err := contract.Sign(context.Background(), st, st.Head().Kind, s)
	if err != nil {
		f.Fatal(err)
	}
	return out
}

func seedAll(f *testing.F, v any) {
	b, err := canon.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add(append(bytes.Clone(b), 0))
	for i := 0; i < len(b); i += max(1, len(b)/16) {
		c := bytes.Clone(b)
		c[i] ^= 0x20
		f.Add(c)
	}
	f.Add(bytes.Repeat([]byte{0x81}, 100))
}

func FuzzOpenJoin(f *testing.F) {
	key, farm := sign.FromSeed([32]byte{1}), canon.Sum([]byte("farm"))
	k, err := seal.KeyFromSeed([32]byte{2})
	if err != nil {
		f.Fatal(err)
	}
	n := contract.NewNode(fuzzGrid, fuzzSlot, 1, key.Public(), k.Public(), canon.Hash{}, make([]byte, 16), 1)
	seedAll(f, signed(f, Join{
		Header: contract.Header{V: contract.Version, Kind: KindJoin, Grid: fuzzGrid}, Farm: farm, ID: make([]byte, 16), Hints: []string{"mac:x"},
		Node: signed(f, n, key),
	}, key))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, _, n, err := openJoin(fuzzGrid, farm, b)
		if err == nil && (j.Farm != farm || len(n.SigningKey) == 0 || len(j.Hints) > MaxHints) {
			t.Errorf("accepted %+v", j)
		}
	})
}

func FuzzOpenAnswer(f *testing.F) {
	farmKey, agent, join := sign.FromSeed([32]byte{1}), sign.FromSeed([32]byte{2}), canon.Sum([]byte("join"))
	farm := canon.Sum([]byte("farm"))
	d := signed(f, contract.NewDelegation(fuzzGrid, farm, agent.Public(), []string{"admit"}, nil, 0, contract.Capacity{}, 1, 1), farmKey)
	seedAll(f, answerWire{Delegation: d, Answer: signed(f, Answer{
		Header: contract.Header{V: contract.Version, Kind: KindAnswer, Grid: fuzzGrid}, Farm: farm, Slot: fuzzSlot, Join: join,
		Outcome: ReplyBound, Epoch: 1, Delegation: d.ID(),
	}, agent)})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := openAnswer(fuzzGrid, farm, farmKey.Public(), fuzzSlot, join, b)
		if err == nil && a.Join != join {
			t.Errorf("accepted %+v", a)
		}
	})
}
