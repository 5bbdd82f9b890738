package exchange

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/zero-os/zos/canon"
	"github.com/zero-os/zos/contract"
	"github.com/zero-os/zos/network/wireguard"
	"github.com/zero-os/zos/problem"
	"github.com/zero-os/zos/sign"
)

var (
	grid    = canon.Sum([]byte("grid"))
	network = canon.Sum([]byte("network"))
	now     = time.Unix(1_800_000_000, 0)
)

// node is one side of an exchange.
type node struct {
	slot   canon.Hash
	epoch  uint64
	signer sign.Signer
	wg     wireguard.Key
}

func newNode(n byte) node {
	return node{slot: canon.Sum([]byte{n}), epoch: uint64(n), signer: sign.FromSeed([32]byte{n}), wg: wireguard.NewPrivateKey().Public()}
}

func (n node) binding(alter ...func(*Binding)) Binding {
	b := Binding{
		Network: network, Slot: n.slot, SlotEpoch: n.epoch, KeyEpoch: 7, WireGuard: n.wg[:],
		Sequence: 1000, Issued: uint64(now.Unix()), Expiry: uint64(now.Add(25 * time.Hour).Unix()),
	}
	for _, f := range alter {
		f(&b)
	}
	return b
}

func (n node) bind(t testing.TB, alter ...func(*Binding)) *Own {
	t.Helper()
	own, err := Bind(t.Context(), n.signer, grid, n.binding(alter...))
	if err != nil {
		t.Fatal(err)
	}
	return own
}

func (n node) expected() Expected {
	return Expected{Network: network, Slot: n.slot, KeyEpoch: 7, SlotEpoch: n.epoch, Key: n.signer.Public(), Now: now}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// pair plays one whole exchange; tamper may alter what travels.
func pair(t testing.TB, tamper func(request, answer *[]byte)) (initiator, responder Keys, err error) {
	t.Helper()
	a, b := newNode(1), newNode(2)
	ownA, ownB := a.bind(t), b.bind(t)
	sent := must(Ask(ownA, 5, []byte("paths of a")))(t)
	raw := bytes.Clone(sent)
	none := []byte{}
	if tamper != nil {
		tamper(&raw, &none)
	}
	r, err := DecodeRequest(raw)
	if err != nil {
		return Keys{}, Keys{}, err
	}
	theirs, err := NewVerifier(grid).Open(r.Binding, a.expected())
	if err != nil {
		return Keys{}, Keys{}, err
	}
	answer, responder, err := Respond(ownB, theirs, raw, r.Sequence, []byte("paths of b"))
	if err != nil {
		t.Fatal(err)
	}
	if tamper != nil {
		tamper(&raw, &answer)
	}
	ans, err := DecodeAnswer(answer)
	if err != nil {
		return Keys{}, responder, err
	}
	back, err := NewVerifier(grid).Open(ans.Binding, b.expected())
	if err != nil {
		return Keys{}, responder, err
	}
	initiator, err = Complete(ownA, back, sent, 5, ans)
	return initiator, responder, err
}

func TestBothSidesDeriveTheSameKeysAndNeverAgain(t *testing.T) {
	a, b, err := pair(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Errorf("initiator has %x, responder %x", a, b)
	}
	if a.PSK.IsZero() || a.ToInitiator == a.ToResponder || [32]byte(a.PSK) == a.ToInitiator {
		t.Errorf("keys that must differ are equal: %x", a)
	}
	if c, _, _ := pair(t, nil); c.PSK == a.PSK || c.PathID == a.PathID {
		t.Error("two exchanges gave one key")
	}
}

// A messenger that alters anything gets neither side to keys that they don't
// share: whatever is flipped, the initiator refuses.
func TestAlteredExchangesAreRefused(t *testing.T) {
	var request, answer int
	if _, _, err := pair(t, func(r, a *[]byte) { request, answer = len(*r), max(answer, len(*a)) }); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < request; i += 7 {
		if _, _, err := pair(t, func(r, a *[]byte) {
			if len(*a) == 0 {
				(*r)[i] ^= 0x10
			}
		}); err == nil {
			t.Fatalf("request with byte %d of %d flipped was accepted", i, request)
		}
	}
	for i := 0; i < answer; i += 7 {
		if _, _, err := pair(t, func(_, a *[]byte) {
			if len(*a) > 0 {
				(*a)[i] ^= 0x10
			}
		}); err == nil {
			t.Fatalf("answer with byte %d of %d flipped was accepted", i, answer)
		}
	}
}

func TestAnswerToAnotherRequestIsRefused(t *testing.T) {
	a, b := newNode(1), newNode(2)
	ownA, ownB := a.bind(t), b.bind(t)
	theirs := must(NewVerifier(grid).Open(ownA.Signed, a.expected()))(t)
	first, second := must(Ask(ownA, 5, nil))(t), must(Ask(ownA, 6, nil))(t)
	raw, _, err := Respond(ownB, theirs, first, 5, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := must(DecodeAnswer(raw))(t)
	back := must(NewVerifier(grid).Open(answer.Binding, b.expected()))(t)
	if _, err := Complete(ownA, back, second, 6, answer); problem.Code(err) != "exchange-refused" {
		t.Errorf("an answer to another request: %v", err)
	}
	if _, err := Complete(ownA, back, first, 5, answer); err != nil {
		t.Errorf("the answer to this request: %v", err)
	}
}

// The truth table of bindings.
func TestWhichBindingsCount(t *testing.T) {
	n, other := newNode(1), newNode(2)
	day := 24 * time.Hour
	good := n.bind(t)
	for _, c := range []struct {
		name   string
		b      func(*Binding)
		e      func(*Expected)
		signer sign.Signer
		want   string
	}{
		{name: "as it should be"},
		{name: "known already", e: func(e *Expected) { e.KnownSequence, e.KnownID = 1000, good.ID }, b: func(b *Binding) { *b = good.Binding }, want: "same"},
		{name: "newer than known", e: func(e *Expected) { e.KnownSequence, e.KnownID = 999, other.slot }},
		{name: "older than known", e: func(e *Expected) { e.KnownSequence = 1001 }, want: "binding-old"},
		{name: "another with a known sequence", e: func(e *Expected) { e.KnownSequence, e.KnownID = 1000, other.slot }, want: "binding-refused"},
		{name: "of another network", b: func(b *Binding) { b.Network = other.slot }, want: "binding-refused"},
		{name: "of another slot", b: func(b *Binding) { b.Slot = other.slot }, want: "binding-refused"},
		{name: "of an older slot epoch", b: func(b *Binding) { b.SlotEpoch-- }, want: "binding-refused"},
		{name: "of a newer slot epoch", b: func(b *Binding) { b.SlotEpoch++ }, want: "binding-refused"},
		{name: "of an older key epoch", b: func(b *Binding) { b.KeyEpoch-- }, want: "binding-refused"},
		{name: "of a newer key epoch", b: func(b *Binding) { b.KeyEpoch++ }, want: "binding-refused"},
		{name: "signed by another node", signer: other.signer, want: "binding-refused"},
		{name: "expired this second", e: func(e *Expected) { e.Now = now.Add(25 * time.Hour) }, want: "binding-expired"},
		{name: "a second before expiry", e: func(e *Expected) { e.Now = now.Add(25*time.Hour - time.Second) }},
		{name: "from a clock that is ahead", e: func(e *Expected) { e.Now = now.Add(-MaxSkew) }},
		{name: "from the future", e: func(e *Expected) { e.Now = now.Add(-MaxSkew - time.Second) }, want: "binding-expired"},
		{name: "of the longest life", b: func(b *Binding) { b.Expiry = b.Issued + 26*3600 }},
		{name: "of a longer life", b: func(b *Binding) { b.Expiry = b.Issued + 26*3600 + 1 }, want: "binding-refused"},
		{name: "expiring before it was issued", b: func(b *Binding) { b.Issued = b.Expiry }, want: "binding-refused"},
		{name: "of a life that overflows", b: func(b *Binding) { b.Issued, b.Expiry = 1, ^uint64(0) }, want: "binding-refused"},
		{name: "a node's clock before 1970", e: func(e *Expected) { e.Now = time.Unix(-5, 0).Add(-day) }, want: "binding-expired"},
		{name: "without a WireGuard key", b: func(b *Binding) { b.WireGuard = nil }, want: "binding-refused"},
		{name: "with a zero WireGuard key", b: func(b *Binding) { b.WireGuard = make([]byte, 32) }, want: "binding-refused"},
		{name: "with a long WireGuard key", b: func(b *Binding) { b.WireGuard = make([]byte, 33) }, want: "binding-refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			signer := n.signer
			if c.signer != nil {
				signer = c.signer
			}
			b, e := n.binding(), n.expected()
			if c.b != nil {
				c.b(&b)
			}
			if c.e != nil {
				c.e(&e)
			}
			own := good
			if c.want == "same" {
				c.want = ""
			} else {
				own = must(Bind(t.Context(), signer, grid, b))(t)
			}
			// Twice, so that what the cache holds is judged as strictly.
			v := NewVerifier(grid)
			v.remember(canon.Sum(own.Signed), must(reopen(own))(t))
			for _, v := range []*Verifier{NewVerifier(grid), v} {
				if _, err := v.Open(own.Signed, e); problem.Code(err) != c.want {
					t.Errorf("got %v, want code %q", err, c.want)
				}
			}
		})
	}
}

// reopen opens a binding whatever it says, for tests of the judgement alone.
func reopen(own *Own) (Theirs, error) {
	th, err := open(grid, own.Signed)
	if err != nil { // refused for its form: the judgement is never reached
		return Theirs{Binding: Binding{}, ID: own.ID}, nil
	}
	return th, nil
}

func TestBindingsOfAnotherGridOrKindAreRefused(t *testing.T) {
	n := newNode(1)
	own := n.bind(t)
	if _, err := NewVerifier(network).Open(own.Signed, n.expected()); problem.Code(err) != "binding-refused" {
		t.Errorf("in another grid: %v", err)
	}
	b := n.binding()
	b.Header = contract.Header{V: contract.Version, Kind: "zos-request-v1", Grid: grid}
	b.KEM = own.KEM
	s := must(contract.Sign(t.Context(), b, "zos-request-v1", n.signer))(t)
	if _, err := NewVerifier(grid).Open(must(s.Encode())(t), n.expected()); problem.Code(err) != "binding-refused" {
		t.Errorf("of another kind: %v", err)
	}
	// Signed under the namespace of another kind.
	b.Kind = KindBinding
	s.Statement = must(canon.Marshal(b))(t)
	s.Signatures[0].Sig = must(n.signer.Sign(context.Background(), "zos-request-v1", s.Statement))(t)
	if _, err := NewVerifier(grid).Open(must(s.Encode())(t), n.expected()); problem.Code(err) != "binding-refused" {
		t.Errorf("signed for another purpose: %v", err)
	}
	s = must(contract.DecodeSigned(own.Signed))(t)
	s.Signatures = nil
	if _, err := NewVerifier(grid).Open(must(s.Encode())(t), n.expected()); problem.Code(err) != "binding-refused" {
		t.Errorf("without a signature: %v", err)
	}
}

func TestVerifiedBindingsAreCachedAndBounded(t *testing.T) {
	n := newNode(1)
	v := NewVerifier(grid)
	own := n.bind(t)
	th := must(v.Open(own.Signed, n.expected()))(t)
	if len(v.known) != 1 {
		t.Fatalf("%d cached, want 1", len(v.known))
	}
	for i := range maxCached + 10 {
		v.remember(canon.Sum([]byte{byte(i), byte(i >> 8)}), th)
	}
	if len(v.known) != maxCached {
		t.Errorf("%d cached, at most %d are allowed", len(v.known), maxCached)
	}
	// What is refused is not kept.
	v = NewVerifier(grid)
	e := n.expected()
	e.Slot = network
	if _, err := v.Open(own.Signed, e); err == nil || len(v.known) != 0 {
		t.Errorf("refused with %v, %d cached", err, len(v.known))
	}
}

func TestOldAndRepeatedRequestsAreStale(t *testing.T) {
	at := uint64(now.UnixMicro())
	skew := uint64(MaxSkew.Microseconds())
	for _, c := range []struct {
		name           string
		sequence, last uint64
		ok             bool
	}{
		{"first", at, 0, true},
		{"next", at, at - 1, true},
		{"repeated", at, at, false},
		{"older", at - 1, at, false},
		{"from a clock behind", at - skew, 0, true},
		{"from long ago", at - skew - 1, 0, false},
		{"from a clock ahead", at + skew, 0, true},
		{"from the future", at + skew + 1, 0, false},
		{"zero", 0, 0, false},
		{"largest", ^uint64(0), 0, false},
	} {
		if err := JudgeSequence(c.sequence, c.last, now); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	own := newNode(1).bind(f)
	f.Add(must(Ask(own, 5, []byte("paths")))(f))
	f.Add(must(Request{Ask: AskBegin, Network: network}.Encode())(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b)
		if err != nil {
			return
		}
		if again := must(r.Encode())(t); !bytes.Equal(again, b) {
			t.Errorf("accepted %x, which encodes as %x", b, again)
		}
		_, _ = open(grid, r.Binding)
	})
}

func FuzzAnswer(f *testing.F) {
	a, b := newNode(1), newNode(2)
	ownA, ownB := a.bind(f), b.bind(f)
	theirs := must(open(grid, ownA.Signed))(f)
	raw, _, err := Respond(ownB, theirs, []byte("request"), 5, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		ans, err := DecodeAnswer(b)
		if err != nil {
			return
		}
		if again := must(ans.Encode())(t); !bytes.Equal(again, b) {
			t.Errorf("accepted %x, which encodes as %x", b, again)
		}
	})
}

func BenchmarkExchange(b *testing.B) {
	for b.Loop() {
		if _, _, err := pair(b, nil); err != nil {
			b.Fatal(err)
		}
	}
}
