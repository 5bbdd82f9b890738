package domain

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

// team is a group of four: weights 2, 1, 1, 1, threshold 3.
type team struct {
	grid, id canon.Hash
	group    contract.Group
	accounts []canon.Hash
	members  []sign.Signer
	keys     map[canon.Hash]sign.PublicKey
	outsider sign.Signer
}

func newTeam(t testing.TB) *team {
	t.Helper()
	x := &team{grid: canon.Sum([]byte("grid")), id: canon.Sum([]byte("group")), keys: map[canon.Hash]sign.PublicKey{}}
	var members []contract.Member
	for i := range 4 {
		s := sign.FromSeed([32]byte{byte(i + 1)})
		account := canon.Sum([]byte{byte(i)})
		x.members, x.accounts = append(x.members, s), append(x.accounts, account)
		x.keys[account] = s.Public()
		weight := uint64(1)
		if i == 0 {
			weight = 2
		}
		members = append(members, contract.Member{Account: account, Weight: weight})
	}
	x.outsider = sign.FromSeed([32]byte{99})
	x.group = contract.NewGroup(x.grid, "shop", x.accounts[0], 3, bytes.Repeat([]byte{1}, 16), members...)
	if err := x.group.Validate(); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *team) statement() Statement { return Statement{x.grid, x.id, "shop.example"} }

func (x *team) sig(t testing.TB, s Statement, by sign.Signer) []byte {
	t.Helper()
	b, err := Sign(context.Background(), s, by)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (x *team) text(t testing.TB, s Statement, sigs ...[]byte) string {
	t.Helper()
	text, err := Make(Proof{s.Group, sigs})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestProofCountsMembersOnceAndOnlyForItsStatement(t *testing.T) {
	x := newTeam(t)
	s := x.statement()
	m := x.members
	other := func(change func(*Statement)) Statement { o := s; change(&o); return o }
	wrongGrid := other(func(o *Statement) { o.Grid = canon.Sum([]byte("x")) })
	wrongGroup := other(func(o *Statement) { o.Group = canon.Sum([]byte("x")) })
	wrongDomain := other(func(o *Statement) { o.Domain = "other.example" })
	below := other(func(o *Statement) { o.Domain = "www.shop.example" })
	sig := func(s Statement, by sign.Signer) []byte { return x.sig(t, s, by) }
	b, _ := s.Bytes()
	otherNamespace, err := m[0].Sign(context.Background(), "zos-approval-v1", b)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(sig(s, m[0]))
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name string
		sigs [][]byte
		ok   bool
	}{
		{"two members of weight three", [][]byte{sig(s, m[0]), sig(s, m[1])}, true},
		{"in another order", [][]byte{sig(s, m[2]), sig(s, m[0])}, true},
		{"three of weight one", [][]byte{sig(s, m[1]), sig(s, m[2]), sig(s, m[3])}, true},
		{"all", [][]byte{sig(s, m[0]), sig(s, m[1]), sig(s, m[2]), sig(s, m[3])}, true},
		{"enough, and an outsider", [][]byte{sig(s, x.outsider), sig(s, m[0]), sig(s, m[1])}, true},
		{"enough, and one over another domain", [][]byte{sig(wrongDomain, m[2]), sig(s, m[0]), sig(s, m[1])}, true},
		{"one of weight two", [][]byte{sig(s, m[0])}, false},
		{"one twice", [][]byte{sig(s, m[0]), sig(s, m[0])}, false},
		{"two of weight one", [][]byte{sig(s, m[1]), sig(s, m[2])}, false},
		{"one and an outsider", [][]byte{sig(s, m[0]), sig(s, x.outsider)}, false},
		{"outsiders alone", [][]byte{sig(s, x.outsider), sig(s, x.outsider), sig(s, x.outsider)}, false},
		{"another grid", [][]byte{sig(wrongGrid, m[0]), sig(wrongGrid, m[1])}, false},
		{"another group", [][]byte{sig(wrongGroup, m[0]), sig(wrongGroup, m[1])}, false},
		{"another domain", [][]byte{sig(wrongDomain, m[0]), sig(wrongDomain, m[1])}, false},
		{"a domain below", [][]byte{sig(below, m[0]), sig(below, m[1])}, false},
		{"one is over another domain", [][]byte{sig(s, m[0]), sig(wrongDomain, m[1])}, false},
		{"another namespace", [][]byte{otherNamespace, sig(s, m[1])}, false},
		{"altered", [][]byte{flipped, sig(s, m[1])}, false},
	} {
		err := Verify(s, x.group, x.keys, []string{"v=spf1 -all", x.text(t, s, c.sigs...)})
		if (err == nil) != c.ok || !c.ok && problem.Code(err) != "domain-unproven" {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestProofDependsOnTheGroupAsItIs(t *testing.T) {
	x := newTeam(t)
	s := x.statement()
	text := x.text(t, s, x.sig(t, s, x.members[0]), x.sig(t, s, x.members[1]))
	verify := func(g contract.Group, keys map[canon.Hash]sign.PublicKey, texts ...string) error {
		return Verify(s, g, keys, texts)
	}
	if err := verify(x.group, x.keys, text); err != nil {
		t.Fatal(err)
	}
	higher := x.group
	higher.Threshold = 4
	if verify(higher, x.keys, text) == nil {
		t.Error("a threshold that was raised does not count")
	}
	without := x.group
	without.Members = slices.DeleteFunc(slices.Clone(x.group.Members), func(m contract.Member) bool { return m.Account == x.accounts[1] })
	if verify(without, x.keys, text) == nil {
		t.Error("a removed member counts")
	}
	open := x.group
	open.Threshold = 0
	if verify(open, x.keys, text) == nil {
		t.Error("a group without a threshold proves anything")
	}
	moved := map[canon.Hash]sign.PublicKey{x.accounts[0]: x.outsider.Public(), x.accounts[1]: x.keys[x.accounts[1]]}
	if verify(x.group, moved, text) == nil {
		t.Error("an old key counts")
	}
	shared := map[canon.Hash]sign.PublicKey{}
	for _, a := range x.accounts {
		shared[a] = x.members[1].Public() // one person under all names
	}
	if verify(x.group, shared, x.text(t, s, x.sig(t, s, x.members[1]))) == nil {
		t.Error("one key counts for several accounts")
	}
	// A record of another group, and one that is broken, don't hide it.
	foreign := s
	foreign.Group = canon.Sum([]byte("other"))
	if err := verify(x.group, x.keys, x.text(t, foreign, x.sig(t, foreign, x.members[0])), "zos1 nonsense", text); err != nil {
		t.Error(err)
	}
	if err := verify(x.group, x.keys, "zos1 nonsense"); problem.Code(err) != "domain-proof-invalid" {
		t.Errorf("%v", err)
	}
	if err := verify(x.group, x.keys); problem.Code(err) != "domain-unproven" {
		t.Errorf("%v", err)
	}
}

func TestProofsThatCannotBeReadAreRefused(t *testing.T) {
	x := newTeam(t)
	s := x.statement()
	good := x.text(t, s, x.sig(t, s, x.members[0]))
	if p, err := Parse(good); err != nil || p.Group != x.id || len(p.Signatures) != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := Parse("  " + strings.ReplaceAll(good, " ", "   ") + " "); err != nil {
		t.Errorf("blanks: %v", err)
	}
	one := " sig=" + base64.StdEncoding.EncodeToString([]byte("x"))
	for name, text := range map[string]string{
		"empty": "", "another version": strings.Replace(good, "zos1", "zos2", 1), "no signature": strings.Fields(good)[0] + " " + strings.Fields(good)[1],
		"short group": strings.Replace(good, "group=", "group=00", 1), "no group": strings.Replace(good, "group=", "farm=", 1),
		"zero group": "zos1 group=" + strings.Repeat("0", 64) + one, "cut": good[:len(good)-3], "another part": good + " x=y",
		"line end in base64": good + " sig=QUJD\nQUJD", "many signatures": good + strings.Repeat(one, MaxSignatures), "long": good + strings.Repeat(" ", MaxProof),
		"empty signature": good + " sig=",
	} {
		if _, err := Parse(text); problem.Code(err) != "domain-proof-invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Sign(context.Background(), Statement{x.grid, x.id, "Shop.example"}, x.members[0]); problem.Code(err) != "domain-proof-invalid" {
		t.Errorf("%v", err)
	}
	if _, err := Make(Proof{Group: x.id}); err == nil {
		t.Error("a proof without signatures")
	}
	if !Covers("shop.example", "shop.example") || !Covers("shop.example", "www.shop.example") || Covers("shop.example", "xshop.example") || Covers("www.shop.example", "shop.example") {
		t.Error("covers")
	}
}

func FuzzProof(f *testing.F) {
	x := newTeam(f)
	s := x.statement()
	f.Add(x.text(f, s, x.sig(f, s, x.members[0])))
	f.Add(x.text(f, s, x.sig(f, s, x.members[0]), x.sig(f, s, x.outsider)))
	f.Add("zos1 group=")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := Parse(text); err == nil {
			again, err := Make(p)
			if err != nil {
				t.Fatal(err)
			}
			if q, err := Parse(again); err != nil || len(q.Signatures) != len(p.Signatures) {
				t.Fatalf("%q: %v", again, err)
			}
		}
		if Verify(s, x.group, x.keys, []string{text}) == nil {
			t.Fatalf("%q proves", text) // no two members' signatures are in the corpus
		}
	})
}
