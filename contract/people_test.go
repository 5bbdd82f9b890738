package contract

import (
	"fmt"
	"testing"

	"github.com/zero-os/zos/canon"
)

func TestAccountIsSignedByItsOwnKeyAlone(t *testing.T) {
	w := newWorld(t)
	a := NewAccount(w.grid, "zoe", w.key("zoe").Public())
	w.refused(w.sign(a, KindAccount), "signature-missing")
	w.refused(w.sign(a, KindAccount, "red"), "signature-missing")
	w.refused(w.sign(a, KindAccount, "zoe", "red"), "signature-unexpected")
	id := w.ok(w.sign(a, KindAccount, "zoe")).ID
	if r := record[AccountRecord](w, KeyAccount(id)); r.Signed.ID() != id || r.Time != w.now {
		t.Errorf("record: %+v", r)
	}
	if r := record[KeyRecord](w, KeyKey(w.key("zoe").Public())); r != (KeyRecord{Kind: KindAccount, Owner: id}) {
		t.Errorf("key: %+v", r)
	}
	w.refused(w.sign(a, KindAccount, "zoe"), "already-exists")
}

func TestOneKeyFoundsOneAccount(t *testing.T) {
	w := newWorld(t)
	w.refused(w.sign(NewAccount(w.grid, "red-again", w.key("red").Public()), KindAccount, "red"), "key-taken")
}

func TestNamesAreFirstComeAndWellFormed(t *testing.T) {
	w := newWorld(t)
	w.refused(w.sign(NewAccount(w.grid, "red", w.key("other").Public()), KindAccount, "other"), "name-taken")
	w.refused(w.sign(NewGroup(w.grid, "demo", w.accounts["eve"], 1, nonce("x"), w.members("eve")...), KindGroup, "eve"), "name-taken")
	w.refused(w.sign(NewFarm(w.grid, "barn", w.key("other").Public()), KindFarm, "other"), "name-taken")
	for _, name := range []string{"", "Red", "red blue", "räd", "a/b", "a.b", "a_b", string(make30k()[:64])} {
		w.refused(w.sign(NewAccount(w.grid, name, w.key("other").Public()), KindAccount, "other"), "name-invalid")
		w.refused(w.sign(NewFarm(w.grid, name, w.key("other").Public()), KindFarm, "other"), "name-invalid")
		w.refused(w.sign(NewGroup(w.grid, name, w.accounts["eve"], 1, nonce("x"), w.members("eve")...), KindGroup, "eve"), "name-invalid")
	}
	// One name may stand for one of each kind.
	w.ok(w.sign(NewFarm(w.grid, "demo", w.key("other").Public()), KindFarm, "other"))
	w.ok(w.sign(NewAccount(w.grid, string(make30k()[:63]), w.key("other").Public()), KindAccount, "other"))
}

func TestGroupMustBeAbleToDecide(t *testing.T) {
	w := newWorld(t)
	group := func(change func(*Group)) Signed {
		g := NewGroup(w.grid, "team", w.accounts["red"], 2, nonce("team"), w.members("red", "green", "blue")...)
		change(&g)
		return w.sign(g, KindGroup, "red")
	}
	for _, c := range []struct {
		name, code string
		change     func(*Group)
	}{
		{"threshold that can never be met", "threshold-unreachable", func(g *Group) { g.Threshold = 4 }},
		{"threshold of nothing", "group-invalid", func(g *Group) { g.Threshold = 0 }},
		{"no members", "group-invalid", func(g *Group) { g.Members = nil }},
		{"member of no weight", "group-invalid", func(g *Group) { g.Members[0].Weight = 0 }},
		{"weight out of range", "group-invalid", func(g *Group) { g.Members[0].Weight = MaxWeight + 1 }},
		{"weights that overflow", "group-invalid", func(g *Group) { g.Members[0].Weight, g.Members[1].Weight = 1<<63, 1<<63 }},
		{"member twice", "group-invalid", func(g *Group) { g.Members[1] = g.Members[0] }},
		{"members unsorted", "group-invalid", func(g *Group) { g.Members[0], g.Members[1] = g.Members[1], g.Members[0] }},
		{"short nonce", "group-invalid", func(g *Group) { g.Nonce = nil }},
		{"unknown member", "account-unknown", func(g *Group) { g.Members[2].Account = canon.Hash{31: 1, 0: 0xff} }},
		{"unknown founder", "account-unknown", func(g *Group) { g.Founder = canon.Sum(nil) }},
		{"another founder", "signature-missing", func(g *Group) { g.Founder = w.accounts["green"] }},
		{"another grid", "wrong-grid", func(g *Group) { g.Grid = canon.Sum(nil) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			s := group(c.change)
			if c.name == "unknown member" {
				g := NewGroup(w.grid, "team", w.accounts["red"], 1, nonce("team"), Member{Account: canon.Sum(nil), Weight: 1})
				s = w.sign(g, KindGroup, "red")
			}
			w.refused(s, c.code)
		})
	}
	w.t = t
	many := make([]Member, MaxMembers+1)
	for i := range many {
		many[i] = Member{Account: canon.Hash{0: byte(i)}, Weight: 1}
	}
	w.refused(w.sign(NewGroup(w.grid, "team", w.accounts["red"], 1, nonce("team"), many...), KindGroup, "red"), "group-invalid")
	good := group(func(*Group) {})
	extra, err := Countersign(t.Context(), good, KindGroup, w.key("green"))
	if err != nil {
		t.Fatal(err)
	}
	w.refused(extra, "signature-unexpected")
	id := w.ok(good).ID
	if r := record[GroupRecord](w, KeyGroup(id)); r.Epoch != 1 || r.Signed.ID() != id {
		t.Errorf("record: %+v", r)
	}
	w.refused(good, "already-exists")
}

func TestTheGreatestWeightsAddUp(t *testing.T) {
	w := newWorld(t)
	m := w.members("red", "green")
	m[0].Weight, m[1].Weight = MaxWeight, MaxWeight
	w.ok(w.sign(NewGroup(w.grid, "team", w.accounts["red"], 2*MaxWeight, nonce("team"), m...), KindGroup, "red"))
}

func TestGenesisMustMakeSense(t *testing.T) {
	w := founded(t, "test")
	good, err := DecodeGenesis(w.genesis)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Genesis){
		"format":                    func(g *Genesis) { g.V = 2 },
		"kind":                      func(g *Genesis) { g.Kind = KindAccount },
		"name":                      func(g *Genesis) { g.Name = "Test" },
		"nonce":                     func(g *Genesis) { g.Nonce = nil },
		"no validators":             func(g *Genesis) { g.Validators = nil },
		"validator's key":           func(g *Genesis) { g.Validators = []Validator{{Name: "a", Key: []byte{1}, Power: 1}} },
		"validator without power":   func(g *Genesis) { g.Validators = []Validator{{Name: "a", Key: make([]byte, 32)}} },
		"validator twice":           func(g *Genesis) { g.Validators = append(g.Validators, g.Validators[0]) },
		"no release keys":           func(g *Genesis) { g.ReleaseKeys, g.ReleaseThreshold = nil, 0 },
		"release key twice":         func(g *Genesis) { g.ReleaseKeys = append(g.ReleaseKeys, g.ReleaseKeys[0]) },
		"too many release keys":     func(g *Genesis) { g.ReleaseKeys = manyKeys(MaxReleaseKeys + 1) },
		"too many validators":       func(g *Genesis) { g.Validators = manyValidators(MaxValidators + 1) },
		"release key damaged":       func(g *Genesis) { g.ReleaseKeys = append(g.ReleaseKeys, []byte("x")) },
		"no release threshold":      func(g *Genesis) { g.ReleaseThreshold = 0 },
		"release threshold too far": func(g *Genesis) { g.ReleaseThreshold = 4 },
	} {
		g := good
		g.Validators, g.ReleaseKeys = append([]Validator{}, good.Validators...), append([][]byte{}, good.ReleaseKeys...)
		change(&g)
		if _, err := EncodeGenesis(g); err == nil {
			t.Errorf("%s: encoded", name)
		}
		b, err := canon.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		if Init(memory{}, b) == nil {
			t.Errorf("%s: founded a grid", name)
		}
	}
	if Init(memory{}, append(w.genesis, 0)) == nil {
		t.Error("founded a grid on bytes that are not canonical")
	}
	if _, err := Apply(memory{}, start, w.tx(w.sign(NewAccount(w.grid, "a", w.key("a").Public()), KindAccount, "a"))); err == nil {
		t.Error("a ledger without genesis took a transaction")
	}
}

func TestOtherKindsStayOffTheLedger(t *testing.T) {
	w := newWorld(t)
	w.refused(w.sign(NewTag(w.grid, w.accounts["red"], "hello", "1", canon.Sum(nil), 1, later), KindTag, "red"), "kind-unknown")
	w.refused(Signed{Statement: []byte{0xa0}}, "statement-invalid")
	w.refused(Signed{}, "statement-invalid")
	for _, tx := range [][]byte{nil, {0}, {0xa0}, make([]byte, MaxSigned+1)} {
		if _, err := w.st.do(w.now, tx); err == nil {
			t.Errorf("accepted %d bytes of nothing", len(tx))
		}
	}
}

func TestStatementsOfAnotherFormatAreRefused(t *testing.T) {
	w := newWorld(t)
	a := NewAccount(w.grid, "zoe", w.key("zoe").Public())
	a.V = 2
	b, err := canon.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Countersign(t.Context(), Signed{Statement: b}, KindAccount, w.key("zoe"))
	if err != nil {
		t.Fatal(err)
	}
	w.refused(s, "wrong-version")
	if _, err := Sign(t.Context(), a, KindAccount); err == nil {
		t.Error("signed a statement of another format")
	}
	if _, err := Sign(t.Context(), NewAccount(w.grid, "zoe", nil), KindGroup); err == nil {
		t.Error("signed a statement as another kind")
	}
}

func TestTooMuchIsRefused(t *testing.T) {
	w := newWorld(t)
	s := w.approve(w.deploy("hello", w.job("web", w.slots[0])), "red")
	for range MaxSignatures {
		s.Signatures = append(s.Signatures, s.Signatures[0])
	}
	w.refused(s, "too-large")
	// A large statement is for approvals alone.
	d := NewDelegation(w.grid, w.farm, w.key("agent").Public(), nil, make([]canon.Hash, 600), 0, Capacity{}, 1, later)
	w.refused(w.sign(d, KindDelegation, "farm"), "statement-invalid")
}

func TestReleaseNeedsItsQuorumAndOnlyRises(t *testing.T) {
	w := newWorld(t)
	release := func(sequence uint64, by ...string) Signed {
		return w.sign(NewRelease(w.grid, sequence, "2026.11.1", canon.Sum([]byte("os")), later, Checkpoint{}), KindRelease, by...)
	}
	w.refused(release(1), "approvals-insufficient")
	w.refused(release(1, "release-1"), "approvals-insufficient")
	w.refused(release(1, "release-1", "release-1"), "signature-duplicate")
	w.refused(release(1, "release-1", "red"), "signature-unexpected")
	w.ok(release(2, "release-1", "release-3"))
	w.refused(release(2, "release-1", "release-2"), "stale-sequence")
	w.refused(release(1, "release-1", "release-2"), "stale-sequence")
	w.ok(release(3, "release-2", "release-1", "release-3"))
	if r := record[ReleaseRecord](w, KeyReleaseFloor); r.Sequence != 3 {
		t.Errorf("floor: %+v", r)
	}
	w.now = later + 1
	w.refused(release(4, "release-1", "release-2"), "release-expired")
	w.now = start
	w.refused(w.sign(NewRelease(w.grid, 0, "x", canon.Sum(nil), later, Checkpoint{}), KindRelease, "release-1", "release-2"), "statement-invalid")
	w.refused(w.sign(NewRelease(w.grid, 9, "x", canon.Hash{}, later, Checkpoint{}), KindRelease, "release-1", "release-2"), "statement-invalid")
	w.refused(w.sign(NewRelease(w.grid, 9, "\x1b[2J", canon.Sum(nil), later, Checkpoint{}), KindRelease, "release-1", "release-2"), "statement-invalid")
}

func manyKeys(n int) [][]byte {
	var keys [][]byte
	for i := range n {
		keys = append(keys, signer(fmt.Sprint("many ", i)).Public())
	}
	return keys
}

func manyValidators(n int) []Validator {
	var all []Validator
	for i := range n {
		key := canon.Sum([]byte{byte(i)})
		all = append(all, Validator{Name: fmt.Sprint("v", i), Key: key[:], Power: 1})
	}
	return all
}
