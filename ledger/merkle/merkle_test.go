package merkle

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/zero-os/zos/canon"
)

func set(key, value string) Change { return Change{Key: []byte(key), Value: []byte(value)} }

func tree(t testing.TB, pairs ...string) Tree {
	t.Helper()
	var changes []Change
	for i := 0; i < len(pairs); i += 2 {
		changes = append(changes, set(pairs[i], pairs[i+1]))
	}
	tr, err := Tree{}.Apply(changes)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func encode(t testing.TB, proof any, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	b, err := canon.Marshal(proof)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func proveGet(t testing.TB, tr Tree, key string) []byte {
	t.Helper()
	p, err := tr.ProveGet([]byte(key))
	return encode(t, p, err)
}

func proveList(t testing.TB, tr Tree, prefix string) []byte {
	t.Helper()
	p, err := tr.ProveList([]byte(prefix))
	return encode(t, p, err)
}

// keys are few and short, so that many are prefixes of others.
func keyGen() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringOfN(rapid.SampledFrom([]rune("ab")), 1, 6, -1),
		rapid.Custom(func(t *rapid.T) string {
			return string(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 0x7f, 0x80, 0xff}), 1, 4).Draw(t, "bytes"))
		}),
	)
}

// TestTreeIsASortedMapWithProofs compares the tree with a Go map: content,
// order, root, and every kind of proof.
func TestTreeIsASortedMapWithProofs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		model := map[string]string{}
		var tr Tree
		for range rapid.IntRange(0, 6).Draw(rt, "batches") {
			var changes []Change
			for range rapid.IntRange(0, 12).Draw(rt, "changes") {
				key := keyGen().Draw(rt, "key")
				if rapid.IntRange(0, 3).Draw(rt, "what") == 0 {
					changes = append(changes, Change{Key: []byte(key), Delete: true})
					delete(model, key)
				} else {
					value := rapid.StringN(0, 3, -1).Draw(rt, "value")
					changes = append(changes, set(key, value))
					model[key] = value
				}
			}
			before, beforeLen := tr.Root(), tr.Len()
			next, err := tr.Apply(changes)
			if err != nil {
				rt.Fatal(err)
			}
			if tr.Root() != before || tr.Len() != beforeLen {
				rt.Fatal("Apply changed the old version")
			}
			tr = next
		}
		if tr.Len() != len(model) {
			rt.Fatalf("Len %d, want %d", tr.Len(), len(model))
		}
		sorted := slices.Sorted(maps.Keys(model))
		var walked []string
		tr.Walk(nil, func(k, v []byte) bool {
			if model[string(k)] != string(v) {
				rt.Fatalf("Walk gives %q = %q, want %q", k, v, model[string(k)])
			}
			walked = append(walked, string(k))
			return true
		})
		if !slices.Equal(walked, sorted) {
			rt.Fatalf("Walk order %q, want %q", walked, sorted)
		}
		// The root is that of the content alone, made in another order.
		var again []Change
		for k, v := range model {
			again = append(again, set(k, v))
		}
		fresh, err := Tree{}.Apply(again)
		if err != nil {
			rt.Fatal(err)
		}
		if fresh.Root() != tr.Root() {
			rt.Fatal("the root depends on history")
		}
		for range 10 {
			key := keyGen().Draw(rt, "probe")
			p, err := tr.ProveGet([]byte(key))
			if err != nil {
				rt.Fatal(err)
			}
			b, err := canon.Marshal(p)
			if err != nil {
				rt.Fatal(err)
			}
			value, found, err := VerifyGet(tr.Root(), []byte(key), b)
			want, wantFound := model[key]
			if err != nil || found != wantFound || string(value) != want {
				rt.Fatalf("VerifyGet(%q) = %q, %v, %v; want %q, %v", key, value, found, err, want, wantFound)
			}

			prefix := key[:rapid.IntRange(0, len(key)).Draw(rt, "cut")]
			l, err := tr.ProveList([]byte(prefix))
			if err != nil {
				rt.Fatal(err)
			}
			b, err = canon.Marshal(l)
			if err != nil {
				rt.Fatal(err)
			}
			items, err := VerifyList(tr.Root(), []byte(prefix), b)
			if err != nil {
				rt.Fatalf("VerifyList(%q): %v", prefix, err)
			}
			var wantItems []string
			for _, k := range sorted {
				if strings.HasPrefix(k, prefix) {
					wantItems = append(wantItems, k+"="+model[k])
				}
			}
			var have []string
			for _, kv := range items {
				have = append(have, string(kv.Key)+"="+string(kv.Value))
			}
			if !slices.Equal(have, wantItems) {
				rt.Fatalf("VerifyList(%q) = %q, want %q", prefix, have, wantItems)
			}
		}
	})
}

func TestKeysThatArePrefixesOfOthersAreApart(t *testing.T) {
	tr := tree(t, "a", "1", "ab", "2", "abc", "3", "a\x00", "4", "a\xff", "5")
	for key, want := range map[string]string{"a": "1", "ab": "2", "abc": "3", "a\x00": "4", "a\xff": "5"} {
		if v, ok := tr.Get([]byte(key)); !ok || string(v) != want {
			t.Errorf("Get(%q) = %q, %v; want %q", key, v, ok, want)
		}
		if v, ok, err := VerifyGet(tr.Root(), []byte(key), proveGet(t, tr, key)); err != nil || !ok || string(v) != want {
			t.Errorf("VerifyGet(%q) = %q, %v, %v; want %q", key, v, ok, err, want)
		}
	}
	items, err := VerifyList(tr.Root(), []byte("ab"), proveList(t, tr, "ab"))
	if err != nil || len(items) != 2 {
		t.Fatalf("VerifyList(ab) = %d keys, %v; want ab and abc", len(items), err)
	}
	smaller, err := tr.Apply([]Change{{Key: []byte("ab"), Delete: true}})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := smaller.Get([]byte("abc")); !ok || smaller.Len() != 4 {
		t.Error("deleting ab took abc with it")
	}
}

func TestHashesAreTheDocumentedOnes(t *testing.T) {
	if (Tree{}).Root() != (canon.Hash{}) {
		t.Error("the empty tree's root is not zero")
	}
	// "a" and "b" differ in their last two bits: bit 1+6 of the first byte.
	va, vb := canon.Sum([]byte("1")), canon.Sum([]byte("2"))
	la := canon.Sum(slices.Concat([]byte{0, 0, 0, 0, 1, 'a'}, va[:]))
	lb := canon.Sum(slices.Concat([]byte{0, 0, 0, 0, 1, 'b'}, vb[:]))
	want := canon.Sum(slices.Concat([]byte{1, 0, 0, 0, 7}, la[:], lb[:]))
	if got := tree(t, "b", "2", "a", "1").Root(); got != want {
		t.Errorf("root %s, want %s", got, want)
	}
	// Fixed for ever: a ledger's history depends on it.
	const fixed = "77177dbd26d35db2acbec236762cd6b6438812fb128f7e1638d1e34ce326ecfb"
	if got := nodes(t).Root().String(); got != fixed {
		t.Errorf("root of the fixed tree %s, want %s", got, fixed)
	}
}

// alterGet returns proofs that differ from p in one field or element each.
func alterGet(p GetProof) map[string]GetProof {
	out := map[string]GetProof{}
	alter := func(name string, f func(*GetProof)) {
		q := p
		q.Steps = slices.Clone(p.Steps)
		q.Value, q.Other = bytes.Clone(p.Value), bytes.Clone(p.Other)
		f(&q)
		out[name] = q
	}
	alter("v", func(q *GetProof) { q.V++ })
	alter("found", func(q *GetProof) { q.Found = !q.Found })
	alter("value longer", func(q *GetProof) { q.Value = append(q.Value, 0) })
	alter("other longer", func(q *GetProof) { q.Other = append(q.Other, 'x') })
	alter("other hash", func(q *GetProof) { q.OtherHash[3] ^= 1 })
	alter("step added", func(q *GetProof) { q.Steps = append(q.Steps, Step{Bit: maxSteps - 1}) })
	if len(p.Value) > 0 {
		alter("value bit", func(q *GetProof) { q.Value[0] ^= 1 })
		alter("value empty", func(q *GetProof) { q.Value = nil })
	}
	if len(p.Other) > 0 {
		alter("other bit", func(q *GetProof) { q.Other[0] ^= 1 })
		alter("other empty", func(q *GetProof) { q.Other = nil })
	}
	for i := range p.Steps {
		alter(fmt.Sprintf("step %d bit +1", i), func(q *GetProof) { q.Steps[i].Bit++ })
		alter(fmt.Sprintf("step %d bit 0", i), func(q *GetProof) { q.Steps[i].Bit ^= 64 })
		alter(fmt.Sprintf("step %d sibling", i), func(q *GetProof) { q.Steps[i].Sibling[31] ^= 0x80 })
		alter(fmt.Sprintf("step %d left out", i), func(q *GetProof) { q.Steps = slices.Delete(q.Steps, i, i+1) })
		alter(fmt.Sprintf("step %d twice", i), func(q *GetProof) { q.Steps = slices.Insert(q.Steps, i, q.Steps[i]) })
	}
	return out
}

func alterList(p ListProof) map[string]ListProof {
	out := map[string]ListProof{}
	alter := func(name string, f func(*ListProof)) {
		q := p
		q.Steps, q.Items, q.Other = slices.Clone(p.Steps), slices.Clone(p.Items), bytes.Clone(p.Other)
		for i := range q.Items {
			q.Items[i].Key, q.Items[i].Value = bytes.Clone(q.Items[i].Key), bytes.Clone(q.Items[i].Value)
		}
		f(&q)
		out[name] = q
	}
	alter("v", func(q *ListProof) { q.V++ })
	alter("other longer", func(q *ListProof) { q.Other = append(q.Other, 'x') })
	alter("other hash", func(q *ListProof) { q.OtherHash[3] ^= 1 })
	alter("no items", func(q *ListProof) {
		if q.Items == nil {
			q.V = 7
		}
		q.Items = nil
	})
	alter("item added", func(q *ListProof) { q.Items = append(q.Items, KV{Key: []byte("node/zz"), Value: []byte("x")}) })
	alter("step added", func(q *ListProof) { q.Steps = append(q.Steps, Step{Bit: 40}) })
	for i := range p.Items {
		alter(fmt.Sprintf("item %d left out", i), func(q *ListProof) { q.Items = slices.Delete(q.Items, i, i+1) })
		alter(fmt.Sprintf("item %d twice", i), func(q *ListProof) { q.Items = slices.Insert(q.Items, i, q.Items[i]) })
		alter(fmt.Sprintf("item %d key", i), func(q *ListProof) { q.Items[i].Key[len(q.Items[i].Key)-1] ^= 1 })
		alter(fmt.Sprintf("item %d value", i), func(q *ListProof) { q.Items[i].Value = append(q.Items[i].Value, 1) })
	}
	if len(p.Items) > 1 {
		alter("items swapped", func(q *ListProof) { q.Items[0], q.Items[1] = q.Items[1], q.Items[0] })
	}
	for i := range p.Steps {
		alter(fmt.Sprintf("step %d bit", i), func(q *ListProof) { q.Steps[i].Bit ^= 1 })
		alter(fmt.Sprintf("step %d sibling", i), func(q *ListProof) { q.Steps[i].Sibling[0] ^= 1 })
		alter(fmt.Sprintf("step %d left out", i), func(q *ListProof) { q.Steps = slices.Delete(q.Steps, i, i+1) })
	}
	if len(p.Other) > 0 {
		alter("other bit", func(q *ListProof) { q.Other[0] ^= 1 })
		alter("other empty", func(q *ListProof) { q.Other = nil })
	}
	return out
}

func nodes(t testing.TB) Tree {
	return tree(t, "grid", "g", "group/1", "x", "node/1", "one", "node/2", "two", "node/22", "", "receipt/9", "r", "z", "last")
}

func TestAlteredProofIsRefused(t *testing.T) {
	tr := nodes(t)
	for _, key := range []string{"node/2", "node/22", "node/3", "a", "zz", "nod"} {
		p, err := tr.ProveGet([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := VerifyGet(tr.Root(), []byte(key), encode(t, p, nil)); err != nil {
			t.Fatalf("unaltered proof for %s: %v", key, err)
		}
		for what, q := range alterGet(p) {
			if v, found, err := VerifyGet(tr.Root(), []byte(key), encode(t, q, nil)); !errors.Is(err, ErrProof) {
				t.Errorf("proof for %s, %s: accepted as %q, %v (%v)", key, what, v, found, err)
			}
		}
	}
	for _, prefix := range []string{"node/", "node/2", "node/3", "", "group/", "a", "zzz", "node/22"} {
		p, err := tr.ProveList([]byte(prefix))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyList(tr.Root(), []byte(prefix), encode(t, p, nil)); err != nil {
			t.Fatalf("unaltered proof for %q*: %v", prefix, err)
		}
		for what, q := range alterList(p) {
			if items, err := VerifyList(tr.Root(), []byte(prefix), encode(t, q, nil)); !errors.Is(err, ErrProof) {
				t.Errorf("proof for %q*, %s: accepted with %d keys (%v)", prefix, what, len(items), err)
			}
		}
	}
}

// TestEveryAlteredByteOfAProofIsRefused flips bytes of the encoding, which also
// meets what the canonical decoder lets through.
func TestEveryAlteredByteOfAProofIsRefused(t *testing.T) {
	tr := nodes(t)
	check := func(name string, proof []byte, verify func([]byte) error) {
		t.Helper()
		if err := verify(proof); err != nil {
			t.Fatalf("%s, unaltered: %v", name, err)
		}
		for i := range proof {
			for _, x := range []byte{0x01, 0x20, 0x80, 0xff} {
				q := bytes.Clone(proof)
				q[i] ^= x
				if verify(q) == nil {
					t.Errorf("%s: byte %d xor %#x is accepted", name, i, x)
				}
			}
		}
		for i := range proof {
			if verify(proof[:i]) == nil {
				t.Errorf("%s: cut to %d bytes is accepted", name, i)
			}
		}
	}
	for _, key := range []string{"node/2", "node/3"} {
		check(key, proveGet(t, tr, key), func(b []byte) error { _, _, err := VerifyGet(tr.Root(), []byte(key), b); return err })
	}
	for _, prefix := range []string{"node/", "x"} {
		check(prefix+"*", proveList(t, tr, prefix), func(b []byte) error { _, err := VerifyList(tr.Root(), []byte(prefix), b); return err })
	}
}

// TestProofHoldsForItsQuestionOnly asks every key and prefix with every other
// one's proof: an answer is then either refused or true.
func TestProofHoldsForItsQuestionOnly(t *testing.T) {
	tr := nodes(t)
	asked := []string{"grid", "group/1", "node/1", "node/2", "node/22", "node/3", "node/", "n", "a", "z", "zz", "receipt/9"}
	for _, a := range asked {
		getProof, listProof := proveGet(t, tr, a), proveList(t, tr, a)
		for _, b := range asked {
			if v, found, err := VerifyGet(tr.Root(), []byte(b), getProof); err == nil {
				want, wantFound := tr.Get([]byte(b))
				if found != wantFound || !bytes.Equal(v, want) {
					t.Errorf("proof for %s answers %s with %q, %v; true is %q, %v", a, b, v, found, want, wantFound)
				}
			}
			if items, err := VerifyList(tr.Root(), []byte(b), listProof); err == nil {
				n := 0
				tr.Walk([]byte(b), func(_, _ []byte) bool { n++; return true })
				if n != len(items) {
					t.Errorf("proof for %s* answers %s* with %d keys, there are %d", a, b, len(items), n)
				}
			}
			if _, _, err := VerifyGet(tr.Root(), []byte(b), listProof); err == nil {
				t.Errorf("list proof for %s passes for a get proof of %s", a, b)
			}
		}
	}
	other := tree(t, "node/2", "two")
	if _, _, err := VerifyGet(other.Root(), []byte("node/2"), proveGet(t, tr, "node/2")); !errors.Is(err, ErrProof) {
		t.Errorf("a proof holds for another root: %v", err)
	}
	if _, _, err := VerifyGet(tr.Root(), []byte("node/2"), proveGet(t, Tree{}, "node/2")); !errors.Is(err, ErrProof) {
		t.Errorf("the empty tree's proof holds for a full one: %v", err)
	}
	if _, err := VerifyList(tr.Root(), nil, proveList(t, Tree{}, "")); !errors.Is(err, ErrProof) {
		t.Errorf("the empty tree's list holds for a full one: %v", err)
	}
}

func TestLimitsHold(t *testing.T) {
	long := strings.Repeat("k", MaxKey)
	tr := tree(t, long, "v", long[1:], "w")
	if v, ok, err := VerifyGet(tr.Root(), []byte(long), proveGet(t, tr, long)); err != nil || !ok || string(v) != "v" {
		t.Errorf("longest key: %q, %v, %v", v, ok, err)
	}
	for _, c := range []Change{set("", "v"), set(long+"x", "v"), set("k", string(make([]byte, MaxValue+1)))} {
		if _, err := tr.Apply([]Change{c}); err == nil {
			t.Errorf("key of %d bytes with value of %d bytes is accepted", len(c.Key), len(c.Value))
		}
	}
	var many []Change
	for i := range MaxItems + 1 {
		many = append(many, set(fmt.Sprintf("k/%06d", i), "v"))
	}
	big, err := Tree{}.Apply(many)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := big.ProveList([]byte("k/")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("list of %d keys: %v, want ErrTooLarge", big.Len(), err)
	}
	if items, err := VerifyList(big.Root(), []byte("k/0001"), proveList(t, big, "k/0001")); err != nil || len(items) != 100 {
		t.Errorf("list of 100 in %d keys: %d, %v", big.Len(), len(items), err)
	}
	wide, err := Tree{}.Apply([]Change{
		set("v/1", string(make([]byte, MaxValue))), set("v/2", string(make([]byte, MaxValue))), set("v/3", string(make([]byte, MaxValue))),
		set("v/4", string(make([]byte, MaxValue))), set("v/5", string(make([]byte, MaxValue))),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wide.ProveList([]byte("v/")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("list of 10 MiB: %v, want ErrTooLarge", err)
	}
}

func fuzzTree(f *testing.F) Tree {
	return tree(f, "grid", "g", "group/1", "x", "node/1", "one", "node/2", "two", "node/22", "", "receipt/9", "r")
}

// FuzzVerifyGet feeds arbitrary bytes as a proof: what is accepted is true.
func FuzzVerifyGet(f *testing.F) {
	tr := fuzzTree(f)
	for _, key := range []string{"node/1", "node/3", "grid", "a"} {
		f.Add([]byte(key), proveGet(f, tr, key))
	}
	f.Add([]byte("x"), proveGet(f, Tree{}, "x"))
	f.Fuzz(func(t *testing.T, key, proof []byte) {
		value, found, err := VerifyGet(tr.Root(), key, proof)
		if err != nil {
			return
		}
		if want, ok := tr.Get(key); ok != found || !bytes.Equal(value, want) {
			t.Fatalf("accepted %q = %q, %v; true is %q, %v", key, value, found, want, ok)
		}
	})
}

// FuzzVerifyList feeds arbitrary bytes as a list's proof.
func FuzzVerifyList(f *testing.F) {
	tr := fuzzTree(f)
	for _, prefix := range []string{"node/", "node/3", "", "a"} {
		f.Add([]byte(prefix), proveList(f, tr, prefix))
	}
	f.Fuzz(func(t *testing.T, prefix, proof []byte) {
		items, err := VerifyList(tr.Root(), prefix, proof)
		if err != nil {
			return
		}
		i := 0
		tr.Walk(prefix, func(key, value []byte) bool {
			if i >= len(items) || !bytes.Equal(items[i].Key, key) || !bytes.Equal(items[i].Value, value) {
				t.Fatalf("accepted a list of %q* in which item %d is not %q", prefix, i, key)
			}
			i++
			return true
		})
		if i != len(items) {
			t.Fatalf("accepted a list of %q* with %d keys, there are %d", prefix, len(items), i)
		}
	})
}

func BenchmarkApply100Of100k(b *testing.B) {
	var all []Change
	for i := range 100_000 {
		h := canon.Sum(fmt.Appendf(nil, "%d", i))
		all = append(all, set("contract/"+h.String(), "value"))
	}
	tr, err := Tree{}.Apply(all)
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		var some []Change
		for range 100 {
			some = append(some, Change{Key: all[r.IntN(len(all))].Key, Value: []byte("new")})
		}
		if _, err := tr.Apply(some); err != nil {
			b.Fatal(err)
		}
	}
}
